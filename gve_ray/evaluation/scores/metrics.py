"""Retrieval metrics. Pure: a ranking is a sequence of corpus ids, best first; relevance is a set of ids.

    score("hit@10", rankings, positives)       # the mean over queries
    per_query("ndcg@10", rankings, positives)  # float64 [queries], in the order of `positives`

hit@k is 1 if any positive is in the top k: the paper's Recall@k. recall@k is the share of the positives that
is there. They agree only where every query has one positive. Definitions are trec_eval's: a list shorter
than k still counts k places in precision@k, and what is not in the list was not found.
"""

import math
import re
from collections.abc import Callable, Mapping, Sequence, Set

import numpy as np
from numpy.typing import NDArray

Rankings = Mapping[str, Sequence[str]]
Positives = Mapping[str, Set[str]]


def hit_at_k(rankings: Rankings, positives: Positives, k: int) -> float:
    """Share of the queries with a positive in the top k; the paper calls it Recall@k."""
    return score(f"hit@{k}", rankings, positives)


def recall_at_k(rankings: Rankings, positives: Positives, k: int) -> float:
    """Mean share of a query's positives that are in the top k."""
    return score(f"recall@{k}", rankings, positives)


def precision_at_k(rankings: Rankings, positives: Positives, k: int) -> float:
    """Mean share of the top k places that hold a positive."""
    return score(f"precision@{k}", rankings, positives)


def ndcg_at_k(rankings: Rankings, positives: Positives, k: int) -> float:
    """Mean of DCG over ideal DCG in the top k: gain 1 a positive, discount 1/log2(1 + rank)."""
    return score(f"ndcg@{k}", rankings, positives)


def mrr(rankings: Rankings, positives: Positives) -> float:
    """Mean of 1 / rank of the first positive, 0 where none is in the list."""
    return score("mrr", rankings, positives)


def median_rank(rankings: Rankings, positives: Positives) -> float:
    """Median rank of the first positive, from 1; a query without one in its list counts as infinite."""
    return score("median_rank", rankings, positives)


def score(metric: str, rankings: Rankings, positives: Positives) -> float:
    """One metric over all queries: the mean, or the median for "median_rank".

    metric: hit@k, recall@k, precision@k, ndcg@k, mrr (or mrr@k) or median_rank. Raises ValueError as
    `per_query` does, and when there are no queries.
    """
    values = per_query(metric, rankings, positives)
    if not len(values):
        raise ValueError(f"{metric} of no queries: give at least one query with positives")
    return float(np.median(values) if metric == "median_rank" else values.mean())


def per_query(metric: str, rankings: Rankings, positives: Positives) -> NDArray[np.float64]:
    """The metric of each query, float64 [queries] in the order of `positives`; for intervals and tests.

    For median_rank these are the ranks. Raises ValueError for an unknown metric, a query without positives or
    without a ranking, and a ranking that names an item twice.
    """
    one, k = _parse(metric)
    values = np.empty(len(positives), dtype=np.float64)
    for row, (query, relevant) in enumerate(positives.items()):
        if not relevant:
            raise ValueError(f"query {query!r}: no positives; leave it out of the evaluation")
        if query not in rankings:
            raise ValueError(f"query {query!r}: no ranking; give an empty one if nothing was found")
        values[row] = one(_ranks(query, rankings[query], relevant), len(relevant), k)
    return values


def _ranks(query: str, ranking: Sequence[str], relevant: Set[str]) -> list[int]:
    """Ranks of the positives in a list, from 1, rising."""
    if len(set(ranking)) != len(ranking):
        twice = next(item for item in ranking if list(ranking).count(item) > 1)
        raise ValueError(f"query {query!r}: {twice!r} is ranked twice; rank each item once")
    return [rank for rank, item in enumerate(ranking, start=1) if item in relevant]


_One = Callable[[Sequence[int], int, float], float]


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


_AT_K: dict[str, _One] = {"hit": _hit, "recall": _recall, "precision": _precision, "ndcg": _ndcg}
_AT_ANY: dict[str, _One] = {"mrr": _reciprocal, "median_rank": _first_rank}


def _parse(metric: str) -> tuple[_One, float]:
    """The function and the k of a metric's name; k is infinite where none is named."""
    match = re.fullmatch(r"(\w+)@([1-9]\d*)", metric)
    if match and (match[1] in _AT_K or match[1] == "mrr"):
        return {**_AT_K, **_AT_ANY}[match[1]], int(match[2])
    if metric in _AT_ANY:
        return _AT_ANY[metric], math.inf
    names = ", ".join([*(f"{name}@k" for name in _AT_K), *_AT_ANY])
    raise ValueError(f"metric {metric!r}: unknown; use {names}, k from 1")
