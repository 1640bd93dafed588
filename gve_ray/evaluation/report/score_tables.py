"""The tables of a report: abilities, data sets and paired differences, with intervals."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from gve_ray.evaluation.data.retrieval_set import RetrievalSet
from gve_ray.evaluation.data.uvrb import UVRB
from gve_ray.evaluation.paper.result_tables import ResultRow
from gve_ray.evaluation.report import charts
from gve_ray.evaluation.scores.abilities import ABILITIES, weights
from gve_ray.evaluation.scores.rank_breakdown import RankBreakdown, chance, rank_breakdown
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
SURE = 0.05  # corrected p-value below which two models differ
AVERAGES = {"average_abilities": "average over abilities", "average_datasets": "average over data sets"}


@dataclass(frozen=True, kw_only=True)
class Column:
    """One model in the tables.

    published: a row of the paper's table, measured on the paper's data sets. colour: its number in
    the radar, None if it is not shown there.
    """

    name: str
    published: bool = False
    colour: int | None = None


@dataclass(frozen=True, kw_only=True)
class Score:
    """A score in a table. interval: as text; svg: as a chart, if there is an interval."""

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
    """One data set.

    n_clusters: clusters of queries that share videos; None: its metric has no interval. departure: how
    it differs from UVRB's, empty if it does not. places: ranks of the first
    positives for the model the report is about, None if it has no queries here.
    """

    name: str
    ability: str
    metric: str
    n_queries: int
    n_clusters: int | None
    n_corpus: int
    revision: str
    departure: str
    chance: float | None
    scores: Sequence[Score | None]
    places: RankBreakdown | None


@dataclass(frozen=True, kw_only=True)
class Difference:
    """The subject less another model, on a data set, ability or average.

    interval, svg: empty if there is no interval. corrected: p by Holm's method.
    """

    name: str
    value: float
    interval: str
    p_value: float
    corrected: float
    n_queries: int
    n_clusters: int
    svg: str

    @property
    def is_sure(self) -> bool:
        """Whether the two models differ significantly."""
        return self.corrected < SURE


@dataclass(frozen=True, kw_only=True)
class Comparison:
    """All differences of the subject from another model. abilities: with the averages."""

    model: str
    against: str
    datasets: Sequence[Difference]
    abilities: Sequence[Difference]

    def count(self, sign: int) -> int:
        """Number of data sets where it is significantly better (1) or worse (-1)."""
        return sum(difference.is_sure and difference.value * sign > 0 for difference in self.datasets)


@dataclass(frozen=True, kw_only=True)
class SmallerRow:
    """One form of a model's vectors; the full vectors have no comparison.

    scores: by column of the table. comparison: with the full vectors.
    """

    name: str
    bytes: int
    scores: Sequence[Score | None]
    comparison: Comparison | None


@dataclass(frozen=True, kw_only=True)
class SmallerTable:
    """The scores of full and smaller vectors. columns: averages, then data sets."""

    columns: Sequence[str]
    rows: Sequence[SmallerRow]


def smaller_table(results: Mapping[str, Any]) -> SmallerTable | None:
    """The full vectors of each model and, below them, its smaller ones; None if there are none.

    results: results.json.
    """
    smaller: Mapping[str, Any] = results.get("smaller_vectors", {})
    if not smaller:
        return None
    averages = [key for key in AVERAGES if any(entry[key] is not None for entry in smaller.values())]
    rows = []
    for model, full in results["models"].items():
        own = {name: entry for name, entry in smaller.items() if entry["model"] == model}
        size = {entry["full_bytes"] for entry in own.values()}
        for name, entry in ({model: full | {"bytes": max(size)}} | own if size else {}).items():
            cells = [(entry[key], entry[f"{key}_interval"]) for key in averages]
            cells += [(facts["score"], facts["interval"]) for facts in entry["datasets"].values()]
            rows.append(
                SmallerRow(
                    name=name,
                    bytes=entry["bytes"],
                    scores=[
                        None if value is None else Score(value=value, interval=as_range(interval))
                        for value, interval in cells
                    ],
                    comparison=next(iter(paired(entry.get("comparisons", []))), None),
                )
            )
    return SmallerTable(columns=[*(AVERAGES[key] for key in averages), *results["datasets"]], rows=rows)


def dataset_rows(
    results: Mapping[str, Any],
    rows: Sequence[Mapping[str, Any]],
    sets: Mapping[str, RetrievalSet],
    subject: str,
    away: Mapping[str, str],
    baselines: Sequence[ResultRow],
) -> list[DatasetRow]:
    """One row per data set of `results` (results.json).

    rows: of per_query.parquet. subject: the model the report is about. away: by data set, how it
    differs from the published one. baselines: published models, shown after the run's.
    """
    table = []
    for name, facts in results["datasets"].items():
        own_rows = [row for row in rows if (row["model"], row["dataset"]) == (subject, name)]
        own_facts = results["models"][subject]["datasets"][name]
        listed = sets[name].candidates
        query_sizes = [
            (len(row["positives"]), own_facts["n_corpus"] if listed is None else len(listed[row["query_id"]]))
            for row in own_rows
        ]
        by_chance = chance(facts["metric"], query_sizes)
        own_scores = {model: entry["datasets"][name] for model, entry in results["models"].items()}
        scores = [
            _score(name, model, entry["score"], entry["interval"], by_chance)
            for model, entry in own_scores.items()
        ]
        scores += [_plain(row.scores.get(name)) for row in baselines]
        table.append(
            DatasetRow(
                name=name,
                ability=UVRB[name].ability if name in UVRB else "",
                metric=facts["metric"],
                n_queries=facts["n_queries"],
                n_clusters=results["clusters"]["datasets"].get(name),
                n_corpus=facts["n_corpus"],
                revision=facts["revision"],
                departure=away.get(name, ""),
                chance=by_chance,
                scores=scores,
                places=rank_breakdown(row["first_rank"] for row in own_rows) if own_rows else None,
            )
        )
    return table


def ability_rows(
    models: Mapping[str, Any], baselines: Sequence[ResultRow], chances: Mapping[str, float | None]
) -> list[AbilityRow]:
    """One row per ability with a score. models: of results.json. chances: by data set."""
    table = []
    for name in ABILITIES:
        if all(name not in facts["abilities"] for facts in models.values()):
            continue
        by_chance = _weighted(weights(name), chances)
        scores = [
            _score(name, model, facts["abilities"].get(name), facts["ability_intervals"].get(name), by_chance)
            for model, facts in models.items()
        ]
        scores += [_plain(row.summary.abilities.get(name)) for row in baselines]
        table.append(AbilityRow(name=name, meaning=NAMES[name], chance=by_chance, scores=scores))
    for key, meaning in AVERAGES.items():
        if all(facts[key] is None for facts in models.values()):
            continue
        shares = weights("average") if key == "average_abilities" else dict.fromkeys(UVRB, 1 / len(UVRB))
        by_chance = _weighted(shares, chances)
        scores = [
            _score(meaning, model, facts[key], facts[f"{key}_interval"], by_chance)
            for model, facts in models.items()
        ]
        scores += [_plain(getattr(row.summary, key)) for row in baselines]
        table.append(AbilityRow(name="", meaning=meaning, chance=by_chance, scores=scores))
    return table


def _weighted(shares: Mapping[str, float], values: Mapping[str, float | None]) -> float | None:
    present = {name: value for name in shares if (value := values.get(name)) is not None}
    return (
        sum(shares[name] * value for name, value in present.items()) if len(present) == len(shares) else None
    )


def _score(
    what: str, model: str, value: float | None, interval: Sequence[float] | None, by_chance: float | None
) -> Score | None:
    if value is None or interval is None:
        return _plain(value)
    low, high = interval
    label = f"{model}, {what}: {value:.3f}, from {low:.3f} to {high:.3f}"
    drawn = charts.interval(value, low, high, label=label, chance=by_chance)
    return Score(value=value, interval=as_range(interval), svg=drawn)


def _plain(value: float | None) -> Score | None:
    return None if value is None else Score(value=value)


def as_range(interval: Sequence[float] | None) -> str:
    """An interval as text, empty for None."""
    return "" if interval is None else f"{interval[0]:.3f} to {interval[1]:.3f}"


def paired(comparisons: Sequence[Mapping[str, Any]]) -> list[Comparison]:
    """The comparisons of results.json, by model."""
    pairs = dict.fromkeys((row["model"], row["against"]) for row in comparisons)
    tables = []
    for model, against in pairs:
        rows = [row for row in comparisons if (row["model"], row["against"]) == (model, against)]
        datasets = [row for row in rows if row["kind"] == "dataset"]
        tables.append(
            Comparison(
                model=model,
                against=against,
                datasets=_differences(datasets),
                abilities=_differences([row for row in rows if row["kind"] != "dataset"]),
            )
        )
    return tables


def _differences(comparisons: Sequence[Mapping[str, Any]]) -> list[Difference]:
    differences = []
    for row, corrected in zip(comparisons, holm([row["p_value"] for row in comparisons]), strict=True):
        value, bounds, drawn = row["difference"], "", ""
        name = AVERAGES.get(row["name"], row["name"])
        if row["interval"] is not None:
            low, high = row["interval"]
            bounds = f"{low:+.3f} to {high:+.3f}"
            label = f"{row['model']} less {row['against']} on {name}: {value:+.3f}, {bounds}"
            drawn = charts.difference(value, low, high, label=label, is_sure=corrected < SURE)
        differences.append(
            Difference(
                name=name,
                value=value,
                interval=bounds,
                p_value=row["p_value"],
                corrected=corrected,
                n_queries=row["n_queries"],
                n_clusters=row["n_clusters"],
                svg=drawn,
            )
        )
    return differences
