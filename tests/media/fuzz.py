"""Feed mutated media files to the decoder: `python tests/media/fuzz.py --n 10000`.

Small files of every container, and pictures, are damaged in many ways. Each mutant goes through
`DecodeProcess` as at ingest, strictly and sparsely (pictures through `read_image`), under small
limits of time and memory. Each must be read or refused by a MediaError; any other exception
counts as `unexpected` and makes the exit status 1. A mutant depends on the seed and its number
only:

    python tests/media/fuzz.py --only 17,4711 --save FOLDER      # make these again, run them, keep the files
"""

import argparse
import io
import json
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from functools import cache
from pathlib import Path

import numpy as np
from PIL import Image

# This finds `tests` and `gve_ray` if the file is run as a script.
sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from gve_ray.media import DecodePool, DecodeProcess, FrameRequest, Limits, MediaError, Reason
from tests.media.matrix.films import Film, render
from tests.media.matrix.pictures import draw
from tests.media.matrix.plain import animation, film_in

LIMITS = Limits(wall_clock_s=5.0, memory_bytes=1 << 30, max_frames=2000, max_side_pixels=1 << 22)
_LATE_SECONDS = 15.0  # the limit, the time it takes to kill a process and to start another
_PLAN = [FrameRequest(k=2), FrameRequest(at=(0.2,))]
_PICTURES = ("JPEG", "PNG", "WEBP", "GIF", "BMP", "AVIF")
_VIDEOS = (
    "mp4/h264-b mp4/hevc mp4/av1 mp4/vp9 mp4/mpeg4-b mp4/mjpeg mp4-fragments/h264-b mov/prores mov/qtrle mov/png "
    "matroska/h264-b matroska/hevc matroska/mpeg2-b matroska/ffv1 matroska-live/h264 webm/vp8 webm/vp9 webm/av1 "
    "ts/h264-b ts/hevc ts/mpeg2-b m2ts/h264 avi/mpeg4-b avi/mjpeg avi/h264-b flv/h264-b flv/flv1 ogg/vp8 asf/wmv2 "
    "mpeg/mpeg2-b mxf/mpeg2 nut/h264-b ivf/vp8 apng/apng"
).split()
_WITH_SOUND = ("mp4/h264", "matroska/h264", "ts/h264", "webm/vp9")
_ALPHA = (("webm", "vp8-alpha"), ("mov", "prores-alpha"), ("mov", "qtrle-alpha"))


@cache
def seeds() -> dict[str, bytes]:
    """Return name -> bytes of the undamaged files that mutants are made of. Names of pictures begin with "picture/"."""
    files = {}
    for name in _VIDEOS:
        container, codec = name.split("/")
        files[name] = render(film_in(container, codec, frames=8))
    for name in _WITH_SOUND:
        container, codec = name.split("/")
        files[f"{name} with sound"] = render(film_in(container, codec, frames=8, sound=0.0))
    for container, codec in _ALPHA:
        files[f"{container}/{codec}"] = render(Film(container=container, codec=codec, frames=8))
    for kind in ("GIF", "WEBP", "PNG"):
        files[f"{kind.lower()}/animation"] = animation(kind, Film(frames=4), alpha=True)
    for kind in _PICTURES:
        out = io.BytesIO()
        exif = Image.Exif()
        exif[0x0112] = 6  # to be turned by 90 degrees
        settings = {"exif": exif} if kind in ("JPEG", "PNG", "WEBP") else {}
        Image.fromarray(draw(77, 160, 96)).save(out, kind, **settings)
        files[f"picture/{kind.lower()}"] = out.getvalue()
    return files


# Mutations: (random generator, file, another file) -> mutated file.


def _flip_bits(rng: np.random.Generator, data: bytes, other: bytes) -> bytes:
    changed = bytearray(data)
    for at in rng.integers(0, len(data), 1 << rng.integers(0, 6)):
        changed[at] ^= 1 << rng.integers(0, 8)
    return bytes(changed)


def _cut(rng: np.random.Generator, data: bytes, other: bytes) -> bytes:
    return data[: rng.integers(0, len(data))]


def _cut_front(rng: np.random.Generator, data: bytes, other: bytes) -> bytes:
    return data[rng.integers(0, len(data)) :]


def _delete(rng: np.random.Generator, data: bytes, other: bytes) -> bytes:
    start, stop = _range(rng, data)
    return data[:start] + data[stop:]


def _repeat(rng: np.random.Generator, data: bytes, other: bytes) -> bytes:
    start, stop = _range(rng, data)
    return data[:stop] + data[start:stop] * int(rng.integers(1, 4)) + data[stop:]


def _move(rng: np.random.Generator, data: bytes, other: bytes) -> bytes:
    start, stop = _range(rng, data)
    rest = data[:start] + data[stop:]
    at = rng.integers(0, len(rest) + 1)
    return rest[:at] + data[start:stop] + rest[at:]


def _fill(rng: np.random.Generator, data: bytes, other: bytes) -> bytes:
    """Zeros, ones or noise over a range."""
    start, stop = _range(rng, data)
    length = stop - start
    filling = (bytes(length), b"\xff" * length, rng.bytes(length))[rng.integers(0, 3)]
    return data[:start] + filling + data[stop:]


def _splice(rng: np.random.Generator, data: bytes, other: bytes) -> bytes:
    """The start of one file and the end of another."""
    return data[: rng.integers(0, len(data))] + other[rng.integers(0, len(other)) :]


def _transplant(rng: np.random.Generator, data: bytes, other: bytes) -> bytes:
    """A range of another file over one of this file."""
    at = rng.integers(0, len(data))
    start, stop = _range(rng, other)
    return data[:at] + other[start:stop] + data[at + stop - start :]


def _set_field(rng: np.random.Generator, data: bytes, other: bytes) -> bytes:
    """An extreme value in a field of 1 to 8 bytes, mostly where headers and indices are."""
    width = int(rng.choice([1, 2, 4, 8]))
    at = _header_position(rng, data)
    top = 1 << 8 * width
    near = int.from_bytes(data[at : at + width], "big") + int(rng.choice([-1, 1, 8, 256]))
    values = (0, 1, 2, top // 2 - 1, top // 2, top - 2, top - 1, near % top)
    value = values[rng.integers(0, len(values))]
    order = "big" if rng.integers(0, 2) else "little"
    return data[:at] + value.to_bytes(width, order) + data[at + width :]


def _set_box_size(rng: np.random.Generator, data: bytes, other: bytes) -> bytes:
    """Another size in front of something that looks like the name of a box or chunk."""
    names = [
        at for at in range(4, len(data) - 8) if data[at : at + 4].isalpha() and data[at : at + 4].isascii()
    ]
    if not names:
        return _set_field(rng, data, other)
    at = names[rng.integers(0, len(names))] - 4
    size = int.from_bytes(data[at : at + 4], "big")
    sizes = (
        0,
        1,
        7,
        8,
        16,
        size - 1,
        size + 1,
        size * 2,
        size // 2,
        len(data),
        0x7FFFFFFF,
        0x80000000,
        0xFFFFFFFF,
    )
    value = sizes[rng.integers(0, len(sizes))] & 0xFFFFFFFF
    return data[:at] + value.to_bytes(4, "big") + data[at + 4 :]


_MUTATIONS: tuple[Callable[[np.random.Generator, bytes, bytes], bytes], ...] = (
    _flip_bits, _cut, _cut_front, _delete, _repeat, _move, _fill, _splice, _transplant,
    _set_field, _set_field, _set_field, _set_box_size, _set_box_size,
)  # fmt: skip


def _range(rng: np.random.Generator, data: bytes) -> tuple[int, int]:
    """Start and stop of a part of at least one byte, short ones more often than long ones."""
    length = int(min(len(data), 2 ** rng.uniform(0, np.log2(len(data) + 1))))
    start = int(rng.integers(0, len(data) - length + 1))
    return start, start + max(1, length)


def _header_position(rng: np.random.Generator, data: bytes) -> int:
    """A position at the start of the file, in an MP4's index, or, now and then, anywhere."""
    draw = rng.integers(0, 6)
    index = data.find(b"moov")
    if draw == 0:
        return int(rng.integers(0, len(data)))
    if index >= 0 and draw > 1:
        return int(rng.integers(index, len(data)))
    return int(rng.integers(0, min(len(data), 1024)))


def mutant(seed: int, number: int) -> tuple[str, bytes]:
    """(name of the file it is made of, the mutant), always the same for the same seed and number."""
    rng = np.random.default_rng([seed, number])
    names = list(seeds())
    name, other = (names[i] for i in rng.integers(0, len(names), 2))
    data = seeds()[name]
    for _ in range(min(4, int(rng.geometric(0.6)))):
        data = _MUTATIONS[rng.integers(0, len(_MUTATIONS))](rng, data or b"\0", seeds()[other])
    return name, data


@dataclass(frozen=True)
class Outcome:
    """The result of one mutant on one path. outcome: "ok", one of `Reason`, or "unexpected"."""

    number: int
    made_of: str
    path: str
    outcome: str
    seconds: float
    detail: str = ""


def run(numbers: Iterable[int], *, seed: int = 0, processes: int = 2) -> Iterator[Outcome]:
    """The outcomes of these mutants, in order."""
    seeds()  # once, before the threads ask for them
    pool = DecodePool(LIMITS, processes)
    try:
        with ThreadPoolExecutor(processes) as threads:
            for outcomes in threads.map(lambda number: _try(pool, seed, number), numbers):
                yield from outcomes
    finally:
        pool.close()


def _try(pool: DecodePool, seed: int, number: int) -> list[Outcome]:
    name, data = mutant(seed, number)
    paths: dict[str, Callable[[DecodeProcess], object]] = {
        "strict": lambda process: process.decode(data, _PLAN),
        "sparse": lambda process: process.decode(data, _PLAN, strict=False),
    }
    if name.startswith("picture/"):
        paths = {"picture": lambda process: process.read_image(data)}
    outcomes = []
    with pool.lend() as process:
        for path, call in paths.items():
            started = time.monotonic()
            outcome, detail = _outcome(call, process)
            outcomes.append(Outcome(number, name, path, outcome, time.monotonic() - started, detail))
    return outcomes


def _outcome(call: Callable[[DecodeProcess], object], process: DecodeProcess) -> tuple[str, str]:
    try:
        call(process)
    except MediaError as error:
        return str(error.reason), error.detail
    except Exception as error:  # noqa: BLE001 (what this program looks for)
        return "unexpected", f"{type(error).__name__}: {error}"
    return "ok", ""


def table(outcomes: list[Outcome]) -> str:
    """Outcomes by path, most frequent first."""
    paths = sorted({outcome.path for outcome in outcomes}, reverse=True)
    counts = Counter((outcome.outcome, outcome.path) for outcome in outcomes)
    totals = Counter(outcome.outcome for outcome in outcomes)
    lines = [f"{'outcome':20}" + "".join(f"{path:>10}" for path in paths)]
    for name, _ in totals.most_common():
        lines.append(f"{name:20}" + "".join(f"{counts[name, path]:10}" for path in paths))
    lines.append(f"{'all':20}" + "".join(f"{sum(o.path == path for o in outcomes):10}" for path in paths))
    return "\n".join(lines)


def summary(outcomes: list[Outcome], seconds: float) -> dict[str, object]:
    """Counts, and the mutants that are worth a look, as JSON."""
    slowest = sorted(outcomes, key=lambda outcome: -outcome.seconds)
    worse = {"unexpected", Reason.CRASHED, Reason.TIMEOUT, Reason.OUT_OF_MEMORY}
    counts = Counter(f"{outcome.path} {outcome.outcome}" for outcome in outcomes)
    return {
        "mutants": len({outcome.number for outcome in outcomes}),
        "outcomes": dict(sorted(counts.items())),
        "unexpected": sum(outcome.outcome == "unexpected" for outcome in outcomes),
        "late": sum(outcome.seconds > _LATE_SECONDS for outcome in outcomes),
        "slowest": [asdict(outcome) for outcome in slowest[:5]],
        "look_at": [asdict(outcome) for outcome in outcomes if outcome.outcome in worse],
        "seconds": round(seconds, 1),
    }


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--n", type=int, default=10_000, help="mutants to try (default: %(default)s)")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--processes", type=int, default=2)
    parser.add_argument("--only", metavar="NUMBERS", help="try these mutants only, e.g. 17,4711")
    parser.add_argument("--save", type=Path, metavar="FOLDER", help="with --only: write the mutants here")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the summary here, too")
    settings = parser.parse_args()
    numbers = [int(part) for part in settings.only.split(",")] if settings.only else range(settings.n)

    started, outcomes, shown = time.monotonic(), [], time.monotonic()
    for outcome in run(numbers, seed=settings.seed, processes=settings.processes):
        outcomes.append(outcome)
        if settings.only:
            print(
                f"{outcome.number} {outcome.path} {outcome.outcome} {outcome.seconds:.2f} s {outcome.detail}"
            )
        if time.monotonic() - shown > 30:
            shown = time.monotonic()
            share = (outcome.number + 1) / len(numbers)
            print(f"{share:.0%}, {(shown - started) * (1 / share - 1):.0f} s left", file=sys.stderr)
    if settings.only and settings.save:
        settings.save.mkdir(parents=True, exist_ok=True)
        for number in numbers:
            name, data = mutant(settings.seed, number)
            (settings.save / f"{number}.{name.replace('/', '-').replace(' ', '-')}").write_bytes(data)
    facts = summary(outcomes, time.monotonic() - started)
    print(table(outcomes))
    print(json.dumps(facts, indent=2))
    if settings.json:
        settings.json.write_text(json.dumps(facts, indent=2))
    return 1 if facts["unexpected"] or facts["late"] else 0


if __name__ == "__main__":
    sys.exit(main())
