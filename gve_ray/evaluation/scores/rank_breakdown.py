"""What a score leaves open: where the first positive of each query stands, and what chance alone gives. Pure."""

import math
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

_AT_K = re.compile(r"(hit|precision|recall)@(\d+)")


@dataclass(frozen=True, kw_only=True)
class Places:
    """Queries by the place of their first positive; the counts add up to the queries.

    first: at rank 1. near: at 2 to 10, where a better order of what was found would do. far: at 11 to the
    depth kept. lost: not among the neighbours kept.
    """

    first: int
    near: int
    far: int
    lost: int

    @property
    def n(self) -> int:
        """All of them."""
        return self.first + self.near + self.far + self.lost


def places(ranks: Iterable[int | None]) -> Places:
    """Counts of ranks from 1; None: not among the neighbours kept."""
    counts = {"first": 0, "near": 0, "far": 0, "lost": 0}
    for rank in ranks:
        name = "lost" if rank is None else "first" if rank == 1 else "near" if rank <= 10 else "far"
        counts[name] += 1
    return Places(**counts)


def chance(metric: str, asked: Sequence[tuple[int, int]]) -> float | None:
    """The expected score of a random order, 0 to 1.

    asked: (positives, items ranked) of each query. hit@k is 1 - C(n - p, k) / C(n, k); precision@k is p / n,
    less where there are fewer than k items; recall@k is k / n, at most 1. None for other metrics and for no
    queries. Raises ValueError where there are more positives than items.
    """
    found = _AT_K.fullmatch(metric)
    if found is None or not asked:
        return None
    name, k = found[1], int(found[2])
    values = []
    for positives, n in asked:
        if not 0 < positives <= n:
            raise ValueError(
                f"{positives} positives among {n} items ranked: at least one, and no more than items"
            )
        drawn = min(k, n)
        if name == "hit":
            values.append(1 - math.comb(n - positives, drawn) / math.comb(n, drawn))
        else:
            values.append(drawn / n * (positives / k if name == "precision" else 1))
    return math.fsum(values) / len(values)
