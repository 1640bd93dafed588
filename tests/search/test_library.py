"""Tests that pictures of segments are right while an index job changes the files."""

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

from gve_ray.search import IndexOptions, IndexSpec, Library, LibraryFacts, create_index
from gve_ray.search.library import SEGMENT_SCHEMA, segment_store
from gve_ray.store import Store

N = 40


def rows(numbers: range) -> pa.Table:
    """Return segments whose pictures contain their number."""
    return pa.Table.from_pylist(
        [
            {"segment": f"s{i:03d}", "vector": [1.0], "poster": b"poster %d" % i, "strip": b"strip %d" % i}
            for i in numbers
        ],
        schema=SEGMENT_SCHEMA,
    )


def check(library: Library, i: int) -> None:
    pictures = library.pictures(f"s{i:03d}")
    assert (pictures.poster, pictures.strip) == (b"poster %d" % i, b"strip %d" % i)


@pytest.fixture
def library(tmp_path: Path) -> Library:
    segment_store(tmp_path).create().append(rows(range(N)))
    facts = LibraryFacts(generation=1, index="index", model={}, settings={}, identity={}, strip_frames=1)
    return Library(tmp_path, facts, create_index(tmp_path / "index", IndexSpec(dimension=1), IndexOptions()))


def test_pictures_of_existing_and_unknown_segments(library: Library) -> None:
    for i in (7, 0, N - 1):
        check(library, i)
    with pytest.raises(KeyError, match="unknown"):
        library.pictures("unknown")


def test_threads_read_while_a_job_adds_and_deletes(library: Library) -> None:
    writer = segment_store(library.folder)
    with ThreadPoolExecutor(8) as pool:
        for turn in range(8):
            writer.delete([f"s{turn:03d}"])
            writer.append(rows(range(N + turn, N + turn + 1)))
            writer.clean()  # deletes files that readers have open
            list(pool.map(lambda i: check(library, i), [*range(turn + 1, N + turn + 1)] * 2))
            with pytest.raises(KeyError):
                library.pictures(f"s{turn:03d}-")


def test_pictures_of_another_segment_are_never_returned(
    library: Library, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A store that returns another row is opened again; if that does not help, it is an error."""
    wrong = [library._segments]
    take = Store.take

    def mixed_up(self: Store, keys: list[str], columns: Any = None) -> pa.Table:
        return take(self, ["s005"] if self in wrong else keys, columns)

    monkeypatch.setattr(Store, "take", mixed_up)
    check(library, 3)
    wrong.append(library._segments)
    check(library, 4)
    monkeypatch.setattr(Store, "take", lambda self, keys, columns: take(self, ["s005"], columns))
    with pytest.raises(ValueError, match="found s005 instead of s004"):
        library.pictures("s004")
