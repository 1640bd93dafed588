"""Tests both stage workers without Ray, on files with known frames, cuts and damage."""

import hashlib
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from gve_ray.config import ModelConfig
from gve_ray.embedder import EmbedderSettings, Embeddings
from gve_ray.embedder.embeddings import Finished, ignore
from gve_ray.indexing import embed
from gve_ray.indexing.config import PicturesConfig, ReadingConfig, SegmentsConfig
from gve_ray.indexing.embed import SegmentWorker, within_side
from gve_ray.indexing.probe import ProbeWorker
from gve_ray.indexing.segments import pending_segments
from gve_ray.media import Limits, decode_jpeg
from gve_ray.schema import Frames, Item
from gve_ray.stage import Reject
from tests.media.video.test_scenes import scenes_video
from tests.media.videos import Clip, read_number, render

SETTINGS = EmbedderSettings(frames=4, max_pixels=140 * 112, min_pixels=784)


class Recorder:
    """Records the frames it embeds; a vector contains the number of the first frame."""

    def __init__(self) -> None:
        self.embedded: list[list[int]] = []

    def refuses(self, item: Item) -> str:
        return ""

    def embed(self, items: Sequence[Item], finished: Finished = ignore) -> Embeddings:
        for item in items:
            assert isinstance(item.video, Frames)
            self.embedded.append([read_number(picture) for picture in item.video.pixels])
        first = np.array([[numbers[0], 1] for numbers in self.embedded[-len(items) :]], np.float32)
        return replace(Embeddings.empty(len(items), 2), vectors=first)

    def close(self) -> None:
        pass


@pytest.fixture
def clip(tmp_path: Path) -> str:
    """A video of 30 numbered frames at 10 frames per second."""
    path = tmp_path / "clip.mp4"
    path.write_bytes(render(Clip(frames=30)))
    return str(path)


@pytest.fixture
def model(monkeypatch: pytest.MonkeyPatch) -> Recorder:
    recorder = Recorder()
    monkeypatch.setattr(embed, "open_model", lambda *_: recorder)
    return recorder


def segment_worker() -> SegmentWorker:
    return SegmentWorker(
        ModelConfig(name="m", model="m"), SETTINGS, {}, PicturesConfig(strip_frames=3, strip=70),
        Limits(), readers=2,
    )  # fmt: skip


def test_each_window_is_embedded_from_its_frames(clip: str, model: Recorder) -> None:
    (video,) = ProbeWorker(SegmentsConfig(seconds=1.0, overlap=0.0), ReadingConfig())(
        [{"version": "v", "uri": clip}]
    )
    assert isinstance(video, dict)
    assert (video["starts"], video["ends"]) == ([0.0, 1.0, 2.0], [1.0, 2.0, 3.0])
    data = Path(clip).read_bytes()
    assert (video["fingerprint"], video["size"]) == (hashlib.sha256(data).hexdigest(), len(data))
    rows = pending_segments("id", clip, video)
    assert len({row["segment"] for row in rows}) == 3
    results = segment_worker()(rows)
    assert model.embedded == [[0, 3, 6, 9], [10, 13, 16, 19], [20, 23, 26, 29]]
    assert [row["vector"] for row in results if isinstance(row, dict)] == [[0, 1], [10, 1], [20, 1]]
    assert isinstance(results[1], dict)
    strip = decode_jpeg(results[1]["strip"])
    assert strip.shape == (56, 3 * 70, 3)
    assert read_number(decode_jpeg(results[1]["poster"])) == 16


def test_scenes_begin_at_cuts(tmp_path: Path) -> None:
    path = tmp_path / "scenes.mp4"
    path.write_bytes(scenes_video((20, 17, 31)))
    (video,) = ProbeWorker(SegmentsConfig(mode="scenes"), ReadingConfig())(
        [{"version": "v", "uri": str(path)}]
    )
    assert isinstance(video, dict)
    assert video["starts"] == pytest.approx([0.0, 2.0, 3.7])
    assert video["ends"] == pytest.approx([2.0, 3.7, 6.8])


def test_unusable_files_are_rejected_with_a_reason(tmp_path: Path, clip: str) -> None:
    whole = Path(clip).read_bytes()
    files = {"empty": b"", "not_a_video": b"words" * 99, "truncated": whole[: len(whole) // 2]}
    for name, data in files.items():
        (tmp_path / f"{name}.mp4").write_bytes(data)
    rows = [{"version": name, "uri": str(tmp_path / f"{name}.mp4")} for name in [*files, "unreadable"]]
    rows += [{"version": uri, "uri": uri} for uri in ("foo://clips/a.mp4", "/nul\0in/it.mp4")]
    results = ProbeWorker(SegmentsConfig(), ReadingConfig())(rows)
    assert [row.reason for row in results if isinstance(row, Reject)] == [*files, *["unreadable"] * 3]


def test_damage_in_the_middle_is_detected_only_by_strict_reading(tmp_path: Path) -> None:
    data = bytearray(render(Clip(frames=60, noise=20, options={"g": "10", "bf": "0"})))
    middle = len(data) // 2
    data[middle : middle + 3000] = bytes(3000)
    path = tmp_path / "damaged.mp4"
    path.write_bytes(data)
    row = [{"version": "v", "uri": str(path)}]
    (strict,) = ProbeWorker(SegmentsConfig(), ReadingConfig())(row)
    assert isinstance(strict, Reject)
    assert strict.reason == "corrupt"
    (lenient,) = ProbeWorker(SegmentsConfig(), ReadingConfig(strict=False))(row)
    assert isinstance(lenient, dict)


def test_an_unreadable_segment_does_not_affect_others(clip: str, model: Recorder) -> None:
    (video,) = ProbeWorker(SegmentsConfig(seconds=1.0, overlap=0.0), ReadingConfig())(
        [{"version": "v", "uri": clip}]
    )
    assert isinstance(video, dict)
    rows = pending_segments("id", clip, video)
    rows[1] |= {"start": 50.0, "end": 60.0}  # beyond the last frame
    results = segment_worker()(rows)
    assert [row.reason if isinstance(row, Reject) else row["vector"][0] for row in results] == [
        0,
        "no_frames",
        20,
    ]


def test_segments_of_a_file_that_has_changed_are_rejected(clip: str, model: Recorder) -> None:
    (video,) = ProbeWorker(SegmentsConfig(), ReadingConfig())([{"version": "v", "uri": clip}])
    assert isinstance(video, dict)
    Path(clip).write_bytes(render(Clip(frames=31)))
    (result,) = segment_worker()(pending_segments("id", clip, video))
    assert isinstance(result, Reject)
    assert result.reason == "changed"
    assert model.embedded == []


def test_pictures_are_reduced_but_never_enlarged() -> None:
    wide = np.zeros((50, 200, 3), np.uint8)
    assert within_side(wide, 100).shape == (25, 100, 3)
    assert within_side(wide, 400).shape == (50, 200, 3)
    assert within_side(np.zeros((1, 300, 3), np.uint8), 100).shape == (1, 100, 3)
