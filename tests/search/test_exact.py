"""Tests exact search against a plain sort of all products, on data whose products are not rounded."""

import numpy as np
import pytest

from gve_ray.search import NONE, exact, within


def grid(n: int, d: int, seed: int) -> np.ndarray:
    """Return small whole numbers: every product is exact in float32, and many are equal."""
    return np.random.default_rng(seed).integers(-2, 3, (n, d)).astype(np.float32)


def sorted_by_hand(queries: np.ndarray, corpus: np.ndarray, tie_break: list[int]) -> list[list[int]]:
    rankings = []
    for query in queries:
        products = [sum(int(a) * int(b) for a, b in zip(query, row, strict=True)) for row in corpus]
        rankings.append(sorted(range(len(corpus)), key=lambda i: (-products[i], tie_break[i])))
    return rankings


def test_best_first_with_scores() -> None:
    corpus = np.array([[1, 0], [0, 1], [0.6, 0.8]], dtype=np.float32)
    rows, scores = exact(np.array([[1, 0]], dtype=np.float32), corpus, 2)
    assert rows.tolist() == [[0, 2]]
    assert scores[0].tolist() == pytest.approx([1.0, 0.6])
    assert (rows.dtype, scores.dtype) == (np.int64, np.float32)


@pytest.mark.parametrize("chunk", [3, 50, 10_000])
@pytest.mark.parametrize("k", [1, 7, 200, 300])
def test_equals_a_plain_sort_with_many_ties(k: int, chunk: int) -> None:
    queries, corpus = grid(21, 4, seed=1), grid(200, 4, seed=2)
    expected = sorted_by_hand(queries, corpus, list(range(200)))
    rows, scores = exact(queries, corpus, k, chunk=chunk)
    assert rows[:, :200].tolist() == [ranking[:k] for ranking in expected]
    assert (rows[:, 200:] == NONE).all()
    assert np.isneginf(scores[:, 200:]).all()


def test_ties_are_ordered_by_tie_break() -> None:
    tie_break = np.random.default_rng(3).permutation(200)
    queries, corpus = grid(9, 3, seed=4), grid(200, 3, seed=5)
    expected = sorted_by_hand(queries, corpus, tie_break.tolist())
    rows, _ = exact(queries, corpus, 10, tie_break=tie_break, chunk=64)
    assert rows.tolist() == [ranking[:10] for ranking in expected]


@pytest.mark.parametrize("chunk", [3, 50, 10_000])
@pytest.mark.parametrize("k", [1, 7, 90])
def test_a_search_limited_to_some_rows(k: int, chunk: int) -> None:
    queries, corpus = grid(21, 4, seed=1), grid(200, 4, seed=2)
    tie_break = np.random.default_rng(3).permutation(200)
    among = np.random.default_rng(4).permutation(200)[:80]
    expected = [
        [row for row in ranking if row in set(among)]
        for ranking in sorted_by_hand(queries, corpus, tie_break.tolist())
    ]
    rows, scores = exact(queries, corpus, k, among=among, tie_break=tie_break, chunk=chunk)
    assert rows[:, :80].tolist() == [ranking[:k] for ranking in expected]
    assert (rows[:, 80:] == NONE).all()
    assert scores[:, :80].tolist() == [
        [float(query @ corpus[row]) for row in ranking[:k]]
        for query, ranking in zip(queries, expected, strict=True)
    ]
    assert (exact(queries, corpus, k, among=among[:0])[0] == NONE).all()


def test_a_tie_beyond_the_first_rows_of_faiss_is_found() -> None:
    """Of 5000 equal vectors, the best by tie_break is not among the first that FAISS returns."""
    corpus = np.tile(np.array([[0.6, 0.8]], dtype=np.float32), (5000, 1))
    rows, _ = exact(corpus[:1], corpus, 3, tie_break=-np.arange(5000), chunk=777)
    assert rows.tolist() == [[4999, 4998, 4997]]


def test_equal_vectors_tie_for_every_chunk_size() -> None:
    """Products in 384 dimensions round differently for other shapes; copies must tie nevertheless."""
    rng = np.random.default_rng(6)
    vectors = rng.normal(size=(40, 384)).astype(np.float32)
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    corpus = np.tile(vectors, (5, 1))  # copy c of vector i is row 40 c + i
    results = [exact(vectors, corpus, 5, chunk=chunk) for chunk in (7, 33, 400)]
    for rows, scores in results:
        assert rows.tolist() == [[i + 40 * copy for copy in range(5)] for i in range(40)]
        assert (scores == results[0][1]).all()


def test_within_ranks_only_the_candidates() -> None:
    queries, corpus = grid(6, 3, seed=7), grid(30, 3, seed=8)
    candidates = [np.arange(i, i + 2 * i) for i in range(6)]  # the first list is empty
    rows, scores = within(queries, corpus, candidates)
    expected = sorted_by_hand(queries, corpus, list(range(30)))
    assert rows.shape == scores.shape == (6, 10)
    for i, listed in enumerate(candidates):
        ranked = [row for row in expected[i] if row in listed]
        assert rows[i].tolist() == ranked + [NONE] * (10 - len(ranked))
        assert np.isneginf(scores[i, len(listed) :]).all()


def test_within_and_exact_give_the_same_scores() -> None:
    rng = np.random.default_rng(9)
    queries, corpus = (rng.normal(size=(n, 96)).astype(np.float32) for n in (4, 50))
    everything = [np.arange(50)] * 4
    for ranked, searched in zip(within(queries, corpus, everything), exact(queries, corpus, 50), strict=True):
        assert (ranked == searched).all()


def test_no_queries_and_an_empty_corpus() -> None:
    empty, vectors = np.empty((0, 3), dtype=np.float32), np.ones((2, 3), dtype=np.float32)
    assert exact(empty, vectors, 4)[0].shape == (0, 4)
    assert exact(vectors, empty, 4)[0].tolist() == [[NONE] * 4] * 2


@pytest.mark.parametrize(
    "queries,corpus,k,message",
    [
        (np.ones((2, 3)), np.ones((2, 4)), 1, "give \\[n, d\\] and \\[m, d\\]"),
        (np.ones((2, 3)), np.ones((2, 3)), 0, "k=0"),
        (np.ones((2, 3)), np.full((2, 3), np.nan), 1, "vector 0 of 2 is not finite"),
    ],
)
def test_invalid_arguments_are_refused(queries: np.ndarray, corpus: np.ndarray, k: int, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        exact(queries.astype(np.float32), corpus.astype(np.float32), k)


def test_double_precision_is_refused() -> None:
    with pytest.raises(ValueError, match="give float32"):
        exact(np.ones((1, 2)), np.ones((1, 2)), 1)


@pytest.mark.parametrize("listed", [[0, 9], [-1], [1, 1]])
def test_wrong_candidates_are_named(listed: list[int]) -> None:
    vectors = np.ones((3, 2), dtype=np.float32)
    with pytest.raises(ValueError, match="candidates of query 1"):
        within(vectors[:2], vectors, [np.array([0]), np.array(listed)])
