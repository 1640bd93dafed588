"""All cases of the matrix, and a short form of it."""

from collections.abc import Iterator

from tests.media.matrix import clocks, display, faults, plain
from tests.media.matrix.judge import Case

_KINDS = (plain, display, clocks, faults)


def all_cases() -> Iterator[Case]:
    """Every case; a file is made when its case's `make` is called."""
    for kind in _KINDS:
        yield from kind.cases()
