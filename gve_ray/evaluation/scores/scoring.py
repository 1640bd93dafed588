"""Scores a model on data sets: metrics and abilities with intervals, and comparisons."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from gve_ray.evaluation.config import EvaluationConfig
from gve_ray.evaluation.data.eval_sets import EvalSet
from gve_ray.evaluation.data.labelled_videos import classification
from gve_ray.evaluation.data.uvrb import UVRB
from gve_ray.evaluation.embed import Embedded, read_vectors
from gve_ray.evaluation.scores import metrics
from gve_ray.evaluation.scores.abilities import ABILITIES, summarise, weights
from gve_ray.evaluation.scores.ranking import PER_QUERY_SCHEMA, per_query_table, rank, trec_lines, usable
from gve_ray.evaluation.scores.statistics import bootstrap_mean, bootstrap_weighted, compare

AVERAGE = "average"


@dataclass(frozen=True, kw_only=True)
class Scored:
    """The result of one model on one data set.

    facts: its entry in results.json. values: the data set's metric by query id. table: rows of
    per_query.parquet.
    """

    facts: dict[str, Any]
    values: dict[str, float]
    table: pa.Table


def score(dataset: EvalSet, model: str, embedded: Embedded, config: EvaluationConfig, trec: Path) -> Scored:
    """Rank and score a data set and write the TREC run; counts items without a vector."""
    data, rejects = dataset.data, embedded.rejects
    query_ok = [key not in rejects for key in dataset.query_keys]
    corpus_ok = [key not in rejects for key in dataset.corpus_keys]
    part = usable(data, query_ok, corpus_ok)
    queries, query_cut = read_vectors(embedded.store, [dataset.query_keys[i] for i in part.queries])
    corpus, corpus_cut = read_vectors(embedded.store, [dataset.corpus_keys[i] for i in part.corpus])
    facts: dict[str, Any] = {
        "metric": dataset.metric,
        "score": None,
        "interval": None,
        "scores": {},
        "n_queries": len(part.queries),
        "n_corpus": len(part.corpus),
        "skipped": {
            "faults": len(data.skipped),
            "queries": query_ok.count(False),
            "corpus": corpus_ok.count(False),
            "queries_without_positives": part.n_orphans,
        },
        "cut": {"queries": int(query_cut.sum()), "corpus": int(corpus_cut.sum())},
    }
    if not len(part.queries):
        return Scored(facts=facts, values={}, table=PER_QUERY_SCHEMA.empty_table())
    ranking = rank(data, part, queries, corpus, depth=config.depth)
    values = metrics.per_query(dataset.metric, ranking.ids, part.positives)
    scores = {
        name: metrics.score(name, ranking.ids, part.positives)
        for name in dict.fromkeys((dataset.metric, *config.metrics))
    }
    facts["score"] = _finite(scores[dataset.metric])
    facts["interval"] = _mean_interval(dataset.metric, values, config)
    facts["scores"] = {name: _finite(value) for name, value in scores.items()}
    if dataset.is_classification:
        facts["classification"] = classification(
            ranking.ids,
            part.positives,
            n_labels=len(part.corpus),
            resamples=config.resamples,
            seed=config.seed,
        )
    trec.parent.mkdir(parents=True, exist_ok=True)
    with trec.open("w", encoding="utf-8") as file:
        file.writelines(trec_lines(ranking, model))
    return Scored(
        facts=facts,
        values=dict(zip(part.positives, values.tolist(), strict=True)),
        table=per_query_table(model, data, dataset.metric, values, part, ranking),
    )


def summary(scored: Mapping[str, Scored], config: EvaluationConfig) -> dict[str, Any]:
    """One model's part of results.json: data sets, abilities and averages, with intervals.

    Abilities and averages cover UVRB's data sets only; they are left out or None if one of their
    data sets is missing.
    """
    benchmark = {
        name: result for name, result in scored.items() if name in UVRB and result.facts["score"] is not None
    }
    scores = summarise({name: result.facts["score"] for name, result in benchmark.items()})
    shares = {name: weights(name) for name in (*ABILITIES, AVERAGE)}
    return {
        "datasets": {name: result.facts for name, result in scored.items()},
        "abilities": dict(scores.abilities),
        "ability_intervals": {
            name: _weighted_interval(shares[name], benchmark, config) for name in scores.abilities
        },
        "average_datasets": scores.average_datasets,
        "average_datasets_interval": _weighted_interval(
            dict.fromkeys(UVRB, 1 / len(UVRB)), benchmark, config
        ),
        "average_abilities": scores.average_abilities,
        "average_abilities_interval": _weighted_interval(shares[AVERAGE], benchmark, config),
    }


def comparisons(scored: Mapping[str, Mapping[str, Scored]], config: EvaluationConfig) -> list[dict[str, Any]]:
    """Compare each later model with the first on each data set: difference, interval, p.

    scored: by model, then data set. Queries are paired by id; only queries that both models have
    count.
    """
    first, *others = scored
    rows = []
    for model in others:
        for name, result in scored[model].items():
            reference = scored[first][name]
            shared = [query for query in result.values if query in reference.values]
            pairs = np.array([(result.values[query], reference.values[query]) for query in shared])
            if not len(pairs) or not np.isfinite(pairs).all():
                continue
            comparison = compare(pairs[:, 0], pairs[:, 1], resamples=config.resamples, seed=config.seed)
            rows.append(
                {
                    "dataset": name,
                    "model": model,
                    "against": first,
                    "difference": comparison.difference.estimate,
                    "interval": [comparison.difference.low, comparison.difference.high],
                    "p_value": comparison.p_value,
                    "n_queries": len(shared),
                }
            )
    return rows


def left_out(dataset: EvalSet, model: str, embedded: Embedded) -> list[dict[str, str]]:
    """One row with the reason for each query and corpus item that this model has no vector of."""
    sides = (
        ("query", dataset.data.query_ids, dataset.query_keys),
        ("corpus", dataset.data.corpus_ids, dataset.corpus_keys),
    )
    return [
        {
            "model": model,
            "dataset": dataset.data.name,
            "where": f"{side} id {name!r}",
            "what": ": ".join(part for part in embedded.rejects[key] if part),
        }
        for side, names, keys in sides
        for name, key in zip(names, keys, strict=True)
        if key in embedded.rejects
    ]


def _mean_interval(metric: str, values: NDArray[np.float64], config: EvaluationConfig) -> list[float] | None:
    if metric == "median_rank":  # the only metric that is not a mean over queries
        return None
    interval = bootstrap_mean(values, resamples=config.resamples, seed=config.seed)
    return [interval.low, interval.high]


def _weighted_interval(
    weights_of_sets: Mapping[str, float], scored: Mapping[str, Scored], config: EvaluationConfig
) -> list[float] | None:
    if not weights_of_sets or not set(weights_of_sets) <= set(scored):
        return None
    groups: Sequence[list[float]] = [list(scored[name].values.values()) for name in weights_of_sets]
    if not all(np.isfinite(group).all() for group in groups):
        return None
    interval = bootstrap_weighted(
        groups, list(weights_of_sets.values()), resamples=config.resamples, seed=config.seed
    )
    return [interval.low, interval.high]


def _finite(value: float) -> float | None:
    """None for infinity, which JSON does not have: a median rank beyond the ranks kept."""
    return value if np.isfinite(value) else None
