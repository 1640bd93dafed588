"""Ranks the corpus for each query, and gives TREC runs and per-query tables."""

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import unquote

import numpy as np
import pyarrow as pa

from gve_ray.evaluation.data.retrieval_set import RetrievalSet
from gve_ray.evaluation.scores import metrics
from gve_ray.search import NONE, exact, within

TOP = 10  # items kept in per_query.parquet; the TREC run has the whole ranking
PER_QUERY_SCHEMA = pa.schema(
    [
        ("model", pa.string()),
        ("dataset", pa.string()),
        ("query_id", pa.string()),
        ("metric", pa.string()),  # the data set's metric
        ("score", pa.float64()),
        ("first_rank", pa.int32()),  # of the first positive, from 1; null if it is beyond the ranks kept
        ("positives", pa.list_(pa.string())),
        ("top", pa.list_(pa.string())),  # best first; empty if the model could not read the query
        ("top_scores", pa.list_(pa.float32())),
    ]
)


@dataclass(frozen=True, kw_only=True)
class Ranking:
    """Corpus ids by query id, best first, and their inner products; for every query of the set."""

    ids: Mapping[str, list[str]]
    scores: Mapping[str, list[float]]


def rank(
    data: RetrievalSet,
    queries: np.ndarray,
    corpus: np.ndarray,
    *,
    depth: int,
    query_rows: Sequence[int] | None = None,
    corpus_rows: Sequence[int] | None = None,
    rescoring: np.ndarray | None = None,
) -> Ranking:
    """Find the `depth` nearest corpus items of each query, or of its candidates.

    queries, corpus: float32 [q, d] and [c, d]. query_rows, corpus_rows: their positions in the data
    set; None: all of them. A query without a vector gets an empty ranking, and a corpus item without
    a vector is in no ranking. Ties are in the order of the corpus file. rescoring: float32 [q, d], other
    vectors of the queries, by which the nearest items are ordered again; None: they stay in order.
    """
    query_ids = _at(data.query_ids, query_rows)
    corpus_ids = _at(data.corpus_ids, corpus_rows)
    if not len(query_ids) or not len(corpus_ids):
        rows, scores = np.empty((len(query_ids), 0), dtype=np.int64), np.empty((len(query_ids), 0))
    elif data.candidates is None:
        rows, scores = exact(queries, corpus, depth)
    else:
        row_of = {name: row for row, name in enumerate(corpus_ids)}
        listed = [[row_of[item] for item in data.candidates[name] if item in row_of] for name in query_ids]
        rows, scores = within(
            queries, corpus, [np.array(candidates, dtype=np.int64) for candidates in listed]
        )
        rows, scores = rows[:, :depth], scores[:, :depth]
    if rescoring is not None and rows.size:
        rows, scores = within(rescoring, corpus, [near[near != NONE] for near in rows])
    kept = [int((neighbours != NONE).sum()) for neighbours in rows]
    nothing: dict[str, list[Any]] = {name: [] for name in data.query_ids}
    return Ranking(
        ids=nothing
        | {name: [corpus_ids[row] for row in rows[i, : kept[i]]] for i, name in enumerate(query_ids)},
        scores=nothing | {name: scores[i, : kept[i]].tolist() for i, name in enumerate(query_ids)},
    )


def _at(names: Sequence[str], rows: Sequence[int] | None) -> Sequence[str]:
    return names if rows is None else [names[row] for row in rows]


def per_query_table(
    model: str, data: RetrievalSet, metric: str, values: np.ndarray, ranking: Ranking
) -> pa.Table:
    """One row per query (`PER_QUERY_SCHEMA`). values: the metric, float64 [queries]."""
    first_ranks = metrics.per_query("median_rank", ranking.ids, data.positives)
    rows = [
        {
            "model": model,
            "dataset": data.name,
            "query_id": name,
            "metric": metric,
            "score": value,
            "first_rank": int(rank_of_first) if np.isfinite(rank_of_first) else None,
            "positives": sorted(data.positives[name]),
            "top": ranking.ids[name][:TOP],
            "top_scores": ranking.scores[name][:TOP],
        }
        for name, value, rank_of_first in zip(data.positives, values, first_ranks, strict=True)
    ]
    return pa.Table.from_pylist(rows, schema=PER_QUERY_SCHEMA)


def trec_lines(ranking: Ranking, tag: str) -> Iterable[str]:
    """Yield `query Q0 item rank score tag` lines, best first.

    The format is separated by blanks, so blanks and % in ids and tags are percent-encoded. Scores
    have nine digits: sorting by them gives the same order, except among ties.
    """
    for name, ids in ranking.ids.items():
        for position, (item, score) in enumerate(zip(ids, ranking.scores[name], strict=True), start=1):
            yield f"{_field(name)} Q0 {_field(item)} {position} {score:.9g} {_field(tag)}\n"


def read_trec(path: Path, ranks: Mapping[str, int]) -> dict[str, tuple[str, float]]:
    """Read the item at a query's rank in `ranks`, and its score, from a TREC run."""
    items = {}
    with path.open(encoding="utf-8") as file:
        for line in file:
            name, _, item, position, score, _ = line.split()
            query = unquote(name)
            if ranks.get(query) == int(position):
                items[query] = unquote(item), float(score)
    return items


def _field(text: str) -> str:
    return re.sub(r"[\s%]", lambda match: "".join(f"%{byte:02X}" for byte in match[0].encode()), text)
