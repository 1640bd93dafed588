"""Search for moments of videos: of segments that overlap in time, only the best one counts.

Windows of a film overlap, so that a scene is found wherever it begins; without this, the first hits
would all show the same scene. Files with the same content count as one.
"""

from collections import defaultdict
from collections.abc import Iterable, Mapping

import numpy as np

from gve_ray.search.index import Filter, Hit, Value, VectorIndex

_DEEPEST = 16_384  # rows; no more are searched for moments apart from each other. Milvus has this limit.


def search_moments(
    index: VectorIndex,
    vector: np.ndarray,
    top_k: int,
    *,
    filter: Filter | None = None,
    overlapping: bool = False,
    excluded: Iterable[Mapping[str, Value]] = (),
) -> list[Hit]:
    """Return the `top_k` segments that match a query best, best first, apart from each other in time.

    index: of segments (`gve_ray.search.library.FIELDS`). vector: float32 [1, d]. overlapping: also
    return segments that overlap a better one. excluded: metadata of segments that the hits must not
    overlap either. There are fewer hits if the index has no more, or if the best 16,384 rows have no
    more. Raises SearchError.
    """
    others = list(excluded)
    depth = top_k if overlapping else 4 * top_k + len(others)
    while True:
        depth = min(depth, max(_DEEPEST, top_k))
        (hits,) = index.search(vector, depth, filter=filter)
        if overlapping:
            return hits
        apart = distinct(hits, excluded=others)[:top_k]
        if len(apart) == top_k or len(hits) < depth or depth >= _DEEPEST:
            return apart
        depth *= 4


def distinct(hits: Iterable[Hit], *, excluded: Iterable[Mapping[str, Value]] = ()) -> list[Hit]:
    """Return the hits without those that overlap an earlier one of a file with the same content."""
    taken: defaultdict[Value, list[tuple[float, float]]] = defaultdict(list)
    for metadata in excluded:
        taken[metadata["fingerprint"]].append(_span(metadata))
    kept = []
    for hit in hits:
        start, end = _span(hit.metadata)
        spans = taken[hit.metadata["fingerprint"]]
        if not any(start < other_end and other_start < end for other_start, other_end in spans):
            spans.append((start, end))
            kept.append(hit)
    return kept


def _span(metadata: Mapping[str, Value]) -> tuple[float, float]:
    """Return start and end, in seconds."""
    start, end = metadata["start"], metadata["end"]
    assert isinstance(start, float)
    assert isinstance(end, float)
    return start, end
