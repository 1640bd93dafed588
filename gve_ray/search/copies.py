"""Find files of the same content among the hits of a search: copies in another encoding.

They have the same duration, and nearly the same vector for a span. Files with the same bytes have one
fingerprint anyway.
"""

from collections.abc import Mapping, Sequence

import numpy as np

from gve_ray.search.index import Hit, Value, VectorIndex, span_of

_COMPARED = 1_000  # hits, of which the vectors are compared
_COSINE = 0.98  # of one span in two encodings, at least
_SECONDS = 0.1  # by which durations and spans of copies may differ


def contents_of(index: VectorIndex, hits: Sequence[Hit]) -> dict[Value, Value]:
    """Return fingerprint -> content of the files of which there are copies among the first 1,000 hits."""
    hits = hits[:_COMPARED]
    contents: dict[Value, Value] = {}
    if not hits:
        return contents
    files = np.array([hit.metadata["fingerprint"] for hit in hits])
    times = np.array([(hit.metadata["duration"], *span_of(hit)) for hit in hits])  # [n, 3]
    near = (np.abs(times[:, None] - times) <= _SECONDS).all(axis=2) & (files[:, None] != files)
    rows = np.flatnonzero(near.any(axis=1))
    if not len(rows):
        return contents
    vectors, _ = index.get([hits[row].id for row in rows])
    same = near[np.ix_(rows, rows)] & (vectors @ vectors.T >= _COSINE)
    for later, earlier in zip(*np.nonzero(np.tril(same)), strict=True):
        old, new = (contents.setdefault(file, file) for file in files[rows[[later, earlier]]].tolist())
        contents = {file: new if content == old else content for file, content in contents.items()}
    return contents


def content_of(hit: Hit, contents: Mapping[Value, Value]) -> Value:
    """Return what the file of a hit shows: equal for copies. contents: see `contents_of`."""
    fingerprint = hit.metadata["fingerprint"]
    return contents.get(fingerprint, fingerprint)
