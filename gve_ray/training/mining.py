"""Find hard negatives: the targets that score highest for a query without being positives of it.

    corpus = Corpus(vectors, groups, positives=(query_ids, target_groups))
    mine(queries, query_ids, corpus, k=8, limits=scores_of_pairs + 0.1)     # int64 [n, 8] rows of the corpus

The search is exact and deterministic: FAISS computes inner products over chunks of both sides. It takes
n * m * d multiplications. hard_negatives.py embeds, shares the work between ranks and keeps the results.
"""

import numpy as np

from gve_ray.search.exact import nearest_by_chunk

NONE = -1  # fills a row of the result that has fewer than k targets
_KNOWN = 64  # the first search allows for up to this many positives of a query
_BLOCK = 2**24  # scores that are in memory at a time when all of a query's are computed


class Corpus:
    """The targets that are searched, and which of them are positives of which queries.

    vectors: unit-norm float32 [m, d]. groups: int64 [m]; targets of one group show the same thing. positives:
    ids of the query and groups of the target of all known pairs, int64 [p] each; a target of such a group is
    not a negative of that query. Raises ValueError on shapes that do not fit.
    """

    def __init__(
        self, vectors: np.ndarray, groups: np.ndarray, *, positives: tuple[np.ndarray, np.ndarray]
    ) -> None:
        query_ids, target_groups = positives
        if vectors.ndim != 2 or not len(vectors) or len(groups) != len(vectors):
            raise ValueError(f"vectors {vectors.shape}, {len(groups)} groups: give [m, d] and [m], m > 0")
        if len(query_ids) != len(target_groups):
            raise ValueError(f"positives: {len(query_ids)} queries, {len(target_groups)} targets; give pairs")
        self.vectors = vectors
        # Numbers instead of ids, so that one integer identifies a query and a group.
        self._query_ids = np.unique(query_ids)
        every_group, numbers = np.unique(np.concatenate([groups, target_groups]), return_inverse=True)
        self._groups, self._n_groups = numbers[: len(groups)], len(every_group)
        codes = np.searchsorted(self._query_ids, query_ids) * self._n_groups + numbers[len(groups) :]
        self._codes = np.unique(codes)
        sizes = np.bincount(self._groups, minlength=self._n_groups)
        known = np.bincount(self._codes // self._n_groups, weights=sizes[self._codes % self._n_groups])
        self.most_positives = int(known.max(initial=0))  # of one query, in this corpus

    def __len__(self) -> int:
        return len(self.vectors)

    def is_positive(self, query_ids: np.ndarray, rows: np.ndarray) -> np.ndarray:
        """bool [n, w]: whether rows [n, w] of the corpus are positives of the queries with these ids [n].

        Raises ValueError for a query without a known pair.
        """
        numbers = np.searchsorted(self._query_ids, query_ids)
        within = np.minimum(numbers, len(self._query_ids) - 1)
        if not np.array_equal(self._query_ids[within], query_ids):
            raise ValueError("query_ids: a query has no pair among the positives of the corpus")
        codes = numbers[:, None] * self._n_groups + self._groups[rows]
        places = np.minimum(np.searchsorted(self._codes, codes), len(self._codes) - 1)
        return np.asarray(self._codes[places] == codes)


def mine(
    queries: np.ndarray,
    query_ids: np.ndarray,
    corpus: Corpus,
    *,
    k: int,
    limits: np.ndarray | None = None,
    chunk: int = 16_384,
) -> np.ndarray:
    """The k hardest negatives of each query, hardest first: int64 [n, k] rows of the corpus, NONE at the end.

    queries: unit-norm float32 [n, d]. query_ids: int64 [n], ids among the positives of the corpus. limits:
    float [n]; targets that score above it are dropped as likely false negatives; None keeps them. Scores and
    limits are compared to six digits, and targets with equal scores are in the order of rows.
    Raises ValueError on shapes that do not fit.
    """
    _check(queries, query_ids, corpus, limits, k, chunk)
    highest = None if limits is None else np.asarray(limits, dtype=np.float32).round(6)
    # k, the positives and one more to detect a tie.
    depth = min(k + min(corpus.most_positives, _KNOWN) + 1, len(corpus))
    mined = np.empty((len(queries), k), dtype=np.int64)
    for start in range(0, len(queries), chunk):
        rows = np.arange(start, min(start + chunk, len(queries)))
        scores, near = _nearest(queries[rows], corpus.vectors, depth, chunk)
        allowed = ~corpus.is_positive(query_ids[rows], near)  # [rows, depth]
        if highest is not None:
            allowed &= scores <= highest[rows, None]
        mined[rows] = _first(near, allowed, k)
        if depth < len(corpus):
            rest = rows[_unsure(scores, allowed, k)]
            limit = None if highest is None else highest[rest]
            mined[rest] = _search_all(queries[rest], query_ids[rest], corpus, k, limit)
    return mined


def _first(near: np.ndarray, allowed: np.ndarray, k: int) -> np.ndarray:
    """Return the first k of the rows [n, w] that are allowed, int64 [n, k], filled with NONE."""
    first = np.argsort(~allowed, axis=1, kind="stable")[:, :k]
    found = np.full((len(near), k), NONE, dtype=np.int64)
    found[:, : first.shape[1]] = np.where(
        np.take_along_axis(allowed, first, axis=1), np.take_along_axis(near, first, axis=1), NONE
    )
    return found


def _unsure(scores: np.ndarray, allowed: np.ndarray, k: int) -> np.ndarray:
    """bool [n]: too few candidates are left, or the last one may tie with one beyond the search depth."""
    nth = np.cumsum(allowed, axis=1)  # [n, depth]
    kth = np.argmax(nth >= k, axis=1)  # where the k-th candidate is; 0 if there is none
    tied = scores[np.arange(len(scores)), kth] <= scores[:, -1]
    return (nth[:, -1] < k) | tied


def _search_all(
    queries: np.ndarray, query_ids: np.ndarray, corpus: Corpus, k: int, highest: np.ndarray | None
) -> np.ndarray:
    """Mine for queries whose negatives are beyond the first search, such as those of which many targets are above
    the limit. All scores are computed, as the search depth that is needed may be the whole corpus.
    """
    m = len(corpus)
    depth = min(k + corpus.most_positives, m)
    beyond = np.iinfo(np.int64).max
    mined = np.empty((len(queries), k), dtype=np.int64)
    block = max(1, _BLOCK // m)
    for start in range(0, len(queries), block):
        part = slice(start, start + block)
        scores = (queries[part] @ corpus.vectors.T).round(6)  # [block, m]
        # One integer by score and row, so that the smallest ones are the best targets, ties by row.
        keys = np.arange(m) - np.rint(scores * np.float32(1e6)).astype(np.int64) * m
        if highest is not None:
            keys[scores > highest[part, None]] = beyond
        near = np.argpartition(keys, depth - 1, axis=1)[:, :depth]
        near = np.take_along_axis(near, np.argsort(np.take_along_axis(keys, near, axis=1), axis=1), axis=1)
        allowed = np.take_along_axis(keys, near, axis=1) < beyond
        mined[part] = _first(near, allowed & ~corpus.is_positive(query_ids[part], near), k)
    return mined


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
    query_ids: np.ndarray,
    corpus: Corpus,
    limits: np.ndarray | None,
    k: int,
    chunk: int,
) -> None:
    if queries.ndim != 2 or queries.shape[1] != corpus.vectors.shape[1]:
        raise ValueError(f"queries {queries.shape}, corpus {corpus.vectors.shape}: give [n, d] and [m, d]")
    if len(query_ids) != len(queries) or (limits is not None and len(limits) != len(queries)):
        raise ValueError(
            f"{len(query_ids)} query_ids, {'no' if limits is None else len(limits)} limits for {len(queries)} "
            "queries: give one each"
        )
    if k < 1 or chunk < 1:
        raise ValueError(f"k={k}, chunk={chunk}: use 1 or more")
