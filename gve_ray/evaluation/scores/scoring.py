"""One model's vectors on one data set -> its scores, and many of those -> abilities and comparisons."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from gve_ray.evaluation.config import EvaluationConfig
from gve_ray.evaluation.data.eval_sets import Source
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
    """One model on one data set. values: of the data set's metric by query id. facts: as in results.json.

    table: rows of per_query.parquet.
    """

    facts: dict[str, Any]
    values: dict[str, float]
    table: pa.Table


def score(source: Source, model: str, embedded: Embedded, config: EvaluationConfig, trec: Path) -> Scored:
    """Rank, score, and write the TREC run. What could not be embedded is left out and counted."""
    data, refused = source.data, embedded.rejects
    query_ok = [key not in refused for key in source.query_keys]
    corpus_ok = [key not in refused for key in source.corpus_keys]
    part = usable(data, query_ok, corpus_ok)
    queries, query_cut = read_vectors(embedded.store, [source.query_keys[i] for i in part.queries])
    corpus, corpus_cut = read_vectors(embedded.store, [source.corpus_keys[i] for i in part.corpus])
    facts: dict[str, Any] = {
        "metric": source.metric,
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
    values = metrics.per_query(source.metric, ranking.ids, part.positives)
    scores = {
        name: metrics.score(name, ranking.ids, part.positives)
        for name in dict.fromkeys((source.metric, *config.metrics))
    }
    facts["score"] = _finite(scores[source.metric])
    facts["interval"] = _mean_interval(source.metric, values, config)
    facts["scores"] = {name: _finite(value) for name, value in scores.items()}
    if source.is_classification:
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
        table=per_query_table(model, data, source.metric, values, part, ranking),
    )


def summary(scored: Mapping[str, Scored], config: EvaluationConfig) -> dict[str, Any]:
    """One model's part of results.json: data sets, abilities and averages, with intervals over queries.

    Abilities and averages are over UVRB's data sets and None where one of theirs is missing.
    """
    known = {name: one for name, one in scored.items() if name in UVRB and one.facts["score"] is not None}
    found = summarise({name: one.facts["score"] for name, one in known.items()})
    shares = {name: weights(name) for name in (*ABILITIES, AVERAGE)}
    return {
        "datasets": {name: one.facts for name, one in scored.items()},
        "abilities": dict(found.abilities),
        "ability_intervals": {
            name: _weighted_interval(shares[name], known, config) for name in found.abilities
        },
        "average_datasets": found.average_datasets,
        "average_datasets_interval": _weighted_interval(dict.fromkeys(UVRB, 1 / len(UVRB)), known, config),
        "average_abilities": found.average_abilities,
        "average_abilities_interval": _weighted_interval(shares[AVERAGE], known, config),
    }


def comparisons(scored: Mapping[str, Mapping[str, Scored]], config: EvaluationConfig) -> list[dict[str, Any]]:
    """Each later model against the first, by data set: difference, its interval, p of a permutation test.

    scored: by model, then data set. Paired by query id; both must have been asked.
    """
    first, *others = scored
    found = []
    for model in others:
        for name, one in scored[model].items():
            other = scored[first][name]
            shared = [query for query in one.values if query in other.values]
            pairs = np.array([(one.values[query], other.values[query]) for query in shared])
            if not len(pairs) or not np.isfinite(pairs).all():
                continue
            told = compare(pairs[:, 0], pairs[:, 1], resamples=config.resamples, seed=config.seed)
            found.append(
                {
                    "dataset": name,
                    "model": model,
                    "against": first,
                    "difference": told.difference.estimate,
                    "interval": [told.difference.low, told.difference.high],
                    "p_value": told.p_value,
                    "n_queries": len(shared),
                }
            )
    return found


def left_out(source: Source, model: str, embedded: Embedded) -> list[dict[str, str]]:
    """One row for each query and corpus item that this model has no vector of, with the reason."""
    sides = (
        ("query", source.data.query_ids, source.query_keys),
        ("corpus", source.data.corpus_ids, source.corpus_keys),
    )
    return [
        {
            "model": model,
            "dataset": source.data.name,
            "where": f"{side} id {name!r}",
            "what": ": ".join(part for part in embedded.rejects[key] if part),
        }
        for side, names, keys in sides
        for name, key in zip(names, keys, strict=True)
        if key in embedded.rejects
    ]


def _mean_interval(metric: str, values: NDArray[np.float64], config: EvaluationConfig) -> list[float] | None:
    if metric == "median_rank":  # the one metric that is no mean over queries
        return None
    found = bootstrap_mean(values, resamples=config.resamples, seed=config.seed)
    return [found.low, found.high]


def _weighted_interval(
    shares: Mapping[str, float], known: Mapping[str, Scored], config: EvaluationConfig
) -> list[float] | None:
    if not shares or not set(shares) <= set(known):
        return None
    groups: Sequence[list[float]] = [list(known[name].values.values()) for name in shares]
    if not all(np.isfinite(group).all() for group in groups):
        return None
    found = bootstrap_weighted(groups, list(shares.values()), resamples=config.resamples, seed=config.seed)
    return [found.low, found.high]


def _finite(value: float) -> float | None:
    """JSON has no infinity: a median rank beyond the neighbours kept is null."""
    return value if np.isfinite(value) else None
