"""Exact nearest neighbours by inner product: a function of the vectors alone, ties included.

    rows, scores = exact(queries, corpus, 100)          # int64 [n, 100], float32 [n, 100]
    rows, scores = within(queries, corpus, candidates)  # ranks only each query's own list

FAISS finds a few more than k over chunks of both sides, so a corpus on disk (np.memmap) is read once a chunk
of queries. Matrix products of other shapes round otherwise, so those few are scored again pair by pair in
float64: chunks and threads cannot change an order. That costs n * 1.25 k * d multiplications beside n * m * d.
"""

from collections.abc import Iterator, Sequence

import numpy as np

NONE = -1  # in rows: fewer than k vectors are there; its score is -inf
_ROUNDING = 1e-5  # of a float32 product of unit vectors of a few thousand dimensions
_GATHER_BYTES = 2**28


def exact(
    queries: np.ndarray,
    corpus: np.ndarray,
    k: int,
    *,
    among: np.ndarray | None = None,
    tie_break: np.ndarray | None = None,
    chunk: int = 16_384,
    longest: float | None = None,
) -> tuple[np.ndarray, np.ndarray]:
    """The k rows of `corpus` with the largest inner products, best first.

    queries: float32 [n, d]. corpus: float32 [m, d]. among: distinct rows int [a], the only ones to be found; None:
    all. tie_break: int [m]; of equal float32 scores the smaller number comes first; None: the lower row. chunk:
    vectors searched, and of `among` copied, at a time. longest: the largest norm in a corpus that is known to be
    finite; None: measured, which reads the corpus once more. Gives rows int64 [n, k] and scores float32 [n, k];
    NONE and -inf at the end where fewer than k can be found. Raises ValueError on shapes that do not fit and on
    vectors that are not finite.
    """
    _check(queries, corpus, chunk)
    if k < 1:
        raise ValueError(f"k={k}: use 1 or more")
    places = _places(tie_break, len(corpus))
    rows = np.full((len(queries), k), NONE, dtype=np.int64)
    scores = np.full((len(queries), k), -np.inf, dtype=np.float32)
    most = len(corpus) if among is None else len(among)
    if not most:
        return rows, scores
    kept = min(k, most)
    longest = _longest(corpus, chunk) if longest is None else longest
    slack = _ROUNDING * _longest(queries, chunk) * longest
    for start in range(0, len(queries), chunk):
        todo = np.arange(start, min(start + chunk, len(queries)))
        depth = min(k + max(16, k // 4), most)
        while len(todo):
            near, reach = _nearest(queries[todo], corpus, among, depth, chunk)
            found = _scored(queries[todo], corpus, near)
            order = np.lexsort((places[near], -found), axis=1)[:, :kept]
            rows[todo, :kept] = np.take_along_axis(near, order, axis=1)
            scores[todo, :kept] = np.take_along_axis(found, order, axis=1)
            if depth == most:
                break
            # Something beyond FAISS's reach may be as good as the k-th: look deeper for those queries.
            todo = todo[scores[todo, kept - 1] <= reach + slack]
            depth = min(4 * depth, most)
    return rows, scores


def within(
    queries: np.ndarray,
    corpus: np.ndarray,
    candidates: Sequence[np.ndarray],
    *,
    tie_break: np.ndarray | None = None,
) -> tuple[np.ndarray, np.ndarray]:
    """Each query's own candidates, ranked: rows int64 [n, w], scores float32 [n, w], w the longest list.

    candidates: for each query, distinct rows of `corpus`, int [any length]; shorter lists end in NONE and
    -inf. Otherwise as `exact`.
    """
    _check(queries, corpus, chunk=1)
    if len(candidates) != len(queries):
        raise ValueError(f"{len(candidates)} candidate lists for {len(queries)} queries: give one each")
    places = _places(tie_break, len(corpus))
    width = max((len(one) for one in candidates), default=0)
    rows = np.full((len(queries), width), NONE, dtype=np.int64)
    scores = np.full((len(queries), width), -np.inf, dtype=np.float32)
    for i, listed in enumerate(candidates):
        near = np.asarray(listed, dtype=np.int64)
        if not len(near):
            continue
        if near.min() < 0 or near.max() >= len(corpus) or len(np.unique(near)) < len(near):
            raise ValueError(
                f"candidates of query {i}: {near.tolist()[:5]}...: distinct rows of a corpus of {len(corpus)}"
            )
        found = _scored(queries[i : i + 1], corpus, near[None])[0]
        order = np.lexsort((places[near], -found))
        rows[i, : len(near)], scores[i, : len(near)] = near[order], found[order]
    return rows, scores


def _nearest(
    queries: np.ndarray, corpus: np.ndarray, among: np.ndarray | None, depth: int, chunk: int
) -> tuple[np.ndarray, np.ndarray]:
    """FAISS's rows int64 [n, depth], and its score of the last one, float32 [n]."""
    best: tuple[np.ndarray, np.ndarray] | None = None
    for scores, rows in nearest_by_chunk(queries, corpus, depth, chunk, among=among):
        if best is not None:
            scores, rows = np.hstack([best[0], scores]), np.hstack([best[1], rows])
        order = np.argsort(-scores, axis=1, kind="stable")[:, :depth]
        best = np.take_along_axis(scores, order, axis=1), np.take_along_axis(rows, order, axis=1)
    assert best is not None
    return best[1], best[0][:, -1]


def nearest_by_chunk(
    queries: np.ndarray, corpus: np.ndarray, depth: int, chunk: int, *, among: np.ndarray | None = None
) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """FAISS's nearest of each `chunk` rows of the corpus, or of `among` its rows: scores float32 and rows int64,
    [n, at most depth]."""
    import faiss

    queries = np.ascontiguousarray(queries)
    size = len(corpus) if among is None else len(among)
    for start in range(0, size, chunk):
        end = min(start + chunk, size)
        scores, rows = faiss.knn(
            queries,
            # Not named: a copy would stay until the next one is made.
            np.ascontiguousarray(corpus[start:end] if among is None else corpus[among[start:end]]),
            min(depth, end - start),
            metric=faiss.METRIC_INNER_PRODUCT,
        )
        yield scores, rows + start if among is None else among[start + rows]


def _scored(queries: np.ndarray, corpus: np.ndarray, near: np.ndarray) -> np.ndarray:
    """Inner products of queries [n, d] with their own rows [n, w]: summed in float64, float32 [n, w]."""
    found = np.empty(near.shape, dtype=np.float32)
    step = max(1, _GATHER_BYTES // max(1, 8 * near.shape[1] * queries.shape[1]))
    for start in range(0, len(queries), step):
        part = slice(start, start + step)
        products = queries[part, None, :].astype(np.float64) * corpus[near[part]]  # [step, w, d]
        found[part] = products.sum(axis=2)  # row by row: the same pair gives the same bits
    return found


def _places(tie_break: np.ndarray | None, m: int) -> np.ndarray:
    if tie_break is None:
        return np.arange(m)
    if np.shape(tie_break) != (m,):
        raise ValueError(f"tie_break {np.shape(tie_break)}: give one number for each of {m} vectors")
    return np.asarray(tie_break)


def _longest(vectors: np.ndarray, chunk: int) -> float:
    """The largest norm. Raises ValueError where a vector is not finite."""
    longest = 0.0
    for start in range(0, len(vectors), chunk):
        norms = np.linalg.norm(vectors[start : start + chunk], axis=1)
        if not np.isfinite(norms).all():
            row = start + int(np.argmin(np.isfinite(norms)))
            raise ValueError(f"vector {row} of {len(vectors)} is not finite: its embedding is broken")
        longest = max(longest, float(norms.max(initial=0.0)))
    return longest


def _check(queries: np.ndarray, corpus: np.ndarray, chunk: int) -> None:
    if queries.ndim != 2 or corpus.ndim != 2 or queries.shape[1] != corpus.shape[1]:
        raise ValueError(f"queries {queries.shape}, corpus {corpus.shape}: give [n, d] and [m, d]")
    if queries.dtype != np.float32 or corpus.dtype != np.float32:
        raise ValueError(f"queries {queries.dtype}, corpus {corpus.dtype}: give float32")
    if chunk < 1:
        raise ValueError(f"chunk={chunk}: use 1 or more")
