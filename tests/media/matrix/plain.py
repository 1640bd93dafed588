"""Ordinary files: every container with the codecs it carries, pixel formats, uneven frame times, alpha."""

import io
from collections.abc import Iterator
from functools import partial
from itertools import pairwise

import numpy as np
from PIL import Image

from tests.media.matrix import isobmff
from tests.media.matrix.films import Film, render
from tests.media.matrix.judge import Answer, Case
from tests.media.matrix.pictures import draw

_ALWAYS_INTRA = {
    "prores",
    "prores-alpha",
    "mjpeg",
    "png",
    "png-alpha",
    "rawvideo",
    "huffyuv",
    "ffv1",
    "ffv1-alpha",
}

# Name of a container -> (muxer, its options, codecs).
CONTAINERS: dict[str, tuple[str, dict[str, str], str]] = {
    "mp4": (
        "mp4",
        {},
        "h264 h264-b h264-open h264-intra-refresh h264-slices h264-interlaced hevc hevc-closed hevc-p vp9 vp9-hidden "
        "av1 mpeg4 mpeg4-b mpeg2 mpeg2-b mjpeg",
    ),
    "mp4-negative-offsets": ("mp4", {"movflags": "negative_cts_offsets"}, "h264-b h264-open hevc"),
    "mp4-fragments": (
        "mp4",
        {"movflags": "frag_keyframe+delay_moov+default_base_moof"},
        "h264 h264-b h264-open hevc hevc-closed vp9 av1",
    ),
    "mov-fragments": (
        "mov",
        {"movflags": "frag_keyframe+empty_moov+default_base_moof"},
        "h264 h264-b hevc prores",
    ),
    "mp4-fragment-a-frame": (
        "mp4",
        {"movflags": "frag_every_frame+empty_moov+default_base_moof"},
        "h264 h264-b hevc",
    ),
    "mov": ("mov", {}, "h264 h264-b h264-open hevc hevc-closed prores qtrle png mjpeg mpeg4"),
    "3gp": ("3gp", {}, "h264 mpeg4"),
    "matroska": (
        "matroska",
        {},
        "h264 h264-b h264-open h264-intra-refresh h264-interlaced hevc hevc-closed hevc-p vp8 vp8-hidden vp9 "
        "vp9-hidden av1 mpeg4 mpeg4-b mpeg2 mpeg2-b mpeg1 mjpeg ffv1 prores rawvideo",
    ),
    "matroska-live": ("matroska", {"live": "1"}, "h264 h264-b hevc vp9"),
    "webm": ("webm", {}, "vp8 vp8-hidden vp9 vp9-hidden av1"),
    "ts": ("mpegts", {}, "h264 h264-b h264-open h264-interlaced hevc hevc-closed mpeg2 mpeg2-b mpeg1 mpeg4"),
    "m2ts": ("mpegts", {"mpegts_m2ts_mode": "1"}, "h264 h264-b hevc mpeg2-b"),
    "avi": ("avi", {}, "mpeg4 mpeg4-b mjpeg h264 h264-b msmpeg4 huffyuv ffv1 rawvideo"),
    "flv": ("flv", {}, "h264 h264-b flv1"),
    "ogg": ("ogg", {}, "vp8"),
    "asf": ("asf", {}, "wmv2 msmpeg4"),
    "mpeg": ("mpeg", {}, "mpeg1 mpeg2 mpeg2-b"),
    "mxf": ("mxf", {}, "mpeg2 mpeg2-b"),
    "nut": ("nut", {}, "h264-b mpeg4"),
    "ivf": ("ivf", {}, "vp8 vp9 av1"),
    "gif": ("gif", {}, "gif"),
    "apng": ("apng", {}, "apng"),
}
_PIXEL_FORMATS = {
    "h264": "yuvj420p yuv422p yuv444p yuv420p10le gray",
    "h264-b": "yuvj420p yuv420p10le",
    "hevc": "yuvj420p yuv444p yuv420p10le gray",
    "vp9": "yuv444p yuv422p",
    "av1": "yuv420p10le",
    "mjpeg": "yuvj444p yuvj422p",
    "ffv1": "yuv444p gray16le yuv420p10le bgr0",
    "prores": "yuv444p10le",
}


def film_in(container: str, codec: str, **settings: object) -> Film:
    """A film in a container of CONTAINERS. Large intra-only codecs get fewer frames."""
    muxer, options, _ = CONTAINERS[container]
    frames = 12 if codec in _ALWAYS_INTRA or codec == "gif" else 40
    film = Film(container=muxer, codec=codec, frames=frames, muxer=options)
    return film.but(**settings)


def shown(film: Film) -> tuple[Answer, ...]:
    """The right answers for a film as it was encoded.

    The file's clock is 0 where its first stream starts. ISO base media files and Matroska have a
    clock of their own, so one whose streams all start late may also be shown to start late, as
    Chromium does.
    """
    times = film.times
    steps = [after - before for before, after in pairwise(times)]
    answer = Answer(
        codes=film.codes,
        seconds=times,
        gap=float(1 / film.rate) if film.seconds is None else min(steps),
        width=round(film.width * film.sar),
        height=film.height,
    )
    zero = min(times[0], times[0] if film.sound is None else film.sound)
    answers = [answer.later(-zero)]
    if film.container in ("mp4", "mov", "matroska", "webm") and zero > 0:
        answers.append(answer)
    return tuple(answers)


def cases() -> Iterator[Case]:
    for container, (_, options, codecs) in CONTAINERS.items():
        for codec in codecs.split():
            film = film_in(container, codec)
            answers = shown(film)
            if "empty_moov" in options.get("movflags", ""):
                # No edit list takes back the delay of reordered frames, which these files start
                # with.
                answers += tuple(answer.later(2 * answer.gap) for answer in answers)
            yield Case(name=f"{container}/{codec}/plain", make=partial(render, film), answers=answers)
    for codec in ("h264-b", "hevc", "av1"):
        film = film_in("mp4", codec)
        make = partial(_index_first, film)
        yield Case(name=f"mp4/{codec}/index first", make=make, answers=shown(film))
    for codec, formats in _PIXEL_FORMATS.items():
        for pixel_format in formats.split():
            film = film_in("mov" if codec == "prores" else "matroska", codec, pixel_format=pixel_format)
            yield Case(
                name=f"matroska/{codec}/{pixel_format}", make=partial(render, film), answers=shown(film)
            )
    yield from _sizes()
    yield from _uneven()
    yield from _alpha()
    yield from _pillow()


def _index_first(film: Film) -> bytes:
    return isobmff.index_first(render(film))


def _sizes() -> Iterator[Case]:
    for container, codec in (
        ("mp4", "h264-b"),
        ("mp4", "hevc"),
        ("webm", "vp9"),
        ("matroska", "h264"),
        ("ts", "h264"),
    ):
        for width, height in ((162, 90), (98, 170), (320, 34)):
            film = film_in(container, codec, width=width, height=height)
            yield Case(
                name=f"{container}/{codec}/{width}x{height}", make=partial(render, film), answers=shown(film)
            )
    for rate in (1, 60):
        for container, codec in (("mp4", "h264-b"), ("matroska", "hevc"), ("ts", "h264-b"), ("avi", "mpeg4")):
            film = film_in(container, codec, rate=film_in(container, codec).rate * rate / 25)
            yield Case(
                name=f"{container}/{codec}/{rate} fps", make=partial(render, film), answers=shown(film)
            )


def _uneven() -> Iterator[Case]:
    """Frame times that are not evenly spaced, and a pause that is meant."""
    rng = np.random.default_rng(13)
    uneven = np.concatenate([[0], np.cumsum(rng.integers(25, 120, 38))]).tolist()
    uneven.append(uneven[-1] + 60)
    pause = [40 * i + (12_000 if i >= 20 else 0) for i in range(40)]
    for name, ticks in (("uneven", uneven), ("pause", pause)):
        for container, codec in (
            ("mp4", "h264"), ("mp4", "h264-b"), ("mp4", "hevc"), ("mp4-fragments", "h264"), ("matroska", "h264-b"),
            ("matroska", "hevc"), ("webm", "vp9"), ("ts", "h264-b"), ("flv", "h264"),
        ):  # fmt: skip
            if name == "pause" and container == "ts":
                continue  # there, a jump of the clock is a break to be closed
            film = film_in(container, codec, seconds=tuple(tick / 1000 for tick in ticks))
            yield Case(name=f"{container}/{codec}/{name}", make=partial(render, film), answers=shown(film))


def _alpha() -> Iterator[Case]:
    for container, muxer, codecs in (
        ("webm", "webm", "vp8-alpha vp9-alpha"),
        ("matroska", "matroska", "vp8-alpha vp9-alpha ffv1-alpha"),
        ("mov", "mov", "qtrle-alpha png-alpha prores-alpha"),
        ("apng", "apng", "apng-alpha"),
    ):
        for codec in codecs.split():
            film = Film(container=muxer, codec=codec, frames=12)
            answers = tuple(answer.but(sides="composited") for answer in shown(film))
            yield Case(name=f"{container}/{codec}/alpha", make=partial(render, film), answers=answers)


def _pillow() -> Iterator[Case]:
    """Animations as Pillow writes them."""
    film = Film(frames=12)
    (answer,) = shown(film)
    for kind in ("GIF", "WEBP", "PNG"):
        name = {"PNG": "apng"}.get(kind, kind.lower())
        yield Case(name=f"{name}/pillow/plain", make=partial(animation, kind, film), answers=(answer,))
        sides = "clear" if kind == "GIF" else "composited"
        yield Case(
            name=f"{name}/pillow/alpha",
            make=partial(animation, kind, film, alpha=True),
            answers=(answer.but(sides=sides),),
        )


def animation(kind: str, film: Film, *, alpha: bool = False) -> bytes:
    """The film's frames as GIF, WEBP or PNG, by Pillow."""
    frames = []
    for code in film.codes:
        pixels = draw(code, film.width, film.height, alpha=alpha)
        if alpha and kind == "GIF":
            pixels[..., 3] = np.where(pixels[..., 3] < 255, 0, 255)
        frames.append(Image.fromarray(pixels))
    out = io.BytesIO()
    settings = {"lossless": True} if kind == "WEBP" else {"disposal": 2} if kind == "GIF" else {}
    frames[0].save(
        out,
        kind,
        save_all=True,
        append_images=frames[1:],
        duration=round(1000 / film.rate),
        loop=0,
        **settings,
    )
    return out.getvalue()
