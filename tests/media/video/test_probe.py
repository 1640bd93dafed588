import io
import os
from fractions import Fraction

import av
import numpy as np
import pytest

from gve_ray.media import FrameRequest, Limits, decode, read_frames
from gve_ray.media.source import open_source
from gve_ray.media.video.probe import scan
from tests.media.videos import Clip, picture, read_number, render


def info_of(data: bytes):
    return scan(open_source(data, Limits()), Limits()).info


@pytest.mark.parametrize(
    "settings, container, codec",
    [
        ({}, "mp4", "h264"),
        ({"container": "mov"}, "mp4", "h264"),
        ({"container": "webm", "codec": "libvpx-vp9", "options": {"cpu-used": "8"}}, "matroska", "vp9"),
        ({"codec": "libsvtav1", "options": {"preset": "12"}}, "mp4", "av1"),
        ({"codec": "libvpx", "container": "webm", "options": {"cpu-used": "8"}}, "matroska", "vp8"),
        ({"container": "mpegts"}, "mpegts", "h264"),
    ],
)
def test_facts(make, settings, container, codec):
    info = info_of(make(frames=24, fps=12, width=168, height=140, **settings))
    assert (info.container, info.codec) == (container, codec)
    assert (info.width, info.height, info.rotation) == (168, 140, 0)
    assert info.total_frames == 24
    assert info.fps == pytest.approx(12, rel=0.01)
    assert info.duration == pytest.approx(2.0, abs=0.05)


def test_sound_that_runs_on_does_not_lengthen_the_video(make):
    info = info_of(make(frames=5, audio=True))  # half a second of pictures, one of sound
    assert info.duration == pytest.approx(0.5, abs=0.01)


def test_the_better_of_two_video_streams_is_taken_by_both_paths():
    """As av_find_best_stream judges: the stream marked as default before one that is merely first."""
    data = two_streams()
    with av.open(io.BytesIO(data)) as container:
        best = container.streams.best("video")
        assert best.index == 1
    result = decode(data, [FrameRequest(k=3)])
    assert (result.info.width, result.info.height, result.info.total_frames) == (280, 224, 20)
    assert [read_number(p) for p in result.samples[0].pixels] == [0, 10, 19]
    assert np.array_equal(read_frames(data, k=3).pixels, result.samples[0].pixels)


def two_streams() -> bytes:
    """A small stream of zeros first, a large one of numbered frames second, which is the default one."""
    out = io.BytesIO()
    with av.open(out, "w", format="mp4") as container:
        streams = []
        for width, height in ((140, 112), (280, 224)):
            stream = container.add_stream(
                "libx264", rate=10, options={"g": "5", "bf": "0", "tune": "zerolatency"}
            )
            stream.width, stream.height, stream.pix_fmt = width, height, "yuv420p"
            streams.append(stream)
        streams[0].disposition = 0
        streams[1].disposition = av.stream.Disposition.default
        for number in range(20):
            for i, stream in enumerate(streams):
                if i == 0 and number >= 10:
                    continue
                pixels = picture(number * i, stream.width, stream.height, noise=8.0 * i)
                frame = av.VideoFrame.from_ndarray(pixels, "rgb24").reformat(format="yuv420p")
                frame.pts, frame.time_base = number, Fraction(1, 10)
                container.mux(stream.encode(frame))
        for stream in streams:
            container.mux(stream.encode())
    return out.getvalue()


def test_making_an_av1_file_leaves_this_process_under_normal_scheduling() -> None:
    render(Clip(frames=4, codec="libsvtav1", options={"preset": "12"}))
    assert os.sched_getscheduler(0) == os.SCHED_OTHER
