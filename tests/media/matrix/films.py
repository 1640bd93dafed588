"""Encode short films with PyAV. Each frame shows its number, and each run gives the same bytes."""

import io
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from fractions import Fraction

import av
import numpy as np

from tests.media.matrix.pictures import draw
from tests.media.videos import scheduling_kept

X265 = "log-level=none:pools=none:frame-threads=1"

# Codec by the name that cases use: (encoder, options, pixel format).
CODECS: dict[str, tuple[str, dict[str, str], str]] = {
    "h264": ("libx264", {"g": "10", "bf": "0", "preset": "veryfast"}, "yuv420p"),
    "h264-b": ("libx264", {"g": "12", "bf": "2", "preset": "veryfast"}, "yuv420p"),
    "h264-open": (
        "libx264",
        {"x264-params": "open-gop=1:keyint=8:min-keyint=4:bframes=3:b-pyramid=normal:b-adapt=0"},
        "yuv420p",
    ),
    "h264-intra-refresh": ("libx264", {"x264-params": "intra-refresh=1:keyint=12:bframes=0"}, "yuv420p"),
    "h264-slices": ("libx264", {"g": "10", "bf": "0", "slices": "3", "preset": "veryfast"}, "yuv420p"),
    "h264-interlaced": ("libx264", {"g": "10", "x264-params": "tff=1"}, "yuv420p"),
    "hevc": ("libx265", {"x265-params": f"{X265}:keyint=10:min-keyint=10:bframes=3"}, "yuv420p"),
    "hevc-closed": (
        "libx265",
        {"x265-params": f"{X265}:keyint=10:min-keyint=10:bframes=3:open-gop=0"},
        "yuv420p",
    ),
    "hevc-p": ("libx265", {"x265-params": f"{X265}:keyint=10:min-keyint=10:bframes=0"}, "yuv420p"),
    "hevc-p-closed": (
        "libx265",
        {"x265-params": f"{X265}:keyint=10:min-keyint=10:bframes=0:open-gop=0"},
        "yuv420p",
    ),
    "vp8": ("libvpx", {"g": "10", "deadline": "realtime", "cpu-used": "8"}, "yuv420p"),
    "vp8-hidden": ("libvpx", {"g": "20", "auto-alt-ref": "1", "lag-in-frames": "12"}, "yuv420p"),
    "vp9": ("libvpx-vp9", {"g": "10", "deadline": "realtime", "cpu-used": "8"}, "yuv420p"),
    "vp9-hidden": ("libvpx-vp9", {"g": "20", "auto-alt-ref": "1", "lag-in-frames": "12"}, "yuv420p"),
    "av1": ("libsvtav1", {"preset": "8", "crf": "20", "g": "10", "svtav1-params": "lp=1"}, "yuv420p"),
    "mpeg4": ("mpeg4", {"g": "10", "b": "400k"}, "yuv420p"),
    "mpeg4-b": ("mpeg4", {"g": "10", "bf": "2", "b": "400k"}, "yuv420p"),
    "mpeg2": ("mpeg2video", {"g": "10", "b": "600k"}, "yuv420p"),
    "mpeg2-b": ("mpeg2video", {"g": "12", "bf": "2", "b": "600k"}, "yuv420p"),
    "mpeg1": ("mpeg1video", {"g": "10", "b": "600k"}, "yuv420p"),
    "mjpeg": ("mjpeg", {"q:v": "5"}, "yuvj420p"),
    "prores": ("prores_ks", {"profile": "proxy", "vendor": "apl0"}, "yuv422p10le"),
    "prores-alpha": ("prores_ks", {"profile": "4444"}, "yuva444p10le"),
    "qtrle": ("qtrle", {"g": "10"}, "rgb24"),
    "qtrle-alpha": ("qtrle", {"g": "10"}, "argb"),
    "png": ("png", {}, "rgb24"),
    "png-alpha": ("png", {}, "rgba"),
    "ffv1": ("ffv1", {"level": "3", "slicecrc": "1"}, "yuv420p"),
    "ffv1-alpha": ("ffv1", {"level": "3"}, "yuva420p"),
    "vp8-alpha": ("libvpx", {"g": "10", "auto-alt-ref": "0", "deadline": "realtime"}, "yuva420p"),
    "vp9-alpha": ("libvpx-vp9", {"g": "10", "auto-alt-ref": "0", "deadline": "realtime"}, "yuva420p"),
    "wmv2": ("wmv2", {"g": "10", "b": "400k"}, "yuv420p"),
    "msmpeg4": ("msmpeg4v3", {"g": "10", "b": "400k"}, "yuv420p"),
    "flv1": ("flv", {"g": "10", "b": "400k"}, "yuv420p"),
    "huffyuv": ("huffyuv", {}, "yuv422p"),
    "rawvideo": ("rawvideo", {}, "yuv420p"),
    "gif": ("gif", {}, "rgb8"),
    "apng": ("apng", {}, "rgb24"),
    "apng-alpha": ("apng", {}, "rgba"),
}

# Container -> (sound encoder, samples a second). Where a container allows, the encoder has no
# delay, so that the first sample is exactly at the start that the film asks for; AC-3 in transport
# streams starts 5 ms earlier.
_SOUND: dict[str, tuple[str, int]] = {
    "mp4": ("aac", 48000),
    "mov": ("alac", 48000),
    "matroska": ("flac", 48000),
    "webm": ("libopus", 48000),
    "ogg": ("libopus", 48000),
    "mpegts": ("ac3", 48000),
    "asf": ("ac3", 48000),
    "mpeg": ("mp2", 48000),
    "flv": ("pcm_s16le", 11025),
    "nut": ("pcm_s16le", 8000),
}


@dataclass(frozen=True, kw_only=True)
class Film:
    """What to encode.

    container: FFmpeg's muxer. codec: a key of CODECS. rate: frames a second. start, sound: seconds
    at which the picture and the sound begin; sound=None has none. seconds: start of each frame,
    where they are not spaced evenly. first: code of the first frame. sar: shape of a pixel.
    encoder, muxer: further options.
    """

    container: str = "mp4"
    codec: str = "h264"
    frames: int = 40
    rate: Fraction = Fraction(25)
    width: int = 160
    height: int = 96
    start: float = 0.0
    sound: float | None = None
    seconds: tuple[float, ...] | None = None
    first: int = 0
    sar: Fraction = Fraction(1)
    pixel_format: str = ""
    noise: float = 0.0
    encoder: dict[str, str] = field(default_factory=dict)
    muxer: dict[str, str] = field(default_factory=dict)

    @property
    def times(self) -> tuple[float, ...]:
        """Seconds at which each frame starts, as given to the muxer."""
        return tuple(
            self.start + (float(i / self.rate) if self.seconds is None else self.seconds[i])
            for i in range(self.frames)
        )

    @property
    def codes(self) -> tuple[int, ...]:
        return tuple(range(self.first, self.first + self.frames))

    @property
    def has_alpha(self) -> bool:
        return "alpha" in self.codec

    def but(self, **settings: object) -> "Film":
        return replace(self, **settings)  # type: ignore[arg-type]


_rendered: dict[str, bytes] = {}


def render(film: Film) -> bytes:
    """The file. Rendered once per process."""
    key = repr(film)
    if key not in _rendered:
        _rendered[key] = _encode(film)
    return _rendered[key]


def _encode(film: Film) -> bytes:
    encoder, options, pixel_format = CODECS[film.codec]
    pixel_format = film.pixel_format or pixel_format
    out = io.BytesIO()
    muxer = {"fflags": "+bitexact"} | film.muxer
    with scheduling_kept(), av.open(out, "w", format=film.container, container_options=muxer) as container:
        stream = container.add_stream(encoder, rate=film.rate, options=options | film.encoder)
        stream.width, stream.height, stream.pix_fmt = film.width, film.height, pixel_format
        context = stream.codec_context
        context.thread_count = 1
        tick = 1 / film.rate if film.seconds is None else Fraction(1, 1000)
        context.time_base = tick
        if film.sar != 1:
            context.sample_aspect_ratio = film.sar
        packets = []
        for code, second in zip(film.codes, film.times, strict=True):
            rgb = draw(code, film.width, film.height, alpha=film.has_alpha, noise=film.noise)
            frame = av.VideoFrame.from_ndarray(rgb, "rgba" if film.has_alpha else "rgb24")
            frame = frame.reformat(format=pixel_format)
            frame.pts, frame.time_base = round(second / tick), tick
            packets += stream.encode(frame)
        packets += stream.encode()
        if film.sound is not None:
            packets += _silence(container, film)
        for packet in sorted(packets, key=lambda packet: packet.dts * packet.time_base):
            container.mux(packet)
    return out.getvalue()


def _silence(container: av.container.OutputContainer, film: Film) -> list[av.Packet]:
    """Sound from `film.sound` to the end of the picture."""
    assert film.sound is not None
    encoder, rate = _SOUND[film.container]
    stream = container.add_stream(encoder, rate=rate, layout="mono")
    layout = stream.codec_context.format.name
    length = max(1, round((film.times[-1] + float(1 / film.rate) - film.sound) * rate))
    dtype = {"flt": np.float32, "s32": np.int32, "s16": np.int16}[layout[:3]]
    frame = av.AudioFrame.from_ndarray(np.zeros((1, length), dtype), layout, "mono")
    frame.sample_rate, frame.time_base = rate, Fraction(1, rate)
    frame.pts = round(film.sound * rate)
    return [*stream.encode(frame), *stream.encode()]


def remux(
    data: bytes,
    container: str,
    *,
    change: Callable[[int, bytes], bytes] | None = None,
    shift: float = 0.0,
    muxer: dict[str, str] | None = None,
) -> bytes:
    """The video stream copied packet by packet. change: (number of the packet, its bytes) -> new
    bytes. shift: seconds added to all timestamps."""
    out = io.BytesIO()
    options = {"fflags": "+bitexact"} | (muxer or {})
    with (
        av.open(io.BytesIO(data)) as source,
        av.open(out, "w", format=container, container_options=options) as target,
    ):
        stream = source.streams.video[0]
        copy = target.add_stream_from_template(stream)
        number = 0
        for packet in source.demux(stream):
            if packet.size == 0:
                continue
            if change is not None:
                changed = av.Packet(change(number, bytes(packet)))
                changed.pts, changed.dts, changed.duration = packet.pts, packet.dts, packet.duration
                changed.time_base, changed.is_keyframe = packet.time_base, packet.is_keyframe
                packet = changed
            number += 1
            ticks = round(shift / packet.time_base)
            packet.pts, packet.dts = packet.pts + ticks, packet.dts + ticks
            packet.stream = copy
            target.mux(packet)
    return out.getvalue()
