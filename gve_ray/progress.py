"""Report how far long work is: items done, rate and time left.

    progress = Progress("duplicates", total=40, unit="videos")
    for done, video in enumerate(videos, 1):
        ...
        progress.reach(done)

On a terminal, `gve_ray.console` shows a live line. Everywhere else there is a line in the log when
something has changed, at most every ten seconds, and one at the end of a step of a second or more.
"""

import logging
import math
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Protocol

NAME = __name__  # of the logger
log = logging.getLogger(NAME)

LOG_SECONDS = 10.0
WORTH_A_LINE_SECONDS = 1.0


@dataclass(frozen=True, kw_only=True)
class ProgressState:
    """How far a step is.

    done: items over all runs of the job. first: `done` when this run began. rate: items per second
    of this run. seconds: since the step began. seconds_left: infinity if unknown. status: what the
    step waits for before its first item. detail: text that follows the numbers.
    """

    label: str
    total: int
    unit: str
    done: int = 0
    first: int = 0
    rate: float = 0.0
    seconds: float = 0.0
    seconds_left: float = math.inf
    status: str = ""
    detail: str = ""

    @property
    def is_finished(self) -> bool:
        """Whether all items are done."""
        return self.done >= self.total

    def __str__(self) -> str:
        if self.status:
            return f"{self.label}: {self.status}"
        parts = [f"{self.label}: {self.done}/{self.total} {self.unit}"]
        if self.is_finished:
            parts[0] += f" in {duration(self.seconds)}"
        if self.rate and not self.is_finished:
            per_second = f"{self.rate:.1f} {self.unit}/s"
            parts.append(per_second if self.rate >= 0.1 else f"{60 * self.rate:.1f} {self.unit}/min")
        if not self.is_finished and math.isfinite(self.seconds_left):
            parts.append(f"{duration(self.seconds_left)} left")
        return ", ".join([*parts, *filter(None, [self.detail])])


class Display(Protocol):
    """Shows the steps that are in progress."""

    def show(self, state: ProgressState) -> None:
        """Show the state of a step in place of its earlier one."""

    def hide(self, label: str) -> None:
        """Stop showing a step."""


_display: Display | None = None  # of this process
_listener: Callable[[ProgressState], object] | None = None  # of this process
_last_line = -math.inf  # when any step last logged a line that was not its last


@contextmanager
def shown_by(display: Display) -> Iterator[None]:
    """Show all steps of this process on the display until the block ends."""
    global _display
    before, _display = _display, display
    try:
        yield
    finally:
        _display = before


@contextmanager
def heard_by(listener: Callable[[ProgressState], object]) -> Iterator[None]:
    """Also call `listener` with each state of the steps of this process, about once a second, until the block ends."""
    global _listener
    before, _listener = _listener, listener
    try:
        yield
    finally:
        _listener = before


def is_displayed() -> bool:
    """Return whether a display shows the steps of this process, as on a terminal."""
    return _display is not None


class Progress:
    """One step of long work; see the module.

    label: names the step; unique among the steps in progress. total: number of items; with 0,
    nothing is reported. unit: what is counted, in the plural. done: items done by earlier runs.
    """

    def __init__(self, label: str, total: int, *, unit: str = "rows", done: int = 0) -> None:
        self._label, self._total, self._unit = label, total, unit
        self._done_before = self._done = self._counted_from = done
        self._status = self._detail = ""
        self._begun = self._started = self._logged = time.monotonic()
        self._news: tuple[int, str, str] = (done, "", "")
        self._is_closed = not total

    def wait_for(self, status: str) -> None:
        """Say what the step waits for before its first item. The clock of the rate starts afterwards.

        Items that are finished when the wait ends do not count for the rate: when they began is not known.
        """
        self._status = status
        self._report()

    def reach(self, done: int, detail: str = "") -> None:
        """Report that `done` items in all are finished. detail: text that follows the numbers."""
        if self._status:
            self._started, self._counted_from = time.monotonic(), done
        self._done, self._status, self._detail = done, "", detail
        self._report()
        if done >= self._total:
            self.close()

    @property
    def state(self) -> ProgressState:
        """The present state."""
        now = time.monotonic()
        left = max(self._total - self._done, 0)
        rate = (self._done - self._counted_from) / max(now - self._started, 1e-9)
        return ProgressState(
            label=self._label,
            total=self._total,
            unit=self._unit,
            done=self._done,
            first=self._done_before,
            rate=rate,
            seconds=now - self._begun,
            # Without a rate, as when all items are finished at the first report, only nothing left takes no time.
            seconds_left=left / rate if rate else math.inf if left else 0.0,
            status=self._status,
            detail=self._detail,
        )

    def close(self) -> None:
        """End the step, whether it is finished or not; log its last state if that is news."""
        if self._is_closed:
            return
        self._is_closed = True
        if _listener is not None:
            _listener(self.state)
        if _display is not None:
            _display.show(self.state)
            _display.hide(self._label)
        if self._done > self._done_before and self.state.seconds >= WORTH_A_LINE_SECONDS:
            log.info("%s", self.state)

    def _report(self) -> None:
        global _last_line
        if self._is_closed or self._done >= self._total:
            return
        state = self.state
        if _listener is not None:
            _listener(state)
        if _display is not None:
            _display.show(state)
        now = time.monotonic()
        news = (state.done, state.status, state.detail)
        is_news = news != self._news and (state.done > state.first or state.status)
        if is_news and now - max(self._logged, _last_line) >= LOG_SECONDS:
            self._logged = _last_line = now
            self._news = news
            # A display shows this already; its log file has it as well.
            log.info("%s", state, extra={"is_displayed": _display is not None})


def duration(seconds: float) -> str:
    """Format seconds as "45 s", "12:05" or "3:25:45"."""
    whole = round(seconds)
    if whole < 100:
        return f"{whole} s"
    hours, rest = divmod(whole, 3600)
    return f"{hours}:{rest // 60:02d}:{rest % 60:02d}" if hours else f"{rest // 60}:{rest % 60:02d}"
