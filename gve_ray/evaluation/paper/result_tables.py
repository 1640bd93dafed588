"""Reads result tables, one row per model and one column per data set; has the paper's table.

    model,family,lineage,params_b,MSRVTT,DiDeMo,...
    mine,mllm,Qwen2.5-VL,0.01,0.31,0.28,...

family, lineage, params_b (billions of parameters) and any data set may be missing; lines that start
with # are comments.
"""

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from gve_ray.evaluation.data.uvrb import UVRB, packaged_rows
from gve_ray.evaluation.scores.abilities import AbilityScores, summarise
from gve_ray.inputs.table import TableError, open_table


@dataclass(frozen=True, kw_only=True)
class ResultRow:
    """One model's scores.

    scores: by data set, 0 to 1. family: e.g. "clip" or "mllm". lineage: models of one lineage differ
    in size or in their adapter only (GVE-3B and GVE-7B), so they are not independent; None: the model
    has no sisters. params_b: parameters in billions.
    """

    model: str
    scores: Mapping[str, float]
    family: str | None = None
    lineage: str | None = None
    params_b: float | None = None

    @property
    def summary(self) -> AbilityScores:
        """The abilities and averages of the model."""
        return summarise(self.scores)


def read_table(path: Path) -> list[ResultRow]:
    """Read the rows of a result CSV.

    Raises ValueError that names the file and the cell, OSError for a file that cannot be read.
    """
    try:
        table = open_table(str(path), comment="#")
        rows = [
            {column: "" if cell is None else str(cell) for column, cell in row.cells.items()}
            for row in table.rows
        ]
    except TableError as error:
        raise ValueError(f"{path}: {error}") from error
    if not rows or "model" not in table.columns:
        raise ValueError(f"{path}: no column 'model' or no rows; write model,{','.join(list(UVRB)[:2])},...")
    if unknown := [name for name in table.columns if name not in (*_FACTS, *UVRB)]:
        raise ValueError(f"{path}: column {unknown[0]!r}: not a data set; use {', '.join((*_FACTS, *UVRB))}")
    try:
        return [_row(row) for row in rows]
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from error


def published_table() -> list[ResultRow]:
    """The 16 models of the paper (arXiv:2510.27571, table 1)."""
    return [_row(row) for row in packaged_rows("uvrb_results.csv")]


def published_abilities() -> dict[str, dict[str, float]]:
    """The paper's printed averages and abilities by model (tables 1 and 2), with misprints."""
    return {
        row["model"]: {name: float(value) for name, value in row.items() if name != "model"}
        for row in packaged_rows("uvrb_abilities.csv")
    }


def pick(
    tables: Sequence[Path], models: Sequence[str] | None = None, *, baselines: bool = False
) -> list[ResultRow]:
    """The rows of all tables; with `models`, only those rows, which may be the paper's.

    baselines: append the paper's models; without tables, the result is the paper's models. Raises
    ValueError for a model that is unknown or occurs twice.
    """
    own = [row for path in tables for row in read_table(path)]
    if models is None:
        return _distinct([*own, *(published_table() if baselines or not tables else [])])
    by_name = {row.model: row for row in [*published_table(), *_distinct(own)]}
    if unknown := [name for name in models if name not in by_name]:
        raise ValueError(f"model {unknown[0]!r}: not in any table; use {', '.join(by_name)}")
    extra = [row for row in published_table() if baselines and row.model not in models]
    return _distinct([*(by_name[name] for name in models), *extra])


_FACTS = ("model", "family", "lineage", "params_b")


def _row(row: Mapping[str, str]) -> ResultRow:
    if not (row["model"] or "").strip():
        raise ValueError("a row has no model name; fill in the column 'model'")
    scores = {name: _number(row, name) for name in UVRB if (row.get(name) or "").strip()}
    if bad := [name for name, value in scores.items() if not 0 <= value <= 1]:
        raise ValueError(f"{row['model']}, {bad[0]}: {scores[bad[0]]}: a score must be between 0 and 1")
    return ResultRow(
        model=row["model"].strip(),
        scores=scores,
        family=(row.get("family") or "").strip() or None,
        lineage=(row.get("lineage") or "").strip() or None,
        params_b=_number(row, "params_b") if (row.get("params_b") or "").strip() else None,
    )


def _number(row: Mapping[str, str], column: str) -> float:
    try:
        value = float(row[column])
    except ValueError:
        value = math.nan
    if not math.isfinite(value):
        raise ValueError(
            f"{row['model']}, {column}: {row[column]!r} is not a number; leave it empty if unknown"
        )
    return value


def _distinct(rows: Iterable[ResultRow]) -> list[ResultRow]:
    kept: dict[str, ResultRow] = {}
    for row in rows:
        if row.model in kept:
            raise ValueError(
                f"model {row.model!r}: occurs twice in the tables; rename or remove one of the two"
            )
        kept[row.model] = row
    return list(kept.values())
