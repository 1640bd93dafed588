"""Cases about time: edit lists, pictures that start late, files that start anywhere, clocks that jump."""

from collections.abc import Iterator
from functools import partial

from tests.media.matrix import isobmff
from tests.media.matrix.films import Film, render
from tests.media.matrix.judge import Answer, Case
from tests.media.matrix.plain import film_in, shown

HOUR = 3600.0
_WRAP = 2**33 / 90_000  # seconds after which the clock of a transport stream starts again
_EDITED = (
    ("mp4", "h264"), ("mp4", "h264-b"), ("mp4", "h264-open"), ("mp4", "hevc"), ("mp4", "hevc-closed"), ("mp4", "av1"),
    ("mp4", "mpeg4-b"), ("mp4-negative-offsets", "h264-b"), ("mov", "h264-b"), ("mov", "hevc"), ("mov", "prores"),
)  # fmt: skip


def cases() -> Iterator[Case]:
    yield from _edit_lists()
    yield from _late_pictures()
    yield from _late_files()
    yield from _early_pictures()
    yield from _shifted_fragments()
    yield from _negative_starts()
    yield from _jumps()
    yield from _wraps()


def _edit_lists() -> Iterator[Case]:
    for container, codec in _EDITED:
        film = film_in(container, codec, frames=40, sound=0.0)
        (answer,) = shown(film)
        for name, edits, answers in (
            ("all of it", [(0.0, 1.6)], [answer]),
            ("late", [(None, 3.0), (0.0, 1.6)], [answer.later(3.0)]),
            # Frames 12 and 24 begin groups in some films and not in others.
            ("from frame 12", [(0.48, 1.12)], [answer.part(range(12, 40))]),
            ("from frame 17", [(0.68, 0.92)], [answer.part(range(17, 40))]),
            ("up to frame 29", [(0.0, 1.2)], [answer.part(range(30))]),
            ("frames 12 to 29", [(0.48, 0.72)], [answer.part(range(12, 30))]),
            ("late from frame 12", [(None, 3.0), (0.48, 1.12)], [answer.part(range(12, 40), start=3.0)]),
            ("late, frames 17 to 29", [(None, 0.5), (0.68, 0.52)], [answer.part(range(17, 30), start=0.5)]),
        ):
            make = partial(_edited, film, isobmff.with_edits(*edits))
            yield Case(name=f"{container}/{codec}/edit list: {name}", make=make, answers=tuple(answers))
        make = partial(_edited, film, isobmff.without_edits)
        # Reordered frames start with their delay where nothing takes it back: one frame with
        # MPEG-4's decoder.
        delayed = answer.later((1 if codec == "mpeg4-b" else 2) * answer.gap)
        yield Case(name=f"{container}/{codec}/edit list: none", make=make, answers=(answer, delayed))
    # Two pieces of the film, one after the other. Where frames are reordered across the cut, what a
    # player shows around it depends on the player, so these films have no reordering.
    for container, codec in (("mp4", "h264"), ("mp4", "hevc-p-closed"), ("mp4", "vp9"), ("mov", "prores")):
        film = film_in(container, codec, frames=40, sound=0.0)
        (answer,) = shown(film)
        for name, edits, pieces in (
            ("two pieces", [(0.0, 0.4), (0.8, 0.4)], (range(10), range(20, 30))),
            ("two pieces in mid-group", [(0.2, 0.4), (1.0, 0.4)], (range(5, 15), range(25, 35))),
            ("pieces swapped", [(0.8, 0.4), (0.0, 0.4)], (range(20, 30), range(10))),
        ):
            make = partial(_edited, film, isobmff.with_edits(*edits))
            yield Case(
                name=f"{container}/{codec}/edit list: {name}", make=make, answers=(answer.part(*pieces),)
            )
    # Without another track, some players show nothing for 3 s and others start at once.
    for container, codec in (("mp4", "h264-b"), ("mov", "hevc")):
        film = film_in(container, codec)
        (answer,) = shown(film)
        make = partial(_edited, film, isobmff.with_edits((None, 3.0), (0.0, 1.6)))
        answers = (answer, answer.later(3.0))
        yield Case(name=f"{container}/{codec}/edit list: late without sound", make=make, answers=answers)


def _edited(film: Film, *changes: isobmff.Change) -> bytes:
    return isobmff.edit(render(film), *changes)


_CLOCKED = (
    ("mp4", "h264"), ("mp4", "h264-b"), ("mp4", "hevc"), ("mp4", "av1"), ("mov", "h264-b"), ("mp4-fragments", "h264-b"),
    ("matroska", "h264-b"), ("matroska", "hevc"), ("webm", "vp9"), ("webm", "vp8"), ("ts", "h264"), ("ts", "h264-b"),
    ("ts", "hevc"), ("ts", "mpeg2-b"), ("m2ts", "h264-b"), ("flv", "h264"), ("flv", "h264-b"), ("ogg", "vp8"),
    ("nut", "h264-b"), ("mpeg", "mpeg2-b"), ("asf", "msmpeg4"),
)  # fmt: skip


def _late_pictures() -> Iterator[Case]:
    """Sound from the start, the picture some time later, as cutting without encoding anew leaves it."""
    for container, codec in _CLOCKED:
        for start in (0.0, 0.48, 3.0, 7.4):
            film = film_in(container, codec, start=start, sound=0.0)
            yield Case(
                name=f"{container}/{codec}/picture {start:g} s after the sound",
                make=partial(render, film),
                answers=shown(film),
            )


def _late_files() -> Iterator[Case]:
    """The clock of the whole file starts at some other second than 0."""
    for container, codec in _CLOCKED:
        if container in ("asf", "ogg", "nut"):
            continue
        for start in (10.0, 5 * HOUR):
            for sound in (True, False):
                film = film_in(container, codec, start=start, sound=start if sound else None)
                yield Case(
                    name=f"{container}/{codec}/starts at {start:g} s{' with sound' if sound else ''}",
                    make=partial(render, film),
                    answers=shown(film),
                )
        film = film_in(container, codec, start=13.0, sound=10.0)
        yield Case(
            name=f"{container}/{codec}/sound at 10 s, picture at 13 s",
            make=partial(render, film),
            answers=shown(film),
        )


def _early_pictures() -> Iterator[Case]:
    """The picture starts before the sound: it is what starts the file."""
    for container, codec in _CLOCKED:
        film = film_in(container, codec, sound=0.8)
        answers = shown(film)
        yield Case(
            name=f"{container}/{codec}/sound 0.8 s after the picture",
            make=partial(render, film),
            answers=answers,
        )


def _shifted_fragments() -> Iterator[Case]:
    """Fragments of a live stream: their clock starts where the recording was begun."""
    for codec in ("h264", "prores"):
        film = film_in("mov-fragments", codec, sound=0.0)
        (answer,) = shown(film)
        make = partial(_shifted, film, 3.0, sound=False)
        yield Case(
            name=f"mov-fragments/{codec}/picture 3 s after the sound", make=make, answers=(answer.later(3),)
        )
        for start in (10.0, 5 * HOUR):
            make = partial(_shifted, film, start, sound=True)
            yield Case(
                name=f"mov-fragments/{codec}/starts at {start:g} s with sound",
                make=make,
                answers=(answer, answer.later(start)),
            )


def _shifted(film: Film, seconds: float, *, sound: bool) -> bytes:
    return isobmff.shift_fragments(render(film), seconds, sound=sound)


def _negative_starts() -> Iterator[Case]:
    """Ten frames before second 0. MP4 cuts them away by an edit list. Elsewhere they are where the
    file starts; Chromium does not show them in WebM."""
    for container, codec in (("mp4", "h264"), ("mp4", "h264-b"), ("ts", "h264"), ("webm", "vp9")):
        film = film_in(container, codec)
        options = film.muxer | {"avoid_negative_ts": "disabled"}
        (whole,) = shown(film)
        cut = whole.part(range(10, 40))
        answers = {"mp4": (cut,), "webm": (whole, cut)}.get(container, (whole,))
        make = partial(render, film.but(start=-0.4, muxer=options))
        yield Case(name=f"{container}/{codec}/starts before 0", make=make, answers=answers)


def _jumps() -> Iterator[Case]:
    """Two recordings joined whose clocks do not agree: the second plays on where the first ends."""
    for container, codec in (
        ("ts", "h264"), ("ts", "h264-b"), ("ts", "hevc-closed"), ("ts", "mpeg2-b"), ("m2ts", "h264"), ("ts", "mpeg4"),
    ):  # fmt: skip
        for first, second, name in (
            (0.0, 0.0, "starts again"),
            (0.0, 61.6, "jumps by a minute"),
            (0.0, 2 * HOUR, "jumps by 2 hours"),
            (0.0, 5 * HOUR, "jumps by 5 hours"),
            (HOUR + 1, 0.0, "jumps back by an hour"),
            (0.0, 1.6, "continues"),
        ):
            for sound in (False, True):
                pieces = [
                    film_in(
                        container,
                        codec,
                        frames=frames,
                        first=code,
                        start=start,
                        sound=start if sound else None,
                    )
                    for frames, code, start in ((40, 0, first), (30, 100, second))
                ]
                yield Case(
                    name=f"{container}/{codec}/clock {name}{' with sound' if sound else ''}",
                    make=partial(_joined, *pieces),
                    answers=(_one_after_the_other(*pieces),),
                )


def _joined(*films: Film) -> bytes:
    return b"".join(render(film) for film in films)


def _one_after_the_other(*films: Film) -> Answer:
    codes = tuple(code for film in films for code in film.codes)
    (answer, *_) = shown(films[0])
    return answer.but(codes=codes, seconds=tuple(i * answer.gap for i in range(len(codes))))


def _wraps() -> Iterator[Case]:
    """The 33-bit clock of a transport stream starts again in mid-film."""
    for container, codec in (("ts", "h264"), ("ts", "h264-b"), ("ts", "hevc"), ("m2ts", "mpeg2-b")):
        for sound in (False, True):
            start = _WRAP - 0.8
            film = film_in(container, codec, start=start, sound=start if sound else None)
            yield Case(
                name=f"{container}/{codec}/clock wraps{' with sound' if sound else ''}",
                make=partial(render, film),
                answers=shown(film),
            )
