"""Makes smaller vectors of embeddings: fewer dimensions (Matryoshka), int8 codes, sign bits.

    compact = shrink(queries, corpus, SmallerVectors(dimension=256, dtype="binary"))
    rows, scores = exact(compact.queries, compact.corpus, depth)

Nothing is embedded again. The inner product of the results orders the corpus as a search over the stored
bytes does, so that `gve_ray.search.exact` ranks all kinds of vectors:

- truncated: the first dimensions, divided by their norm.
- int8: codes round(x / scale), where scale is the largest absolute value in the corpus / 127. Queries
  are coded with the scale of the corpus; codes beyond 127 are clipped.
- binary: +1 for a positive value, else -1. With d dimensions, the inner product is d - 2 * Hamming
  distance.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from gve_ray.evaluation.config import SmallerVectors
from gve_ray.schema import truncated

_LARGEST_CODE = 127


@dataclass(frozen=True, kw_only=True, eq=False)
class Compact:
    """The smaller vectors of a data set, each float32, so that inner products of codes are exact sums.

    queries, corpus: [q, d] and [c, d]. rescoring: other vectors of the queries [q, d], with which the
    nearest items are ordered again; None: they stay as they are. scale: of int8 codes.
    """

    queries: np.ndarray
    corpus: np.ndarray
    rescoring: np.ndarray | None = None
    scale: float | None = None


def shrink(queries: np.ndarray, corpus: np.ndarray, form: SmallerVectors) -> Compact:
    """Truncate and quantize vectors, float32 [q, d] and [c, d]."""
    if form.dimension is not None:
        queries, corpus = truncated(queries, form.dimension), truncated(corpus, form.dimension)
    if form.dtype == "int8":
        scale = float(np.abs(corpus).max(initial=0.0)) / _LARGEST_CODE or 1.0
        return Compact(queries=_codes(queries, scale), corpus=_codes(corpus, scale), scale=scale)
    if form.dtype == "binary":
        return Compact(
            queries=_signs(queries), corpus=_signs(corpus), rescoring=queries if form.rescore else None
        )
    return Compact(queries=queries, corpus=corpus)


def applicable(forms: Sequence[SmallerVectors], dimension: int) -> list[SmallerVectors]:
    """The forms that make vectors of `dimension` dimensions smaller."""
    return [
        form
        for form in forms
        if (form.dimension or 0) < dimension or (form.dimension == dimension and form.dtype != "float32")
    ]


def facts_of(model: str, form: SmallerVectors, dimension: int) -> dict[str, Any]:
    """The entry of results.json without scores. dimension: of the model's own vectors."""
    kept = form.dimension or dimension
    return {
        "model": model,
        "dimension": kept,
        "dtype": form.dtype,
        "rescore": form.rescore,
        "bytes": bytes_per_vector(kept, form.dtype),
        "full_bytes": bytes_per_vector(dimension, "float32"),
    }


def bytes_per_vector(dimension: int, dtype: str) -> int:
    """Bytes of one stored vector without overhead; sign bits are packed, eight to a byte."""
    return {"float32": 4 * dimension, "int8": dimension, "binary": -(-dimension // 8)}[dtype]


def _codes(vectors: np.ndarray, scale: float) -> np.ndarray:
    return np.clip(np.rint(vectors / scale), -_LARGEST_CODE, _LARGEST_CODE).astype(np.float32)


def _signs(vectors: np.ndarray) -> np.ndarray:
    return np.where(vectors > 0, 1.0, -1.0).astype(np.float32)
