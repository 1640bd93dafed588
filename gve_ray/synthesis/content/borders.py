"""Find bars of one color at the edges of a video: letterbox, pillarbox, and frames around the picture.

A bar has one color over its whole length in all frames, and ends at a straight line. A dark sky or a white
ground has one color as well, but what follows it does not begin on a line.
"""

from dataclasses import dataclass

import numpy as np

THRESHOLD = 0.02  # of the area

_TOLERANCE = 5.0  # gray levels: what compression does to a bar
_UNIFORM = 0.01  # largest share of other pixels in a line of a bar
_BEGINS = 0.6  # smallest share of other pixels in the first lines of the picture
_BEGINS_ALONE = 0.8  # if the opposite side has no bar
_LINES = 9  # after so many lines a picture has begun; compression smears its edge over a block of 8
_LEAST = 0.4  # of the height and of the width is a picture between bars
_MOST = 0.45  # of the height or width is the widest bar


@dataclass(frozen=True)
class Box:
    """The part of a picture within its bars: rows top to bottom, columns left to right, end excluded."""

    top: int
    bottom: int
    left: int
    right: int

    def of(self, frames: np.ndarray) -> np.ndarray:
        """Return this part of frames, [T, H, W, ...]."""
        return frames[:, self.top : self.bottom, self.left : self.right]


def content_box(luma: np.ndarray) -> Box:
    """Return the part of a video that is not bars.

    luma: uint8 [T, H, W], frames of one video.
    """
    _, height, width = luma.shape
    turned = luma.swapaxes(1, 2)
    sides = [_Side(view) for view in (luma, luma[:, ::-1], turned, turned[:, ::-1])]
    top, bottom, left, right = (side.uniform for side in sides)
    rows, columns = slice(top, height - bottom), slice(left, width - right)
    if height - bottom - top < _LEAST * height or width - right - left < _LEAST * width:
        return Box(0, height, 0, width)  # something small before a ground of one color
    spans = columns, columns, rows, rows
    has_bar = [side.bar(span, _BEGINS) > 0 for side, span in zip(sides, spans, strict=True)]
    top, bottom, left, right = (
        side.bar(span, _BEGINS if has_bar[i ^ 1] else _BEGINS_ALONE)
        for i, (side, span) in enumerate(zip(sides, spans, strict=True))
    )
    return Box(top, height - bottom, left, width - right)


def border_share(box: Box, height: int, width: int) -> float:
    """Return the share of the picture's area that is bars, 0 to 1."""
    return 1 - (box.bottom - box.top) * (box.right - box.left) / (height * width)


class _Side:
    """One side of a video, seen as the top of its frames. uniform: the number of rows of the first one's color.

    luma: uint8 [T, H, W].
    """

    def __init__(self, luma: np.ndarray) -> None:
        reach = int(luma.shape[1] * _MOST) + _LINES
        color = np.median(luma[:, 0]).astype(np.int16)
        self._differs = np.abs(luma[:, :reach].astype(np.int16) - color) > _TOLERANCE  # bool [T, rows, W]
        uniform = self._differs.mean(axis=(0, 2)) <= _UNIFORM
        self.uniform = len(uniform) - _LINES if uniform.all() else int(np.argmin(uniform))

    def bar(self, span: slice, share: float) -> int:
        """Return the number of rows of the bar, 0 if there is none.

        A bar ends where a picture begins over at least this share of its width. span: the picture, of the width.
        """
        if not self.uniform:
            return 0
        first = self._differs[:, self.uniform : self.uniform + _LINES, span].mean(axis=(0, 2))
        begins = np.flatnonzero(first >= share)
        return self.uniform + int(begins[0]) if len(begins) else 0
