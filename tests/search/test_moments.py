"""Tests that hits are apart from each other in time."""

from pathlib import Path

import numpy as np
import pytest

from gve_ray.search import Background, Hit, IndexOptions, IndexSpec, VectorIndex, create_index, search_moments
from gve_ray.search.library import FIELDS

NAMES = ("fingerprint", "start", "end", "duration")


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
        [
            {
                "fingerprint": film,
                "start": start,
                "end": start + 4.0,
                "duration": 23.0 if film == "a" else 6.0,
            }
            for film, _, start in rows
        ],
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
    _, (metadata,) = index.get(["a2"])
    a2 = Hit(id="a2", score=1.0, metadata=metadata)
    assert ids(index, 2, excluded=[a2]) == ["a6", "a10"]
    assert ids(index, 3, excluded=[a2], overlapping=True) == ["a0", "a1", "a3"]


def test_each_film_once_with_its_further_moments(index: VectorIndex) -> None:
    first, second = search_moments(index, QUERY, 5, by_video=True)
    assert (first.id, [hit.id for hit in first.further]) == ("a0", ["a4", "a8", "a12", "a16"])
    assert (second.id, second.further) == ("b0", ())
    assert ids(index, 1, by_video=True) == ["a0"]


def test_windows_that_match_about_as_well_are_one_hit(index: VectorIndex) -> None:
    """One window scores 0.021 less than the one before; half a standard deviation of the sample is 0.05."""
    vectors = np.array([[0.0, 1.0], [0.2, 0.98]], dtype=np.float32)
    background = Background(vectors=vectors, location=0.0, scale=1.0)
    best, after, *_ = search_moments(index, QUERY, 6, background=background)
    assert (best.id, best.extent) == ("a0", (0.0, 6.0))  # a0, a1 and a2
    assert (after.id, after.extent) == ("a6", (6.0, 12.0))
    assert best.confidence is not None
    sums = search_moments(index, QUERY, 6, background=background, is_composed=True)
    assert [(hit.id, hit.extent, hit.confidence) for hit in sums[:2]] == [
        ("a0", (0.0, 6.0), None),
        ("a6", (6.0, 12.0), None),
    ]
    (alone, *_) = search_moments(index, QUERY, 6)
    assert (alone.extent, alone.confidence) == ((0.0, 4.0), None)


def test_a_copy_in_another_encoding_is_the_same_film(tmp_path: Path) -> None:
    """Only with the duration and nearly the vectors of the film; then also its other windows."""
    films = {
        "film": (8.0, [(1.0, 0.0, 0.0), (0.5, 0.8, 0.0)]),
        "copy": (8.04, [(0.99, 0.1, 0.0), (0.7, 0.7, 0.0)]),
        "longer": (9.0, [(0.99, 0.1, 0.0), (0.5, 0.8, 0.0)]),
        "other": (8.0, [(0.8, 0.0, 0.6), (0.1, 0.0, 1.0)]),
    }
    made = create_index(
        tmp_path / "index",
        IndexSpec(dimension=3, fields={name: FIELDS[name] for name in NAMES}),
        IndexOptions(),
    )
    for film, (duration, vectors) in films.items():
        unit = np.array(vectors, dtype=np.float32)
        unit /= np.linalg.norm(unit, axis=1, keepdims=True)
        times = [(0.0, 4.0), (4.0, duration)]
        made.add(
            [f"{film}{i}" for i in range(2)],
            unit,
            [{"fingerprint": film, "start": s, "end": e, "duration": duration} for s, e in times],
        )
    query = np.array([[1.0, 0.0, 0.0]], dtype=np.float32)
    found = [hit.id for hit in search_moments(made, query, 8)]
    assert found == ["film0", "longer0", "other0", "copy1", "longer1", "other1"]
    assert [hit.id for hit in search_moments(made, query, 8, by_video=True)] == ["film0", "longer0", "other0"]
    assert len(search_moments(made, query, 8, overlapping=True)) == 8
