import numpy as np
import pytest

from gve_ray.training.mining import NONE, mine


def at(*degrees: float) -> np.ndarray:
    """Return unit vectors, float32 [n, 2], at these angles to the x axis."""
    angles = np.deg2rad(np.array(degrees, dtype=np.float64))
    return np.stack([np.cos(angles), np.sin(angles)], axis=1).astype(np.float32)


TARGETS = at(0, 10, 20, 40, 90)


def test_the_hardest_negatives_come_first_and_the_positive_is_not_among_them() -> None:
    mined = mine(at(0, 35), TARGETS, np.array([0, 4]), k=3)
    # From 0: 10, 20, 40 degrees (its own is row 0). From 35: rows 3 (5 away), 2 (15), 1 (25).
    assert mined.tolist() == [[1, 2, 3], [3, 2, 1]]
    assert mined.dtype == np.int64


def test_duplicates_of_the_positive_are_not_mined() -> None:
    groups = np.array([7, 7, 8, 7, 9])
    assert mine(at(0), TARGETS, np.array([0]), k=2, groups=groups).tolist() == [[2, 4]]


def test_likely_false_negatives_are_not_mined() -> None:
    # The positive is at 40 degrees (0.766); 0 (1.0), 10 (0.985), 20 (0.940) score above 0.866; 90 stays.
    own = np.array([3])
    assert mine(at(0), TARGETS, own, k=2, margin=0.1).tolist() == [[4, NONE]]
    # Above 0.766 + 0.2 are 0 and 10 degrees; 20 stays.
    assert mine(at(0), TARGETS, own, k=2, margin=0.2).tolist() == [[2, 4]]
    assert mine(at(0), TARGETS, own, k=2).tolist() == [[0, 1]]


def test_rows_with_too_few_targets_are_padded() -> None:
    assert mine(at(0), at(0, 50), np.array([0]), k=3).tolist() == [[1, NONE, NONE]]


def test_ties_are_in_the_order_of_rows_even_beyond_the_first_search() -> None:
    # 300 equal targets: FAISS may return any of them; the search reaches 2 + 1 + 1 at first.
    targets = np.repeat(at(30), 300, axis=0)
    assert mine(at(0, 60), targets, np.array([0, 5]), k=2).tolist() == [[1, 2], [0, 1]]


def test_a_group_larger_than_the_first_search_is_skipped() -> None:
    targets = np.concatenate([np.repeat(at(1), 200, axis=0), at(50, 80)])
    groups = np.array([3] * 200 + [4, 5])
    assert mine(at(0), targets, np.array([17]), k=2, groups=groups).tolist() == [[200, 201]]


def test_the_result_equals_a_full_sort_for_any_chunk_size() -> None:
    rng = np.random.default_rng(0)
    vectors = rng.normal(size=(140, 16)).astype(np.float32)
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    queries, targets = vectors[:40], np.concatenate([vectors[40:], vectors[40:60]])  # 20 of them occur twice
    positives, groups = rng.integers(0, 120, 40), rng.integers(0, 90, 120)
    expected = []
    for query, own in zip(queries, positives, strict=True):
        scores = [round(float(np.dot(query.astype(np.float64), target)), 6) for target in targets]
        limit = float(np.dot(query.astype(np.float64), targets[own])) + 0.1
        order = sorted(range(120), key=lambda row: (-scores[row], row))
        kept = [row for row in order if groups[row] != groups[own] and scores[row] <= limit]
        expected.append((kept + [NONE] * 5)[:5])
    for chunk in (7, 1000):
        mined = mine(queries, targets, positives, k=5, groups=groups, margin=0.1, chunk=chunk)
        assert mined.tolist() == expected


@pytest.mark.parametrize(
    "change,message",
    [
        ({"targets": np.empty((0, 2), dtype=np.float32)}, "m > 0"),
        ({"positives": np.array([0, 1])}, "2 positives for 1"),
        ({"positives": np.array([5])}, "rows of 5 targets"),
        ({"groups": np.array([1])}, "1 groups for 5"),
        ({"k": 0}, "k=0"),
    ],
)
def test_shapes_that_do_not_fit_are_refused(change: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        mine(**{"queries": at(0), "targets": TARGETS, "positives": np.array([0]), "k": 1} | change)
