"""Tests how a run builds its index from the stores that the stages have written."""

import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from gve_ray.config import ModelConfig
from gve_ray.embedder import EmbedderSettings
from gve_ray.indexing.config import IndexConfig
from gve_ray.indexing.run import _Run
from gve_ray.job import JobError
from gve_ray.search import IndexOptions, Pictures, open_index, open_library
from gve_ray.search.flat import FlatIndex
from gve_ray.search.library import SEGMENT_SCHEMA
from gve_ray.store import SharedFolder

N = 6


def entries(**more: Any) -> dict[str, dict[str, Any]]:
    """Return the metadata of two segments per video. more: metadata by name for the video v1."""
    return {
        f"s{i}": {
            "video_id": f"v{i // 2}", "uri": f"/v{i // 2}.mp4", "segment": i % 2, "start": 2.0 * (i % 2),
            "end": 2.0 * (i % 2) + 2, "duration": 4.0, "width": 32, "height": 32, "size": 1000,
            "fingerprint": "f", "caption": None, "year": 2024, "note": "",
            **(more if i // 2 == 1 else {}),
        }
        for i in range(N)
    }  # fmt: skip


def run_over(output: Path | str, **search: Any) -> _Run:
    config = IndexConfig(
        input="m.jsonl", output=str(output), model=ModelConfig(name="m", model="m"),
        search=IndexOptions(**search),
    )  # fmt: skip
    return _Run(config, EmbedderSettings(frames=8), {}, {"year": "int", "note": "string"}, str(output))


def metadata_of(output: Path, name: str) -> Mapping[str, Mapping[str, Any]]:
    index = open_index(output / name)
    try:
        return dict(index.metadata())
    finally:
        index.close()


@pytest.fixture
def output(tmp_path: Path) -> Path:
    embedded(tmp_path)
    return tmp_path


def embedded(output: Path | str) -> None:
    """Write the stores as the stages leave them."""
    run = run_over(output)
    for store in (run._videos, run._rejects, run._segments):
        store.create()
    rows = [
        {"segment": f"s{i}", "vector": np.eye(N)[i].tolist(), "poster": b"p", "strip": b"s"} for i in range(N)
    ]
    run._segments.append(pa.Table.from_pylist(rows, schema=SEGMENT_SCHEMA))


@pytest.mark.parametrize("kind", ["faiss", "lance"])
def test_changes_by_a_run_that_was_killed_before_publishing_are_reverted(output: Path, kind: str) -> None:
    """A killed run has saved edited metadata in the index; a run without the edit follows."""
    run = run_over(output, kind=kind)
    name, *_ = run._fill(entries())
    assert metadata_of(output, name) == entries()
    assert run._fill(entries(year=1999, note="edited"))[0] == name
    assert metadata_of(output, name) == entries(year=1999, note="edited")
    run._fill(entries())
    assert metadata_of(output, name) == entries()


@pytest.mark.parametrize("kind", ["faiss", "lance"])
def test_an_index_that_is_up_to_date_is_not_written(output: Path, kind: str) -> None:
    run = run_over(output, kind=kind)
    name, *_ = run._fill(entries())
    files = {path: path.stat().st_mtime_ns for path in (output / name).rglob("*")}
    run._fill(entries())
    assert {path: path.stat().st_mtime_ns for path in (output / name).rglob("*")} == files


def test_the_error_for_a_row_that_the_index_refuses_names_the_video(output: Path) -> None:
    with pytest.raises(JobError, match=r"video 'v1', /v1\.mp4: .* metadata note='half \\ud83d': .* manifest"):
        run_over(output)._fill(entries(note="half \ud83d"))


def publish(output: Path, **search: Any) -> list[str]:
    """Do the steps of a run after embedding; return the folders of all indexes that remain."""
    run = run_over(output, **search)
    name, *_ = run._fill(entries())
    run._delete_unused([], entries(), [], {name, run._publish(name)})
    assert open_library(output).facts.index == name
    return sorted(path.name for path in output.glob("index-*"))


def test_the_index_of_the_run_before_stays_for_its_readers(output: Path) -> None:
    (first,) = publish(output)
    reader = open_library(output)
    both = publish(output, kind="lance")
    assert len(both) == 2
    assert first in both
    assert open_library(output).index.ids() == reader.index.ids() == set(entries())
    assert open_index(output / first).ids() == set(entries())
    assert publish(output, kind="lance") == sorted({*both} - {first})
    again = publish(output)
    assert len(again) == 2
    assert metadata_of(output, first) == entries()


@pytest.mark.parametrize("kind", ["faiss", "lance"])
def test_an_index_may_lose_all_its_segments(output: Path, kind: str) -> None:
    """As when the only video is replaced by a broken one."""
    run = run_over(output, kind=kind)
    run._fill(entries())
    name, *_ = run._fill({})
    run._write_background({})
    run._publish(name)
    library = open_library(output)
    assert library.background is None
    assert library.index.search(np.eye(N, dtype=np.float32)[:1], 3) == [[]]


def test_a_library_has_the_background_of_the_last_run(tmp_path: Path) -> None:
    """None while there are fewer than 16 films."""
    run = run_over(tmp_path)
    run._segments.create()
    vectors = np.random.default_rng(0).standard_normal((17, 4)).astype(np.float32)
    rows = [
        {"segment": f"s{i}", "vector": vectors[i].tolist(), "poster": b"", "strip": b""} for i in range(17)
    ]
    run._segments.append(pa.Table.from_pylist(rows, schema=SEGMENT_SCHEMA))
    films = {f"s{i}": {**entries()["s0"], "fingerprint": f"f{i}"} for i in range(17)}
    name, *_ = run._fill(films)
    for kept, count in ((films, 17), (dict(list(films.items())[:15]), 0), (films, 17)):
        run._write_background(kept)
        run._publish(name)
        background = open_library(tmp_path).background
        assert (0 if background is None else len(background.vectors)) == count


def test_a_published_run_succeeds_even_if_an_old_index_cannot_be_deleted(
    output: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    class ServerError(Exception):
        """An error of a class that only the client knows."""

    def drop(self: FlatIndex) -> None:
        raise ServerError("the server is gone")

    (first,) = publish(output)
    publish(output, kind="lance")
    monkeypatch.setattr(FlatIndex, "drop", drop)
    with caplog.at_level(logging.WARNING):
        assert first not in publish(output, kind="lance")
    assert f"{first}: its data outside the folder could not be deleted: the server is gone" in caplog.text


@pytest.mark.parametrize("kind", ["faiss", "lance"])
def test_an_index_in_an_object_store_can_be_updated_and_replaced(s3: str, kind: str) -> None:
    """Readers see each published state of an index that is created, edited and replaced."""
    uri = f"{s3}/index"
    embedded(uri)
    run = run_over(uri, kind=kind)
    name, *_ = run._fill(entries(year=1999))
    assert run._publish(name) is None
    reader = open_library(uri)
    assert reader.is_current()
    assert run._fill(entries())[0] == name
    run._delete_unused([], entries(), [], {name, run._publish(name)})
    assert not reader.is_current()
    now = open_library(uri)
    assert dict(now.index.metadata()) == entries()
    assert now.index.search(np.eye(N, dtype=np.float32)[2:3], 1)[0][0].id == "s2"
    assert now.pictures("s2") == Pictures(poster=b"p", strip=b"s")
    assert now.background is None
    assert dict(reader.index.metadata())["s2"]["year"] == 1999

    other = run_over(uri, kind="lance" if kind == "faiss" else "faiss")
    second, *_ = other._fill(entries())
    other._delete_unused([], entries(), [], {second, other._publish(second)})
    folder = SharedFolder(uri)
    assert [name for name in folder.names() if name.startswith("index-")] == sorted([name, second])
    third = run_over(uri, kind=kind, approximate_from=300)
    last, *_ = third._fill(entries())
    third._delete_unused([], entries(), [], {last, third._publish(last)})
    assert [name for name in folder.names() if name.startswith("index-")] == sorted([second, last])
    assert open_library(uri).facts.generation == 4
