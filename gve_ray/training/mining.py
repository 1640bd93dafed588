"""Mine hard negatives: the targets that score highest for a query without being its own.

    mine(queries, targets, positives, k=8, groups=groups, margin=0.1)     # int64 [n, 8] rows of targets

The search is exact and deterministic: FAISS computes inner products over chunks of both sides, so a corpus on
disk (np.memmap) is read once per chunk of queries. It takes n * m * d multiplications; at 8.8 M targets a
sample of the corpus is enough.
"""

import numpy as np

from gve_ray.search.exact import nearest_by_chunk

NONE = -1  # fills a row of the result that has fewer than k targets
_GROUP = 64  # the first search allows for groups of up to this many rows


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
    positive's group are not negatives. margin: targets that score above positive + margin are dropped as
    likely false negatives; a value below 0 is stricter; None keeps them. Targets with equal scores (to six
    digits) are in the order of rows. Raises ValueError on shapes that do not fit.
    """
    _check(queries, targets, positives, groups, k, chunk)
    kinds = np.arange(len(targets)) if groups is None else np.asarray(groups)
    # k, the positive's group and one more to detect a tie. With a margin the search may have to go deeper.
    largest = int(np.unique(kinds, return_counts=True)[1].max())
    reach = k + min(largest, _GROUP) + 1
    mined = np.full((len(queries), k), NONE, dtype=np.int64)
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
                mined[row, : len(chosen)] = chosen
            if depth == len(targets):
                break
            rows = rows[_unsure(scores, allowed, k)]
            depth = min(4 * depth, len(targets))
    return mined


def _unsure(scores: np.ndarray, allowed: np.ndarray, k: int) -> np.ndarray:
    """bool [n]: too few candidates are left, or the last one may tie with one beyond the search depth."""
    nth = np.cumsum(allowed, axis=1)  # [n, depth]
    kth = np.argmax(nth >= k, axis=1)  # where the k-th candidate is; 0 if there is none
    tied = scores[np.arange(len(scores)), kth] <= scores[:, -1]
    return (nth[:, -1] < k) | tied


def _nearest(
    queries: np.ndarray, targets: np.ndarray, depth: int, chunk: int
) -> tuple[np.ndarray, np.ndarray]:
    """Scores float32 [n, depth], rounded to six digits, and rows int64 [n, depth]: best first, then by row."""
    best: tuple[np.ndarray, np.ndarray] | None = None
    for exact_scores, rows in nearest_by_chunk(queries, targets, depth, chunk):
        # Rounding depends on the shape of the product: scores of equal vectors may differ after six digits.
        scores = exact_scores.round(6)
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
