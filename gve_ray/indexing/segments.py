"""A video's length and cuts -> its segments: pure functions of numbers."""

import math
from collections.abc import Sequence

from gve_ray.indexing.config import SegmentsConfig

Span = tuple[float, float]  # start and end, seconds


def spans_of(config: SegmentsConfig, duration: float, cuts: Sequence[float]) -> list[Span]:
    """The segments of a video, in order; together they cover it. cuts: when each scene but the first begins."""
    if config.mode == "windows":
        return windows(duration, config.seconds, config.overlap, config.shortest)
    if config.mode == "scenes":
        return scenes(duration, cuts, config.shortest, config.longest)
    return [(0.0, duration)]


def windows(duration: float, seconds: float, overlap: float, shortest: float) -> list[Span]:
    """Windows of `seconds`, each `overlap` into the one before; a last one below `shortest` is joined to it."""
    step = seconds - overlap
    count = 1 + max(0, math.ceil((duration - seconds) / step - 1e-9))
    spans = [(i * step, min(i * step + seconds, duration)) for i in range(count)]
    if count > 1 and spans[-1][1] - spans[-1][0] < shortest:
        spans[-2:] = [(spans[-2][0], duration)]
    return spans


def scenes(duration: float, cuts: Sequence[float], shortest: float, longest: float) -> list[Span]:
    """Spans between cuts; those below `shortest` join their neighbour, those above `longest` are divided."""
    starts = [0.0]
    for cut in sorted(cuts):
        if cut - starts[-1] >= shortest and duration - cut >= shortest:
            starts.append(cut)
    found: list[Span] = []
    for start, end in zip(starts, [*starts[1:], duration], strict=True):
        parts = max(1, math.ceil((end - start) / longest - 1e-9))
        edges = [start + (end - start) * i / parts for i in range(parts)]
        found += zip(edges, [*edges[1:], end], strict=True)
    return found
