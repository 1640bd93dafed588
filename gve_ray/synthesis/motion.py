"""Score the motion in a video, so that static videos can be rejected (arXiv:2510.27571, section 4).

The score is the largest change between any two sampled frames, in grey levels of 0..1, after what is not
motion has been taken out: gain and offset of the whole picture (flicker, fades, auto exposure), and noise
(codec, sensor). A change counts where a window of about 4 % of the frame's side has changed as a whole, so
a small object that crosses the frame counts as much as a pan, and grain does not.

Trade-off: it is a peak, not an amount. It separates static from dynamic videos but does not rank dynamic ones.
"""

import numpy as np
from PIL import Image

SIDE = 128  # frames are compared at this length of their longer side
WINDOW = 5  # pixels at that size
# Below: static. Compressed grain with flicker reaches 0.05, a small object that spins 0.12 (docs/LOG.md).
THRESHOLD = 0.07

_CLIPPED_LOW, _CLIPPED_HIGH = 3.0, 252.0
_ROUNDS = 4  # of the robust gain and offset fit
_STRIDE = 3  # every third pixel either way is enough for a fit and for the noise
_PEAK_SIGMAS = 4.5  # the largest of some ten thousand window means of pure noise
_CHANGED = 16.0  # gray levels
_NOISE_CAP = 10.0  # grey levels: real motion of fine textures must not pass for noise


def motion_score(pixels: np.ndarray) -> float:
    """Largest local change between any two frames, 0 (nothing moves) to 1.

    pixels: uint8 [T, H, W, 3], frames sampled over the whole video. Fewer than two frames score 0.
    """
    if pixels.dtype != np.uint8 or pixels.ndim != 4 or pixels.shape[-1] != 3:
        raise ValueError(f"pixels: {pixels.dtype} {pixels.shape}; frames are uint8 [T, H, W, 3]")
    motion, last = Motion(pixels), len(pixels) - 1
    # Neighbours for what comes and goes, the ends for what drifts: of 8 frames 18 pairs instead of 28.
    pairs = {(i, i + 1) for i in range(last)} | {(0, i) for i in range(1, last + 1)}
    pairs |= {(i, last) for i in range(last)}
    return max((motion.between(a, b) for a, b in sorted(pairs)), default=0.0)


class Motion:
    """The motion between any two of some frames. pixels: uint8 [T, H, W, 3]."""

    def __init__(self, pixels: np.ndarray) -> None:
        self._planes = [_planes(frame) for frame in pixels]

    def between(self, a: int, b: int) -> float:
        """Return the largest local change between two frames, 0 to 1."""
        (first, inside), (second, inside_second) = self._planes[a], self._planes[b]
        return _change(first, second, inside & inside_second)

    def changed_area(self, a: int, b: int) -> float:
        """Return the share of the picture in which the brightness differs between two frames, 0 to 1."""
        difference = np.abs(self._planes[a][0][0] - self._planes[b][0][0])
        return float((difference > _CHANGED).mean())


def _planes(frame: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """(float32 [3, h, w], bool [h, w]): luma and two colour differences, and where no channel is clipped.

    At most SIDE on the longer side.
    """
    height, width = frame.shape[:2]
    scale = SIDE / max(height, width)
    if scale < 1:
        size = (max(WINDOW, round(width * scale)), max(WINDOW, round(height * scale)))
        frame = np.asarray(Image.fromarray(frame).resize(size, Image.Resampling.BOX))
    inside = (frame.min(axis=-1) > _CLIPPED_LOW) & (frame.max(axis=-1) < _CLIPPED_HIGH)
    r, g, b = np.moveaxis(frame.astype(np.float32), -1, 0)
    luma = 0.299 * r + 0.587 * g + 0.114 * b
    return np.stack([luma, 0.5 * (r - g), 0.5 * (b - g)]), inside


def _change(a: np.ndarray, b: np.ndarray, valid: np.ndarray) -> float:
    """Peak of the smoothed residual between two frames, less what noise alone would give; 0 to 1."""
    # The fit runs from the frame with more contrast: the other way a faded frame would need a huge gain.
    if a[0].std() < b[0].std():
        a, b = b, a
    some = valid[::_STRIDE, ::_STRIDE]
    if some.sum() < 64:  # a black frame: better a fit to clipped pixels than none
        some = np.ones_like(some)
    gain, offset = _fit(a[0, ::_STRIDE, ::_STRIDE][some], b[0, ::_STRIDE, ::_STRIDE][some])
    residual = b - gain * a
    residual[0] -= offset
    # A clipped pixel hides its true value; what the gain can explain there is no change.
    unseen = ~valid & (np.abs(residual).max(axis=0) < abs(gain - 1) * 255 + abs(offset) + 4)
    residual[:, unseen] = 0.0
    sample = np.abs(residual[:, ::_STRIDE, ::_STRIDE])
    noise = 1.4826 * np.median(sample, axis=(1, 2))  # [3]
    floor = np.minimum(_PEAK_SIGMAS * noise / WINDOW, _NOISE_CAP)
    peaks = np.abs(_box(residual)).max(axis=(1, 2))  # [3]
    return float(np.clip(peaks - floor, 0, None).max() / 255.0)


def _fit(x: np.ndarray, y: np.ndarray) -> tuple[float, float]:
    """Gain and offset of y = gain * x + offset over most pixels; those that moved are left out."""
    keep = np.ones(len(x), dtype=bool)
    gain, offset = 1.0, float(np.median(y - x))
    for _ in range(_ROUNDS):
        error = np.abs(y - gain * x - offset)
        keep = error <= max(2.5 * 1.4826 * float(np.median(error)), 2.0)
        xs, ys = x[keep], y[keep]
        spread = float(xs.var())
        if spread < 1.0:  # the gain of a flat picture is undetermined
            return 1.0, float(np.median(y - x))
        gain = float(((xs - xs.mean()) * (ys - ys.mean())).mean()) / spread
        offset = float(ys.mean()) - gain * float(xs.mean())
    return gain, offset


def _box(planes: np.ndarray) -> np.ndarray:
    """Mean over WINDOW x WINDOW, valid positions only. [c, h, w] -> [c, h - WINDOW + 1, w - WINDOW + 1]."""
    total = np.cumsum(np.cumsum(planes, axis=1, dtype=np.float32), axis=2, dtype=np.float32)
    total = np.pad(total, ((0, 0), (1, 0), (1, 0)))
    n = WINDOW
    sums = total[:, n:, n:] - total[:, :-n, n:] - total[:, n:, :-n] + total[:, :-n, :-n]
    return sums / (n * n)
