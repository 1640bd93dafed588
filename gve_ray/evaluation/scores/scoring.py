"""Scores a model on data sets. What it cannot read or embed counts as a miss.

A query without a vector has the score 0, and a corpus item without one is never found, while the
data set keeps its size. Otherwise a model would be ranked on the part of a data set that it can
read, with fewer items to confuse.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from gve_ray.evaluation.config import EvaluationConfig, SmallerVectors
from gve_ray.evaluation.data.eval_sets import EvalSet
from gve_ray.evaluation.data.labelled_videos import CUTOFFS, classification
from gve_ray.evaluation.embed import Embedded, read_vectors
from gve_ray.evaluation.scores import metrics
from gve_ray.evaluation.scores.ranking import per_query_table, rank, trec_lines
from gve_ray.evaluation.scores.smaller_vectors import Compact, shrink
from gve_ray.evaluation.scores.statistics import Floats


@dataclass(frozen=True, kw_only=True)
class Scored:
    """The result of one model on one data set.

    facts: its entry in results.json, without intervals. values: the data set's metric, float64
    [queries] in the order of the data set. table: rows of per_query.parquet. accuracies: of a
    classification, the hits by "accuracy@k", float64 [queries] each.
    """

    facts: dict[str, Any]
    values: Floats
    table: pa.Table
    accuracies: Mapping[str, Floats] = field(default_factory=dict)


def score(
    dataset: EvalSet,
    model: str,
    embedded: Embedded,
    config: EvaluationConfig,
    trec: Path,
    form: SmallerVectors | None = None,
) -> Scored:
    """Rank and score a data set and write the TREC run; counts items without a vector as misses.

    model: the name in the tables. form: of the vectors; None: as they were embedded.
    """
    data, rejects = dataset.data, embedded.rejects
    query_rows = [row for row, key in enumerate(dataset.query_keys) if key not in rejects]
    corpus_rows = [row for row, key in enumerate(dataset.corpus_keys) if key not in rejects]
    queries, query_cut = read_vectors(embedded.store, [dataset.query_keys[row] for row in query_rows])
    corpus, corpus_cut = read_vectors(embedded.store, [dataset.corpus_keys[row] for row in corpus_rows])
    readable = {data.corpus_ids[row] for row in corpus_rows}
    compact = Compact(queries=queries, corpus=corpus) if form is None else shrink(queries, corpus, form)
    ranking = rank(
        data,
        compact.queries,
        compact.corpus,
        depth=config.depth,
        query_rows=query_rows,
        corpus_rows=corpus_rows,
        rescoring=compact.rescoring,
    )
    facts: dict[str, Any] = {
        "metric": dataset.metric,
        "score": None,
        "scores": {},
        "n_queries": len(data.queries),
        "n_corpus": len(data.corpus),
        "missing": {
            "queries": len(data.queries) - len(query_rows),
            "corpus": len(data.corpus) - len(corpus_rows),
            "queries_without_positives": sum(
                not data.positives[data.query_ids[row]] & readable for row in query_rows
            ),
        },
        "cut": {"queries": int(query_cut.sum()), "corpus": int(corpus_cut.sum())},
    }
    if compact.scale is not None:
        facts["int8_scale"] = compact.scale
    trec.parent.mkdir(parents=True, exist_ok=True)
    with trec.open("w", encoding="utf-8") as file:
        file.writelines(trec_lines(ranking, model))
    values = metrics.per_query(dataset.metric, ranking.ids, data.positives)
    table = per_query_table(model, data, dataset.metric, values, ranking)
    if not data.queries:
        return Scored(facts=facts, values=values, table=table)
    scores = {
        name: metrics.score(name, ranking.ids, data.positives)
        for name in dict.fromkeys((dataset.metric, *config.metrics))
    }
    facts["score"] = _finite(scores[dataset.metric])
    facts["scores"] = {name: _finite(value) for name, value in scores.items()}
    accuracies = {}
    if dataset.is_classification and data.candidates is None:
        facts["classification"] = classification(ranking.ids, data.positives, n_labels=len(data.corpus))
        accuracies = {
            f"accuracy@{k}": metrics.per_query(f"hit@{k}", ranking.ids, data.positives) for k in CUTOFFS
        }
    return Scored(facts=facts, values=values, table=table, accuracies=accuracies)


def unreadable(dataset: EvalSet, model: str, embedded: Embedded) -> list[dict[str, str]]:
    """One row with the reason for each query and corpus item that the model could not read or embed."""
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


def _finite(value: float) -> float | None:
    """None for infinity, which JSON does not have: a median rank beyond the ranks kept."""
    return value if np.isfinite(value) else None
