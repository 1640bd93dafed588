"""What a case of the matrix is, and whether a decoder's answer to it is right."""

import zlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from functools import partial

import numpy as np

from gve_ray.media import Decoded, FrameRequest, MediaError, VideoInfo
from tests.media.matrix.pictures import read

PATCH = 28  # pixels: both sides of a returned frame are multiples of it
_SIDES = {"opaque": (40, 40), "clear": (255, 255), "composited": (255, 147)}  # 147 is half of 40 and 255


@dataclass(frozen=True, kw_only=True)
class Answer:
    """One right answer.

    codes: what the picture of each frame says. seconds: when each is shown, on the file's own
    clock. gap: seconds one frame lasts. width, height: as displayed. orientation: a key of
    pictures.ORIENTATIONS. sides: how the picture's transparent patches look, a key of _SIDES.
    """

    codes: tuple[int, ...]
    seconds: tuple[float, ...]
    gap: float
    width: int = 160
    height: int = 96
    orientation: str = "upright"
    sides: str = "opaque"

    def but(self, **settings: object) -> "Answer":
        return replace(self, **settings)  # type: ignore[arg-type]

    def part(self, *frames: range, start: float = 0.0) -> "Answer":
        """The answer of a file that shows these frames only, one after the other from second `start`."""
        numbers = [i for piece in frames for i in piece]
        return self.but(
            codes=tuple(self.codes[i] for i in numbers),
            seconds=tuple(start + i * self.gap for i in range(len(numbers))),
        )

    def later(self, seconds: float) -> "Answer":
        return self.but(seconds=tuple(second + seconds for second in self.seconds))


@dataclass(frozen=True, kw_only=True)
class Case:
    """A file and what is right for it.

    make: gives the file's bytes. answers: any of them is right. refusals: reasons that are right,
    too; without answers the file must be refused. damaged: the strict pass must refuse it; the
    sparse one, which does not see damage outside the frames it reads, may also give one of the
    answers.
    """

    name: str
    make: Callable[[], bytes]
    answers: tuple[Answer, ...] = ()
    refusals: frozenset[str] = frozenset()
    damaged: bool = False


@dataclass
class Verdict:
    """How a decoder did on one case in one mode. refusal: its reason, "" where the file was read.
    faults: what is wrong, in words. frames, wrong_frames: how many were looked at, and how many
    show another picture than the one they are said to be, the wrong way up, or at a moment that is
    off by more than half a frame."""

    refusal: str = ""
    faults: list[str] = field(default_factory=list)
    frames: int = 0
    wrong_frames: int = 0


Decode = Callable[..., Decoded]  # gve_ray.media.decode or DecodeProcess.decode


def examine(case: Case, data: bytes, decode: Decode, *, strict: bool, thorough: bool = True) -> Verdict:
    """Decode a case by several plans and judge what comes: in one strict pass, or in a sparse one
    for each plan, since what is read together hides where a seek leads. thorough: more than one
    sparse plan."""
    verdict = Verdict()
    sparse = [kind for kind in _PLANS if kind != "all"] if thorough else ["span"]
    kinds = [tuple(_PLANS)] if strict else [(kind,) for kind in sparse]
    for kind in kinds:
        plan = partial(_plan, case.name, case.answers, kind)
        try:
            decoded = decode(data, plan, strict=strict)
        except MediaError as error:
            verdict.refusal = str(error.reason)
            if error.reason not in case.refusals:
                verdict.faults.append(f"refused: {error}")
        except Exception as error:  # noqa: BLE001 (any other exception is a finding, too)
            verdict.faults.append(f"{type(error).__name__}: {error}")
        else:
            _judge(case, kind, decoded, strict, verdict)
        if verdict.faults or verdict.refusal:
            break
    return verdict


def _plan(name: str, answers: Sequence[Answer], kinds: Sequence[str], info: VideoInfo) -> list[FrameRequest]:
    """The requests of some kinds. All arguments can be sent to another process, as a case's `make` cannot."""
    answer = _closest(answers, info)
    return [FrameRequest(k=2)] if answer is None else [_PLANS[kind](name, answer)[0] for kind in kinds]


def _closest(answers: Sequence[Answer], info: VideoInfo) -> Answer | None:
    """The answer that a decoder seems to give."""

    def distance(answer: Answer) -> tuple[int, float]:
        return abs(len(answer.codes) - info.total_frames), abs(answer.seconds[0] - info.start)

    return min(answers, key=distance, default=None)


def _judge(case: Case, kinds: Sequence[str], decoded: Decoded, strict: bool, verdict: Verdict) -> None:
    faults = verdict.faults
    answer = _closest(case.answers, decoded.info)
    if answer is None or (case.damaged and strict):
        faults.append("read, and should be refused")
        return
    faults += _wrong_facts(answer, decoded.info)
    for kind, frames in zip(kinds, decoded.samples, strict=True):
        _, expected = _PLANS[kind](case.name, answer)
        if frames.indices.tolist() != expected.tolist():
            faults.append(f"{kind}: frames {frames.indices.tolist()}, not {expected.tolist()}")
            verdict.wrong_frames += 1
            continue
        for number, second, pixels in zip(expected.tolist(), frames.timestamps, frames.pixels, strict=True):
            verdict.frames += 1
            wrong = _wrong_frame(answer, number, float(second), pixels)
            if wrong:
                verdict.wrong_frames += 1
                faults.append(f"{kind}: frame {number} {wrong}")


def _wrong_facts(answer: Answer, info: VideoInfo) -> list[str]:
    duration = answer.seconds[-1] + answer.gap - answer.seconds[0]
    wrong = []
    if info.total_frames != len(answer.codes):
        wrong.append(f"{info.total_frames} frames in all, not {len(answer.codes)}")
    if abs(info.start - answer.seconds[0]) > answer.gap / 2:
        wrong.append(f"starts at {info.start:.3f} s, not {answer.seconds[0]:.3f} s")
    mean = duration / len(answer.seconds)
    if abs(info.duration - duration) > 1.5 * mean:  # few containers say how long the last frame lasts
        wrong.append(f"lasts {info.duration:.3f} s, not {duration:.3f} s")
    if max(abs(info.width - answer.width), abs(info.height - answer.height)) > 1:  # of a width in halves
        wrong.append(f"size {info.width}x{info.height}, not {answer.width}x{answer.height}")
    return wrong


def _wrong_frame(answer: Answer, number: int, second: float, pixels: np.ndarray) -> str:
    """What is wrong with a frame, or ""."""
    shape = (PATCH * round(answer.height / PATCH), PATCH * round(answer.width / PATCH))
    if pixels.shape[:2] != shape:
        return f"is a picture of {pixels.shape[:2]}, not {shape}"
    reading = read(pixels)
    if reading.orientation != answer.orientation:
        return f"is {reading.orientation}, not {answer.orientation}"
    if reading.code != answer.codes[number]:
        return f"shows {reading.code}, not {answer.codes[number]}"
    if abs(second - answer.seconds[number]) > answer.gap / 2:
        return f"is at {second:.3f} s, not {answer.seconds[number]:.3f} s"
    if any(abs(got - want) > 45 for got, want in zip(reading.sides, _SIDES[answer.sides], strict=True)):
        return f"has levels {reading.sides} where it is transparent, not {_SIDES[answer.sides]}"
    return ""


def _spread(first: int, last: int, k: int) -> np.ndarray:
    return first + np.round(np.linspace(0, last - first, k)).astype(np.int64)


def _whole(name: str, answer: Answer) -> tuple[FrameRequest, np.ndarray]:
    return FrameRequest(k=8), _spread(0, len(answer.codes) - 1, 8)


def _all(name: str, answer: Answer) -> tuple[FrameRequest, np.ndarray]:
    n = len(answer.codes)
    return FrameRequest(k=n), np.arange(n)


def _span(name: str, answer: Answer) -> tuple[FrameRequest, np.ndarray]:
    n = len(answer.codes)
    first, last = n // 3, max(n // 3 + 1, 3 * n // 4)
    slack = answer.gap / 2
    request = FrameRequest(
        k=5, start=max(0.0, answer.seconds[first] - slack), end=answer.seconds[min(last, n - 1)] + slack
    )
    return request, _spread(first, min(last, n - 1), 5)


def _moment(name: str, answer: Answer, *, salt: int) -> tuple[FrameRequest, np.ndarray]:
    """One moment within a frame that is drawn by the case's name."""
    number = zlib.crc32(f"{name} {salt}".encode()) % len(answer.codes)
    return FrameRequest(at=(answer.seconds[number] + 0.4 * answer.gap,)), np.array([number])


_PLANS: dict[str, Callable[[str, Answer], tuple[FrameRequest, np.ndarray]]] = {
    "all": _all,
    "whole": _whole,
    "span": _span,
    "moment": partial(_moment, salt=0),
    "other moment": partial(_moment, salt=1),
    "last": lambda name, answer: (
        FrameRequest(at=(answer.seconds[-1] + 0.4 * answer.gap,)),
        np.array([len(answer.codes) - 1]),
    ),
}
