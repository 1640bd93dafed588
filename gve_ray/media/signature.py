"""Compute signatures of videos: small thumbnails of their frames, which copies of a video nearly share.

A signature holds k uniform frames as 16x16 luma and two 8x8 colour differences, 384 bytes per
frame. A 64-bit perceptual hash is not enough: scenes that share a background and differ in one
small object have equal hashes, while here the object changes a few cells a lot. So two videos are
copies if their lengths agree and in every frame even the cells that differ most differ little. A
cell's difference is its distance from the range of the nine cells around its position in the other
video, because a copy at another frame rate shows a moving object a few pixels further on.

`points` and `may_be_near` find candidates quickly; the whole signature always decides.
"""

from collections.abc import Sequence

import numpy as np
from PIL import Image

LUMA, CHROMA = 16, 8  # cells per side
FRAME_BYTES = LUMA * LUMA + 2 * CHROMA * CHROMA
THRESHOLD = 0.1
DURATION_TOLERANCE = 0.1  # seconds, or this share of the longer one if that is more

_WORST_LUMA, _WORST_CHROMA = 6, 3  # cells of a frame: about the area of a small object
_SPREAD = 48.0  # grey levels; the contrast of every video is scaled to this standard deviation
_LEAST_SPREAD = 12.0  # a lower contrast is scaled as if it were this one
_BLOCK_FACTOR = 4.0  # a block's mean may differ by this many thresholds


def signature(pixels: np.ndarray) -> bytes:
    """Return thumbnails of the frames, T x 384 bytes.

    pixels: uint8 [T, H, W, 3]. They keep the brightness, which the comparison removes.
    """
    return b"".join(_thumbnail(frame) for frame in pixels)


def _thumbnail(frame: np.ndarray) -> bytes:
    """Return 16x16 luma, then (r-g)/2 and (b-g)/2 at 8x8, as uint8; each cell is the mean of its area."""
    image = Image.fromarray(frame)
    small = np.asarray(image.resize((LUMA, LUMA), Image.Resampling.BOX)).astype(np.float32)
    luma = small @ np.array([0.299, 0.587, 0.114], dtype=np.float32)
    coarse = small.reshape(CHROMA, 2, CHROMA, 2, 3).mean(axis=(1, 3))
    red = 127.5 + 0.5 * (coarse[..., 0] - coarse[..., 1])
    blue = 127.5 + 0.5 * (coarse[..., 2] - coarse[..., 1])
    cells = np.concatenate([luma.ravel(), red.ravel(), blue.ravel()])
    return np.clip(np.round(cells), 0, 255).astype(np.uint8).tobytes()


def distance(a: bytes, b: bytes) -> float:
    """Return 0 (the same) to 1: the mean difference of a frame's worst cells, and the maximum over frames.

    The distance of signatures with different numbers of frames is 1.
    """
    if len(a) != len(b) or not a:
        return 1.0
    return float(distances(normalised([a]), normalised([b]))[0])


def normalised(data: Sequence[bytes]) -> np.ndarray:
    """Convert signatures of T frames to float32 [n, T, 384], and remove one gain and luma offset per video."""
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
    """Return the smallest or largest value of each cell and the eight around it, [..., h, w]."""
    padded = np.pad(grid, [(0, 0)] * (grid.ndim - 2) + [(1, 1), (1, 1)], mode="edge")
    rows = pick(pick(padded[..., :-2, :], padded[..., 1:-1, :]), padded[..., 2:, :])
    return pick(pick(rows[..., :-2], rows[..., 1:-1]), rows[..., 2:])


def points(cells: np.ndarray) -> np.ndarray:
    """Reduce [n, T, 384] to float32 [n, 128]: eight means of consecutive frames, with 4x4 luma cells each."""
    n, moments, side = len(cells), cells.shape[1], LUMA // 4
    luma = cells[..., : LUMA * LUMA].reshape(n, moments, 4, side, 4, side).mean(axis=(3, 5))
    parts = [luma[:, part].mean(axis=1) for part in np.array_split(np.arange(moments), 8) if len(part)]
    parts += [parts[-1]] * (8 - len(parts))
    return np.ascontiguousarray(np.stack(parts, axis=1).reshape(n, 128))


def may_be_near(a: np.ndarray, b: np.ndarray, threshold: float) -> np.ndarray:
    """bool [n]: whether pairs of `points`, float32 [n, 128] each, may be within the threshold.

    The bound is wide, since a small object that has moved by a cell may have left its block.
    """
    return np.abs(a - b).max(axis=1, initial=0.0) <= _BLOCK_FACTOR * threshold * 255.0


def lengths_agree(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """bool [n]: whether two durations, seconds [n] each, may be those of copies."""
    return np.abs(a - b) <= np.maximum(DURATION_TOLERANCE, DURATION_TOLERANCE * np.maximum(a, b))
