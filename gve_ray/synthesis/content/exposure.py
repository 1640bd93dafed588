"""Measure blur and darkness: whether the sharpest edges of a video are soft, and its brightest parts dark."""

import numpy as np

BLUR_THRESHOLD = 1.2  # pixels
DARKNESS_THRESHOLD = 0.88  # the brightest parts have an eighth of white

_BLOCK = 24  # pixels; each block votes with its strongest edge
_STRONGEST = 0.04  # of the blocks: a sharp subject before a blurred ground is sharp
_LEAST_EDGE = 2.0  # gray levels per pixel; below, a block has noise only
_LEAST_BLOCKS = 6
_MOST_BLUR = 12.0  # pixels; beyond, edges are too flat to tell
_BRIGHTEST = 99.0  # percentile of a frame's brightness


def darkness(luma: np.ndarray) -> float:
    """Return how dark the brightest parts of a video are, 0 (white) to 1 (black).

    luma: uint8 [T, H, W]. Lamps at night make a frame bright enough; so does fading in and out, if most
    frames are bright.
    """
    brightest = np.percentile(luma.reshape(len(luma), -1), _BRIGHTEST, axis=1)
    return 1 - float(np.median(brightest)) / 255


def blur(luma: np.ndarray) -> float:
    """Return the blur of the strongest edges of a video, as the standard deviation of a Gaussian in pixels.

    luma: uint8 [T, H, W]. Every other frame is measured, and their median
    counts. 0 if there are no edges. An edge that was blurred
    by a Gaussian of standard deviation s loses slope when it is blurred again; by how much says what s
    is (Zhuo and Sim, "Defocus map estimation from a single image", Pattern Recognition 44(9), 2011).
    """
    return float(np.median([_blur_of(frame) for frame in luma[::2]]))


def _blur_of(frame: np.ndarray) -> float:
    once = _smooth(frame.astype(np.float32))  # standard deviation 1, against noise
    twice = _smooth(_smooth(_smooth(once)))  # standard deviation 2
    slope, smoothed = _slope(once), _slope(twice)
    height, width = slope.shape[0] // _BLOCK, slope.shape[1] // _BLOCK
    if height * width < _LEAST_BLOCKS:
        return 0.0

    def blocks(values: np.ndarray) -> np.ndarray:
        """[H, W] -> [blocks, pixels]."""
        cut = values[: height * _BLOCK, : width * _BLOCK]
        cut = cut.reshape(height, _BLOCK, width, _BLOCK).swapaxes(1, 2)
        return cut.reshape(height * width, _BLOCK * _BLOCK)

    slopes = blocks(slope)
    at = slopes.argmax(axis=1)
    index = np.arange(len(at))
    strongest, again = slopes[index, at], blocks(smoothed)[index, at]
    order = np.argsort(-strongest)[: max(_LEAST_BLOCKS, round(len(at) * _STRONGEST))]
    order = order[strongest[order] >= _LEAST_EDGE]
    if len(order) < _LEAST_BLOCKS:
        return 0.0
    # once: s^2 + 1; twice: s^2 + 4; slopes are as the inverse of the standard deviations.
    ratio = np.maximum((strongest[order] / again[order]) ** 2, 1 + 1e-3)
    variance = 3 / (ratio - 1) - 1
    return float(np.clip(np.sqrt(np.clip(np.median(variance), 0, None)), 0, _MOST_BLUR))


def _smooth(values: np.ndarray) -> np.ndarray:
    """Blur by the binomial 1 4 6 4 1, whose variance is 1."""
    v = np.pad(values, 2, mode="edge")
    v = (v[:-4] + v[4:] + 4 * (v[1:-3] + v[3:-1]) + 6 * v[2:-2]) / 16
    v = v.T
    v = (v[:-4] + v[4:] + 4 * (v[1:-3] + v[3:-1]) + 6 * v[2:-2]) / 16
    return v.T


def _slope(values: np.ndarray) -> np.ndarray:
    """Return the length of the gradient in gray levels per pixel."""
    dx = values[1:-1, 2:] - values[1:-1, :-2]
    dy = values[2:, 1:-1] - values[:-2, 1:-1]
    return np.hypot(dx, dy) / 2
