"""Convert decoded frames to upright RGB pixels.

FFmpeg converts the colours (libswscale with its defaults, through a filter graph) according to the
stream's colour matrix and range. Transparency is composited on white, as for still pictures.
"""

from fractions import Fraction

import av
import numpy as np
from av.video.frame import VideoFrame

from gve_ray.media.video.orientation import Orientation


class RgbConverter:
    """Converts the frames of one stream. If the stream changes its format, the filter graph is rebuilt."""

    def __init__(self, orientation: Orientation) -> None:
        self._orientation = orientation
        self._layout: tuple[object, ...] = ()
        self._graph: av.filter.Graph | None = None

    def __call__(self, frame: VideoFrame) -> np.ndarray:
        """Return uint8 [H, W, 3], mirrored and rotated for display."""
        layout = (frame.width, frame.height, frame.format.name, frame.colorspace, frame.color_range)
        if self._graph is None or layout != self._layout:
            self._graph, self._layout = _build(frame), layout
        pts, frame.pts = frame.pts, None  # a graph refuses timestamps that do not ascend
        self._graph.push(frame)
        frame.pts = pts
        out = self._graph.pull()
        assert isinstance(out, VideoFrame)
        pixels = out.to_ndarray()
        return self._orientation.apply(_on_white(pixels) if pixels.shape[2] == 4 else pixels)


def _has_alpha(frame: VideoFrame) -> bool:
    """Return whether the pixel format may hold transparency, as a palette (GIF) may too."""
    return frame.format.has_palette or any(component.is_alpha for component in frame.format.components)


def _on_white(rgba: np.ndarray) -> np.ndarray:
    """Composite uint8 [H, W, 4] on white, as uint8 [H, W, 3].

    A picture whose alpha is zero everywhere counts as opaque, since encoders of 32-bit RGB often
    leave the fourth byte unused.
    """
    alpha = rgba[..., 3:]
    if alpha.min() == 255 or not alpha.any():
        return rgba[..., :3]
    alpha = alpha.astype(np.uint16)
    blended = rgba[..., :3] * alpha + 255 * (255 - alpha)
    return ((blended + 127) // 255).astype(np.uint8)


def _build(frame: VideoFrame) -> av.filter.Graph:
    graph = av.filter.Graph()
    graph.threads = 1
    nodes = [
        graph.add_buffer(
            width=frame.width, height=frame.height, format=frame.format.name, time_base=Fraction(1, 1000)
        ),
        graph.add("format", "rgba" if _has_alpha(frame) else "rgb24"),
        graph.add("buffersink"),
    ]
    graph.link_nodes(*nodes)
    graph.configure()
    return graph
