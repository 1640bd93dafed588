"""Cases about how the stored picture is displayed: eight orientations, pixels that are not square."""

from collections.abc import Iterator
from fractions import Fraction
from functools import partial

from tests.media.matrix import isobmff, matroska
from tests.media.matrix.films import Film, render
from tests.media.matrix.judge import Answer, Case
from tests.media.matrix.pictures import ORIENTATIONS
from tests.media.matrix.plain import film_in, shown

ISO_FILMS = {
    "mp4": "h264 h264-b h264-open hevc hevc-closed vp9 av1 mpeg4-b",
    "mov": "h264-b hevc prores qtrle",
    "mp4-fragments": "h264 vp9",
}
_TURNED = frozenset({"turned 90", "turned 270", "transposed", "transversed"})
_SHAPES = (Fraction(2), Fraction(1, 2), Fraction(4, 3), Fraction(64, 45))


def iso_films() -> Iterator[tuple[str, Film]]:
    """(name of the container and codec, film) of the ISO files that all changes of the index are tried on."""
    for container, codecs in ISO_FILMS.items():
        for codec in codecs.split():
            yield f"{container}/{codec}", film_in(container, codec)


def oriented(answer: Answer, name: str) -> Answer:
    """The same frames, displayed that way up."""
    if name in _TURNED:
        answer = answer.but(width=answer.height, height=answer.width)
    return answer.but(orientation=name)


def cases() -> Iterator[Case]:
    for base, film in iso_films():
        for name in ORIENTATIONS:
            answers = tuple(oriented(answer, name) for answer in shown(film))
            change = isobmff.with_orientation(name)
            yield Case(name=f"{base}/{name}", make=partial(_iso, film, change), answers=answers)
    yield from _rolls()
    yield from _shapes()


def _iso(film: Film, *changes: isobmff.Change) -> bytes:
    return isobmff.edit(render(film), *changes)


def _rolls() -> Iterator[Case]:
    """Matroska has no matrix but the pose of a projection. Roll is counter-clockwise; a yaw of 180
    degrees mirrors, as FFmpeg writes and reads it."""
    for container, codec in (("matroska", "h264"), ("matroska", "hevc"), ("webm", "vp9"), ("webm", "av1")):
        film = film_in(container, codec)
        for degrees, mirrored, name in (
            (0, False, "upright"),
            (90, False, "turned 270"),
            (-90, False, "turned 90"),
            (180, False, "turned 180"),
            (0, True, "mirrored"),
            (180, True, "flipped"),
        ):
            answers = tuple(oriented(answer, name) for answer in shown(film))
            make = partial(_matroska, film, matroska.with_roll(degrees, mirrored=mirrored))
            yield Case(name=f"{container}/{codec}/{name} by projection", make=make, answers=answers)


def _matroska(film: Film, *changes: matroska.Change) -> bytes:
    return matroska.edit(render(film), *changes)


def _shapes() -> Iterator[Case]:
    for container, codecs in (
        ("mp4", "h264-b hevc mpeg4"),
        ("mov", "h264 prores"),
        ("mp4-fragments", "h264"),
        ("matroska", "h264 hevc mpeg4"),
        ("ts", "h264-b hevc"),
        ("avi", "h264 mpeg4"),
        ("flv", "h264"),
    ):
        for codec in codecs.split():
            for shape in _SHAPES:
                film = film_in(container, codec, sar=shape)
                yield Case(
                    name=f"{container}/{codec}/pixels {_ratio(shape)}",
                    make=partial(render, film),
                    answers=shown(film),
                )
    # MPEG-2 states the shape of the picture, here 16:9, not that of a pixel.
    for container in ("ts", "mpeg", "matroska"):
        film = film_in(container, "mpeg2", width=160, height=120, sar=Fraction(4, 3))
        yield Case(name=f"{container}/mpeg2/pixels 4:3", make=partial(render, film), answers=shown(film))
    for base, film in iso_films():
        for shape in _SHAPES:
            (answer,) = shown(film.but(sar=shape))
            change = isobmff.with_pixel_shape(shape.numerator, shape.denominator)
            yield Case(
                name=f"{base}/container says pixels {_ratio(shape)}",
                make=partial(_iso, film, change),
                answers=(answer,),
            )
            turn = isobmff.with_orientation("turned 90")
            yield Case(
                name=f"{base}/turned 90, pixels {_ratio(shape)}",
                make=partial(_iso, film, change, turn),
                answers=(oriented(answer, "turned 90"),),
            )
    for codec in ("h264", "vp9", "av1"):
        film = film_in("matroska", codec)
        (answer,) = shown(film)
        for unit, size in ((0, (320, 96)), (3, (10, 3))):
            make = partial(_matroska, film, matroska.with_display_size(*size, unit))
            yield Case(
                name=f"matroska/{codec}/display size {size[0]}x{size[1]}",
                make=make,
                answers=(answer.but(width=320),),
            )


def _ratio(shape: Fraction) -> str:
    return f"{shape.numerator}:{shape.denominator}"
