"""The heat maps of a report: how abilities and data sets go together over the published models, and the run's."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from gve_ray.evaluation.data.uvrb import UVRB
from gve_ray.evaluation.paper.diagnosis import FEWEST, Diagnosis, diagnose
from gve_ray.evaluation.paper.paper_claims import ALL, FINDINGS, KINDS, Group, Verdict, verdict_of
from gve_ray.evaluation.report.charts import Cell, HeatMap
from gve_ray.evaluation.scores.abilities import ABILITIES
from gve_ray.evaluation.scores.statistics import SEED, Kind, interval_of

_FAMILIES = {ALL: "all models", "clip": "CLIP-based models", "mllm": "MLLM-based models"}


@dataclass(frozen=True, kw_only=True)
class Finding:
    """One of the paper's findings, with its verdicts by family: (family, by Pearson, by Spearman)."""

    number: int
    text: str
    verdicts: Sequence[tuple[str, Verdict | None, Verdict | None]]


@dataclass(frozen=True, kw_only=True)
class Correlations:
    """added: models of the run among those that are correlated. figures: plain values for JSON."""

    maps: Sequence[HeatMap]
    findings: Sequence[Finding]
    added: Sequence[str]
    n_published: int
    figures: Mapping[str, Any]


def correlations(
    table: Path, own: Sequence[str], *, pooled: bool, resamples: int, seed: int = SEED
) -> Correlations:
    """Over the paper's 16 models, with the run's among them if `pooled`.

    table: the run's results.csv; own: its models as named there. resamples, seed: of the bootstrap. Where
    they are not pooled and there are `diagnosis.FEWEST` of them or more, they have a heat map of their own.
    """
    found = diagnose([table] if pooled else [], baselines=True, resamples=resamples, seed=seed)
    added = list(own) if pooled else []
    maps = [_abilities(group, added) for group in found.groups.values()]
    if ALL in found.groups:
        maps.append(_datasets(found.groups[ALL]))
    figures = {"published": found.to_dict()["correlations"], "added": added}
    if not pooled and len(own) >= FEWEST:
        mine = diagnose([table], resamples=resamples, seed=seed)
        maps += [_abilities(group, own, name="run") for group in mine.groups.values() if len(group.names) > 1]
        figures["run"] = mine.to_dict()["correlations"]
    return Correlations(
        maps=maps,
        findings=_findings(found),
        added=added,
        n_published=len(found.rows) - len(added),
        figures=figures,
    )


def _abilities(group: Group, own: Sequence[str], *, name: str | None = None) -> HeatMap:
    """Abilities with each other: Pearson below the diagonal, Spearman above."""
    names = [one for one in ABILITIES if one in group.names]
    cells = [
        [
            None if i == j else _cell(group, "pearson" if j < i else "spearman", a, b)
            for j, b in enumerate(names)
        ]
        for i, a in enumerate(names)
    ]
    mine = [one for one in group.models if one in own]
    who = "this run's models" if name else _FAMILIES.get(group.family, group.family)
    added = f", {len(mine)} of them added by this run ({', '.join(mine)})" if mine and not name else ""
    return HeatMap(
        name=name or group.family,
        title=f"Abilities over {who} (n = {len(group.models)})",
        note=f"n = {len(group.models)} models{added}. Pearson below the diagonal, Spearman above.",
        rows=names,
        columns=names,
        cells=cells,
    )


def _datasets(group: Group) -> HeatMap:
    """Data sets with abilities, those that they are a part of included."""
    rows = [one for one in UVRB if one in group.names]
    columns = [one for one in ABILITIES if one in group.names]
    return HeatMap(
        name="datasets",
        title=f"Data sets and abilities (n = {len(group.models)})",
        note=f"Pearson over n = {len(group.models)} models. A data set goes well with what it is a part of.",
        rows=rows,
        columns=columns,
        cells=[[_cell(group, "pearson", a, b) for b in columns] for a in rows],
    )


def _cell(group: Group, kind: Kind, first: str, second: str) -> Cell | None:
    found = interval_of(
        group.value(kind, (first, second)), group.drawn(kind, (first, second)), n=len(group.models)
    )
    if not found.low <= found.high:  # nan: one of the two does not vary
        return None
    return Cell(value=found.estimate, low=found.low, high=found.high)


def _findings(found: Diagnosis) -> list[Finding]:
    def verdicts(number: int, family: str) -> tuple[str, Verdict | None, Verdict | None]:
        pearson, spearman = (verdict_of(found.judged, number, family, kind) for kind in KINDS)
        return _FAMILIES.get(family, family), pearson, spearman

    judged = {(one.claim.finding, one.family) for one in found.judged}
    return [
        Finding(
            number=number,
            text=text,
            verdicts=[verdicts(number, family) for family in found.groups if (number, family) in judged],
        )
        for number, text in FINDINGS.items()
    ]
