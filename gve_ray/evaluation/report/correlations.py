"""The report's heat maps: correlations of abilities and data sets over models."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from gve_ray.evaluation.data.uvrb import UVRB
from gve_ray.evaluation.paper.diagnosis import MIN_MODELS, Diagnosis, diagnose
from gve_ray.evaluation.paper.paper_claims import ALL, FINDINGS, KINDS, Group, Verdict, verdict_of
from gve_ray.evaluation.report.charts import HeatMap
from gve_ray.evaluation.scores.abilities import ABILITIES
from gve_ray.evaluation.scores.statistics import SEED, Interval, Kind

_FAMILIES = {ALL: "all models", "clip": "CLIP-based models", "mllm": "MLLM-based models"}


@dataclass(frozen=True, kw_only=True)
class Finding:
    """One of the paper's findings, with its verdicts by family: (family, by Pearson, by Spearman)."""

    number: int
    text: str
    verdicts: Sequence[tuple[str, Verdict | None, Verdict | None]]


@dataclass(frozen=True, kw_only=True)
class Correlations:
    """The heat maps and findings of a report.

    added: models of the run that are included in the correlations. figures: plain values for JSON.
    """

    maps: Sequence[HeatMap]
    findings: Sequence[Finding]
    added: Sequence[str]
    n_published: int
    figures: Mapping[str, Any]


def correlations(
    table: Path, own: Sequence[str], *, pooled: bool, resamples: int, seed: int = SEED
) -> Correlations:
    """Compute correlations over the paper's 16 models, and over the run's models too if `pooled`.

    table: the run's results.csv; own: its models as named there. resamples, seed: of the bootstrap.
    If they are not pooled, `diagnosis.MIN_MODELS` or more own models get a separate heat map.
    """
    diagnosis = diagnose([table] if pooled else [], baselines=True, resamples=resamples, seed=seed)
    added = list(own) if pooled else []
    maps = [_abilities(group, added) for group in diagnosis.groups.values()]
    if ALL in diagnosis.groups:
        maps.append(_datasets(diagnosis.groups[ALL]))
    figures = {"published": diagnosis.to_dict()["correlations"], "added": added}
    if not pooled and len(own) >= MIN_MODELS:
        own_diagnosis = diagnose([table], resamples=resamples, seed=seed)
        maps += [
            _abilities(group, own, name="run")
            for group in own_diagnosis.groups.values()
            if len(group.names) > 1
        ]
        figures["run"] = own_diagnosis.to_dict()["correlations"]
    return Correlations(
        maps=maps,
        findings=_findings(diagnosis),
        added=added,
        n_published=len(diagnosis.rows) - len(added),
        figures=figures,
    )


def _abilities(group: Group, own: Sequence[str], *, name: str | None = None) -> HeatMap:
    """Correlations among abilities: Pearson below the diagonal, Spearman above."""
    names = [ability for ability in ABILITIES if ability in group.names]
    cells = [
        [
            None if i == j else _cell(group, "pearson" if j < i else "spearman", a, b)
            for j, b in enumerate(names)
        ]
        for i, a in enumerate(names)
    ]
    included = [model for model in group.models if model in own]
    models = "this run's models" if name else _FAMILIES.get(group.family, group.family)
    added = (
        f", {len(included)} of them added by this run ({', '.join(included)})"
        if included and not name
        else ""
    )
    return HeatMap(
        name=name or group.family,
        title=f"Abilities over {models} (n = {len(group.models)})",
        note=f"n = {len(group.models)} models of {group.lineages} lineages{added}. Pearson below the diagonal, "
        "Spearman above. An ability that contains the other is computed without it.",
        rows=names,
        columns=names,
        cells=cells,
    )


def _datasets(group: Group) -> HeatMap:
    """Correlations of data sets with abilities, which are computed without the data set itself."""
    rows = [name for name in UVRB if name in group.names]
    columns = [name for name in ABILITIES if name in group.names]
    return HeatMap(
        name="datasets",
        title=f"Data sets and abilities (n = {len(group.models)})",
        note=f"Pearson over n = {len(group.models)} models. An ability is computed without the data set.",
        rows=rows,
        columns=columns,
        cells=[[_cell(group, "pearson", a, b) for b in columns] for a in rows],
    )


def _cell(group: Group, kind: Kind, first: str, second: str) -> Interval | None:
    interval = group.interval(kind, (first, second))
    return interval if math.isfinite(interval.estimate) else None  # NaN: one of the two is constant


def _findings(diagnosis: Diagnosis) -> list[Finding]:
    def verdicts(number: int, family: str) -> tuple[str, Verdict | None, Verdict | None]:
        pearson, spearman = (verdict_of(diagnosis.judged, number, family, kind) for kind in KINDS)
        return _FAMILIES.get(family, family), pearson, spearman

    judged = {(result.claim.finding, result.family) for result in diagnosis.judged}
    return [
        Finding(
            number=number,
            text=text,
            verdicts=[verdicts(number, family) for family in diagnosis.groups if (number, family) in judged],
        )
        for number, text in FINDINGS.items()
    ]
