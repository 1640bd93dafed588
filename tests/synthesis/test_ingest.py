"""What is taken from each video: where, how long, always the same; and what a bad file becomes."""

import sys
from dataclasses import replace
from functools import partial
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from gve_ray.demo.render import encode_mp4
from gve_ray.media import VideoInfo, decode, decode_jpeg, read_frames, uniform_indices
from gve_ray.media.video.sparse import read_sparse
from gve_ray.stage import Reject
from gve_ray.synthesis.config import CaptionerConfig, MediaConfig, SynthesisConfig
from gve_ray.synthesis.ingest import (
    INGEST_SCHEMA,
    IngestWorker,
    asset_row,
    clip_spans,
    ingest_fingerprint,
    reference_moments,
    sampling_plan,
    seeded,
)
from tests.media.videos import Clip, flip_bits, media_files, render

MEDIA = MediaConfig(max_pixels=112 * 112, min_pixels=4 * 28 * 28)


def info(duration: float, fps: float = 10.0) -> VideoInfo:
    total = round(duration * fps)
    return VideoInfo(
        container="mp4", codec="h264", width=112, height=112, fps=fps, duration=duration, total_frames=total
    )


@pytest.mark.parametrize("duration", [1.2, 2.0, 4.0, 60.0])
def test_reference_frames_lie_off_the_uniform_grid(duration: float) -> None:
    video = info(duration)
    grid = set(uniform_indices(video.total_frames, 8).tolist())
    for seed in range(50):
        moments = reference_moments(video, MEDIA, seeded(seed, "v", "reference frames"))
        indices = [int(moment * video.fps) for moment in moments]
        assert len(set(indices)) == 2
        assert indices == sorted(indices)
        assert not grid & set(indices)


def test_a_video_with_all_its_frames_on_the_grid_still_gives_one() -> None:
    (moment,) = reference_moments(info(0.8), MEDIA, seeded(1, "v", "reference frames"))
    assert 0 <= moment < 0.8
    assert len(reference_moments(info(0.9), MEDIA, seeded(1, "v", "x"))) == 1  # one frame lies off it
    none = MediaConfig(reference_frames=0)
    assert reference_moments(info(4.0), none, seeded(1, "v", "x")) == ()


@pytest.mark.parametrize(
    ("duration", "count"), [(1.0, 0), (2.6, 0), (2.7, 1), (4.0, 1), (5.3, 1), (5.4, 2), (60.0, 2)]
)
def test_clips_are_2_to_10_seconds_and_shorter_than_their_video(duration: float, count: int) -> None:
    for seed in range(200):
        spans = clip_spans(duration, MEDIA, seeded(seed, "v", "clips"))
        assert len(spans) == count
        for start, end in spans:
            assert 2.0 - 1e-9 <= end - start <= 10.0
            assert end - start <= 0.75 * duration + 1e-9
            assert 0.0 <= start < end <= duration + 1e-9
        assert all(a[1] <= b[0] for a, b in pairwise(spans))


def test_clip_lengths_and_places_vary() -> None:
    spans = [clip_spans(60.0, MEDIA, seeded(seed, "v", "clips"))[0] for seed in range(200)]
    lengths = [end - start for start, end in spans]
    assert min(lengths) < 3
    assert max(lengths) > 9
    assert np.std([start for start, _ in spans]) > 3


def test_choices_depend_on_seed_and_video_and_nothing_else() -> None:
    result = sampling_plan(info(9.0), video_id="a", media=MEDIA, seed=1)
    assert result == sampling_plan(info(9.0), video_id="a", media=MEDIA, seed=1)
    assert result != sampling_plan(info(9.0), video_id="b", media=MEDIA, seed=1)
    assert result != sampling_plan(info(9.0), video_id="a", media=MEDIA, seed=2)
    assert [request.k for request in result] == [8, None, 8, 8]


def test_the_store_is_named_by_what_decides_its_rows() -> None:
    assert ingest_fingerprint(MEDIA, 1) == ingest_fingerprint(
        MediaConfig(max_pixels=12544, min_pixels=3136), 1
    )
    assert ingest_fingerprint(MEDIA, 1) != ingest_fingerprint(MEDIA, 2)
    assert ingest_fingerprint(MEDIA, 1) != ingest_fingerprint(MediaConfig(), 1)
    assert ingest_fingerprint(MEDIA, 1) != ingest_fingerprint(replace(MEDIA, check="sampled"), 1)


def test_a_full_check_keeps_the_identity_that_runs_had_before_there_was_another() -> None:
    assert ingest_fingerprint(MEDIA, 1) == "a2103f1b306622bfec0b138a895a63b5839dba3b721974a1fd7433cd3254a2ba"
    runs = {
        check: SynthesisConfig(
            input="in",
            output="out",
            captioner=CaptionerConfig(model="m"),
            media=replace(MEDIA, check=check),
        ).identity()
        for check in ("full", "sampled")
    }
    assert "check" not in runs["full"]["media"]
    assert runs["sampled"]["media"] == runs["full"]["media"] | {"check": "sampled"}


@pytest.fixture(scope="module")
def mp4(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """6 s at 10 frames a second; frame i is grey 4 * i."""
    path = tmp_path_factory.mktemp("v") / "ramp.mp4"
    pictures = (np.full((96, 160, 3), 4 * i, dtype=np.uint8) for i in range(60))
    encode_mp4(path, pictures, fps=10, width=160, height=96, crf=10)
    return path


def test_a_row_holds_the_frames_it_says(mp4: Path) -> None:
    worker = IngestWorker(MEDIA, seed=3)
    (row,) = worker([{"video_id": "v", "uri": str(mp4)}])
    assert isinstance(row, dict)
    pa.Table.from_pylist([row], schema=INGEST_SCHEMA)
    assert (row["width"], row["height"], row["total_frames"], row["codec"]) == (160, 96, 60, "h264")
    assert row["duration"] == pytest.approx(6.0)
    assert row["indices"] == uniform_indices(60, 8).tolist()

    def numbers(jpegs: list[bytes]) -> list[int]:
        return [round(float(decode_jpeg(jpeg).mean()) / 4) for jpeg in jpegs]

    assert numbers(row["frames"]) == pytest.approx(row["indices"], abs=1)
    shown = [round(second * 10) for second in row["reference_timestamps"]]
    assert numbers(row["reference_frames"]) == pytest.approx(shown, abs=1)
    assert not set(shown) & set(row["indices"])
    assert len(row["clips"]) == 2
    for clip in row["clips"]:
        assert numbers(clip["frames"]) == pytest.approx(clip["indices"], abs=1)
        assert clip["start"] - 1e-6 <= clip["timestamps"][0]
        assert clip["timestamps"][-1] <= clip["end"] + 1e-6
    frames = read_frames(str(mp4), k=8, max_pixels=112 * 112, min_pixels=4 * 28 * 28)
    assert decode_jpeg(row["frames"][0]).shape == frames.pixels.shape[1:]
    assert row["motion"] < 0.07  # a ramp of brightness is a fade, not motion
    assert [row] == worker([{"video_id": "v", "uri": str(mp4)}])


def test_bad_files_become_rejects_and_the_good_ones_beside_them_rows(mp4: Path, tmp_path: Path) -> None:
    (tmp_path / "empty.mp4").touch()
    (tmp_path / "text.mp4").write_text("not a video at all\n" * 100)
    (tmp_path / "cut.mp4").write_bytes(mp4.read_bytes()[: mp4.stat().st_size // 2])
    names = ["empty.mp4", "text.mp4", "cut.mp4", "missing.mp4"]
    rows = [{"video_id": name, "uri": str(tmp_path / name)} for name in names]
    *bad, good = IngestWorker(MEDIA, seed=3)([*rows, {"video_id": "v", "uri": str(mp4)}])
    assert isinstance(good, dict)
    assert all(isinstance(result, Reject) for result in bad)
    reasons = [result.reason for result in bad if isinstance(result, Reject)]
    assert (reasons[0], reasons[1], reasons[3]) == ("empty", "not_a_video", "unreadable")
    assert reasons[2] in ("truncated", "corrupt", "not_a_video")


X265 = {"x265-params": "log-level=none:pools=none:frame-threads=1:keyint=20:bframes=4"}
FORMATS = {
    "h264": Clip(frames=90, options={"g": "20"}),
    "h264, one group": Clip(frames=90, options={"bf": "5", "x264-params": "b-pyramid=normal"}),
    "h264, open groups": Clip(frames=90, options={"x264-params": "open-gop=1:keyint=8:min-keyint=4"}),
    "h264, Matroska": Clip(frames=90, container="matroska", options={"g": "20"}),
    "h265": Clip(frames=90, codec="libx265", options=X265),
    "vp9": Clip(frames=90, codec="libvpx-vp9", container="webm", options={"cpu-used": "8", "g": "20"}),
    "vp8": Clip(frames=90, codec="libvpx", container="webm", options={"cpu-used": "8", "g": "20"}),
    "av1": Clip(frames=90, codec="libsvtav1", options={"preset": "12", "g": "20"}),
    "mpeg4": Clip(frames=90, codec="mpeg4", options={"bf": "2", "g": "20"}),
    "transport stream": Clip(frames=90, container="mpegts"),
    "gif": Clip(frames=90, codec="gif", container="gif", pix_fmt="rgb8"),
}
READ_FROM_THE_START = {"transport stream", "gif", "vp8", "mpeg4"}


def rows_by_check(source: str | bytes) -> list[dict[str, object]]:
    """The row of a video with a full and with a sampled check."""
    rows = []
    for sampled in (False, True):
        plan = partial(sampling_plan, video_id="v", media=MEDIA, seed=3)
        decoded = decode(source, plan, sampled=sampled, max_pixels=MEDIA.max_pixels)
        rows.append(asset_row("v", "uri", decoded, media=MEDIA, seed=3))
    return rows


@pytest.mark.parametrize("name", FORMATS)
def test_both_checks_store_the_same_row(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    sparse: list[bool] = []

    def recorded(*arguments: Any) -> object:
        frames = read_sparse(*arguments)
        sparse.append(frames is not None)
        return frames

    # The package's attribute of that name is the function.
    monkeypatch.setattr(sys.modules["gve_ray.media.decode"], "read_sparse", recorded)
    full, sampled = rows_by_check(render(FORMATS[name]))
    assert full == sampled
    assert len(full["clips"]) == 2
    assert sparse == [name not in READ_FROM_THE_START]


@pytest.mark.parametrize("path", media_files(), ids=lambda path: path.name)
def test_both_checks_store_the_same_row_of_a_real_file(path: Path) -> None:
    full, sampled = rows_by_check(str(path))
    assert full == sampled


def test_a_sampled_check_accepts_damage_where_nothing_is_stored(tmp_path: Path) -> None:
    groups = {"g": "10", "keyint_min": "10", "bf": "0", "sc_threshold": "0"}
    path = tmp_path / "v.mp4"
    path.write_bytes(flip_bits(render(Clip(frames=60, options=groups)), number=30, skip=8))
    media = MediaConfig(frames=2, reference_frames=0, clips=0)
    results = {}
    for check in ("full", "sampled"):
        worker = IngestWorker(replace(media, check=check), seed=1)
        (results[check],) = worker([{"video_id": "v", "uri": str(path)}])
    assert isinstance(results["full"], Reject)
    assert results["full"].reason == "corrupt"
    assert results["sampled"]["indices"] == [0, 59]
