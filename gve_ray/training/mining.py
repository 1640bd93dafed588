"""Hard negatives: the targets that a prober takes for a query's own, exactly and deterministically.

    mine(queries, targets, positives, k=8, groups=groups, margin=0.1)     # int64 [n, 8] rows of targets

Exact inner products by FAISS over chunks of both sides, so a corpus on disk (np.memmap) is read once a
chunk of queries. Cost is n * m * d multiplications; at 8.8 M targets a sample of the corpus is enough.
"""

import numpy as np

from gve_ray.search.exact import nearest_by_chunk

NONE = -1  # in a result: fewer than k targets were left
_GROUP = 64  # rows of one group that the first search allows for


def mine(
    queries: np.ndarray,
    targets: np.ndarray,
    positives: np.ndarray,
    *,
    k: int,
    groups: np.ndarray | None = None,
    margin: float | None = None,
    chunk: int = 16_384,
) -> np.ndarray:
    """The k hardest negatives of each query, hardest first: int64 [n, k] rows of `targets`, NONE at the end.

    queries: unit-norm float32 [n, d]. targets: unit-norm float32 [m, d]. positives: int [n], the row of
    each query's own target. groups: int [m]; targets of one group show the same thing, so those in the
    positive's group are no negatives. margin: targets scoring above positive + margin are likely false
    negatives and left out; it may be below 0 to be strict; None keeps them. Equal scores (to six digits)
    come in the order of rows. Raises ValueError on shapes that do not fit.
    """
    _check(queries, targets, positives, groups, k, chunk)
    kinds = np.arange(len(targets)) if groups is None else np.asarray(groups)
    # k, the positive's group and one to see a tie: enough without a margin; where not, the search deepens.
    largest = int(np.unique(kinds, return_counts=True)[1].max())
    reach = k + min(largest, _GROUP) + 1
    found = np.full((len(queries), k), NONE, dtype=np.int64)
    for start in range(0, len(queries), chunk):
        rows = np.arange(start, min(start + chunk, len(queries)))
        depth = min(reach, len(targets))
        while len(rows):
            own = np.asarray(positives)[rows]
            scores, near = _nearest(queries[rows], targets, depth, chunk)
            allowed = kinds[near] != kinds[own][:, None]  # [rows, depth]
            if margin is not None:
                limit = np.einsum("nd,nd->n", queries[rows], targets[own]) + margin
                allowed &= scores <= limit[:, None]
            for i, row in enumerate(rows):
                chosen = near[i, allowed[i]][:k]
                found[row, : len(chosen)] = chosen
            if depth == len(targets):
                break
            rows = rows[_unsure(scores, allowed, k)]
            depth = min(4 * depth, len(targets))
    return found


def _unsure(scores: np.ndarray, allowed: np.ndarray, k: int) -> np.ndarray:
    """bool [n]: too few candidates are left, or the last one ties with those beyond the search's reach."""
    nth = np.cumsum(allowed, axis=1)  # [n, depth]
    kth = np.argmax(nth >= k, axis=1)  # where the k-th candidate is; 0 if there is none
    tied = scores[np.arange(len(scores)), kth] <= scores[:, -1]
    return (nth[:, -1] < k) | tied


def _nearest(
    queries: np.ndarray, targets: np.ndarray, depth: int, chunk: int
) -> tuple[np.ndarray, np.ndarray]:
    """Scores float32 [n, depth], rounded to six digits, and rows int64 [n, depth]: best first, then by row."""
    best: tuple[np.ndarray, np.ndarray] | None = None
    for found, rows in nearest_by_chunk(queries, targets, depth, chunk):
        # Matrix products of other shapes round otherwise: beyond six digits two equal vectors may differ.
        scores = found.round(6)
        if best is not None:
            scores, rows = np.hstack([best[0], scores]), np.hstack([best[1], rows])
        order = np.lexsort((rows, -scores), axis=1)[:, :depth]
        best = np.take_along_axis(scores, order, axis=1), np.take_along_axis(rows, order, axis=1)
    assert best is not None
    return best


def _check(
    queries: np.ndarray,
    targets: np.ndarray,
    positives: np.ndarray,
    groups: np.ndarray | None,
    k: int,
    chunk: int,
) -> None:
    if queries.ndim != 2 or targets.ndim != 2 or queries.shape[1] != targets.shape[1] or not len(targets):
        raise ValueError(f"queries {queries.shape}, targets {targets.shape}: give [n, d] and [m, d], m > 0")
    if len(positives) != len(queries):
        raise ValueError(f"{len(positives)} positives for {len(queries)} queries: give one row each")
    if len(positives) and not 0 <= np.min(positives) <= np.max(positives) < len(targets):
        raise ValueError(
            f"positives {np.min(positives)} to {np.max(positives)}: rows of {len(targets)} targets"
        )
    if groups is not None and len(groups) != len(targets):
        raise ValueError(f"{len(groups)} groups for {len(targets)} targets: give one each")
    if k < 1 or chunk < 1:
        raise ValueError(f"k={k}, chunk={chunk}: use 1 or more")
