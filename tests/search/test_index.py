"""Tests all kinds of index with the same tests, against results computed with plain Python lists."""

import json
import os
import signal
import subprocess
import sys
import time
import tracemalloc
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict
from datetime import timedelta
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from gve_ray.search import (
    ExclusiveIndexError,
    IndexFileError,
    IndexOptions,
    IndexSpec,
    SearchError,
    UnknownIdError,
    VectorIndex,
    create_index,
    exact,
    open_index,
)

MILVUS = pytest.mark.skipif(find_spec("milvus_lite") is None, reason="the extra `milvus` is not installed")
SPEC = IndexSpec(
    dimension=4, fields={"name": "string", "year": "int", "start": "float", "live": "bool", "end": "float"}
)
NAMES = ["plain", 'it\'s "quoted"', "back\\slash", "雪 % _", None]
N = 40


# Codes with all rows as candidates, so that the result is exact, too.
CODES = {"structure": "IVF_RQ", "prefix": 2, "approximate_from": 1, "refine": N}


@pytest.fixture(scope="module", params=["faiss", "codes", "lance", pytest.param("milvus", marks=MILVUS)])
def options(request: pytest.FixtureRequest) -> IndexOptions:
    return IndexOptions(**CODES) if request.param == "codes" else IndexOptions(kind=request.param)


@pytest.fixture(scope="module")
def full(options: IndexOptions, tmp_path_factory: pytest.TempPathFactory) -> Iterator[VectorIndex]:
    """The same rows as `index`, shared by tests that change nothing."""
    index = create_index(tmp_path_factory.mktemp("full"), SPEC, options)
    index.add(*rows(range(N)))
    yield index
    index.close()


@pytest.fixture
def index(options: IndexOptions, tmp_path: Path) -> VectorIndex:
    """An index of forty rows, whose vectors have many equal products."""
    index = create_index(tmp_path / "index", SPEC, options)
    index.add(*rows(range(N)))
    return index


def vector(i: int) -> list[int]:
    """Return small whole numbers, so that products are not rounded and many rows tie."""
    return [i % 3 - 1, i % 2, 1, (i // 7) % 2]


def metadata(i: int) -> dict[str, Any]:
    return {
        "name": NAMES[i % 5],
        "year": None if i % 6 == 0 else 2000 + i % 4,
        "start": i / 2,
        "live": i % 2 == 0,
        "end": None,
    }


def key(i: int) -> str:
    """Return an id; the order of the ids is not that of the numbers."""
    return f"{(i * 17) % 100:02d}-{i}"


def rows(numbers: range) -> tuple[list[str], np.ndarray, list[dict[str, Any]]]:
    return (
        [key(i) for i in numbers],
        np.array([vector(i) for i in numbers], np.float32).reshape(-1, 4),
        [metadata(i) for i in numbers],
    )


def sorted_by_hand(
    query: list[int], passes: Callable[[dict[str, Any]], bool] = lambda _: True
) -> list[tuple[str, int]]:
    scored = [
        (key(i), sum(a * b for a, b in zip(query, vector(i), strict=True)))
        for i in range(N)
        if passes(metadata(i))
    ]
    return sorted(scored, key=lambda row: (-row[1], row[0]))


def search_one(index: VectorIndex, query: list[int], k: int, **options: Any) -> list[tuple[str, int]]:
    (hits,) = index.search(np.array([query], np.float32), k, **options)
    return [(hit.id, int(hit.score)) for hit in hits]


@pytest.mark.parametrize("k", [1, 5, N, N + 20])
def test_hits_are_ordered_by_score_and_ties_by_id(full: VectorIndex, k: int) -> None:
    for query in ([1, 0, 0, 0], [0, 1, 2, 0], [0, 0, 1, 0]):  # with the last query, all rows tie
        assert search_one(full, query, k) == sorted_by_hand(query)[:k]


def test_several_queries_and_the_metadata_of_hits(full: VectorIndex) -> None:
    queries = np.array([[1, 0, 0, 0], [-1, 2, 0, 1]], np.float32)
    both = full.search(queries, 3)
    assert [[hit.id for hit in hits] for hits in both] == [
        [id_ for id_, _ in sorted_by_hand(query)[:3]] for query in ([1, 0, 0, 0], [-1, 2, 0, 1])
    ]
    first = both[0][0]
    assert first.metadata == metadata(int(first.id.split("-")[1]))
    assert full.search(queries[:0], 3) == []


@pytest.mark.parametrize(
    "filter,passes",
    [
        ({}, lambda row: True),
        ({"year": 2001}, lambda row: row["year"] == 2001),
        ({"year": 2001.0}, lambda row: row["year"] == 2001),
        ({"year": [2001, 2003]}, lambda row: row["year"] in (2001, 2003)),
        ({"year": {"ne": 2001}}, lambda row: row["year"] not in (2001, None)),
        ({"year": None}, lambda row: row["year"] is None),
        ({"end": None}, lambda row: True),
        ({"end": {"lt": 1e9}}, lambda row: False),
        ({"start": {"lt": 2**70}}, lambda row: True),
        ({"start": {"gte": 3, "lt": 10.5}}, lambda row: 3 <= row["start"] < 10.5),
        ({"start": {"gt": 18}, "live": True}, lambda row: row["start"] > 18 and row["live"]),
        ({"live": {"ne": True}}, lambda row: not row["live"]),
        *(({"name": name}, lambda row, name=name: row["name"] == name) for name in NAMES),
        ({"name": NAMES[:3]}, lambda row: row["name"] in NAMES[:3]),
        ({"name": "' OR 1=1 --"}, lambda row: False),
    ],
)  # fmt: skip
def test_filters_select_rows(
    full: VectorIndex, filter: Mapping[str, Any], passes: Callable[[dict[str, Any]], bool]
) -> None:
    expected = sorted_by_hand([1, 2, 0, 0], passes)
    assert search_one(full, [1, 2, 0, 0], N, filter=filter) == expected
    assert full.count(filter=filter) == len(expected)


@pytest.mark.parametrize("filter,limit", [({"n": {"gte": 0}}, 2**20), ({"n": {"gte": 1}}, 1.5 * 2**23)])
def test_a_filter_copies_at_most_one_chunk_of_vectors(filter: Any, limit: float, tmp_path: Path) -> None:
    """50,000 vectors of 512 bytes are 24 MiB.

    If all rows pass, nothing is copied. If all but one pass, 16,384 vectors (8 MiB) are copied at a
    time.
    """
    index = create_index(tmp_path, IndexSpec(dimension=128, fields={"n": "int"}), IndexOptions())
    vectors = np.random.default_rng(0).normal(size=(50_000, 128)).astype(np.float32)
    index.add([f"{i:05d}" for i in range(50_000)], vectors, [{"n": i} for i in range(50_000)])
    index.search(vectors[:1], 1)  # merges the rows that were added
    tracemalloc.start()
    try:
        (hits,) = index.search(vectors[:1], 5, filter=filter)
        copied = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    scores = vectors @ vectors[0]
    first = filter["n"]["gte"]
    assert [hit.metadata["n"] for hit in hits] == (np.argsort(-scores[first:])[:5] + first).tolist()
    assert copied < limit


@pytest.mark.parametrize(
    "filter,message",
    [
        ({"title": 1}, "'title': no such field; there are end, live, name, start, year"),
        ({"year": "2001"}, "'2001'; the field is int"),
        ({"year": 2001.5}, "2001.5; the field is int"),
        ({"year": True}, "True; the field is int"),
        ({"start": float("nan")}, "nan; the field is float"),
        ({"start": 10**400}, "the field is float"),
        ({"year": [2001, -(2**63) - 1]}, "the field is int"),
        ({"name": "half \ud83d"}, r"'half \\ud83d'; the field is string"),
        ({"name": ["plain", "\udc00"]}, "the field is string"),
        ({"name": 0}, "0; the field is string"),
        ({"name": {"gt": "a"}}, "compare numbers"),
        ({"year": {"above": 3}}, "use some of eq, ne, gt"),
        ({"year": {}}, "use some of"),
        ({"year": []}, "a list of 0"),
        ({"year": {"eq": [1]}}, "the field is int"),
        (["year"], "give an object"),
    ],
)
def test_an_invalid_filter_is_refused(full: VectorIndex, filter: Any, message: str) -> None:
    with pytest.raises(SearchError, match=message):
        full.search(np.ones((1, 4), np.float32), 3, filter=filter)
    with pytest.raises(SearchError, match=message):
        full.count(filter=filter)


@pytest.mark.parametrize(
    "queries,k,message",
    [
        (np.ones((1, 5), np.float32), 3, "dimension 4"),
        (np.ones(4, np.float32), 3, "dimension 4"),
        (np.ones((1, 4)), 3, "give float32"),
        (np.full((1, 4), np.inf, np.float32), 3, "not finite"),
        (np.ones((1, 4), np.float32), 0, "k=0"),
    ],
)
def test_an_invalid_query_is_refused(full: VectorIndex, queries: np.ndarray, k: int, message: str) -> None:
    with pytest.raises(SearchError, match=message):
        full.search(queries, k)


@pytest.mark.parametrize(
    "ids,width,row,message",
    [
        (["new", key(3)], 4, {}, "1 ids are in the index already"),
        (["new", "new"], 4, {}, "ids repeat: \\['new'\\]"),
        (["new", ""], 4, {}, "id ''"),
        (["new", "x" * 300], 4, {}, "1 to 256 bytes"),
        (["new", "other"], 3, {}, "dimension 4"),
        (["new", "other"], 4, {"title": 1}, "no such fields"),
        (["new", "other"], 4, {"year": "soon"}, "year='soon': the field is int"),
        (["new", "other"], 4, {"year": 2**63}, "the field is int"),
        (["new", "other"], 4, {"live": 1}, "live=1: the field is bool"),
        (["new", "other"], 4, {"live": 0}, "live=0: the field is bool"),
        (["new", "other"], 4, {"name": 0}, "name=0: the field is string"),
        (["new", "other"], 4, {"year": ""}, "year='': the field is int"),
        (["new", "other"], 4, {"year": False}, "year=False: the field is int"),
        (["new", "other"], 4, {"start": 2**70}, "start=1180591620717411303424: the field is float"),
        (["new", "other"], 4, {"start": float("inf")}, "start=inf: the field is float"),
        (["new", "other"], 4, {"name": "half \ud83d"}, r"name='half \\ud83d': the field is string"),
        (["new", "half \ud83d"], 4, {}, "id 'half"),
    ],
)
def test_if_one_row_is_invalid_no_row_is_added(
    full: VectorIndex, ids: list[str], width: int, row: dict[str, Any], message: str
) -> None:
    with pytest.raises(SearchError, match=message):
        full.add(ids, np.ones((2, width), np.float32), [{}, row])
    assert full.count() == len(full.ids()) == N
    assert "new" not in full.ids()


def test_deleted_rows_can_be_added_again(index: VectorIndex) -> None:
    deleted = {key(i) for i in range(0, N, 3)}
    index.delete(sorted(deleted))
    assert index.count() == N - len(deleted)
    assert search_one(index, [1, 0, 2, 0], N) == [
        row for row in sorted_by_hand([1, 0, 2, 0]) if row[0] not in deleted
    ]
    index.add(*rows(range(0, N, 3)))
    assert search_one(index, [1, 0, 2, 0], N) == sorted_by_hand([1, 0, 2, 0])
    index.delete(sorted(index.ids()))
    assert search_one(index, [1, 0, 2, 0], N) == []
    assert index.count() == 0


def test_an_unknown_id_is_named_and_nothing_is_deleted(full: VectorIndex) -> None:
    with pytest.raises(UnknownIdError, match="1 ids are not in the index, first \\['unknown'\\]"):
        full.delete([key(1), "unknown"])
    assert full.count() == N
    with pytest.raises(UnknownIdError, match="unknown"):
        full.get(["unknown"])


def test_get_returns_rows_in_the_order_of_the_ids(full: VectorIndex) -> None:
    vectors, values = full.get([key(9), key(2), key(9)])
    assert vectors.tolist() == [vector(9), vector(2), vector(9)]
    assert vectors.dtype == np.float32
    assert values == [metadata(9), metadata(2), metadata(9)]


def test_metadata_of_one_row(full: VectorIndex) -> None:
    for i in (0, 13, N - 1):
        assert full.metadata_of(key(i)) == metadata(i)
    with pytest.raises(UnknownIdError, match="first \\['none'\\]"):
        full.metadata_of("none")


def test_metadata_of_every_row(index: VectorIndex) -> None:
    assert dict(index.metadata()) == {key(i): metadata(i) for i in range(N)}
    index.delete([key(i) for i in range(1, N)])
    index.add(*rows(range(5, 6)))
    assert sorted(index.metadata()) == sorted([(key(0), metadata(0)), (key(5), metadata(5))])
    index.delete([key(0), key(5)])
    assert list(index.metadata()) == []


def test_a_saved_index_can_be_opened(index: VectorIndex, tmp_path: Path) -> None:
    index.delete([key(0)])
    index.save()
    before = search_one(index, [1, 2, 3, 4], N)
    index.close()
    again = open_index(tmp_path / "index")
    assert again.spec == SPEC
    assert again.ids() == {key(i) for i in range(1, N)}
    assert search_one(again, [1, 2, 3, 4], N) == before
    again.add(*rows(range(N, N + 2)))
    again.save()
    again.close()
    assert open_index(tmp_path / "index").count() == N + 1


def test_an_index_without_fields(options: IndexOptions, tmp_path: Path) -> None:
    index = create_index(tmp_path / "index", IndexSpec(dimension=2), options)
    index.add(["a", "b"], np.eye(2, dtype=np.float32), [{}, {}])
    assert [hit.id for hit in index.search(np.array([[0, 1]], np.float32), 5)[0]] == ["b", "a"]
    assert index.get(["b"])[1] == [{}]
    with pytest.raises(SearchError, match="no such field"):
        index.count(filter={"id": "a"})


def test_a_folder_with_an_index_is_not_overwritten(index: VectorIndex, tmp_path: Path) -> None:
    with pytest.raises(IndexFileError, match="already contains an index"):
        create_index(tmp_path / "index", SPEC, IndexOptions())


def test_opening_a_folder_without_an_index_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(IndexFileError, match="no index"):
        open_index(tmp_path)
    (tmp_path / "index.json").write_text("{}")
    with pytest.raises(IndexFileError, match="no index"):
        open_index(tmp_path)


def test_opening_a_truncated_file_is_an_error(tmp_path: Path) -> None:
    index = create_index(tmp_path, SPEC, IndexOptions())
    index.add(*rows(range(N)))
    index.save()
    whole = (tmp_path / "vectors.arrow").read_bytes()
    (tmp_path / "vectors.arrow").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(IndexFileError, match="vectors"):
        open_index(tmp_path)


GROW = """
import sys
import numpy as np
from gve_ray.search import IndexOptions, IndexSpec, create_index
index = create_index(sys.argv[1], IndexSpec(dimension=64), IndexOptions(kind=sys.argv[2]))
for turn in range(10_000):
    index.add([f"{turn}-{i}" for i in range(50)], np.ones((50, 64), np.float32), [{}] * 50)
    index.save()
    print(turn, flush=True)
"""


@pytest.mark.parametrize("after", [2, pytest.param(7, marks=pytest.mark.slow)])
def test_an_index_is_complete_after_its_process_is_killed(
    options: IndexOptions, tmp_path: Path, after: int
) -> None:
    _kill_while_it_saves(str(tmp_path / "index"), options, after)


@pytest.mark.parametrize("kind", ["faiss", "lance"])
def test_an_index_in_an_object_store_is_complete_after_its_process_is_killed(kind: Any, s3: str) -> None:
    _kill_while_it_saves(f"{s3}/index", IndexOptions(kind=kind), after=3)


def _kill_while_it_saves(folder: str, options: IndexOptions, after: int) -> None:
    """Kill a process while it saves; check that all saved rows exist and that more can be added."""
    command = [sys.executable, "-c", GROW, folder, options.kind]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        for line in process.stdout:
            if int(line) == after:
                break
        time.sleep(0.003 * after)  # so that it is killed at different points of the next turns
        os.kill(process.pid, signal.SIGKILL)
        saved = max([after, *(int(line) for line in process.stdout)])
    index = open_index(folder)
    turns = index.count() // 50
    assert index.count() == 50 * turns
    assert turns in (saved + 1, saved + 2)
    assert index.ids() == {f"{turn}-{i}" for turn in range(turns) for i in range(50)}
    index.add(["next"], np.ones((1, 64), np.float32), [{}])
    index.save()
    index.close()
    assert open_index(folder).count() == 50 * turns + 1


@pytest.mark.parametrize("kind", ["faiss", "lance"])
def test_an_index_in_an_object_store_behaves_the_same(kind: Any, tmp_path: Path, s3: str) -> None:
    options = IndexOptions(kind=kind)
    local, remote = (create_index(folder, SPEC, options) for folder in (tmp_path / "index", f"{s3}/a/index"))
    for index in (local, remote):
        index.add(*rows(range(N)))
        index.save()
        index.delete([key(3)])
        index.save()
        index.delete([key(4)])  # not saved
    again = open_index(f"{s3}/a/index")
    expected = open_index(tmp_path / "index")
    assert again.ids() == {key(i) for i in range(N)} - {key(3)}
    queries = np.eye(4, dtype=np.float32)
    where = {"year": {"gte": 2000}}
    assert again.search(queries, 7, filter=where) == expected.search(queries, 7, filter=where)
    assert dict(again.metadata()) == dict(expected.metadata())
    with pytest.raises(IndexFileError, match=rf"{s3}/a/index: already contains an index"):
        create_index(f"{s3}/a/index", SPEC, options)
    with pytest.raises(IndexFileError, match=rf"{s3}/none/index.json: no index"):
        open_index(f"{s3}/none")


def test_an_embedded_milvus_needs_a_local_disk(s3: str) -> None:
    with pytest.raises(IndexFileError, match="needs a local disk"):
        create_index(f"{s3}/index", SPEC, IndexOptions(kind="milvus"))


def test_metadata_is_read_without_the_vectors(tmp_path: Path) -> None:
    """A process that needs only metadata, like the gateway, must not hold all vectors in memory."""
    saved = create_index(tmp_path, SPEC, IndexOptions())
    saved.add(*rows(range(N)))
    saved.save()
    reader = open_index(tmp_path)
    assert (reader.metadata_of(key(3)), reader.count()) == (metadata(3), N)
    assert "vectors" not in vars(reader._rows)  # type: ignore[attr-defined]
    reader.search(np.ones((1, 4), np.float32), 1)
    assert "vectors" in vars(reader._rows)  # type: ignore[attr-defined]


SAVE_ONCE = """
import os, sys
from pathlib import Path
from gve_ray.search import IndexOptions, create_index
from tests.search.test_index import SPEC, rows
folder = Path(sys.argv[1])
index = create_index(folder, SPEC, IndexOptions(kind="milvus"))
index.add(*rows(range(10)))
for log in folder.glob("milvus.db/collections/*/wal/*"):
    os.link(log, folder / log.name)
index.save()
index.close()
"""


def test_an_embedded_milvus_that_was_killed_between_two_writes_is_complete(tmp_path: Path) -> None:
    subprocess.run([sys.executable, "-c", SAVE_ONCE, str(tmp_path)], check=True, timeout=100)
    # As if killed before it deleted its log of the rows, and while it wrote the index of the vectors.
    (logs,) = tmp_path.glob("milvus.db/collections/*/wal")
    kept = list(tmp_path.glob("wal*"))
    assert kept
    for log in kept:
        log.rename(logs / log.name)
    index_files = list(tmp_path.glob("milvus.db/collections/*/partitions/*/indexes/*"))
    assert index_files
    for path in index_files:
        path.write_bytes(b"")
    again = open_index(tmp_path)
    assert again.count() == 10
    assert again.ids() == {key(i) for i in range(10)}
    (hits,) = again.search(np.ones((1, 4), np.float32), 100)
    assert len(hits) == 10
    assert dict(again.metadata()) == {key(i): metadata(i) for i in range(10)}
    again.close()


def test_an_embedded_milvus_is_not_shared(tmp_path: Path) -> None:
    facts = {"format": 1, "spec": {"dimension": 4}, "options": asdict(IndexOptions(kind="milvus"))}
    (tmp_path / "index.json").write_text(json.dumps(facts | {"collection": "a"}))
    with pytest.raises(ExclusiveIndexError, match="only one process"):
        open_index(tmp_path, shared=True)


@pytest.mark.parametrize("kind", ["faiss", "lance"])
def test_readers_see_only_saved_changes(kind: Any, tmp_path: Path) -> None:
    writer = create_index(tmp_path, SPEC, IndexOptions(kind=kind))
    writer.add(*rows(range(10)))
    writer.save()
    reader = open_index(tmp_path)
    writer.add(*rows(range(10, 20)))
    writer.delete([key(0)])
    assert reader.count() == open_index(tmp_path).count() == 10
    writer.save()
    assert reader.count() == 10
    assert open_index(tmp_path).count() == 19
    crashed = open_index(tmp_path)
    crashed.delete([key(1)])
    assert open_index(tmp_path).count() == 19
    after = open_index(tmp_path)
    after.add(["x"], np.ones((1, 4), np.float32), [{}])
    after.save()
    assert open_index(tmp_path).ids() == {"x"} | {key(i) for i in range(1, 20)}


def test_a_reader_can_use_its_version_until_the_run_after_next(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """This holds however long ago the version was saved."""
    import lance

    clean = lance.LanceDataset.cleanup_old_versions
    monkeypatch.setattr(  # treat all versions as if they were saved long ago
        lance.LanceDataset, "cleanup_old_versions", lambda self, older_than: clean(self, timedelta(0))
    )
    create_index(tmp_path, SPEC, IndexOptions(kind="lance")).close()

    def files() -> list[str]:
        return sorted(path.name for path in (tmp_path / "vectors.lance" / "data").iterdir())

    def run(numbers: range) -> VectorIndex:
        """Replace all rows, so that the new version needs no old file; return a reader of it."""
        writer = open_index(tmp_path)
        writer.delete(sorted(writer.ids()))
        writer.add(*rows(numbers))
        writer.save()
        return open_index(tmp_path)

    first = run(range(10))
    old = files()
    second = run(range(10, 20))
    for reader, numbers in ((first, range(10)), (second, range(10, 20))):
        assert sorted(reader.get([key(i) for i in numbers])[1], key=str) == sorted(
            (metadata(i) for i in numbers), key=str
        )
        assert {hit.id for hit in reader.search(np.ones((1, 4), np.float32), 20)[0]} == {
            key(i) for i in numbers
        }
    assert set(old) < set(files())

    crashed = open_index(tmp_path)
    crashed.delete([key(10)])
    third = run(range(20, 30))  # returns to the saved version, which is still being read
    assert second.get([key(10)])[1] == [metadata(10)]
    fourth = run(range(30, 40))
    assert third.get([key(20)])[1] == [metadata(20)]
    assert fourth.count() == open_index(tmp_path).count() == 10
    assert not set(old) & set(files())


COUNT, WIDTH = 3000, 32
# With so few cells and neighbours to visit that the recall of a search with a filter falls below the limit
# unless it visits more of them.
APPROXIMATE = [
    {"structure": "SQ"},
    {"structure": "RQ"},
    {"structure": "FLAT", "prefix": 24},
    {"structure": "IVF_SQ", "prefix": 24, "cell": 100, "probes": 12},
    {"structure": "IVF_RQ", "cell": 100, "probes": 12},
    {"structure": "HNSW_SQ", "probes": 32},
    {"kind": "lance", "cell": 100, "probes": 12},
]


def clustered() -> tuple[list[str], np.ndarray, list[dict[str, Any]]]:
    """Return ids, unit vectors in 40 clusters, and metadata."""
    rng = np.random.default_rng(0)
    centres = rng.normal(size=(40, WIDTH))
    vectors = centres[rng.integers(0, 40, COUNT)] + 0.5 * rng.normal(size=(COUNT, WIDTH))
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    ids = [f"{i:04d}" for i in range(COUNT)]
    return ids, vectors.astype(np.float32), [{"part": i % 10} for i in range(COUNT)]


def check_recall(
    index: VectorIndex,
    queries: np.ndarray,
    vectors: np.ndarray,
    kept: np.ndarray,
    filter: Mapping[str, Any] | None = None,
) -> None:
    """Check that a search finds nearly all of the nearest rows, with exact scores.

    kept: the rows that are in the index and pass the filter.
    """
    near, near_scores = exact(queries, vectors[kept], 10)
    hits = index.search(queries, 10, filter=filter)
    found = 0
    for query_hits, rows, scores in zip(hits, near, near_scores, strict=True):
        expected = {f"{kept[row]:04d}": float(score) for row, score in zip(rows, scores, strict=True)}
        assert len(query_hits) == 10
        assert all(hit.score == expected[hit.id] for hit in query_hits if hit.id in expected)
        assert [hit.score for hit in query_hits] == sorted((hit.score for hit in query_hits), reverse=True)
        found += sum(hit.id in expected for hit in query_hits)
    assert found >= 0.97 * 10 * len(queries)


@pytest.mark.parametrize(
    "given", APPROXIMATE, ids=lambda given: f"{given.get('kind', '')}{given.get('structure', '')}"
)
def test_an_approximate_index_has_high_recall_and_exact_scores(given: Any, tmp_path: Path) -> None:
    ids, vectors, values = clustered()
    options = IndexOptions(**{"approximate_from": 256, "refine": 8, **given})
    index = create_index(tmp_path, IndexSpec(dimension=WIDTH, fields={"part": "int"}), options)
    index.add(ids[:2500], vectors[:2500], values[:2500])
    index.save()
    index = open_index(tmp_path)
    queries = vectors[200:260] + 0.01
    check_recall(index, queries, vectors, np.arange(2500))
    index.add(ids[2500:], vectors[2500:], values[2500:])
    index.delete(ids[:100])
    check_recall(index, queries, vectors, np.arange(100, COUNT))  # before it is saved
    index.save()
    index = open_index(tmp_path)
    check_recall(index, queries, vectors, np.arange(100, COUNT))
    check_recall(index, queries, vectors, np.arange(103, COUNT, 10), {"part": 3})  # 290 rows
    if options.kind == "faiss":
        assert "vectors" not in vars(index._rows)  # type: ignore[attr-defined]  # they stay on disk
    else:
        assert index._dataset.describe_indices()  # type: ignore[attr-defined]


def test_a_filter_that_few_rows_pass_is_exact(tmp_path: Path) -> None:
    ids, vectors, values = clustered()
    options = IndexOptions(structure="HNSW_SQ", prefix=8, approximate_from=301, probes=1, refine=1)
    index = create_index(tmp_path, IndexSpec(dimension=WIDTH, fields={"part": "int"}), options)
    index.add(ids, vectors, values)
    index.save()
    queries = vectors[:20] + 0.01
    for kept, filter in ((np.arange(3, COUNT, 10), {"part": 3}), (np.arange(0), {"part": 10})):
        near, scores = exact(queries, vectors[kept], 10)
        found = [[(hit.id, hit.score) for hit in hits] for hits in index.search(queries, 10, filter=filter)]
        assert found == [
            [(ids[kept[row]], float(score)) for row, score in zip(rows, row_scores, strict=True) if row >= 0]
            for rows, row_scores in zip(near, scores, strict=True)
        ]
    (inexact,) = index.search(queries[:1], 10, filter={"part": [3, 4]})  # 600 rows
    assert len(inexact) == 10


def test_codes_are_made_anew_when_half_of_them_are_of_other_rows(tmp_path: Path) -> None:
    ids, vectors, values = clustered()
    options = IndexOptions(structure="IVF_SQ", approximate_from=100, cell=100)
    index = create_index(tmp_path, IndexSpec(dimension=WIDTH, fields={"part": "int"}), options)
    cells = []
    for stop in (500, 1000, 1001):
        index.add(ids[index.count() : stop], vectors[index.count() : stop], values[index.count() : stop])
        index.save()
        cells.append(index._codes._index.nlist)  # type: ignore[attr-defined]
    assert cells == [5, 5, 10]
    index.delete(ids[:501])
    index.save()
    assert index._codes._index.nlist == 5  # type: ignore[attr-defined]
    check_recall(index, vectors[500:520], vectors, np.arange(501, 1001))


def test_readers_of_the_save_before_find_their_codes(tmp_path: Path) -> None:
    ids, vectors, values = clustered()
    options = IndexOptions(structure="RQ", approximate_from=100)
    writer = create_index(tmp_path, IndexSpec(dimension=WIDTH, fields={"part": "int"}), options)
    readers = []
    for start in (0, 200, 400):
        writer.add(*(rows[start : start + 200] for rows in (ids, vectors, values)))
        writer.save()
        readers.append(open_index(tmp_path))
        assert len(list(tmp_path.glob("codes-*"))) == min(2, len(readers))
    check_recall(readers[1], vectors[:5], vectors, np.arange(400))
    with pytest.raises(IndexFileError, match=r"codes-\w+\.npz: not readable .*; create the index again"):
        readers[0].search(vectors[:1], 1)
    writer.delete(ids[:550])  # too few rows are left for codes
    writer.save()
    assert open_index(tmp_path).search(vectors[550:551], 1)[0][0].id == ids[550]
    writer.save()
    assert not list(tmp_path.glob("codes-*"))


def test_damaged_codes_are_an_error(tmp_path: Path) -> None:
    ids, vectors, values = clustered()
    options = IndexOptions(structure="SQ", approximate_from=100)
    writer = create_index(tmp_path, IndexSpec(dimension=WIDTH, fields={"part": "int"}), options)
    writer.add(ids, vectors, values)
    writer.save()
    (codes,) = tmp_path.glob("codes-*")
    codes.write_bytes(codes.read_bytes()[:5000])
    reader = open_index(tmp_path)
    assert reader.count() == COUNT  # needs no codes
    with pytest.raises(IndexFileError, match="not readable"):
        reader.search(vectors[:1], 1)


def test_an_index_of_an_earlier_version_can_be_opened(tmp_path: Path) -> None:
    """Its options name a structure also for faiss, where it had no meaning."""
    index = create_index(tmp_path, SPEC, IndexOptions())
    index.add(*rows(range(N)))
    index.save()
    facts = json.loads((tmp_path / "index.json").read_text())
    options = {
        "kind": "faiss", "approximate_from": 256, "structure": "IVF_RQ", "cell": 1024, "probes": 128,
        "refine": 8, "uri": None, "token_variable": "MILVUS_TOKEN",
    }  # fmt: skip
    (tmp_path / "index.json").write_text(json.dumps(facts | {"format": 1, "options": options}))
    again = open_index(tmp_path)
    assert search_one(again, [1, 2, 3, 4], N) == sorted_by_hand([1, 2, 3, 4])
    (tmp_path / "index.json").write_text(json.dumps(facts | {"format": 3}))
    with pytest.raises(IndexFileError, match="another version"):
        open_index(tmp_path)


@pytest.mark.parametrize(
    "options,message",
    [
        ({"structure": "IVF_PQ"}, "search.structure=IVF_PQ: faiss has FLAT, SQ, RQ, IVF_SQ, IVF_RQ, HNSW_SQ"),
        ({"kind": "lance", "structure": "HNSW_SQ"}, "search.structure=HNSW_SQ: lance has IVF_RQ, IVF_FLAT"),
        ({"kind": "milvus", "structure": "FLAT"}, "search.structure=FLAT: milvus has none; leave it out"),
        ({"kind": "lance", "prefix": 64}, "search.prefix=64: only faiss searches a prefix; remove it"),
        ({"prefix": 0}, "search.prefix=0: use 1 or more"),
        ({"kind": "lance", "approximate_from": 200}, "search.approximate_from=200: use 256 or more"),
    ],
)
def test_options_that_do_not_belong_together_are_refused(options: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        IndexOptions(**options)


def test_a_prefix_that_is_longer_than_the_vectors_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"search.prefix=5: the vectors have 4 dimensions"):
        create_index(tmp_path, SPEC, IndexOptions(prefix=5))


@pytest.mark.parametrize(
    "fields,message",
    [({"id": "int"}, "field 'id'"), ({"a b": "int"}, "field 'a b'"), ({"a": "date"}, "'date'")],
)
def test_invalid_fields_are_refused(fields: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        IndexSpec(dimension=2, fields=fields)
