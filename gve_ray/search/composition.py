"""Make one query of several parts: add what is wanted, and subtract what is not.

    vector = composed(content=text, like=vectors_of_segments, without=unwanted)

The weighted sum of unit vectors, at unit length, is close to what is added and far from what is subtracted
(Rocchio, 1971). benchmarks/composed_queries.py measures how well that works.
"""

from collections.abc import Sequence

import numpy as np

from gve_ray.search.index import SearchError

WITHOUT = 0.5  # weight of what is subtracted; with more, fewer hits have what is wanted
_SHORTEST = 1e-3  # length of a sum that has a direction


def composed(
    *,
    content: np.ndarray | None = None,
    like: np.ndarray | None = None,
    without: np.ndarray | None = None,
) -> np.ndarray:
    """Return the vector of a query, float32 [d], of unit length: content + mean of like - half of without.

    content, without: unit vectors, float32 [d]. like: unit vectors, float32 [n, d]; their mean is made a unit
    vector, so that it counts as much as `content`. At least one of `content` and `like` must be given. Raises
    SearchError if the parts cancel each other out.
    """
    parts = [] if content is None else [(1.0, content)]
    if like is not None:
        parts.append((1.0, _sum([(1.0, vector) for vector in like])))
    if without is not None:
        parts.append((-WITHOUT, without))
    return _sum(parts)


def _sum(parts: Sequence[tuple[float, np.ndarray]]) -> np.ndarray:
    """Return the weighted sum of vectors at unit length."""
    total = np.sum([weight * vector.astype(np.float64) for weight, vector in parts], axis=0)
    length = np.linalg.norm(total)
    if length < _SHORTEST:
        raise SearchError("query: its parts cancel each other out; leave some of them out")
    return (total / length).astype(np.float32)
