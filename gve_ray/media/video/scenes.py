"""Detect scene changes by FFmpeg's scene filter on small copies of the frames, and divide a video at them."""

import math
from collections.abc import Sequence
from fractions import Fraction

import av
from av.video.frame import VideoFrame

Span = tuple[float, float]  # start and end, seconds

_TICK = Fraction(1, 25)  # arbitrary, since only the numbers of frames are used
_SIDE = 64  # pixels; a cut changes the whole picture, so a small copy shows it
_MARK = "lavfi.scd.time"  # in the metadata of a frame that begins a scene


class SceneCuts:
    """Finds the cuts in a video, whose frames are passed to `see` in order.

    numbers: the frames, counted from 0, that begin a new scene. A frame's score, 0 to 100, is how
    much more it differs from the previous frame than that one did from its predecessor, so steady
    motion has a low score. threshold: minimum score of a cut; FFmpeg recommends 8 to 14.
    """

    def __init__(self, threshold: float) -> None:
        self.numbers: list[int] = []
        self._seen = 0
        graph = av.filter.Graph()
        source = graph.add_buffer(width=_SIDE, height=_SIDE, format="rgb24", time_base=_TICK)
        nodes = (source, graph.add("scdet", f"threshold={threshold}"), graph.add("buffersink"))
        graph.link_nodes(*nodes).configure()
        self._graph = graph

    def see(self, frame: VideoFrame) -> None:
        """Take the next frame."""
        small = frame.reformat(width=_SIDE, height=_SIDE, format="rgb24")
        small.pts, small.time_base = self._seen, _TICK
        self._graph.push(small)
        if _MARK in self._graph.pull().metadata:
            self.numbers.append(self._seen)
        self._seen += 1


def scene_spans(duration: float, cuts: Sequence[float], *, shortest: float, longest: float) -> list[Span]:
    """Return the spans between cuts, in order; together they cover the video.

    A span shorter than `shortest` is merged into a neighbour; one longer than `longest` is divided
    into equal parts. All times are seconds; cuts and spans count from the first frame.
    """
    starts = [0.0]
    for cut in sorted(cuts):
        if cut - starts[-1] >= shortest and duration - cut >= shortest:
            starts.append(cut)
    spans: list[Span] = []
    for start, end in zip(starts, [*starts[1:], duration], strict=True):
        parts = max(1, math.ceil((end - start) / longest - 1e-9))
        edges = [start + (end - start) * i / parts for i in range(parts)]
        spans += zip(edges, [*edges[1:], end], strict=True)
    return spans
