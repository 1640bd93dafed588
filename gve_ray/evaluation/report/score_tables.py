"""The tables of a report: abilities, data sets and paired differences, with intervals as text and as lines."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from gve_ray.evaluation.data.retrieval_set import RetrievalSet
from gve_ray.evaluation.data.uvrb import UVRB
from gve_ray.evaluation.paper.result_tables import ResultRow
from gve_ray.evaluation.report import charts
from gve_ray.evaluation.scores.abilities import ABILITIES, weights
from gve_ray.evaluation.scores.rank_breakdown import Places, chance, places
from gve_ray.evaluation.scores.statistics import holm

NAMES = {
    "TXT": "text queries",
    "CMP": "composed queries",
    "VIS": "visual queries",
    "CG": "coarse-grained",
    "FG": "fine-grained",
    "LC": "long-context",
    "S": "spatial",
    "T": "temporal",
    "PR": "partially relevant",
}
SURE = 0.05  # p, corrected, below which two models differ
AVERAGES = {"average_abilities": "average over abilities", "average_datasets": "average over data sets"}


@dataclass(frozen=True, kw_only=True)
class Column:
    """One model of the tables. published: a row of the paper's table, from the paper's data sets. colour: its
    number in the radar, None where it is not in there."""

    name: str
    published: bool = False
    colour: int | None = None


@dataclass(frozen=True, kw_only=True)
class Score:
    """One figure of a table. interval: as text; svg: drawn, where there is one."""

    value: float
    interval: str = ""
    svg: str = ""


@dataclass(frozen=True, kw_only=True)
class AbilityRow:
    """One ability or average. meaning: in words. scores: by column, None where there is none."""

    name: str
    meaning: str
    chance: float | None
    scores: Sequence[Score | None]


@dataclass(frozen=True, kw_only=True)
class DatasetRow:
    """One data set. departure: how it differs from UVRB's, empty where it does not. places: of the first positives
    of the model that the report is about, None where it was asked nothing."""

    name: str
    ability: str
    metric: str
    n_queries: int
    n_corpus: int
    revision: str
    departure: str
    chance: float | None
    scores: Sequence[Score | None]
    places: Places | None


@dataclass(frozen=True, kw_only=True)
class Difference:
    """One model against the first on one data set. corrected: p by Holm over the data sets of the comparison."""

    dataset: str
    value: float
    interval: str
    p_value: float
    corrected: float
    n_queries: int
    svg: str

    @property
    def is_sure(self) -> bool:
        """Whether the two can be told apart here."""
        return self.corrected < SURE


@dataclass(frozen=True, kw_only=True)
class Comparison:
    """All differences of one model from the first."""

    model: str
    against: str
    rows: Sequence[Difference]

    def count(self, sign: int) -> int:
        """Data sets where it is surely better (1) or worse (-1)."""
        return sum(one.is_sure and one.value * sign > 0 for one in self.rows)


def dataset_rows(
    results: Mapping[str, Any],
    rows: Sequence[Mapping[str, Any]],
    sets: Mapping[str, RetrievalSet],
    subject: str,
    away: Mapping[str, str],
    baselines: Sequence[ResultRow],
) -> list[DatasetRow]:
    """A row a data set of `results` (results.json). rows: of per_query.parquet. subject: the model reported on.
    away: by data set, how it departs from the published one. baselines: columns beside the run's models."""
    found = []
    for name, facts in results["datasets"].items():
        mine = [row for row in rows if (row["model"], row["dataset"]) == (subject, name)]
        told = results["models"][subject]["datasets"][name]
        listed = sets[name].candidates
        asked = [
            (len(row["positives"]), told["n_corpus"] if listed is None else len(listed[row["query_id"]]))
            for row in mine
        ]
        by_chance = chance(facts["metric"], asked)
        scores = [
            _score(name, model, one["datasets"][name]["score"], one["datasets"][name]["interval"], by_chance)
            for model, one in results["models"].items()
        ]
        scores += [Score(value=row.scores[name]) if name in row.scores else None for row in baselines]
        found.append(
            DatasetRow(
                name=name,
                ability=UVRB[name].ability if name in UVRB else "",
                metric=facts["metric"],
                n_queries=facts["n_queries"],
                n_corpus=facts["n_corpus"],
                revision=facts["revision"],
                departure=away.get(name, ""),
                chance=by_chance,
                scores=scores,
                places=places(row["first_rank"] for row in mine) if mine else None,
            )
        )
    return found


def ability_rows(
    models: Mapping[str, Any], baselines: Sequence[ResultRow], chances: Mapping[str, float | None]
) -> list[AbilityRow]:
    """A row an ability that any model has a score in. models: of results.json. chances: by data set."""
    found = []
    for name in ABILITIES:
        if all(name not in one["abilities"] for one in models.values()):
            continue
        by_chance = _weighted(weights(name), chances)
        scores = [
            _score(name, model, one["abilities"].get(name), one["ability_intervals"].get(name), by_chance)
            for model, one in models.items()
        ]
        scores += [_plain(row.summary.abilities.get(name)) for row in baselines]
        found.append(AbilityRow(name=name, meaning=NAMES[name], chance=by_chance, scores=scores))
    for key, meaning in AVERAGES.items():
        if all(one[key] is None for one in models.values()):
            continue
        shares = weights("average") if key == "average_abilities" else dict.fromkeys(UVRB, 1 / len(UVRB))
        by_chance = _weighted(shares, chances)
        scores = [
            _score(meaning, model, one[key], one[f"{key}_interval"], by_chance)
            for model, one in models.items()
        ]
        scores += [_plain(getattr(row.summary, key)) for row in baselines]
        found.append(AbilityRow(name="", meaning=meaning, chance=by_chance, scores=scores))
    return found


def _weighted(shares: Mapping[str, float], values: Mapping[str, float | None]) -> float | None:
    known = {name: value for name in shares if (value := values.get(name)) is not None}
    return sum(shares[name] * value for name, value in known.items()) if len(known) == len(shares) else None


def _score(
    what: str, model: str, value: float | None, interval: Sequence[float] | None, by_chance: float | None
) -> Score | None:
    if value is None:
        return None
    if interval is None:
        return Score(value=value)
    low, high = interval
    label = f"{model}, {what}: {value:.3f}, from {low:.3f} to {high:.3f}"
    drawn = charts.interval(value, low, high, label=label, chance=by_chance)
    return Score(value=value, interval=as_range(interval), svg=drawn)


def _plain(value: float | None) -> Score | None:
    return None if value is None else Score(value=value)


def as_range(interval: Sequence[float] | None) -> str:
    return "" if interval is None else f"{interval[0]:.3f} to {interval[1]:.3f}"


def paired(found: Sequence[Mapping[str, Any]]) -> list[Comparison]:
    """The comparisons of results.json, by model."""
    pairs = dict.fromkeys((one["model"], one["against"]) for one in found)
    return [
        Comparison(
            model=model,
            against=against,
            rows=_differences([one for one in found if (one["model"], one["against"]) == (model, against)]),
        )
        for model, against in pairs
    ]


def _differences(found: Sequence[Mapping[str, Any]]) -> list[Difference]:
    rows = []
    for one, corrected in zip(found, holm([one["p_value"] for one in found]), strict=True):
        value, (low, high) = one["difference"], one["interval"]
        label = f"{one['model']} less {one['against']} on {one['dataset']}: {value:+.3f}, {low:+.3f} to {high:+.3f}"
        rows.append(
            Difference(
                dataset=one["dataset"],
                value=value,
                interval=f"{low:+.3f} to {high:+.3f}",
                p_value=one["p_value"],
                corrected=corrected,
                n_queries=one["n_queries"],
                svg=charts.difference(value, low, high, label=label, is_sure=corrected < SURE),
            )
        )
    return rows
