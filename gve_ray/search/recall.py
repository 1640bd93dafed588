"""Measure what an approximate index finds of the nearest rows.

recall_of(index, sample, batches)       # 0.987
"""

from collections.abc import Iterable, Sequence

import numpy as np

from gve_ray.search.exact import exact
from gve_ray.search.index import VectorIndex

_NEAREST = 10


def recall_of(index: VectorIndex, sample: Sequence[str], batches: Iterable[np.ndarray]) -> float:
    """Return recall@10: the mean share of the 10 nearest other rows of each sampled row that is found.

    sample: ids of the rows whose vectors are searched; of unit length, so that the nearest row of each is
    itself. batches: the vectors of all rows, each float32 [m, d], which are read once. A row with the same
    score as the tenth counts as one of the ten.
    """
    queries, _ = index.get(sample)
    depth = _NEAREST + 1  # with the row itself
    best = np.full((len(sample), depth), -np.inf, dtype=np.float32)
    for vectors in batches:
        _, scores = exact(queries, vectors, depth)
        best = -np.sort(-np.hstack([best, scores]), axis=1)[:, :depth]
    found = [
        sum(hit.id != key and hit.score >= least for hit in hits)
        for key, hits, least in zip(sample, index.search(queries, depth), best[:, -1], strict=True)
    ]
    wanted = [np.count_nonzero(np.isfinite(scores)) - 1 for scores in best]
    return float(np.mean([min(1.0, n / max(1, of)) for n, of in zip(found, wanted, strict=True)]))
