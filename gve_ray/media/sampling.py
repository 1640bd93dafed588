"""Select frames: uniform ones, those of a time span, or those at single moments."""

from dataclasses import dataclass

import numpy as np


def uniform_indices(total: int, k: int) -> np.ndarray:
    """Return int64 [k]: frame numbers spread evenly over 0..total-1, first and last included.

    They are round(linspace(0, total - 1, k)), with halves rounded to even. If there are fewer than
    k frames, numbers repeat. k = 1 gives the first frame. Raises ValueError for total < 1 or k < 1.
    """
    if k < 1:
        raise ValueError(f"k={k} frames: ask for at least 1")
    if total < 1:
        raise ValueError(f"total={total} frames: there is nothing to sample")
    return np.round(np.linspace(0, total - 1, k)).astype(np.int64)


@dataclass(frozen=True, kw_only=True)
class FrameRequest:
    """A request for frames of one video: k uniform ones over [start, end], or those shown at some moments.

    `FrameRequest(k=8)` is the whole video. start and end are seconds on the file's clock (which
    shows `VideoInfo.start` at the first frame); either may be None. A moment or span before the
    first frame gives the first frame. A span shorter than one frame gives the frame shown at
    `start`; a span with fewer than k frames repeats some. `FrameRequest(at=(1.0, 2.5))` gives one
    frame for each moment; a moment after the end gives the last frame.
    """

    k: int | None = None
    start: float | None = None
    end: float | None = None
    at: tuple[float, ...] | None = None

    def __post_init__(self) -> None:
        if (self.k is None) == (self.at is None):
            raise ValueError(f"FrameRequest(k={self.k}, at={self.at}): give exactly one of k and at")
        if self.at is not None:
            if self.start is not None or self.end is not None:
                raise ValueError("FrameRequest(at=...) takes no start or end")
            if not self.at or min(self.at) < 0:
                raise ValueError(f"FrameRequest(at={self.at}): give at least one moment, none below 0")
        if self.k is not None and self.k < 1:
            raise ValueError(f"k={self.k} frames: ask for at least 1")
        if self.start is not None and self.start < 0:
            raise ValueError(f"start={self.start}: seconds on the file's clock, at least 0")
        if self.end is not None and self.end <= (self.start or 0.0):
            raise ValueError(f"start={self.start}, end={self.end}: the end must come after the start")

    def indices(self, seconds: np.ndarray) -> np.ndarray:
        """Return int64 [k]: the frame numbers of this request.

        seconds: when each frame is shown, float64 [n] on the file's clock, ascending. Raises
        ValueError if `start` is after the last frame.
        """
        if self.at is not None:
            return np.array([on_screen(seconds, moment) for moment in self.at], dtype=np.int64)
        assert self.k is not None
        start = 0.0 if self.start is None else self.start
        if start > seconds[-1] + _median_gap(seconds):
            raise ValueError(f"start={start}: the last frame is at {seconds[-1]:.3f} s; start before that")
        # A start or end that was computed from timestamps must match them despite rounding errors.
        slack = 1e-6
        first = int(np.searchsorted(seconds, start - slack))
        stop = len(seconds) if self.end is None else int(np.searchsorted(seconds, self.end + slack, "right"))
        if first >= stop:
            return np.full(self.k, on_screen(seconds, start), dtype=np.int64)
        return first + uniform_indices(stop - first, self.k)


def on_screen(seconds: np.ndarray, moment: float) -> int:
    """Return the number of the frame shown at `moment`: the last one that started by then."""
    return max(0, int(np.searchsorted(seconds, moment + 1e-6, "right")) - 1)


def _median_gap(seconds: np.ndarray) -> float:
    return float(np.median(np.diff(seconds))) if len(seconds) > 1 else 0.0
