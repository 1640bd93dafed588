"""Diagnoses result tables: abilities, correlations over models, and the paper's findings.

    print(diagnose([Path("results.csv")], baselines=True))

Needs no model and no video. Correlations are over models, so n is small: the paper has 6 CLIP-based
and 10 MLLM-based models of 5 and 7 lineages. Each is computed as Pearson and as Spearman with a
bootstrap interval over lineages; with so few of them, it is wide and its coverage approximate.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from gve_ray.evaluation.data.uvrb import UVRB
from gve_ray.evaluation.paper.paper_claims import (
    ALL,
    FINDINGS,
    KINDS,
    QUOTES,
    Group,
    JudgedClaim,
    Quote,
    judge,
    matches_of_quote,
    verdict_of,
)
from gve_ray.evaluation.paper.result_tables import ResultRow, pick, published_abilities, published_table
from gve_ray.evaluation.scores.abilities import ABILITIES, data_sets_of, weights_without
from gve_ray.evaluation.scores.statistics import (
    SEED,
    Floats,
    Interval,
    Kind,
    bounds_of,
    correlation_matrix,
    draw_rows,
    pair_correlations,
)

MIN_MODELS = 4  # fewest models for which correlations are computed
DIGITS = 3  # decimals of published scores; scores that round to the same value are ties
TOLERANCE = 0.001  # between a printed ability and the one computed from the printed data sets


@dataclass(frozen=True, kw_only=True)
class Misprint:
    """A printed average or ability that differs from what the printed data sets give."""

    model: str
    column: str
    printed: float
    computed: float


@dataclass(frozen=True, kw_only=True)
class Diagnosis:
    """The result of `diagnose`; str() is a readable page.

    groups: correlations by family. misprints: of the published rows among `rows`; None if there are
    none. quotes: correlations in the paper's text, with the families and statistics that reproduce
    them; empty unless the rows are exactly the published ones.
    """

    rows: Sequence[ResultRow]
    groups: Mapping[str, Group]
    judged: Sequence[JudgedClaim]
    misprints: Sequence[Misprint] | None
    quotes: Sequence[tuple[Quote, Sequence[tuple[str, Kind, float]]]]
    notes: Sequence[str]

    def __str__(self) -> str:
        parts = [
            _ability_page(self.rows),
            _misprint_page(self.misprints),
            *map(_group_page, self.groups.values()),
        ]
        parts += [_findings_page(self), _quotes_page(self), "\n".join(self.notes)]
        return "\n\n".join(part for part in parts if part)

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON; an undefined correlation is None."""
        families = list(self.groups)
        return {
            "models": [
                {"model": row.model, "family": row.family, "params_b": row.params_b, **row.summary.to_dict()}
                for row in self.rows
            ],
            "misprints": [asdict(entry) for entry in self.misprints or ()],
            "correlations": {family: _group_dict(group) for family, group in self.groups.items()},
            "findings": [
                {
                    "finding": number,
                    "text": text,
                    "verdicts": {
                        family: {kind: verdict_of(self.judged, number, family, kind) for kind in KINDS}
                        for family in families
                    },
                    "claims": [_judged_dict(entry) for entry in self.judged if entry.claim.finding == number],
                }
                for number, text in FINDINGS.items()
            ],
            "quotes": [
                {**asdict(quote), "comes_out_as": [list(match) for match in matches]}
                for quote, matches in self.quotes
            ],
            "notes": list(self.notes),
        }


def diagnose(
    tables: Sequence[Path],
    models: Sequence[str] | None = None,
    *,
    baselines: bool = False,
    resamples: int = 2_000,
    seed: int = SEED,
) -> Diagnosis:
    """Diagnose the models of result tables, or the paper's 16 models if there are no tables.

    models: only these, in this order; the paper's models can be named as well. baselines: add the
    paper's models. resamples, seed: of the bootstrap. Raises ValueError for an invalid table or an
    unknown name, OSError for a file that cannot be read.
    """
    rows = pick(tables, models, baselines=baselines)
    families = _families(rows)
    groups = {
        family: _group(family, members, resamples, seed + number)
        for number, (family, members) in enumerate(families.items())
        if len(members) >= MIN_MODELS
    }
    published = {row.model: row for row in published_table()}
    unchanged = [row for row in rows if published.get(row.model) == row]
    notes = [
        f"{family}: {len(members)} models; correlations need {MIN_MODELS} or more"
        for family, members in families.items()
        if len(members) < MIN_MODELS
    ]
    incomplete = sorted({name for row in rows for name in set(UVRB) - set(row.scores)}, key=list(UVRB).index)
    if incomplete:
        notes.append(f"not scored for every model, so left out of correlations: {', '.join(incomplete)}")
    is_published_table = len(unchanged) == len(rows) == len(published)
    return Diagnosis(
        rows=rows,
        groups=groups,
        judged=judge(groups),
        misprints=_misprints(unchanged) if unchanged else None,
        quotes=[(quote, matches_of_quote(quote, groups)) for quote in QUOTES] if is_published_table else [],
        notes=notes,
    )


def _families(rows: Sequence[ResultRow]) -> dict[str, list[ResultRow]]:
    """All rows, then by family; a single family replaces "all"."""
    names = dict.fromkeys(row.family for row in rows if row.family)
    families = {family: [row for row in rows if row.family == family] for family in names}
    is_single = any(len(members) == len(rows) for members in families.values())
    return families if is_single else {ALL: list(rows), **families}


def _group(family: str, rows: Sequence[ResultRow], resamples: int, seed: int) -> Group:
    columns = [_columns(row) for row in rows]
    names = [
        name
        for name in columns[0]
        if all(name in row_values for row_values in columns)
        and len({row_values[name] for row_values in columns}) > 1
    ]
    table = np.array(
        [[row_values[name] for name in names] for row_values in columns]
    )  # float64 [models, columns]
    wider, pairs = _without_parts(rows, names, table)
    lineages = _lineages(rows)
    whole = np.ones((1, len(rows)))
    counts = draw_rows(lineages, resamples=resamples, seed=seed)
    draws = {kind: pair_correlations(wider, pairs, counts, kind=kind) for kind in KINDS}
    values = {kind: pair_correlations(wider, pairs, whole, kind=kind) for kind in KINDS}
    return Group(
        family=family,
        models=[row.model for row in rows],
        lineages=len(set(lineages)),
        names=names,
        values={kind: _matrices(row, len(names))[0] for kind, row in values.items()},
        draws={kind: _matrices(drawn, len(names)) for kind, drawn in draws.items()},
        values_with_part={kind: correlation_matrix(table, kind=kind) for kind in KINDS},
    )


def _lineages(rows: Sequence[ResultRow]) -> list[int]:
    """The lineage of each model as a number from 0; a model without sisters has its own."""
    numbers: dict[tuple[str, str], int] = {}
    keys = [("lineage", row.lineage) if row.lineage else ("model", row.model) for row in rows]
    return [numbers.setdefault(key, len(numbers)) for key in keys]


def _without_parts(
    rows: Sequence[ResultRow], names: Sequence[str], table: Floats
) -> tuple[Floats, NDArray[np.int64]]:
    """The table with more columns, float64 [models, columns], and the two columns of each pair of names.

    If the data sets of one name are part of those of the other, the other is computed without them,
    in a column of its own. Pairs are (i, j) with i < j, int64 [pairs, 2].
    """
    data_sets = [data_sets_of(name) for name in names]
    columns = list(table.T)

    def column(i: int, other: int) -> int:
        if not data_sets[other] or not data_sets[other] < data_sets[i]:
            return i
        shares = weights_without(names[i], names[other])
        sums = (math.fsum(share * row.scores[name] for name, share in shares.items()) for row in rows)
        columns.append(np.array([_rounded(value) for value in sums]))
        return len(columns) - 1

    pairs = [(column(i, j), column(j, i)) for i in range(len(names)) for j in range(i + 1, len(names))]
    return np.stack(columns, axis=1), np.array(pairs, dtype=np.int64)


def _matrices(pairs: Floats, c: int) -> Floats:
    """Symmetric matrices float64 [b, c, c] of correlations of pairs, float64 [b, c (c - 1) / 2]."""
    matrices = np.broadcast_to(np.eye(c), (len(pairs), c, c)).copy()
    rows, columns = np.triu_indices(c, k=1)
    matrices[:, rows, columns] = matrices[:, columns, rows] = pairs
    return matrices


def _columns(row: ResultRow) -> dict[str, float]:
    """The values that are correlated, by name."""
    summary = row.summary
    values = {name: summary.abilities[name] for name in ABILITIES if name in summary.abilities}
    if summary.average_abilities is not None:
        values["average"] = summary.average_abilities
    if summary.average_datasets is not None:
        values["average_datasets"] = summary.average_datasets
    values |= {name: row.scores[name] for name in UVRB if name in row.scores}
    rounded = {name: _rounded(value) for name, value in values.items()}
    return rounded | ({"size": math.log10(row.params_b)} if row.params_b else {})


def _rounded(value: float) -> float:
    """Round to DIGITS, halves up as in the paper: 0.5585 becomes 0.559."""
    return round(value + 1e-9, DIGITS)


def _misprints(rows: Sequence[ResultRow]) -> list[Misprint]:
    printed = published_abilities()
    misprints = []
    for row in rows:
        summary = row.summary
        computed = {
            "average_datasets": summary.average_datasets,
            "average_abilities": summary.average_abilities,
            **summary.abilities,
        }
        misprints += [
            Misprint(model=row.model, column=name, printed=value, computed=expected)
            for name, value in printed[row.model].items()
            if (expected := computed[name]) is not None and abs(expected - value) > TOLERANCE + 1e-9
        ]
    return misprints


def _ability_page(rows: Sequence[ResultRow]) -> str:
    width = max(len("model"), *(len(row.model) for row in rows))
    heads = ["data sets", "abilities", *ABILITIES]
    lines = ["Scores by ability (the two averages first)", f"{'model':{width}}  " + _cells(heads)]
    for row in rows:
        summary = row.summary
        values = [summary.average_datasets, summary.average_abilities]
        values += [summary.abilities.get(name) for name in ABILITIES]
        lines.append(
            f"{row.model:{width}}  " + _cells(["-" if v is None else f"{_rounded(v):.3f}" for v in values])
        )
    return "\n".join(lines)


def _cells(texts: Sequence[str]) -> str:
    return " ".join(f"{text:>{max(len(text), 9 if i < 2 else 6)}}" for i, text in enumerate(texts))


def _misprint_page(misprints: Sequence[Misprint] | None) -> str:
    if misprints is None:
        return ""
    lines = [f"The published rows agree with the paper's printed abilities to within {TOLERANCE}"]
    lines[0] += ", except" if misprints else ""
    lines += [
        f"  {misprint.model}, {misprint.column}: printed {misprint.printed:.3f}, "
        f"its data sets give {misprint.computed:.4f}"
        for misprint in misprints
    ]
    return "\n".join(lines)


def _group_page(group: Group) -> str:
    """Correlation of every column with the average, and of the abilities with each other."""
    lines = [
        f"Correlations over {len(group.models)} models ({group.family}); 95 % bootstrap intervals",
        f"  over {group.lineages} lineages; a whole is correlated without its part",
    ]
    if "average" in group.names:
        lines.append(f"  {'with the average':18} {'Pearson':>22} {'Spearman':>24}")
        for name in group.names:
            if name.startswith("average"):
                continue
            cells = [_interval(group.interval(kind, (name, "average"))) for kind in KINDS]
            lines.append(f"  {name:18} {cells[0]:>22} {cells[1]:>24}")
    abilities = [name for name in ABILITIES if name in group.names]
    lines.append(
        "  abilities with each other: Pearson below the diagonal, Spearman above; * its interval excludes 0"
    )
    lines.append("  " + " " * 4 + "".join(f"{name:>8}" for name in abilities))
    for i, first in enumerate(abilities):
        cells = [
            _starred(group.interval("pearson" if j < i else "spearman", (first, second))) if i != j else "1 "
            for j, second in enumerate(abilities)
        ]
        lines.append(f"  {first:4}" + "".join(f"{cell:>8}" for cell in cells))
    return "\n".join(lines)


def _findings_page(diagnosis: Diagnosis) -> str:
    if not diagnosis.judged:
        return ""
    lines = ["The paper's findings (holds; unsure: only the estimate holds, not its whole interval; fails)"]
    for number, text in FINDINGS.items():
        lines.append(f"{number}. {text}")
        for family in diagnosis.groups:
            verdicts = {kind: verdict_of(diagnosis.judged, number, family, kind) for kind in KINDS}
            if any(verdicts.values()):
                lines.append(
                    f"   {family}: " + ", ".join(f"{result} by {kind}" for kind, result in verdicts.items())
                )
        judged = [result for result in diagnosis.judged if result.claim.finding == number]
        for claim in dict.fromkeys(result.claim for result in judged):
            lines.append(f"   - {claim.text}")
            for family in diagnosis.groups:
                cells = [
                    f"{result.kind}: {result.verdict:6} {_interval(result.value):20}"
                    for result in judged
                    if (result.claim, result.family) == (claim, family)
                ]
                lines += [f"     {family:6} {'  '.join(cells)}".rstrip()] if cells else []
    return "\n".join(lines)


def _quotes_page(diagnosis: Diagnosis) -> str:
    if not diagnosis.quotes:
        return ""
    lines = [
        "Correlations quoted in the paper's text, and which correlations of its tables give them to two digits"
    ]
    for quote, matches in diagnosis.quotes:
        where = ", ".join(f"{family} {kind} ({value:.3f})" for family, kind, value in matches) or "none"
        family_note = f" for {quote.family}" if quote.family else ""
        lines.append(f"  {quote.pair[0]}-{quote.pair[1]} {quote.printed:.2f}{family_note}: {where}")
    return "\n".join(lines)


def _interval(value: Interval) -> str:
    if value.bounds is None:
        return _two_digits(value.estimate)
    return f"{_two_digits(value.estimate)} [{_two_digits(value.low)}, {_two_digits(value.high)}]"


def _starred(value: Interval) -> str:
    return _two_digits(value.estimate) + ("*" if value.excludes(0) else " ")


def _two_digits(value: float) -> str:
    return f"{round(value, 2) + 0.0:.2f}"  # + 0.0: no -0.00


def _group_dict(group: Group) -> dict[str, Any]:
    result: dict[str, Any] = {
        "n": len(group.models),
        "lineages": group.lineages,
        "models": list(group.models),
        "names": list(group.names),
    }
    for kind in KINDS:
        c = len(group.names)
        low, high = bounds_of(group.draws[kind].reshape(-1, c * c), n=group.lineages)
        parts = {"estimate": group.values[kind], "low": low.reshape(c, c), "high": high.reshape(c, c)}
        result[kind] = {
            name: [[_plain(value) for value in row] for row in matrix.tolist()]
            for name, matrix in parts.items()
        }
    return result


def _plain(value: float) -> float | None:
    return round(value, 6) if math.isfinite(value) else None


def _judged_dict(judged: JudgedClaim) -> dict[str, Any]:
    return {
        "claim": judged.claim.text,
        "family": judged.family,
        "statistic": judged.kind,
        "value": {
            name: _plain(value) if isinstance(value, float) else value
            for name, value in asdict(judged.value).items()
        },
        "verdict": judged.verdict,
    }
