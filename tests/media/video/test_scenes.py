"""Cuts are detected in videos that have them at known frames."""

import io
from pathlib import Path

import av
import numpy as np
import pytest

from gve_ray.media import DecodeProcess, FrameRequest, Limits, decode
from gve_ray.media.video.scenes import scene_spans

FPS = 10
LENGTHS = (20, 7, 31)  # frames of each scene


def scenes_video(lengths: tuple[int, ...], codec: str = "libx264", container: str = "mp4") -> bytes:
    """Tiles that move by a pixel a frame, others in each scene."""
    out = io.BytesIO()
    rng = np.random.default_rng(5)
    with av.open(out, "w", format=container) as target:
        stream = target.add_stream(codec, rate=FPS)
        stream.width, stream.height, stream.pix_fmt = 160, 112, "yuv420p"
        for length in lengths:
            tiles = rng.integers(0, 256, (7, 10, 3), dtype=np.uint8).repeat(16, 0).repeat(16, 1)
            for i in range(length):
                target.mux(stream.encode(av.VideoFrame.from_ndarray(np.roll(tiles, i, 1), "rgb24")))
        target.mux(stream.encode())
    return out.getvalue()


@pytest.mark.parametrize("codec,container", [("libx264", "mp4"), ("mpeg4", "avi"), ("libx265", "matroska")])
def test_cuts_are_where_the_scenes_begin(codec: str, container: str) -> None:
    decoded = decode(scenes_video(LENGTHS, codec, container), [FrameRequest(k=2)], scenes=10.0)
    assert decoded.cuts == pytest.approx([2.0, 2.7], abs=1e-3)
    assert decoded.info.total_frames == sum(LENGTHS)


def test_motion_is_no_cut_and_none_are_looked_for_unasked() -> None:
    assert decode(scenes_video((40,)), [FrameRequest(k=2)], scenes=10.0).cuts == ()
    assert decode(scenes_video(LENGTHS), [FrameRequest(k=2)]).cuts == ()


def test_cuts_come_out_of_the_decoding_process(tmp_path: Path) -> None:
    path = tmp_path / "v.mp4"
    path.write_bytes(scenes_video(LENGTHS))
    with DecodeProcess(Limits()) as process:
        assert process.decode(str(path), [FrameRequest(k=2)], scenes=10.0).cuts == pytest.approx([2.0, 2.7])


@pytest.mark.parametrize("settings", [{"strict": False}, {"sampled": True}])
def test_cuts_need_every_frame(settings: dict[str, bool]) -> None:
    with pytest.raises(ValueError, match="leave strict=True and sampled=False"):
        decode(scenes_video((4,)), [FrameRequest(k=2)], **settings, scenes=10.0)


@pytest.mark.parametrize(
    "duration,cuts,shortest,longest,expected",
    [
        (9.0, [], 1, 30, [(0, 9)]),
        (9.0, [2.0, 7.0], 1, 30, [(0, 2), (2, 7), (7, 9)]),
        (9.0, [7.0, 2.0], 1, 30, [(0, 2), (2, 7), (7, 9)]),
        (9.0, [0.5, 4.0, 4.3, 8.9], 1, 30, [(0, 4), (4, 9)]),  # flashes do not count as scenes
        (9.0, [2.0], 1, 3, [(0, 2), (2, 4.333333), (4.333333, 6.666667), (6.666667, 9)]),
        (6.0, [], 1, 3, [(0, 3), (3, 6)]),
    ],
)
def test_spans_between_cuts(
    duration: float, cuts: list[float], shortest: float, longest: float, expected: list[tuple[float, float]]
) -> None:
    spans = scene_spans(duration, cuts, shortest=shortest, longest=longest)
    assert [time for span in spans for time in span] == pytest.approx(
        [time for span in expected for time in span], abs=1e-5
    )
