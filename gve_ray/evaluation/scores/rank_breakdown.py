"""Counts queries by the rank of their first positive, and gives the score of chance."""

import math
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

_AT_K = re.compile(r"(hit|precision|recall)@(\d+)")


@dataclass(frozen=True, kw_only=True)
class RankBreakdown:
    """Numbers of queries by the rank of their first positive; they add up to all queries.

    first: rank 1. near: ranks 2 to 10, where reranking the results would help. far: rank 11 to the
    search depth. lost: beyond the search depth.
    """

    first: int
    near: int
    far: int
    lost: int

    @property
    def n(self) -> int:
        """The number of queries."""
        return self.first + self.near + self.far + self.lost


def rank_breakdown(ranks: Iterable[int | None]) -> RankBreakdown:
    """Count ranks (from 1); None means beyond the search depth."""
    counts = {"first": 0, "near": 0, "far": 0, "lost": 0}
    for rank in ranks:
        name = "lost" if rank is None else "first" if rank == 1 else "near" if rank <= 10 else "far"
        counts[name] += 1
    return RankBreakdown(**counts)


def chance(metric: str, queries: Sequence[tuple[int, int]]) -> float | None:
    """The expected score of a random ranking, 0 to 1.

    queries: (positives, items ranked) of each query. hit@k is 1 - C(n - p, k) / C(n, k);
    precision@k is p / n, or less if there are fewer than k items; recall@k is k / n, at most 1.
    None for other metrics or without queries. Raises ValueError if a query has more positives than
    items.
    """
    match = _AT_K.fullmatch(metric)
    if match is None or not queries:
        return None
    name, k = match[1], int(match[2])
    values = []
    for positives, n in queries:
        if not 0 < positives <= n:
            raise ValueError(
                f"{positives} positives among {n} items ranked: give at least one and at most as many as items"
            )
        drawn = min(k, n)
        if name == "hit":
            values.append(1 - math.comb(n - positives, drawn) / math.comb(n, drawn))
        else:
            values.append(drawn / n * (positives / k if name == "precision" else 1))
    return math.fsum(values) / len(values)
