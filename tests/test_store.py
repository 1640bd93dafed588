"""Tests stores: visibility of rows, files left by killed runs, refused schemas and writers."""

import os
import pickle
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from gve_ray.media import decode_jpeg, encode_jpeg
from gve_ray.schema import ASSET_SCHEMA, AssetRef
from gve_ray.store import AssetReader, SharedFolder, Store, StoreError

SCHEMA = pa.schema([("video_id", pa.string()), ("n", pa.int64()), ("blobs", pa.list_(pa.binary()))])


def rows(*ids: str) -> pa.Table:
    return pa.Table.from_pylist(
        [{"video_id": key, "n": len(key), "blobs": [key.encode(), b"\x00"]} for key in ids], schema=SCHEMA
    )


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store(str(tmp_path / "a.lance"), SCHEMA).create()


def data_files(store: Store) -> set[str]:
    return set(os.listdir(Path(store.uri) / "data")) if (Path(store.uri) / "data").exists() else set()


def test_a_store_is_empty_before_it_is_created(tmp_path: Path) -> None:
    store = Store(str(tmp_path / "none.lance"), SCHEMA)
    assert not store.exists()
    assert store.keys() == set()
    assert store.count() == 0
    assert store.table(["n"]).schema == pa.schema([("n", pa.int64())])


def test_rows_are_visible_only_after_their_commit(store: Store) -> None:
    first, second = store.write(rows("a", "bb")), store.write(rows("ccc"))
    assert store.keys() == set()
    assert store.commit([first, second]) == 3
    assert store.keys() == {"a", "bb", "ccc"}
    assert store.table().to_pylist() == rows("a", "bb", "ccc").to_pylist()


def test_a_commit_of_several_fragments_is_one_version(store: Store) -> None:
    import lance

    before = lance.dataset(store.uri).version
    store.commit([store.write(rows(str(i))) for i in range(5)])
    assert lance.dataset(store.uri).version == before + 1


def test_workers_write_through_a_pickled_store(store: Store) -> None:
    copy = pickle.loads(pickle.dumps(store))
    assert store.commit([copy.write(rows("x"))]) == 1


def test_an_empty_commit_creates_no_version(store: Store) -> None:
    import lance

    before = lance.dataset(store.uri).version
    assert store.commit([]) == 0
    assert store.append(rows()) == 0
    assert lance.dataset(store.uri).version == before


def test_creating_again_keeps_the_rows(store: Store) -> None:
    store.append(rows("a"))
    assert Store(store.uri, SCHEMA).create().count() == 1


def test_the_error_for_another_schema_lists_the_differences(store: Store) -> None:
    other = pa.schema([("video_id", pa.string()), ("n", pa.string()), ("more", pa.int64())])
    with pytest.raises(
        StoreError, match=r"missing \['more'\].*unexpected \['blobs'\].*n is int64, not string"
    ):
        Store(store.uri, other).create()
    with pytest.raises(StoreError, match="unexpected"):
        store.write(rows("a").append_column("extra", pa.array([1])))


def test_a_store_of_an_earlier_version_gets_the_columns_that_it_lacks_at_the_end(store: Store) -> None:
    store.append(rows("a"))
    shot = pa.struct([("parent_id", pa.string()), ("start", pa.float64())])
    newer = Store(store.uri, pa.schema([*SCHEMA, ("shot", shot)]))
    newer.create()
    assert newer.columns() == ["video_id", "n", "blobs", "shot"]
    row = {"video_id": "b", "n": 1, "blobs": [], "shot": {"parent_id": "a", "start": 0.5}}
    newer.append(pa.Table.from_pylist([row], schema=newer.schema))
    assert newer.table(["video_id", "shot"]).to_pylist() == [
        {"video_id": "a", "shot": None},
        {"video_id": "b", "shot": row["shot"]},
    ]
    with pytest.raises(StoreError, match="unexpected"):
        Store(store.uri, SCHEMA).create()


def test_a_key_must_be_a_column() -> None:
    with pytest.raises(ValueError, match="pair_id"):
        Store("x.lance", SCHEMA, key="pair_id")


def test_a_second_driver_is_detected(store: Store) -> None:
    store.append(rows("a"))
    Store(store.uri, SCHEMA).append(rows("b"))
    with pytest.raises(StoreError, match="another run writes"):
        store.append(rows("c"))
    assert store.keys() == {"a", "b"}


def test_clean_deletes_only_orphan_files(store: Store) -> None:
    store.append(rows("a", "b"))
    kept = data_files(store)
    store.write(rows("lost"))
    assert len(data_files(store)) == len(kept) + 1
    store.clean()
    assert data_files(store) == kept
    assert store.table().to_pylist() == rows("a", "b").to_pylist()
    store.append(rows("c"))
    assert store.keys() == {"a", "b", "c"}


def test_old_manifests_are_deleted(store: Store) -> None:
    for i in range(205):
        store.append(rows(str(i)))
    manifests = [name for name in os.listdir(Path(store.uri) / "_versions") if name.endswith(".manifest")]
    assert len(manifests) <= 101
    assert store.count() == 205


def test_compact_merges_small_fragments_and_keeps_rows_in_order(store: Store) -> None:
    import lance

    for i in range(20):
        store.append(rows(f"{i:02d}"))
    before = store.table().to_pylist()
    store.compact()
    assert len(lance.dataset(store.uri).get_fragments()) == 1
    assert store.table().to_pylist() == before
    store.append(rows("after"))
    assert store.count() == 21


def test_take_returns_rows_in_the_order_of_the_keys_including_new_rows(store: Store) -> None:
    store.append(rows("b", "a", "zz"))
    assert store.take(["zz", "a", "zz"], ["n"])["n"].to_pylist() == [2, 1, 2]
    Store(store.uri, SCHEMA).append(rows("mmmm"))
    assert store.take(["mmmm", "b"]).to_pylist() == rows("mmmm", "b").to_pylist()
    assert store.take([], ["n"]).num_rows == 0
    with pytest.raises(KeyError, match=r"2 keys not committed.*nope"):
        store.take(["a", "nope", "neither"])


def reads_of_keys(monkeypatch: pytest.MonkeyPatch, before_read: Callable[[], object]) -> list[int]:
    """Return a list that grows by the number of fragments that each scan of a data set reads, after `before_read`."""
    import lance

    reads: list[int] = []
    scanner = lance.LanceDataset.scanner

    def counted(self: Any, *args: Any, **options: Any) -> Any:
        reads.append(len(options.get("fragments") or self.get_fragments()))
        before_read()
        return scanner(self, *args, **options)

    monkeypatch.setattr(lance.LanceDataset, "scanner", counted)
    return reads


def test_keys_are_read_again_only_for_a_newer_version(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    store.append(rows("a", "bb"))
    reads = reads_of_keys(monkeypatch, before_read=lambda: None)
    for _ in range(3):
        assert store.take(["bb"], ["n"])["n"].to_pylist() == [2]
        with pytest.raises(KeyError, match="nope"):  # a key of four letters
            store.take(["nope"])
    assert reads == [1]
    Store(store.uri, SCHEMA).append(rows("nope"))
    assert store.take(["nope", "a"], ["n"])["n"].to_pylist() == [4, 1]
    assert reads == [1, 1]  # of the second time, only the new rows


def test_many_commits_are_found_by_key(store: Store) -> None:
    """Rows of later commits are added to what a reader knows already, whatever their order and number."""
    reader, names = Store(store.uri, SCHEMA), [("v" * (i % 7)) + str((i * 37) % 100) for i in range(100)]
    done = 0
    for size in (40, 10, 10, 30, 1, 1, 8):
        store.append(rows(*names[done : done + size]))
        done += size
        assert reader.take(names[:done], ["video_id"])["video_id"].to_pylist() == names[:done]
        chosen = pa.array([*names[done - size : done : 2], "none", names[0]])
        found = [key for batch in reader.select(chosen, ["video_id"], rows=3) for key in batch[0].to_pylist()]
        assert found == [name for name in names[:done] if name in chosen.to_pylist()]
        for keys in (chosen, None):
            batches = reader.select(keys, ["video_id"], rows=3, by_key=True)
            wanted = names[:done] if keys is None else found
            assert [key for batch in batches for key in batch[0].to_pylist()] == sorted(wanted)


def test_select_gives_all_rows_and_none(store: Store) -> None:
    assert list(Store(f"{store.uri}-none", SCHEMA).select(pa.array(["a"]))) == []
    store.append(rows("bb", "a"))
    for keys, expected in ((["a", "bb"], ["bb", "a"]), (["x"], [])):
        batches = store.select(pa.array(keys), ["video_id"])
        assert [key for batch in batches for key in batch[0].to_pylist()] == expected


def test_a_thread_can_take_rows_while_another_reads_new_keys(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    store.append(rows("a", "bb", "ccc"))
    assert store.take(["bb"], ["n"])["n"].to_pylist() == [2]
    writer = Store(store.uri, SCHEMA)
    writer.delete(["a"])  # changes the positions of all other rows
    writer.append(rows("dddd"))
    started, resume = threading.Event(), threading.Event()
    reads = reads_of_keys(monkeypatch, before_read=lambda: started.set() or resume.wait(60))
    with ThreadPoolExecutor() as pool:
        try:
            new = [pool.submit(store.take, ["dddd"], ["video_id"]) for _ in range(3)]
            assert started.wait(60)
            old = store.take(["ccc", "bb"], ["video_id"])
        finally:
            resume.set()
    assert old["video_id"].to_pylist() == ["ccc", "bb"]
    assert [future.result()["video_id"].to_pylist() for future in new] == [["dddd"]] * 3
    assert len(reads) == 1


def test_keys_and_counts_by_filter(store: Store) -> None:
    store.append(rows("a", "bb", "cc"))
    assert store.keys("n = 2") == {"bb", "cc"}
    assert store.count("n = 1") == 1
    assert [batch.num_rows for batch in store.batches(["n"], rows=2)] == [2, 1]


# ---- Assets


def picture(value: int) -> np.ndarray:
    return np.full((56, 84, 3), value, dtype=np.uint8)


@pytest.fixture
def reader(tmp_path: Path) -> AssetReader:
    def row(video_id: str, base: int, clips: int) -> dict[str, Any]:
        clip = {"start": 1.0, "end": 3.0, "timestamps": [1.0, 3.0], "indices": [10, 30]}
        return dict.fromkeys(ASSET_SCHEMA.names) | {
            "video_id": video_id,
            "fps": 10.0,
            "duration": 4.0,
            "total_frames": 40,
            "frames": [encode_jpeg(picture(base)), encode_jpeg(picture(base + 10))],
            "timestamps": [0.0, 3.9],
            "indices": [0, 39],
            "reference_frames": [encode_jpeg(picture(base + 20))],
            "reference_timestamps": [2.0],
            "clips": [clip | {"frames": [encode_jpeg(picture(base + 30 + i))] * 2} for i in range(clips)],
        }

    table = pa.Table.from_pylist([row("a/b", 50, 2), row("c", 150, 0)], schema=ASSET_SCHEMA)
    Store(str(tmp_path / "assets.lance"), ASSET_SCHEMA).create().append(table)
    return AssetReader(str(tmp_path / "assets.lance"))


def grey(frames: Any) -> list[int]:
    return [round(float(picture.mean())) for picture in frames.pixels]


def test_references_of_all_kinds_are_read_in_one_call(reader: AssetReader) -> None:
    refs = ["asset://c/video", "asset://a%2Fb/clip/1", AssetRef("a/b", "frame", 0), AssetRef("a/b")]
    video, clip, still, first = reader.frames_many(refs)
    assert (grey(video), grey(clip), grey(still), grey(first)) == ([150, 160], [81, 81], [70], [50, 60])
    assert clip.timestamps.tolist() == [1.0, 3.0]
    assert clip.indices.tolist() == [10, 30]
    assert (still.fps, still.duration, still.total_frames) == (0.0, 0.0, 1)
    assert (video.fps, video.duration, video.total_frames) == (10.0, 4.0, 40)


def test_asset_pixels_equal_those_of_decode_jpeg(tmp_path: Path, reader: AssetReader) -> None:
    noise = np.random.default_rng(3).integers(0, 256, (28, 56, 3), dtype=np.uint8)
    jpeg = encode_jpeg(noise)
    row = dict.fromkeys(ASSET_SCHEMA.names) | {
        "video_id": "n",
        "fps": 1.0,
        "duration": 1.0,
        "total_frames": 1,
    }
    row |= {"frames": [jpeg], "timestamps": [0.0], "indices": [0]}
    Store(reader.store.uri, ASSET_SCHEMA).append(pa.Table.from_pylist([row], schema=ASSET_SCHEMA))
    assert (reader.frames("asset://n/video").pixels[0] == decode_jpeg(jpeg)).all()


def test_the_error_for_a_missing_part_names_it(reader: AssetReader) -> None:
    with pytest.raises(IndexError, match=r"asset://c/clip/0.*0 clips"):
        reader.frames("asset://c/clip/0")
    with pytest.raises(KeyError, match="unknown"):
        reader.frames("asset://unknown/video")


def test_delete_removes_only_the_given_rows(tmp_path: Path) -> None:
    store = Store(
        str(tmp_path / "s.lance"), pa.schema([("video_id", pa.string()), ("n", pa.int64())])
    ).create()
    store.append(pa.table({"video_id": ["a", "it's", "c"], "n": [1, 2, 3]}))
    assert store.take(["it's"], ["n"]).to_pylist() == [{"n": 2}]
    store.delete(["it's", "unknown"])
    assert store.keys() == {"a", "c"}
    assert store.take(["c"], ["n"]).to_pylist() == [{"n": 3}]
    with pytest.raises(KeyError):
        store.take(["it's"])
    store.append(pa.table({"video_id": ["it's"], "n": [4]}))
    assert store.take(["it's", "a"], ["n"]).to_pylist() == [{"n": 4}, {"n": 1}]


def test_a_store_in_an_object_store_behaves_the_same(s3: str) -> None:
    import lance

    store = Store(f"{s3}/run/a.lance", SCHEMA)
    assert not store.exists()
    assert store.keys() == set()
    store.create()
    written = pickle.loads(pickle.dumps(store)).write(rows("a", "bb"))  # as a worker does
    assert store.keys() == set()
    assert store.commit([written]) == 2
    assert store.take(["bb", "a"]).to_pylist() == rows("bb", "a").to_pylist()
    for i in range(20):
        store.append(rows(str(i)))
    store.delete(["a", "7"])
    store.write(rows("lost"))
    store.compact()
    store.clean()
    dataset = lance.dataset(store.uri, storage_options={"allow_http": "true"})
    assert len(dataset.get_fragments()) == 1
    files = SharedFolder(f"{s3}/run/a.lance").names("data")
    assert len(files) == 1, "files from before the compaction and the orphan file are deleted"
    assert store.keys() == {"bb", *map(str, range(20))} - {"7"}
    store.append(rows("c"))

    Store(store.uri, SCHEMA).append(rows("d"))
    with pytest.raises(StoreError, match="another run writes"):
        store.append(rows("e"))
    with pytest.raises(StoreError, match="columns differ"):
        Store(store.uri, pa.schema([("video_id", pa.string())])).create()
    store.drop()
    assert not Store(store.uri, SCHEMA).exists()


def test_a_file_is_no_store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import lance

    monkeypatch.setattr(lance, "dataset", lambda *_, **__: pytest.fail("it would be listed for two seconds"))
    (tmp_path / "films.csv").write_text("uri\n")
    assert not Store(str(tmp_path / "films.csv"), SCHEMA).exists()


def test_a_dropped_store_can_be_created_again(store: Store) -> None:
    store.append(rows("a"))
    store.drop()
    assert not store.exists()
    store.drop()
    store.create().append(rows("b"))
    assert store.keys() == {"b"}
