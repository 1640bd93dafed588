import numpy as np
import pytest

from gve_ray.training import mining
from gve_ray.training.mining import NONE, Corpus, mine


def at(*degrees: float) -> np.ndarray:
    """Return unit vectors, float32 [n, 2], at these angles to the x axis."""
    angles = np.deg2rad(np.array(degrees, dtype=np.float64))
    return np.stack([np.cos(angles), np.sin(angles)], axis=1).astype(np.float32)


TARGETS = at(0, 10, 20, 40, 90)


def mined(
    queries: np.ndarray,
    targets: np.ndarray,
    pairs: list[tuple[int, int]],
    *,
    k: int,
    groups: list[int] | None = None,
    limits: list[float] | None = None,
) -> list[list[int]]:
    """Mine for queries whose ids are 0, 1, ... pairs: ids of queries and rows of their targets."""
    kinds = np.arange(len(targets)) if groups is None else np.array(groups)
    ids, rows = np.array(pairs).T
    corpus = Corpus(targets, kinds, positives=(ids, kinds[rows]))
    limit = None if limits is None else np.array(limits)
    return mine(queries, np.arange(len(queries)), corpus, k=k, limits=limit).tolist()


def test_the_hardest_negatives_come_first_and_the_positive_is_not_among_them() -> None:
    # From 0: 10, 20, 40 degrees (its own is row 0). From 35: rows 3 (5 away), 2 (15), 1 (25).
    assert mined(at(0, 35), TARGETS, [(0, 0), (1, 4)], k=3) == [[1, 2, 3], [3, 2, 1]]


def test_no_target_of_the_same_query_is_mined() -> None:
    # Query 0 has the targets 0 and 2, query 1 the target 1.
    assert mined(at(0, 0), TARGETS, [(0, 0), (1, 1), (0, 2)], k=2) == [[1, 3], [0, 2]]


def test_duplicates_of_a_positive_are_not_mined() -> None:
    assert mined(at(0), TARGETS, [(0, 0)], k=2, groups=[7, 7, 8, 7, 9]) == [[2, 4]]
    assert mined(at(0), TARGETS, [(0, 0), (0, 4)], k=2, groups=[7, 8, 9, 7, 8]) == [[2, NONE]]


def test_a_positive_need_not_be_in_the_corpus() -> None:
    corpus = Corpus(TARGETS, np.arange(5), positives=(np.array([3, 3]), np.array([99, 1])))
    assert mine(at(0), np.array([3]), corpus, k=2).tolist() == [[0, 2]]


def test_likely_false_negatives_are_not_mined() -> None:
    # The cosines from 0 are 1.0, 0.985, 0.940, 0.766 and 0.
    assert mined(at(0), TARGETS, [(0, 3)], k=2, limits=[0.866]) == [[4, NONE]]
    assert mined(at(0), TARGETS, [(0, 3)], k=2, limits=[0.966]) == [[2, 4]]
    assert mined(at(0), TARGETS, [(0, 3)], k=2) == [[0, 1]]


def test_rows_with_too_few_targets_are_padded() -> None:
    assert mined(at(0), at(0, 50), [(0, 0)], k=3) == [[1, NONE, NONE]]


def test_ties_are_in_the_order_of_rows_even_beyond_the_first_search() -> None:
    # 300 equal targets: FAISS may return any of them; the search reaches 2 + 1 + 1 at first.
    targets = np.repeat(at(30), 300, axis=0)
    assert mined(at(0, 60), targets, [(0, 0), (1, 5)], k=2) == [[1, 2], [0, 1]]


def test_a_group_larger_than_the_first_search_is_skipped() -> None:
    targets = np.concatenate([np.repeat(at(1), 200, axis=0), at(50, 80)])
    assert mined(at(0), targets, [(0, 17)], k=2, groups=[3] * 200 + [4, 5]) == [[200, 201]]


def test_the_result_equals_a_full_sort_for_any_chunk_size(monkeypatch: pytest.MonkeyPatch) -> None:
    rng = np.random.default_rng(0)
    vectors = rng.normal(size=(140, 16)).astype(np.float32)
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    queries, targets = vectors[:40], np.concatenate([vectors[40:], vectors[40:60]])  # 20 of them occur twice
    query_ids, groups = rng.integers(-30, 0, 40), rng.integers(0, 90, 120)
    positives = rng.integers(0, 120, 40)
    known = {(query, groups[row]) for query, row in zip(query_ids, positives, strict=True)}
    assert len(set(query_ids.tolist())) < 40  # some queries have several positives
    limits, expected = [], []
    for query, query_id, own in zip(queries, query_ids, positives, strict=True):
        scores = [round(float(np.dot(query.astype(np.float64), target)), 6) for target in targets]
        limits.append(float(np.dot(query.astype(np.float64), targets[own])) + 0.1)
        order = sorted(range(120), key=lambda row: (-scores[row], row))
        kept = [row for row in order if (query_id, groups[row]) not in known and scores[row] <= limits[-1]]
        expected.append((kept + [NONE] * 5)[:5])
    corpus = Corpus(targets, groups, positives=(query_ids, groups[positives]))
    for chunk, block in ((7, 2**24), (1000, 300)):
        monkeypatch.setattr(mining, "_BLOCK", block)  # scores; of queries with many targets above their limit
        rows = mine(queries, query_ids, corpus, k=5, limits=np.array(limits), chunk=chunk)
        assert rows.dtype == np.int64
        assert rows.tolist() == expected


@pytest.mark.parametrize(
    "change,message",
    [
        ({"queries": np.zeros((1, 3), dtype=np.float32)}, "give .n, d. and .m, d."),
        ({"query_ids": np.array([0, 1])}, "2 query_ids"),
        ({"query_ids": np.array([4])}, "no pair among the positives"),
        ({"limits": np.array([1.0, 1.0])}, "2 limits for 1"),
        ({"k": 0}, "k=0"),
    ],
)
def test_shapes_that_do_not_fit_are_refused(change: dict, message: str) -> None:
    corpus = Corpus(TARGETS, np.arange(5), positives=(np.array([0]), np.array([0])))
    with pytest.raises(ValueError, match=message):
        mine(**{"queries": at(0), "query_ids": np.array([0]), "corpus": corpus, "k": 1} | change)


@pytest.mark.parametrize(
    "vectors,groups,message",
    [(np.empty((0, 2), dtype=np.float32), np.arange(0), "m > 0"), (TARGETS, np.array([1]), "1 groups")],
)
def test_a_corpus_needs_a_group_for_each_vector(
    vectors: np.ndarray, groups: np.ndarray, message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        Corpus(vectors, groups, positives=(np.array([0]), np.array([0])))
