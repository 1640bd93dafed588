"""What result tables alone say: abilities, how they go together over models, and which findings hold.

    print(diagnose([Path("results.csv")], baselines=True))

No model and no video is needed. Correlations are over models, so n is small: 6 CLIP-based and 10 MLLM-based
ones in the paper. Each comes as Pearson and as Spearman with a percentile bootstrap interval, which for n
this small is still on the narrow side.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from gve_ray.evaluation.data.uvrb import UVRB
from gve_ray.evaluation.paper.paper_claims import (
    ALL,
    FINDINGS,
    KINDS,
    QUOTES,
    Group,
    Judged,
    Quote,
    comes_out_as,
    judge,
    verdict_of,
)
from gve_ray.evaluation.paper.result_tables import ResultRow, pick, published_abilities, published_table
from gve_ray.evaluation.scores.abilities import ABILITIES
from gve_ray.evaluation.scores.statistics import SEED, Interval, Kind, correlation_draws, correlation_matrix

FEWEST = 4  # models a correlation is worth printing for
DIGITS = 3  # of published scores: closer ones are ties, also for the paper's own rank correlations
TOLERANCE = 0.001  # of a printed ability against the one from the printed data sets


@dataclass(frozen=True, kw_only=True)
class Misprint:
    """A printed average or ability of the paper that its own scores by data set do not give."""

    model: str
    column: str
    printed: float
    computed: float


@dataclass(frozen=True, kw_only=True)
class Diagnosis:
    """See `diagnose`; str() is a readable page.

    groups: correlations by family. misprints: of the published rows among these; None when there are none.
    quotes: correlations in the paper's text, with the families and statistics they come out for; empty unless
    the rows are all the published ones and no others.
    """

    rows: Sequence[ResultRow]
    groups: Mapping[str, Group]
    judged: Sequence[Judged]
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
        """Plain values for JSON; a correlation that does not exist is None."""
        families = list(self.groups)
        return {
            "models": [
                {"model": row.model, "family": row.family, "params_b": row.params_b, **row.summary.to_dict()}
                for row in self.rows
            ],
            "misprints": [asdict(one) for one in self.misprints or ()],
            "correlations": {family: _group_dict(group) for family, group in self.groups.items()},
            "findings": [
                {
                    "finding": number,
                    "text": text,
                    "verdicts": {
                        family: {kind: verdict_of(self.judged, number, family, kind) for kind in KINDS}
                        for family in families
                    },
                    "claims": [_judged_dict(one) for one in self.judged if one.claim.finding == number],
                }
                for number, text in FINDINGS.items()
            ],
            "quotes": [
                {**asdict(quote), "comes_out_as": [list(one) for one in found]}
                for quote, found in self.quotes
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
    """Diagnose the models of result tables, or the paper's 16 without any (tables: see tables.py).

    models: only these, in this order; the paper's are known by name beside those of the tables. baselines: add
    the paper's to them. resamples, seed: of the bootstrap. Raises ValueError for a table or a name that is
    wrong, OSError for a file that cannot be read.
    """
    rows = pick(tables, models, baselines=baselines)
    families = _families(rows)
    groups = {
        family: _group(family, members, resamples, seed + number)
        for number, (family, members) in enumerate(families.items())
        if len(members) >= FEWEST
    }
    published = {row.model: row for row in published_table()}
    genuine = [row for row in rows if published.get(row.model) == row]
    notes = [
        f"{family}: {len(members)} models; correlations need {FEWEST} or more"
        for family, members in families.items()
        if len(members) < FEWEST
    ]
    partly = sorted({name for row in rows for name in set(UVRB) - set(row.scores)}, key=list(UVRB).index)
    if partly:
        notes.append(f"not scored for every model, so left out where missing: {', '.join(partly)}")
    whole = len(genuine) == len(rows) == len(published)
    return Diagnosis(
        rows=rows,
        groups=groups,
        judged=judge(groups),
        misprints=_misprints(genuine) if genuine else None,
        quotes=[(quote, comes_out_as(quote, groups)) for quote in QUOTES] if whole else [],
        notes=notes,
    )


def _families(rows: Sequence[ResultRow]) -> dict[str, list[ResultRow]]:
    """All rows, then by family; a single family stands for all."""
    named = dict.fromkeys(row.family for row in rows if row.family)
    found = {family: [row for row in rows if row.family == family] for family in named}
    alone = any(len(members) == len(rows) for members in found.values())
    return found if alone else {ALL: list(rows), **found}


def _group(family: str, rows: Sequence[ResultRow], resamples: int, seed: int) -> Group:
    columns = [_columns(row) for row in rows]
    names = [
        name
        for name in columns[0]
        if all(name in one for one in columns) and len({one[name] for one in columns}) > 1
    ]
    table = np.array([[one[name] for name in names] for one in columns])  # float64 [models, columns]
    return Group(
        family=family,
        models=[row.model for row in rows],
        names=names,
        values={kind: correlation_matrix(table, kind=kind) for kind in KINDS},
        draws={kind: correlation_draws(table, kind=kind, resamples=resamples, seed=seed) for kind in KINDS},
    )


def _columns(row: ResultRow) -> dict[str, float]:
    """What is correlated, by name."""
    summary = row.summary
    found = {name: summary.abilities[name] for name in ABILITIES if name in summary.abilities}
    if summary.average_abilities is not None:
        found["average"] = summary.average_abilities
    if summary.average_datasets is not None:
        found["average_datasets"] = summary.average_datasets
    found |= {name: row.scores[name] for name in UVRB if name in row.scores}
    rounded = {name: _rounded(value) for name, value in found.items()}
    return rounded | ({"size": math.log10(row.params_b)} if row.params_b else {})


def _rounded(value: float) -> float:
    """To DIGITS, halves up as the paper does: 0.5585 is 0.559."""
    return round(value + 1e-9, DIGITS)


def _misprints(rows: Sequence[ResultRow]) -> list[Misprint]:
    printed = published_abilities()
    found = []
    for row in rows:
        summary = row.summary
        computed = {
            "average_datasets": summary.average_datasets,
            "average_abilities": summary.average_abilities,
            **summary.abilities,
        }
        found += [
            Misprint(model=row.model, column=name, printed=value, computed=own)
            for name, value in printed[row.model].items()
            if (own := computed[name]) is not None and abs(own - value) > TOLERANCE + 1e-9
        ]
    return found


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
    lines = [f"The published rows against the paper's printed abilities: equal to {TOLERANCE}"]
    lines[0] += ", except" if misprints else ""
    lines += [
        f"  {one.model}, {one.column}: printed {one.printed:.3f}, its data sets give {one.computed:.4f}"
        for one in misprints
    ]
    return "\n".join(lines)


def _group_page(group: Group) -> str:
    """Correlation with the average for every column, and of the abilities with each other."""
    lines = [f"Correlations over {len(group.models)} models ({group.family}); 95 % bootstrap intervals"]
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


def _findings_page(found: Diagnosis) -> str:
    if not found.judged:
        return ""
    lines = ["The paper's findings (holds; unsure: the estimate does, its interval does not; fails)"]
    for number, text in FINDINGS.items():
        lines.append(f"{number}. {text}")
        for family in found.groups:
            verdicts = {kind: verdict_of(found.judged, number, family, kind) for kind in KINDS}
            if any(verdicts.values()):
                lines.append(
                    f"   {family}: " + ", ".join(f"{one} by {kind}" for kind, one in verdicts.items())
                )
        judged = [one for one in found.judged if one.claim.finding == number]
        for claim in dict.fromkeys(one.claim for one in judged):
            lines.append(f"   - {claim.text}")
            for family in found.groups:
                cells = [
                    f"{one.kind}: {one.verdict:6} {_interval(one.value):20}"
                    for one in judged
                    if (one.claim, one.family) == (claim, family)
                ]
                lines += [f"     {family:6} {'  '.join(cells)}".rstrip()] if cells else []
    return "\n".join(lines)


def _quotes_page(found: Diagnosis) -> str:
    if not found.quotes:
        return ""
    lines = ["Correlations quoted in the paper's text, and where they come out from its tables to two digits"]
    for quote, places in found.quotes:
        where = ", ".join(f"{family} {kind} ({value:.3f})" for family, kind, value in places) or "nowhere"
        said = f" for {quote.family}" if quote.family else ""
        lines.append(f"  {quote.pair[0]}-{quote.pair[1]} {quote.printed:.2f}{said}: {where}")
    return "\n".join(lines)


def _interval(value: Interval) -> str:
    return f"{_two(value.estimate)} [{_two(value.low)}, {_two(value.high)}]"


def _starred(value: Interval) -> str:
    return _two(value.estimate) + ("*" if value.excludes(0) else " ")


def _two(value: float) -> str:
    return f"{round(value, 2) + 0.0:.2f}"  # + 0.0: no -0.00


def _group_dict(group: Group) -> dict[str, Any]:
    found: dict[str, Any] = {"n": len(group.models), "models": list(group.models), "names": list(group.names)}
    for kind in KINDS:
        low, high = np.nanquantile(group.draws[kind], [0.025, 0.975], axis=0)  # [c, c] each
        found[kind] = {"estimate": _plain(group.values[kind]), "low": _plain(low), "high": _plain(high)}
    return found


def _plain(values: np.ndarray) -> list[list[float | None]]:
    return [[round(float(v), 6) if np.isfinite(v) else None for v in row] for row in values]


def _judged_dict(one: Judged) -> dict[str, Any]:
    return {
        "claim": one.claim.text,
        "family": one.family,
        "statistic": one.kind,
        "value": asdict(one.value),
        "verdict": one.verdict,
    }
