"""Tests that hits are apart from each other in time."""

from pathlib import Path

import numpy as np
import pytest

from gve_ray.search import IndexOptions, IndexSpec, VectorIndex, create_index, search_moments
from gve_ray.search.library import FIELDS

NAMES = ("fingerprint", "start", "end")


@pytest.fixture
def index(tmp_path: Path) -> VectorIndex:
    """Windows of 4 s, one a second: film A (20), its copy, and film B (3), with falling scores."""
    rows = [("a", f"a{i}", float(i)) for i in range(20)]
    rows += [("a", f"copy{i}", float(i)) for i in range(20)]
    rows += [("b", f"b{i}", float(i)) for i in range(3)]
    scores = np.linspace(1, 0.1, len(rows))
    vectors = np.stack([scores, np.sqrt(1 - scores**2)], axis=1).astype(np.float32)
    made = create_index(
        tmp_path / "index",
        IndexSpec(dimension=2, fields={name: FIELDS[name] for name in NAMES}),
        IndexOptions(),
    )
    made.add(
        [name for _, name, _ in rows],
        vectors,
        [{"fingerprint": film, "start": start, "end": start + 4.0} for film, _, start in rows],
    )
    return made


QUERY = np.array([[1.0, 0.0]], dtype=np.float32)


def ids(index: VectorIndex, top_k: int, **more: object) -> list[str]:
    return [hit.id for hit in search_moments(index, QUERY, top_k, **more)]  # type: ignore[arg-type]


def test_of_overlapping_windows_and_copies_the_best_one_is_returned(index: VectorIndex) -> None:
    assert ids(index, 3) == ["a0", "a4", "a8"]
    # There are only six moments, and the last one is below 40 windows of the other film.
    assert ids(index, 6) == ["a0", "a4", "a8", "a12", "a16", "b0"]
    assert ids(index, 50) == ["a0", "a4", "a8", "a12", "a16", "b0"]


def test_overlapping_windows_are_returned_on_request(index: VectorIndex) -> None:
    assert ids(index, 3, overlapping=True) == ["a0", "a1", "a2"]
    assert len(ids(index, 50, overlapping=True)) == 43


def test_a_filter_and_moments_to_stay_away_from(index: VectorIndex) -> None:
    assert ids(index, 2, filter={"start": {"gte": 2.0}}) == ["a2", "a6"]
    _, metadata = index.get(["a2"])
    assert ids(index, 2, excluded=metadata) == ["a6", "a10"]
