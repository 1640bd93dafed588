"""Signature of a video's content: small thumbnails of its frames, which copies of it nearly share.

The k uniform frames as luma 16x16 and two colour differences 8x8, 384 bytes a frame. A 64-bit perceptual
hash would not do: scenes that share a background and differ in one small object have equal hashes, while
here the object changes a few cells by much. So two videos are copies if in every frame even the cells that
differ most differ little, and their lengths agree. A cell differs by as much as it lies outside the range of
the nine cells around its place in the other video: a copy at another frame rate shows a moving object a few
pixels further on.

`points` and `may_be_near` find candidates cheaply; the decision is always made on the whole signature.
"""

from collections.abc import Sequence

import numpy as np
from PIL import Image

LUMA, CHROMA = 16, 8  # cells a side
FRAME_BYTES = LUMA * LUMA + 2 * CHROMA * CHROMA
THRESHOLD = 0.1
DURATION_TOLERANCE = 0.1  # seconds, or this share of the longer one if that is more

_WORST_LUMA, _WORST_CHROMA = 6, 3  # cells of a frame: about the area of a small object
_SPREAD, _LEAST_SPREAD = (
    48.0,
    12.0,
)  # grey levels: contrast is brought to the first, but not from below the second
_BLOCK_FACTOR = 4.0  # a block's mean may differ by this many thresholds


def signature(pixels: np.ndarray) -> bytes:
    """Thumbnails of the frames, quantised to bytes: T x 384 bytes.

    pixels: uint8 [T, H, W, 3]. Brightness is kept here and taken out when comparing.
    """
    return b"".join(_thumbnail(frame) for frame in pixels)


def _thumbnail(frame: np.ndarray) -> bytes:
    """luma 16x16, then (r-g)/2 and (b-g)/2 at 8x8, each cell the mean of its area, as uint8."""
    image = Image.fromarray(frame)
    small = np.asarray(image.resize((LUMA, LUMA), Image.Resampling.BOX)).astype(np.float32)
    luma = small @ np.array([0.299, 0.587, 0.114], dtype=np.float32)
    coarse = small.reshape(CHROMA, 2, CHROMA, 2, 3).mean(axis=(1, 3))
    red = 127.5 + 0.5 * (coarse[..., 0] - coarse[..., 1])
    blue = 127.5 + 0.5 * (coarse[..., 2] - coarse[..., 1])
    cells = np.concatenate([luma.ravel(), red.ravel(), blue.ravel()])
    return np.clip(np.round(cells), 0, 255).astype(np.uint8).tobytes()


def distance(a: bytes, b: bytes) -> float:
    """0 (the same) to 1: over frames, the largest of the mean difference in a frame's worst cells.

    Signatures of different numbers of frames are 1 apart.
    """
    if len(a) != len(b) or not a:
        return 1.0
    return float(distances(normalised([a]), normalised([b]))[0])


def normalised(data: Sequence[bytes]) -> np.ndarray:
    """Signatures of T frames each -> float32 [n, T, 384]: one gain and offset a video taken out of the luma."""
    cells = (
        np.frombuffer(b"".join(data), dtype=np.uint8).reshape(len(data), -1, FRAME_BYTES).astype(np.float32)
    )
    luma, colour = cells[..., : LUMA * LUMA], cells[..., LUMA * LUMA :] - 127.5
    mean = luma.mean(axis=(1, 2), keepdims=True)
    scale = _SPREAD / np.maximum(luma.std(axis=(1, 2), keepdims=True), _LEAST_SPREAD)
    return np.concatenate([(luma - mean) * scale, colour * np.minimum(scale, 2.0)], axis=2)


def distances(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """`distance` of n pairs. a, b: `normalised` float32 [n, T, 384]. Returns float32 [n]."""
    worst = [np.zeros(a.shape[:2], dtype=np.float32)]
    for start, side, channels, cells in ((0, LUMA, 1, _WORST_LUMA), (LUMA * LUMA, CHROMA, 2, _WORST_CHROMA)):
        stop = start + channels * side * side
        grids = [x[..., start:stop].reshape(*x.shape[:2], channels, side, side) for x in (a, b)]
        for x, y in (grids, grids[::-1]):
            low, high = _neighbourhood(y, np.minimum), _neighbourhood(y, np.maximum)
            gap = np.maximum(np.maximum(x - high, low - x), 0.0).reshape(*x.shape[:2], -1)
            worst.append(np.partition(gap, -cells, axis=-1)[..., -cells:].mean(axis=-1))  # [n, T]
    return np.maximum.reduce(worst).max(axis=-1) / 255.0


def _neighbourhood(grid: np.ndarray, pick: np.ufunc) -> np.ndarray:
    """Smallest or largest value of each cell and the eight around it. [..., h, w] -> the same."""
    padded = np.pad(grid, [(0, 0)] * (grid.ndim - 2) + [(1, 1), (1, 1)], mode="edge")
    rows = pick(pick(padded[..., :-2, :], padded[..., 1:-1, :]), padded[..., 2:, :])
    return pick(pick(rows[..., :-2], rows[..., 1:-1]), rows[..., 2:])


def points(cells: np.ndarray) -> np.ndarray:
    """[n, T, 384] -> float32 [n, 128]: eight moments, each a mean of its frames, 4x4 luma cells."""
    n, moments, side = len(cells), cells.shape[1], LUMA // 4
    luma = cells[..., : LUMA * LUMA].reshape(n, moments, 4, side, 4, side).mean(axis=(3, 5))
    parts = [luma[:, part].mean(axis=1) for part in np.array_split(np.arange(moments), 8) if len(part)]
    parts += [parts[-1]] * (8 - len(parts))
    return np.ascontiguousarray(np.stack(parts, axis=1).reshape(n, 128))


def may_be_near(a: np.ndarray, b: np.ndarray, threshold: float) -> np.ndarray:
    """bool [n]: whether pairs of `points`, float32 [n, 128] each, may be within the threshold.

    The bound is wide, since a small object that has moved on by a cell may have left its block.
    """
    return np.abs(a - b).max(axis=1, initial=0.0) <= _BLOCK_FACTOR * threshold * 255.0


def lengths_agree(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """bool [n]: whether durations, seconds [n] each, are those of copies."""
    return np.abs(a - b) <= np.maximum(DURATION_TOLERANCE, DURATION_TOLERANCE * np.maximum(a, b))
