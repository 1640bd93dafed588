"""All cases of the matrix, and a short form of it."""

import re
import zlib
from collections.abc import Iterator

from tests.media.matrix import clocks, display, faults, plain
from tests.media.matrix.judge import Case

_NUMBERS = re.compile(r"\d+\S*| with sound| after each (unit|picture)|^(yuv|gray|bgr)\S*")
_KINDS = (plain, display, clocks, faults)


def all_cases() -> Iterator[Case]:
    """Every case; a file is made when its case's `make` is called. Names are CONTAINER/CODEC/WHAT."""
    for kind in _KINDS:
        yield from kind.cases()


def short_form() -> list[Case]:
    """A small selection in which every container, every codec and every change to a file occurs at
    least once, with one of the numbers that are tried. The hash of a case's name decides which
    cases are taken."""
    covered: set[str] = set()
    chosen = []
    for case in sorted(all_cases(), key=lambda case: zlib.crc32(case.name.encode())):
        container, codec, what = case.name.split("/")
        features = {container, codec, _NUMBERS.sub("", what)}
        if features - covered:
            covered |= features
            chosen.append(case)
    return chosen
