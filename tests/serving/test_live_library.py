"""A library in use while index jobs finish: what is found, what is kept open, and errors."""

import asyncio
import json
import threading
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

from gve_ray.search import IndexOptions, IndexSpec, Library, LibraryFacts, create_index
from gve_ray.search.library import SEGMENT_SCHEMA, segment_store
from gve_ray.serving.errors import ApiError
from gve_ray.serving.gateway import _shared_library
from gve_ray.serving.live_library import LiveLibrary


def publish(folder: Path, generation: int, segments: Sequence[str], model: object = "a") -> None:
    """Do what an index job does when its stages have finished: write the segments, the index and
    library.json.
    """
    store = segment_store(folder).create()
    new = sorted(set(segments) - store.keys())
    rows = [
        {"segment": segment, "vector": [1.0], "poster": segment.encode(), "strip": b"strip"}
        for segment in new
    ]
    store.append(pa.Table.from_pylist(rows, schema=SEGMENT_SCHEMA))
    name = f"index-{generation}"
    index = create_index(folder / name, IndexSpec(dimension=1, fields={"uri": "string"}), IndexOptions())
    vectors = np.ones((len(segments), 1), np.float32)
    index.add(segments, vectors, [{"uri": f"{segment}.mp4"} for segment in segments])
    index.save()
    facts = LibraryFacts(
        generation=generation, index=name, model={}, settings={}, identity={"model": model}, strip_frames=1
    )
    (folder / "library.json").write_text(json.dumps(asdict(facts)))
    store.delete(store.keys() - set(segments))


def ids(library: Library) -> set[str]:
    return library.index.ids()


async def refusal(library: LiveLibrary, segment: str) -> tuple[int, str | None]:
    with pytest.raises(ApiError) as caught:
        await library.use(Library.record, segment)
    return caught.value.status, caught.value.code


@pytest.mark.parametrize("searched", [True, False])
def test_a_segment_is_there_as_soon_as_its_index_is(tmp_path: Path, searched: bool) -> None:
    """Even if the folder was checked a moment ago; another process may have found it already."""
    publish(tmp_path, 1, ["old", "both"])

    async def scenario() -> None:
        library = LiveLibrary(tmp_path, searched=searched)
        assert await library.use(Library.record, "old") == {"uri": "old.mp4"}
        assert await refusal(library, "new") == (404, "unknown_segment")
        publish(tmp_path, 2, ["both", "new"])
        assert await library.use(Library.record, "new") == {"uri": "new.mp4"}
        for segment in ("new", "both"):
            assert (await library.use(Library.pictures, segment)).poster == segment.encode()
        assert await refusal(library, "old") == (404, "unknown_segment")

    asyncio.run(scenario())


def test_a_request_in_progress_keeps_its_library(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    publish(tmp_path, 1, ["old"])
    closed: list[int] = []
    monkeypatch.setattr(Library, "close", lambda self: closed.append(self.facts.generation))
    started, go = threading.Event(), threading.Event()

    def slow(library: Library) -> set[str]:
        started.set()
        assert go.wait(60)
        return ids(library)

    async def scenario() -> None:
        library = LiveLibrary(tmp_path, searched=True)
        request = asyncio.create_task(library.use(slow))
        await asyncio.to_thread(started.wait)
        publish(tmp_path, 2, ["new"])
        await library.use(Library.record, "new")
        assert closed == []
        go.set()
        assert await request == {"old"}
        assert closed == [1]

    asyncio.run(scenario())


@pytest.mark.parametrize("searched", [True, False])
def test_vectors_are_never_searched_in_the_index_of_another_model(tmp_path: Path, searched: bool) -> None:
    publish(tmp_path, 1, ["old"])

    async def scenario() -> None:
        library = LiveLibrary(tmp_path, searched=searched)
        publish(tmp_path, 2, ["old", "new"], model="b")
        if searched:
            assert await refusal(library, "new") == (404, "unknown_segment")
            assert await library.use(ids) == {"old"}
        else:
            assert await library.use(Library.record, "new") == {"uri": "new.mp4"}

    asyncio.run(scenario())


def test_errors_of_a_search_are_replies(tmp_path: Path) -> None:
    publish(tmp_path, 1, ["a"])

    def search(library: Library, filter: dict[str, int]) -> None:
        library.index.search(np.ones((1, 1), np.float32), 1, filter=filter)

    async def scenario() -> ApiError:
        with pytest.raises(ApiError) as caught:
            await LiveLibrary(tmp_path, searched=True).use(search, {"year": 1})
        return caught.value

    error = asyncio.run(scenario())
    assert (error.status, error.param, error.code) == (400, "filter", "invalid_search")
    assert "'year': no such field" in error.message


def test_the_gateway_does_not_open_an_embedded_milvus(tmp_path: Path) -> None:
    """The retriever has it open, and no other process can."""
    publish(tmp_path, 1, ["a"])
    library = _shared_library(str(tmp_path))
    assert library is not None
    file = tmp_path / "index-1" / "index.json"
    facts = json.loads(file.read_text())
    facts["options"]["kind"] = "milvus"
    file.write_text(json.dumps(facts))
    assert _shared_library(str(tmp_path)) is None
