"""Tests `gve index` on mp4 files with the tiny model and Ray: a first run, incremental runs, and restarts.

Every video looks different from the others, and the tests search for it by its own vector. Fast tests after the first
run have their actors in this process.
"""

import json
import os
import signal
import time
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from gve_ray.config import ModelConfig, StageResources
from gve_ray.demo.render import encode_mp4
from gve_ray.embedder import Embedder, EmbedderSettings
from gve_ray.embedder.backends import identify
from gve_ray.embedder.backends import open_model as open_embedder
from gve_ray.indexing import run as indexing
from gve_ray.indexing.catalog import read_catalog
from gve_ray.indexing.config import (
    IndexConfig,
    IndexResources,
    PollingConfig,
    SegmentsConfig,
    SpeechConfig,
    WordsConfig,
)
from gve_ray.indexing.run import IndexResult, index
from gve_ray.indexing.speech import SPEECH_SCHEMA
from gve_ray.job import JobError
from gve_ray.media import decode_jpeg, read_frames
from gve_ray.schema import Item
from gve_ray.search import IndexOptions, Library, open_library
from gve_ray.search.words import WordMatch
from gve_ray.store import RunFolderError, Store
from tests.endpoint import Reply, http_endpoint
from tests.indexing.test_speech import transcription
from tests.integration import drivers
from tests.integration.drivers import log_of
from tests.local_actors import local_actors
from tests.media.tones import write_speaking

VALID, BROKEN = 12, 1  # files
DEADLINE = 300.0  # seconds per wait; on two idle cores, a wait takes a fifth of this
SIZE, FRAMES, FPS = 112, 16, 8
MODEL = ModelConfig(
    name="tiny", model="package://demo/tiny_vl/model", adapter="package://demo/tiny_vl/adapter"
)
SETTINGS = EmbedderSettings(frames=8, max_pixels=12544, min_pixels=3136)
ACTORS = IndexResources(
    probe=StageResources(actors=1, num_cpus=0.5, batch_size=16),
    embed=StageResources(actors=1, num_cpus=0.5, batch_size=2),
)

pytestmark = pytest.mark.timeout(600)


def write_video(path: Path, seed: int) -> str:
    """Write two seconds of moving colored tiles; return the path."""
    rng = np.random.default_rng(seed)
    tiles = rng.integers(0, 256, (7, 7, 3), dtype=np.uint8).repeat(16, axis=0).repeat(16, axis=1)
    frames = [np.roll(tiles, 2 * i, axis=seed % 2) for i in range(FRAMES)]
    encode_mp4(path, np.stack(frames), fps=FPS, width=SIZE, height=SIZE)
    return str(path)


def write_folder(folder: Path) -> None:
    folder.mkdir()
    for i in range(VALID):
        write_video(folder / f"v{i:03d}.mp4", i)
    for i in range(BROKEN):
        (folder / f"broken{i}.mp4").write_bytes(b"not a video")


def config_of(source: Path | str, output: Path, **more: Any) -> IndexConfig:
    return replace(
        IndexConfig(
            input=str(source),
            output=str(output),
            model=MODEL,
            frames=SETTINGS.frames,
            max_pixels=SETTINGS.max_pixels,
            min_pixels=SETTINGS.min_pixels,
            segments=SegmentsConfig(mode="whole"),
            resources=ACTORS,
            commit_seconds=0.2,
        ),
        **more,
    )


@pytest.fixture(scope="module")
def embedder() -> Embedder:
    model = open_embedder(MODEL, SETTINGS, identify(MODEL, SETTINGS, on_gpu=False))
    return model._embedder  # type: ignore[attr-defined]


@pytest.fixture(scope="module")
def folder(cluster: str, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the folder of videos/ and index/, which some of the tests change."""
    library = tmp_path_factory.mktemp("library")
    write_folder(library / "videos")
    return library


@pytest.fixture(scope="module")
def first(folder: Path) -> IndexResult:
    return index(config_of(folder / "videos", folder / "index"))


@pytest.fixture
def here() -> Iterator[None]:
    with local_actors():
        yield


def states(result: IndexResult) -> Mapping[str, int]:
    v = result.videos
    assert v["in"] == v["added"] + v["changed"] + v["unchanged"] + v["rejected"]
    assert result.segments["in"] == result.segments["out"] + result.segments["rejected"]
    return {name: count for name, count in v.items() if name != "in"}


def nearest(library: Library, embedder: Embedder, item: Item, **more: Any) -> tuple[str, float]:
    """Return the file name and the score of the first hit."""
    (hits,) = library.index.search(embedder.embed([item]), 1, **more)
    return Path(str(hits[0].metadata["uri"])).name, hits[0].score


def test_every_file_is_indexed_or_rejected_with_a_reason(first: IndexResult, folder: Path) -> None:
    assert states(first) == {"added": VALID, "changed": 0, "unchanged": 0, "rejected": BROKEN, "removed": 0}
    assert first.segments == {"in": VALID, "out": VALID, "rejected": 0, "new": VALID}
    assert first.reasons == {"not_a_video": BROKEN}
    rows = {Path(row["uri"]).name: row for row in read_catalog(folder / "index")}
    assert len(rows) == VALID + BROKEN
    assert (rows["broken0.mp4"]["reason"], rows["v000.mp4"]["reason"]) == ("not_a_video", None)
    counts = json.loads((folder / "index" / "run.json").read_text())["result"]["videos"]
    assert counts == dict(first.videos)


def test_the_index_holds_the_vectors_of_the_embedder(
    first: IndexResult, folder: Path, embedder: Embedder
) -> None:
    library = open_library(folder / "index")
    for i in range(VALID):
        name = f"v{i:03d}.mp4"
        uri, score = nearest(library, embedder, Item(video=str(folder / "videos" / name)))
        assert uri == name
        assert score == pytest.approx(1.0, abs=1e-5)


def test_the_metadata_and_pictures_of_a_hit(first: IndexResult, folder: Path, embedder: Embedder) -> None:
    library = open_library(folder / "index")
    path = folder / "videos" / "v003.mp4"
    (hits,) = library.index.search(embedder.embed([Item(video=str(path))]), 1)
    facts = dict(hits[0].metadata)
    assert len(str(facts.pop("fingerprint"))) == 64
    assert len(str(facts.pop("video_id"))) == 16
    assert facts == {
        "uri": str(path), "segment": 0, "start": 0.0, "end": 2.0, "duration": 2.0, "width": SIZE,
        "height": SIZE, "size": path.stat().st_size, "caption": None,
    }  # fmt: skip
    pictures = library.pictures(hits[0].id)
    poster, strip = decode_jpeg(pictures.poster), decode_jpeg(pictures.strip)
    assert poster.shape == (SIZE, SIZE, 3)
    assert strip.shape == (SIZE, library.facts.strip_frames * SIZE, 3)
    shown = read_frames(str(path), k=8, max_pixels=12544, min_pixels=3136).pixels[4].astype(int)
    assert np.abs(poster - shown).mean() < 12
    assert library.facts.model_config == MODEL
    assert EmbedderSettings(**library.facts.settings) == SETTINGS


def test_another_model_or_other_settings_are_refused(first: IndexResult, folder: Path) -> None:
    before = (folder / "index" / "library.json").read_bytes()
    other = config_of(folder / "videos", folder / "index", model=replace(MODEL, adapter=None))
    with pytest.raises(RunFolderError, match=r"model\.adapter .*name another folder"):
        index(other)
    with pytest.raises(RunFolderError, match=r"segments\.mode .*name another folder"):
        index(config_of(folder / "videos", folder / "index", segments=SegmentsConfig()))
    assert (folder / "index" / "library.json").read_bytes() == before


def test_an_incremental_run_embeds_only_what_changed(
    first: IndexResult, folder: Path, embedder: Embedder, monkeypatch: pytest.MonkeyPatch, here: None
) -> None:
    videos, config = folder / "videos", config_of(folder / "videos", folder / "index")
    reader = open_library(folder / "index")
    write_video(videos / "new.mp4", 1000)
    write_video(videos / "v001.mp4", 2000)
    (videos / "v002.mp4").unlink()
    (videos / "v003.mp4").touch()  # a new modification time, the same bytes
    (videos / "broken0.mp4").unlink()
    write_video(videos / "broken0.mp4", 3000)
    (videos / "v004.mp4").write_bytes(b"")
    old_vector = reader.index.search(embedder.embed([Item(video=write_video(folder / "old.mp4", 1))]), 1)[0][
        0
    ]
    assert old_vector.score == pytest.approx(1.0, abs=1e-5)

    with (
        monkeypatch.context() as patch
    ):  # a run that fails after it has written the index and before it publishes it
        patch.setattr(indexing._Run, "_publish", lambda *_: (_ for _ in ()).throw(JobError("stopped")))
        with pytest.raises(JobError, match="stopped"):
            index(config)
    assert reader.is_current()
    result = index(config)
    assert states(result) == {
        "added": 2, "changed": 1, "unchanged": VALID - 3, "rejected": 1, "removed": 1,
    }  # fmt: skip
    assert result.reasons == {"empty": 1}
    assert result.segments == {"in": VALID, "out": VALID, "rejected": 0, "new": 0}
    assert not reader.is_current()

    library = open_library(folder / "index")
    assert library.index.count() == VALID
    uris = {Path(str(row["uri"])).name for row in library.index.get(sorted(library.index.ids()))[1]}
    assert uris == {f"v{i:03d}.mp4" for i in range(VALID) if i not in (2, 4)} | {"new.mp4", "broken0.mp4"}
    for name in ("new.mp4", "v001.mp4", "v003.mp4", "broken0.mp4"):
        uri, score = nearest(library, embedder, Item(video=str(videos / name)))
        assert (uri, score) == (name, pytest.approx(1.0, abs=1e-5))
    for removed_seed in (1, 2):
        path = write_video(folder / "gone.mp4", removed_seed)
        assert nearest(library, embedder, Item(video=path))[1] < 0.9999
    with pytest.raises(KeyError):
        library.pictures(old_vector.id)

    before = library.facts.index
    for kind in [
        "lance",
        *(["milvus"] if find_spec("milvus_lite") else []),
    ]:  # the same in another kind of index
        again = index(replace(config, search=IndexOptions(kind=kind)))
        assert states(again) == {
            "added": 0, "changed": 0, "unchanged": VALID, "rejected": 1, "removed": 0,
        }  # fmt: skip
        assert again.segments["new"] == 0
        other = open_library(folder / "index")
        assert other.index.ids() == library.index.ids()
        assert nearest(other, embedder, Item(video=str(videos / "new.mp4")))[0] == "new.mp4"
        folders = {path.name for path in (folder / "index").glob("index-*")}
        assert folders == {before, other.facts.index}  # the previous index is kept until the next run
        before = other.facts.index
        other.close()


@pytest.mark.slow
def test_a_folder_that_is_watched(cluster: str, tmp_path: Path) -> None:
    """Files come, change and go between updates; Ctrl-C or SIGTERM ends the job."""
    videos = tmp_path / "videos"
    videos.mkdir()
    config = config_of(
        videos, tmp_path / "index", watch=True, polling=PollingConfig(seconds=0.1, settle_seconds=0.1)
    )

    def indexed() -> dict[str, int]:
        return {
            Path(row["uri"]).name: len(json.loads(row["subtitles"])) for row in read_catalog(config.output)
        }

    def change_files() -> None:
        try:
            for number, expected in (
                (1, {"a.mp4": 0}),
                (2, {"a.mp4": 0, "b.mp4": 0}),
                (3, {"a.mp4": 0, "b.mp4": 1}),
                (4, {"b.mp4": 1, "c.mp4": 0}),
            ):
                if number < 3:
                    write_video(videos / f"{'ab'[number - 1]}.mp4", number)
                elif number == 3:
                    (videos / "b.srt").write_text("1\n00:00:00,500 --> 00:00:01,000\nlate words\n")
                else:
                    (videos / "a.mp4").rename(videos / "c.mp4")
                deadline = time.monotonic() + DEADLINE
                while indexed() != expected:
                    assert time.monotonic() < deadline, (number, indexed())
                    time.sleep(0.05)
        finally:
            os.kill(os.getpid(), signal.SIGTERM)

    with ThreadPoolExecutor(1) as pool:
        changes = pool.submit(change_files)
        assert str(indexing.run(config)).startswith("stopped  after ")
    changes.result()
    library = open_library(config.output)
    assert {Path(str(row["uri"])).name for _, row in library.index.metadata()} == {"b.mp4", "c.mp4"}
    assert library.words is not None
    assert [word.video_id for word in library.words.search("late words", 1)] == [
        row["video_id"] for row in read_catalog(config.output) if row["uri"].endswith("b.mp4")
    ]
    assert json.loads((tmp_path / "index" / "run.json").read_text())["runs"][-1]["error"] is None
    assert not (tmp_path / "index" / "progress.json").exists()


@pytest.mark.slow
def test_one_added_one_changed_and_one_removed_of_a_hundred(
    cluster: str, embedder: Embedder, tmp_path: Path
) -> None:
    videos = tmp_path / "videos"
    videos.mkdir()
    for i in range(100):
        write_video(videos / f"v{i:03d}.mp4", i)
    config = config_of(videos, tmp_path / "index")
    assert states(index(config))["added"] == 100
    write_video(videos / "new.mp4", 1000)
    write_video(videos / "v050.mp4", 2000)
    (videos / "v099.mp4").unlink()
    result = index(config)
    assert states(result) == {"added": 1, "changed": 1, "unchanged": 98, "rejected": 0, "removed": 1}
    assert result.segments == {"in": 100, "out": 100, "rejected": 0, "new": 2}
    library = open_library(tmp_path / "index")
    for path in sorted(videos.glob("*.mp4")):
        assert nearest(library, embedder, Item(video=str(path))) == (path.name, pytest.approx(1.0, abs=1e-5))
    for seed in (50, 99):
        assert nearest(library, embedder, Item(video=write_video(tmp_path / "gone.mp4", seed)))[1] < 0.9999


@pytest.mark.slow
def test_restart_after_a_kill_while_embedding(cluster: str, tmp_path: Path) -> None:
    import yaml

    from gve_ray.search.library import segment_store
    from gve_ray.store.runfolder import plain

    write_folder(tmp_path / "videos")
    output, path = tmp_path / "killed", tmp_path / "config.yaml"
    windows = SegmentsConfig(mode="windows", seconds=1.0, overlap=0.75)
    total = 5 * VALID
    config = config_of(tmp_path / "videos", output, segments=windows, commit_seconds=0.05)
    path.write_text(yaml.safe_dump(plain(config)))
    with drivers.driver("index", config=path, output=output, address=cluster) as process:
        deadline = time.monotonic() + DEADLINE
        while segment_store(output).count() < 3:
            assert time.monotonic() < deadline, "waited too long"
            assert process.poll() is None, log_of(output)
            time.sleep(0.005)
        process.kill()
    before = segment_store(output).count()
    assert 3 <= before < total
    assert not (output / "library.json").exists()
    with drivers.driver("index", config=path, output=output, address=cluster) as process:
        assert process.wait(DEADLINE) == 0, log_of(output)
    assert f"{total} in = {total} out + 0 rejected; {total - before} embedded now" in log_of(output)
    assert f"{VALID + BROKEN} in: {VALID} added, 0 changed, 0 unchanged, {BROKEN} rejected" in log_of(output)
    store = segment_store(output)
    assert store.count() == len(store.keys()) == total
    assert open_library(output).index.ids() == store.keys()


@pytest.mark.slow
def test_a_manifest_of_windows_with_columns_to_filter_by(
    cluster: str, embedder: Embedder, tmp_path: Path
) -> None:
    path = write_video(tmp_path / "a.mp4", 1)
    write_video(tmp_path / "b.mp4", 2)
    rows = [
        {"uri": "a.mp4", "caption": "tiles", "year": 2023, "place": "Rome"},
        {"uri": "b.mp4", "year": 2024, "place": None},
    ]
    manifest = tmp_path / "manifest.jsonl"
    manifest.write_text("".join(json.dumps(row) + "\n" for row in rows))
    spans = [(0.0, 0.75), (0.5, 1.25), (1.0, 1.75), (1.5, 2.0)]
    config = config_of(
        manifest,
        tmp_path / "index",
        segments=SegmentsConfig(mode="windows", seconds=0.75, overlap=0.25, shortest=0.3),
    )
    assert states(index(config))["added"] == 2
    library = open_library(tmp_path / "index")
    (hits,) = library.index.search(embedder.embed([Item(text="tiles")]), 20, filter={"year": 2023})
    spans_found = sorted(
        (hit.metadata["segment"], hit.metadata["start"], hit.metadata["end"]) for hit in hits
    )
    assert spans_found == [(i, *span) for i, span in enumerate(spans)]
    assert {(hit.metadata["caption"], hit.metadata["place"]) for hit in hits} == {("tiles", "Rome")}
    second = read_frames(path, k=8, start=0.5, end=1.2, max_pixels=12544, min_pixels=3136)
    (best,) = library.index.search(embedder.embed([Item(video=second)]), 1)
    assert (best[0].metadata["uri"], best[0].metadata["segment"]) == (path, 1)
    assert best[0].score == pytest.approx(1.0, abs=1e-5)

    rows[1]["year"], rows[1]["place"] = 2023, "Oslo"  # the same file with other metadata
    manifest.write_text("".join(json.dumps(row) + "\n" for row in rows))
    result = index(config)
    assert (states(result)["changed"], states(result)["unchanged"], result.segments["new"]) == (1, 1, 0)
    assert open_library(tmp_path / "index").index.count(filter={"year": 2023}) == 2 * len(spans)


@pytest.mark.slow
def test_speech_is_taken_in_when_the_endpoint_is_back(cluster: str, tmp_path: Path) -> None:
    """A run while the endpoint refuses everything, one when it answers, and one with nothing to do."""
    spoken = [(1.0, 2.0, "treasure"), (9.0, 10.0, "lantern")]
    (tmp_path / "videos").mkdir()
    write_speaking(tmp_path / "videos" / "a.mp4", 12.0, spoken)
    write_speaking(tmp_path / "videos" / "b.mp4", 12.0, [(5.0, 6.0, "island")])
    (tmp_path / "videos" / "b.srt").write_text("1\n00:00:01,000 --> 00:00:02,000\nthe parrot\n")
    answers = [lambda *_: Reply(403, b"no money left"), transcription]
    with http_endpoint(lambda number, body: answers[0](number, body)) as endpoint:
        speech = SpeechConfig(url=endpoint.url, model="whisper")
        config = config_of(
            tmp_path / "videos", tmp_path / "index", words=WordsConfig(speech=speech),
            segments=SegmentsConfig(mode="windows", seconds=4.0, overlap=0.0),
        )  # fmt: skip
        missing = index(config)
        assert (missing.not_transcribed, missing.videos["added"], missing.segments["out"]) == (1, 2, 6)
        assert "speech    missing of 1 videos" in str(missing)
        assert [match.source for match in words_of(tmp_path, "parrot")] == ["subtitles"]
        answers.pop(0)
        complete = index(config)
        assert (complete.not_transcribed, complete.segments["new"]) == (0, 0)
        asked = len(endpoint.requests)
        index(config)
        assert len(endpoint.requests) == asked
    (treasure,), (lantern,) = words_of(tmp_path, "treasure"), words_of(tmp_path, "lantern")
    assert (treasure.source, treasure.text, lantern.text) == ("speech", "treasure", "lantern")
    library = open_library(tmp_path / "index")
    starts = [library.record(str(match.segment))["start"] for match in (treasure, lantern)]
    assert starts == [0.0, 8.0]
    assert words_of(tmp_path, "island") == []  # its video has subtitles
    (row,) = Store(str(tmp_path / "index" / "speech.lance"), SPEECH_SCHEMA, key="speech").table().to_pylist()
    assert (row["model"], row["texts"], row["faults"]) == ("whisper", ["treasure", "lantern"], [])


def words_of(folder: Path, query: str) -> list[WordMatch]:
    words = open_library(folder / "index").words
    assert words is not None
    return words.search(query, 10)
