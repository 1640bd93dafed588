"""Retrieval metrics as pure functions of rankings (corpus ids, best first) and positives.

    score("hit@10", rankings, positives)       # mean over queries
    per_query("ndcg@10", rankings, positives)  # float64 [queries], in the order of `positives`

hit@k is 1 if any positive is in the top k; the paper calls it Recall@k. recall@k is the fraction of
a query's positives in the top k. They are equal only if every query has one positive. Definitions
follow trec_eval: precision@k divides by k even if the ranking is shorter, and an item outside the
ranking counts as not found.
"""

import math
import re
from collections.abc import Callable, Mapping, Sequence, Set

import numpy as np
from numpy.typing import NDArray

Rankings = Mapping[str, Sequence[str]]
Positives = Mapping[str, Set[str]]


def score(metric: str, rankings: Rankings, positives: Positives) -> float:
    """Compute one metric over all queries: the mean, or the median for "median_rank".

    metric: hit@k, recall@k, precision@k, ndcg@k, mrr (or mrr@k) or median_rank. Raises ValueError
    if there are no queries, and as `per_query` does.
    """
    values = per_query(metric, rankings, positives)
    if not len(values):
        raise ValueError(f"{metric} of no queries: give at least one query with positives")
    return float(np.median(values) if metric == "median_rank" else values.mean())


def per_query(metric: str, rankings: Rankings, positives: Positives) -> NDArray[np.float64]:
    """Compute the metric of each query, float64 [queries] in the order of `positives`.

    For median_rank these are the ranks. Raises ValueError for an unknown metric, a query without
    positives or without a ranking, and a ranking that contains an item twice.
    """
    function, k = _parse(metric)
    values = np.empty(len(positives), dtype=np.float64)
    for row, (query, relevant) in enumerate(positives.items()):
        if not relevant:
            raise ValueError(f"query {query!r}: no positives; leave it out of the evaluation")
        if query not in rankings:
            raise ValueError(f"query {query!r}: no ranking; give an empty list if there are no results")
        values[row] = function(_ranks(query, rankings[query], relevant), len(relevant), k)
    return values


def _ranks(query: str, ranking: Sequence[str], relevant: Set[str]) -> list[int]:
    """Ranks of the positives in a ranking, from 1, ascending."""
    if len(set(ranking)) != len(ranking):
        duplicate = next(item for item in ranking if list(ranking).count(item) > 1)
        raise ValueError(f"query {query!r}: {duplicate!r} is ranked twice; rank each item once")
    return [rank for rank, item in enumerate(ranking, start=1) if item in relevant]


_Metric = Callable[[Sequence[int], int, float], float]


def _hit(ranks: Sequence[int], positives: int, k: float) -> float:
    return float(bool(ranks) and ranks[0] <= k)


def _recall(ranks: Sequence[int], positives: int, k: float) -> float:
    return sum(rank <= k for rank in ranks) / positives


def _precision(ranks: Sequence[int], positives: int, k: float) -> float:
    return sum(rank <= k for rank in ranks) / k


def _ndcg(ranks: Sequence[int], positives: int, k: float) -> float:
    ideal = _dcg(range(1, int(min(positives, k)) + 1))
    return _dcg([rank for rank in ranks if rank <= k]) / ideal


def _dcg(ranks: Sequence[int]) -> float:
    return sum(1 / math.log2(1 + rank) for rank in ranks)


def _reciprocal(ranks: Sequence[int], positives: int, k: float) -> float:
    return 1 / ranks[0] if ranks and ranks[0] <= k else 0.0


def _first_rank(ranks: Sequence[int], positives: int, k: float) -> float:
    return float(ranks[0]) if ranks else math.inf


_AT_K: dict[str, _Metric] = {"hit": _hit, "recall": _recall, "precision": _precision, "ndcg": _ndcg}
_AT_ANY: dict[str, _Metric] = {"mrr": _reciprocal, "median_rank": _first_rank}


def _parse(metric: str) -> tuple[_Metric, float]:
    """The function and k of a metric name; k is infinite if the name has none."""
    match = re.fullmatch(r"(\w+)@([1-9]\d*)", metric)
    if match and (match[1] in _AT_K or match[1] == "mrr"):
        return {**_AT_K, **_AT_ANY}[match[1]], int(match[2])
    if metric in _AT_ANY:
        return _AT_ANY[metric], math.inf
    names = ", ".join([*(f"{name}@k" for name in _AT_K), *_AT_ANY])
    raise ValueError(f"metric {metric!r}: unknown; use {names}, k from 1")
