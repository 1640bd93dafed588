"""Find exact nearest neighbours by inner product, with a result that depends on the vectors only.

    rows, scores = exact(queries, corpus, 100)          # int64 [n, 100], float32 [n, 100]
    rows, scores = within(queries, corpus, candidates)  # ranks only each query's own candidates

FAISS finds slightly more than k rows, working in chunks of queries and corpus; a corpus on disk
(np.memmap) is read once per chunk of queries. Because matrix products of different shapes round
differently, the rows found are scored again, pair by pair in float64. Thus neither the chunk size
nor the number of threads changes the order, including that of ties. This costs n * 1.25 k * d
multiplications in addition to n * m * d.
"""

from collections.abc import Iterator, Sequence

import numpy as np

NONE = -1  # fills `rows` where fewer than k vectors exist; the score is -inf
_ROUNDING = 1e-5  # error of a float32 product of unit vectors with a few thousand dimensions
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
    """Find the k rows of `corpus` with the largest inner products, best first.

    queries: float32 [n, d]. corpus: float32 [m, d]. among: int [a], distinct rows to which the
    search is limited; None for all. tie_break: int [m]; of rows with equal float32 scores, the one
    with the smaller number comes first; None for the row number. chunk: how many vectors are
    searched at a time, and copied if `among` is given. longest: the largest norm in the corpus, if
    it is known and all vectors are known to be finite; None to compute it, which reads the corpus
    another time.

    Returns rows int64 [n, k] and scores float32 [n, k]; if fewer than k rows exist, the rest is
    NONE and -inf. Raises ValueError for shapes that do not match and for vectors that are not
    finite.
    """
    _check(queries, corpus, chunk)
    if k < 1:
        raise ValueError(f"k={k}: use 1 or more")
    tie_ranks = _tie_ranks(tie_break, len(corpus))
    rows = np.full((len(queries), k), NONE, dtype=np.int64)
    scores = np.full((len(queries), k), -np.inf, dtype=np.float32)
    size = len(corpus) if among is None else len(among)
    if not size:
        return rows, scores
    kept = min(k, size)
    longest = _longest(corpus, chunk) if longest is None else longest
    slack = _ROUNDING * _longest(queries, chunk) * longest
    for start in range(0, len(queries), chunk):
        todo = np.arange(start, min(start + chunk, len(queries)))
        depth = min(k + max(16, k // 4), size)
        while len(todo):
            near, last_score = _nearest(queries[todo], corpus, among, depth, chunk)
            near_scores = _exact_scores(queries[todo], corpus, near)
            order = np.lexsort((tie_ranks[near], -near_scores), axis=1)[:, :kept]
            rows[todo, :kept] = np.take_along_axis(near, order, axis=1)
            scores[todo, :kept] = np.take_along_axis(near_scores, order, axis=1)
            if depth == size:
                break
            # Where a row that FAISS did not return may be as good as the k-th, search deeper.
            todo = todo[scores[todo, kept - 1] <= last_score + slack]
            depth = min(4 * depth, size)
    return rows, scores


def within(
    queries: np.ndarray,
    corpus: np.ndarray,
    candidates: Sequence[np.ndarray],
    *,
    tie_break: np.ndarray | None = None,
) -> tuple[np.ndarray, np.ndarray]:
    """Rank the candidates of each query.

    candidates: for each query, distinct rows of `corpus`, int [any length]. Returns rows int64 [n,
    w] and scores float32 [n, w], where w is the length of the longest list; shorter lists are
    filled with NONE and -inf. The other arguments and the errors are those of `exact`.
    """
    _check(queries, corpus, chunk=1)
    if len(candidates) != len(queries):
        raise ValueError(f"{len(candidates)} candidate lists for {len(queries)} queries: give one each")
    tie_ranks = _tie_ranks(tie_break, len(corpus))
    width = max((len(listed) for listed in candidates), default=0)
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
        near_scores = _exact_scores(queries[i : i + 1], corpus, near[None])[0]
        order = np.lexsort((tie_ranks[near], -near_scores))
        rows[i, : len(near)], scores[i, : len(near)] = near[order], near_scores[order]
    return rows, scores


def _nearest(
    queries: np.ndarray, corpus: np.ndarray, among: np.ndarray | None, depth: int, chunk: int
) -> tuple[np.ndarray, np.ndarray]:
    """Return the rows that FAISS finds, int64 [n, depth], and its score of the last, float32 [n]."""
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
    """Search each chunk of the corpus, or of its rows `among`, with FAISS.

    Yields scores float32 and rows int64 for each chunk, both [n, at most depth].
    """
    import faiss

    queries = np.ascontiguousarray(queries)
    size = len(corpus) if among is None else len(among)
    for start in range(0, size, chunk):
        end = min(start + chunk, size)
        scores, rows = faiss.knn(
            queries,
            # Not assigned to a name, which would keep the copy alive while the next one is made.
            np.ascontiguousarray(corpus[start:end] if among is None else corpus[among[start:end]]),
            min(depth, end - start),
            metric=faiss.METRIC_INNER_PRODUCT,
        )
        yield scores, rows + start if among is None else among[start + rows]


def _exact_scores(queries: np.ndarray, corpus: np.ndarray, near: np.ndarray) -> np.ndarray:
    """Return inner products, float32 [n, w], of queries [n, d] with their rows [n, w]."""
    scores = np.empty(near.shape, dtype=np.float32)
    step = max(1, _GATHER_BYTES // max(1, 8 * near.shape[1] * queries.shape[1]))
    for start in range(0, len(queries), step):
        part = slice(start, start + step)
        products = queries[part, None, :].astype(np.float64) * corpus[near[part]]  # [step, w, d]
        scores[part] = products.sum(axis=2)  # summed per pair: the same pair gives the same bits
    return scores


def _tie_ranks(tie_break: np.ndarray | None, m: int) -> np.ndarray:
    if tie_break is None:
        return np.arange(m)
    if np.shape(tie_break) != (m,):
        raise ValueError(f"tie_break {np.shape(tie_break)}: give one number for each of {m} vectors")
    return np.asarray(tie_break)


def _longest(vectors: np.ndarray, chunk: int) -> float:
    """Return the largest norm. Raises ValueError if a vector is not finite."""
    longest = 0.0
    for start in range(0, len(vectors), chunk):
        norms = np.linalg.norm(vectors[start : start + chunk], axis=1)
        if not np.isfinite(norms).all():
            row = start + int(np.argmin(np.isfinite(norms)))
            raise ValueError(f"vector {row} of {len(vectors)} is not finite: its embedding is invalid")
        longest = max(longest, float(norms.max(initial=0.0)))
    return longest


def _check(queries: np.ndarray, corpus: np.ndarray, chunk: int) -> None:
    if queries.ndim != 2 or corpus.ndim != 2 or queries.shape[1] != corpus.shape[1]:
        raise ValueError(f"queries {queries.shape}, corpus {corpus.shape}: give [n, d] and [m, d]")
    if queries.dtype != np.float32 or corpus.dtype != np.float32:
        raise ValueError(f"queries {queries.dtype}, corpus {corpus.dtype}: give float32")
    if chunk < 1:
        raise ValueError(f"chunk={chunk}: use 1 or more")
