"""Tests the mp4 of a moment: its pictures, their times and its sound are those of the source."""

from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest

from gve_ray.media import DecodeProcess, FrameRequest, Limits, MediaError, Reason, decode
from gve_ray.media.video.cut import Cut, cut
from tests.media.videos import Clip, media_files, picture, read_number, render, turn

LARGE = 1 << 30  # bytes
GROUPS = {"g": "30", "bf": "3"}
UNEVEN = [0, 100, 250, 300, 330, 900, 1000, 1100, 1500, 1600, 1610, 1700, 1800, 2100, 2200, 3900]
COPIED = {
    "h264": Clip(frames=90, options=GROUPS),
    "h264, open groups": Clip(
        frames=90, options={"x264-params": "bframes=5:b-pyramid=normal:open-gop=1:keyint=20:b-adapt=0"}
    ),
    "h265": Clip(frames=90, codec="libx265", options={"x265-params": "keyint=20:bframes=4:log-level=error"}),
    "av1": Clip(frames=90, codec="libsvtav1", options={"g": "20"}),
    "h264 in matroska": Clip(frames=90, container="matroska", options=GROUPS),
    "vp9 in matroska": Clip(frames=90, container="matroska", codec="libvpx-vp9", options={"g": "20"}),
    "h264 in a transport stream": Clip(frames=90, container="mpegts", options=GROUPS),
    "h264 in flv": Clip(frames=90, container="flv", options=GROUPS),
    "mpeg4 in avi": Clip(frames=90, container="avi", codec="mpeg4", options={"g": "20", "bf": "2"}),
    "uneven times": Clip(frames=len(UNEVEN), ticks=UNEVEN, options={"bf": "3"}),
    "late": Clip(ticks=range(1000, 4000, 100)),
}
ENCODED = {
    "gif": Clip(container="gif", codec="gif", pix_fmt="rgb8"),
    "vp8": Clip(frames=60, container="webm", codec="libvpx", options={"g": "20"}),
    "prores, odd sides": Clip(
        container="mov", codec="prores_ks", pix_fmt="yuv422p10le", width=141, height=113
    ),
}
CODECS = {
    "h265": "hevc", "av1": "libdav1d", "vp9 in matroska": "vp9", "mpeg4 in avi": "mpeg4",
}  # fmt: skip


def every_frame(path: Path) -> tuple[list[tuple[int, float]], float]:
    """Return number and time of each frame, as the strict engine decodes them, and the time of the end."""
    plan = lambda info: [FrameRequest(k=info.total_frames)]  # noqa: E731
    decoded = decode(path, plan, max_pixels=10**6, min_pixels=1)
    (frames,) = decoded.samples
    numbers = [read_number(pixels) for pixels in frames.pixels]
    return list(zip(numbers, frames.timestamps.tolist(), strict=True)), decoded.info.end


@pytest.mark.parametrize("name", [*COPIED, *ENCODED])
def test_the_pictures_of_the_moment_are_shown_at_their_times(name: str, tmp_path: Path) -> None:
    """It begins with the picture that is on screen at the start, and has those that begin before the end."""
    source, target = tmp_path / "source", tmp_path / "moment.mp4"
    source.write_bytes(render((COPIED | ENCODED)[name]))
    frames, last = every_frame(source)
    for start, end in ((0.0, 1.7), (1.0, 1.5), (1.234, 2.0), (1.45, 1.95), (last - 0.35, last), (0.0, last)):
        made = cut(source, str(target), start, end, LARGE, limits=Limits())
        first = max((time for _, time in frames if time <= start + 0.001), default=frames[0][1])
        expected = [(number, time - first) for number, time in frames if first <= time < end - 0.001]
        assert made == Cut(
            start=pytest.approx(first, abs=1e-6), end=pytest.approx(end, abs=1e-3), sound="none"
        )
        with av.open(str(target)) as container:
            stream = container.streams.video[0]
            shown = [
                (read_number(frame.to_ndarray(format="rgb24")), frame.time)
                for frame in container.decode(stream)
            ]
            assert container.duration / 1e6 == pytest.approx(end - first, abs=0.002)
            codec = "h264" if name in ENCODED else CODECS.get(name, "h264")
            assert stream.codec_context.name == codec
        assert [number for number, _ in shown] == [number for number, _ in expected]
        assert [time for _, time in shown] == pytest.approx([time for _, time in expected], abs=0.0011)


def noise(rate: int, seconds: int) -> np.ndarray:
    """int16 [n], different at every moment."""
    return np.random.default_rng(1).integers(-8000, 8000, rate * seconds).astype(np.int16)


def film_with_sound(path: Path, container: str, codec: str, sound: str, rate: int = 8000) -> np.ndarray:
    """Write 4 s with a picture every 0.1 s, and return the sound, int16 [n]."""
    samples = noise(rate, 4)
    with av.open(str(path), "w", format=container) as out:
        video = out.add_stream(codec, rate=10, width=140, height=112, options={"g": "20"})
        audio = out.add_stream(sound, rate=rate, layout="mono")
        for number, part in enumerate(np.split(samples, 40)):
            frame = av.VideoFrame.from_ndarray(picture(number, 140, 112), format="rgb24")
            frame.pts, frame.time_base = number, Fraction(1, 10)
            out.mux(video.encode(frame))
            heard = av.AudioFrame.from_ndarray(part[None], format="s16", layout="mono")
            heard.sample_rate, heard.pts, heard.time_base = rate, number * len(part), Fraction(1, rate)
            out.mux(audio.encode(heard))
        out.mux(video.encode())
        out.mux(audio.encode())
    return samples


@pytest.mark.parametrize(
    "container,codec", [("matroska", "libx264"), ("mov", "libx264"), ("matroska", "libvpx")]
)
def test_the_sound_of_the_moment_is_kept(container: str, codec: str, tmp_path: Path) -> None:
    """Sample by sample, with pictures that are copied or encoded."""
    source, target = tmp_path / "source", tmp_path / "moment.mp4"
    samples = film_with_sound(source, container, codec, "flac" if container == "matroska" else "pcm_s16le")
    for start, end in ((0.0, 1.5), (2.45, 3.3)):
        made = cut(source, str(target), start, end, LARGE, limits=Limits())
        assert made.sound == "copied"
        with av.open(str(target)) as moment:
            frames = list(moment.decode(audio=0))
        heard = np.concatenate([frame.to_ndarray().ravel() for frame in frames])
        assert frames[0].time == 0
        first = round(made.start * 8000)
        count = round((made.end - made.start) * 8000)
        assert len(heard) >= count
        assert (heard[:count] == samples[first : first + count]).all()


@pytest.mark.parametrize("path", media_files(), ids=lambda path: path.name)
def test_real_files_keep_every_pixel(path: Path, tmp_path: Path) -> None:
    plan = lambda info: [FrameRequest(k=info.total_frames)]  # noqa: E731
    source, target = decode(path, plan), tmp_path / "moment.mp4"
    third = source.info.duration / 3
    start, end = source.info.start + third, source.info.start + 2 * third
    made = cut(path, str(target), start, end, LARGE, limits=Limits())
    (moment,), (film,) = decode(target, plan).samples, source.samples
    is_inside = (film.timestamps >= made.start - 1e-6) & (film.timestamps < made.end - 1e-3)
    assert len(moment.timestamps) < len(film.timestamps)
    assert moment.timestamps == pytest.approx(film.timestamps[is_inside] - made.start, abs=0.0011)
    assert (moment.pixels == film.pixels[is_inside]).all()


def test_sound_that_mp4_cannot_hold_is_left_out(tmp_path: Path) -> None:
    source, target = tmp_path / "source", tmp_path / "moment.mp4"
    film_with_sound(source, "avi", "mpeg4", "adpcm_ms")
    assert cut(source, str(target), 1.0, 2.0, LARGE, limits=Limits()).sound == "left out"
    with av.open(str(target)) as moment:
        assert [stream.type for stream in moment.streams] == ["video"]


def test_what_cannot_be_cut_is_refused(tmp_path: Path) -> None:
    source, target = tmp_path / "source", tmp_path / "moment.mp4"
    source.write_bytes(render(Clip()))
    with DecodeProcess(Limits(), reads_uris=False) as process:
        assert process.cut(source, target, 1.0, 2.0, most=LARGE) == Cut(start=1.0, end=2.0, sound="none")

        def reason(start: float, end: float, most: int = LARGE) -> Reason:
            with pytest.raises(MediaError) as caught:
                process.cut(source, target, start, end, most=most)
            return Reason(caught.value.reason)

        assert reason(0.0, 3.0, most=500) == Reason.TOO_LARGE
        source.write_bytes(render(Clip(ticks=range(1000, 4000, 100))))
        assert reason(0.0, 0.9) == Reason.TOO_FEW_FRAMES  # before the first picture
        source.write_bytes(render(Clip(container="avi", options=GROUPS)))
        assert reason(1.0, 2.0) == Reason.CORRUPT  # no times, and the pictures are reordered
        source.write_bytes(b"words")
        assert reason(1.0, 2.0) == Reason.CORRUPT


@pytest.mark.parametrize("clip", [Clip(), Clip(container="mov", codec="prores_ks", pix_fmt="yuv422p10le")])
def test_a_turned_picture_stays_turned(clip: Clip, tmp_path: Path) -> None:
    source, target = tmp_path / "source", tmp_path / "moment.mp4"
    source.write_bytes(turn(render(clip), 90))
    cut(source, str(target), 1.0, 2.0, LARGE, limits=Limits())
    moment = decode(target, [FrameRequest(k=2)]).samples[0].pixels[0]
    expected = np.rot90(picture(10, clip.width, clip.height), -1)
    assert moment.shape == expected.shape
    assert np.abs(moment.astype(int) - expected).mean() < 8


@pytest.mark.parametrize("codec", ["libx264", "prores_ks"])
def test_pixels_that_are_not_square_keep_their_shape(codec: str, tmp_path: Path) -> None:
    source, target = tmp_path / "source", tmp_path / "moment.mp4"
    with av.open(str(source), "w", format="mov") as out:
        stream = out.add_stream(codec, rate=10, width=140, height=112)
        stream.codec_context.sample_aspect_ratio = Fraction(2, 1)
        stream.pix_fmt = "yuv420p" if codec == "libx264" else "yuv422p10le"
        for number in range(20):
            out.mux(stream.encode(av.VideoFrame.from_ndarray(picture(number, 140, 112), format="rgb24")))
        out.mux(stream.encode())
    source.write_bytes(turn(source.read_bytes(), 90))
    cut(source, str(target), 0.0, 1.0, LARGE, limits=Limits())
    info = decode(target, [FrameRequest(k=2)]).info
    assert info.height / info.width == pytest.approx(280 / 112)


def test_a_moment_of_a_moment(tmp_path: Path) -> None:
    """The source then has pictures that its edit list hides."""
    source, once, twice = (tmp_path / name for name in ("source", "once.mp4", "twice.mp4"))
    source.write_bytes(render(Clip(frames=60, options=GROUPS)))
    cut(source, str(once), 1.5, 4.0, LARGE, limits=Limits())
    cut(once, str(twice), 0.0, 1.0, LARGE, limits=Limits())
    assert [number for number, _ in every_frame(twice)[0]] == list(range(15, 25))
    cut(once, str(twice), 1.5, 2.5, LARGE, limits=Limits())
    assert [number for number, _ in every_frame(twice)[0]] == list(range(30, 40))
