"""Decoded frames -> RGB arrays, by the same FFmpeg filters decord uses.

libavfilter's automatic scaler (bicubic) reads matrix (BT.601, BT.709, BT.2020) and range (limited, full)
from each frame and gives full-range RGB; untagged streams are taken as BT.601 limited. Rotation happens
on the YUV planes, before conversion. The chain is decord's own, so both engines give the same bytes.
"""

from fractions import Fraction

import av
import numpy as np
from av.video.frame import VideoFrame

# Degrees clockwise -> transpose steps; decord builds the same strings.
_TURNS = {0: (), 90: ("1",), 180: ("1", "1"), 270: ("2",)}


class RgbConverter:
    """Converts the frames of one stream. Rebuilds its filter graph where the stream changes format."""

    def __init__(self, rotation: int) -> None:
        self._turns = _TURNS[rotation]
        self._layout: tuple[object, ...] = ()
        self._graph: av.filter.Graph | None = None

    def __call__(self, frame: VideoFrame) -> np.ndarray:
        """uint8 [H, W, 3], rotation applied."""
        layout = (frame.width, frame.height, frame.format.name, frame.colorspace, frame.color_range)
        if self._graph is None or layout != self._layout:
            self._graph, self._layout = self._build(frame), layout
        pts, frame.pts = frame.pts, None  # a graph refuses timestamps that do not ascend
        self._graph.push(frame)
        frame.pts = pts
        out = self._graph.pull()
        assert isinstance(out, VideoFrame)
        return out.to_ndarray()

    def _build(self, frame: VideoFrame) -> av.filter.Graph:
        graph = av.filter.Graph()
        graph.threads = 1
        nodes = [
            graph.add_buffer(
                width=frame.width, height=frame.height, format=frame.format.name, time_base=Fraction(1, 1000)
            ),
            *(graph.add("transpose", turn) for turn in self._turns),
            graph.add("format", "rgb24"),
            graph.add("buffersink"),
        ]
        graph.link_nodes(*nodes)
        graph.configure()
        return graph
