"""Find slideshows: stills that follow each other by cuts or fades, without motion inside.

Slow motion has small changes from one frame to the next, but they add up. What rests for a while before a
fixed camera does not change the whole picture when it moves again.
"""

from collections.abc import Iterator

import numpy as np

from gve_ray.synthesis.motion import THRESHOLD as STATIC
from gve_ray.synthesis.motion import Motion

THRESHOLD = 0.25

_CUT_AREA = 0.15  # of the picture changes at a cut, at least
_STILL_AREA = 0.01  # of a still changes, at most; slow motion and a fine texture that moves change more
_CUT_CHANGE = 2 * STATIC  # at the place that changes most, at one cut at least; fades change less


def slideshow(pixels: np.ndarray) -> float:
    """Return how much of a video is stills that follow each other by cuts, 0 to 1.

    pixels: uint8 [T, H, W, 3], frames in the order of time. The share of frames in shots without motion, times the
    share of cuts among all changes. A shot of one frame counts as if it moved, since nothing says that it does not.
    A video without a cut scores 0: if it is still as a whole, the motion score says so.
    """
    motion, pairs = Motion(pixels), range(1, len(pixels))
    areas = {n: motion.changed_area(n - 1, n) for n in pairs}
    may_be_cuts = {n for n, area in areas.items() if area >= _CUT_AREA}
    if not may_be_cuts:
        return 0.0
    peaks = {n: motion.between(n - 1, n) for n in pairs}
    if not any(peaks[n] >= _CUT_CHANGE for n in may_be_cuts):
        return 0.0
    changes = [n for n in pairs if peaks[n] >= STATIC or areas[n] >= _STILL_AREA]
    still = sum(
        last + 1 - first for first, last in _shots(changes, len(pixels)) if _is_still(motion, first, last)
    )
    return still / len(pixels) * len(may_be_cuts) / len(changes)


def _shots(changes: list[int], count: int) -> Iterator[tuple[int, int]]:
    """Yield the first and the last frame of each shot. changes: the frames that begin one, but the first."""
    first = 0
    for begin in [*changes, count]:
        yield first, begin - 1
        first = begin


def _is_still(motion: Motion, first: int, last: int) -> bool:
    others = (first + last) // 2, last
    return last > first and all(
        motion.between(first, other) < STATIC and motion.changed_area(first, other) < _STILL_AREA
        for other in others
    )
