"""Measure how much of a picture is covered by text that was burnt into it: captions, titles, tickers.

No model: a line of text is a band of many narrow strokes, bright and dark in turn, with rows above and
below it that have few. A fence has strokes that are too long, foliage has no bands with straight edges, and the
mortar of a wall is too sparse. What is in the same place in most frames counts: subtitles that change do, and
signs that pass by do not.
"""

import numpy as np
from PIL import Image

THRESHOLD = 0.005  # of the area

_STROKE = 7  # pixels; a stroke is narrower
_CONTRAST = 44  # gray levels by which a stroke differs from what is beside it
_WINDOW = 81  # pixels of a row in which strokes are counted
_STROKES = 5  # of each kind in a window, at least
_NARROWEST = 32  # pixels; for so long a line has enough strokes around
_FEW = 2  # of each kind: rows above and below a line have fewer
_GAP = 4  # pixels, at least, between lines; less is between the tiles of a chessboard
_SHORTEST, _TALLEST = 5, 24  # pixels; the height of a line
_SCALES = (1, 2, 4)  # for letters of up to 24, 48 and 96 pixels
_CELL = 4  # pixels; the resolution of the result


def text_share(luma: np.ndarray) -> float:
    """Return the share of the area that is text in at least half of the frames, 0 to 1.

    luma: uint8 [T, H, W], frames of one video.
    """
    return float((np.mean([_text_cells(frame) for frame in luma], axis=0) >= 0.5).mean())


def _text_cells(frame: np.ndarray) -> np.ndarray:
    """Return which cells of a frame have text, bool [H / cell, W / cell]."""
    height, width = (side // (_CELL * _SCALES[-1]) * _SCALES[-1] for side in frame.shape)
    if not height * width:
        return np.zeros((1, 1), dtype=bool)  # too small for any text
    frame = frame[: height * _CELL, : width * _CELL]
    cells = np.zeros((height, width), dtype=bool)
    for scale in _SCALES:
        lines = _lines(_shrunk(frame, scale))
        size = _CELL // scale
        share = lines.reshape(height, size, width, size).mean(axis=(1, 3))
        cells |= share >= 0.5
    return cells


def _lines(frame: np.ndarray) -> np.ndarray:
    """Return the pixels of bands of strokes, bool [H, W]."""
    bright = frame - _sliding(np.maximum, _sliding(np.minimum, frame, _STROKE), _STROKE)
    dark = _sliding(np.minimum, _sliding(np.maximum, frame, _STROKE), _STROKE) - frame
    count = np.minimum(_stroke_count(bright), _stroke_count(dark))
    if count.max() < _STROKES:
        return np.zeros(frame.shape, dtype=bool)
    count = np.ascontiguousarray(count.T)  # windows slide along the last axis
    dense = _opened(count >= _STROKES, _SHORTEST)
    busy = ~_opened(count < _FEW, _GAP)  # rows with few strokes lie above and below a line
    tall = _opened(busy, _TALLEST + 1)
    return _opened((dense & ~tall).T, _NARROWEST)


def _opened(mask: np.ndarray, size: int) -> np.ndarray:
    """Return the runs of at least `size` along the last axis."""
    return _sliding(np.maximum, _sliding(np.minimum, mask, size)[:, ::-1], size)[:, ::-1]


def _stroke_count(relief: np.ndarray) -> np.ndarray:
    """Return the number of strokes that begin in the window around each pixel, int [H, W]."""
    is_stroke = relief >= _CONTRAST
    begins = is_stroke.copy()
    begins[:, 1:] &= ~is_stroke[:, :-1]
    total = np.cumsum(np.pad(begins, ((0, 0), (_WINDOW // 2 + 1, _WINDOW // 2))), axis=1, dtype=np.int16)
    return total[:, _WINDOW:] - total[:, :-_WINDOW]


def _sliding(choose: np.ufunc, values: np.ndarray, size: int) -> np.ndarray:
    """Return the minimum or maximum in a window of `size` around each value of the last axis."""
    padded = np.pad(values, ((0, 0), (size // 2, size - 1 - size // 2)), mode="edge")
    done = 1
    while done < size:
        step = min(done, size - done)
        padded = choose(padded[:, :-step], padded[:, step:])
        done += step
    return padded


def _shrunk(frame: np.ndarray, scale: int) -> np.ndarray:
    """Return the frame at 1 / scale of its size, by means of squares."""
    return frame if scale == 1 else np.asarray(Image.fromarray(frame).reduce(scale))
