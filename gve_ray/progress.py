"""Log the progress of long work in the driver: items done, rate and time left, every few seconds."""

import logging
import time

log = logging.getLogger(__name__)

_LOG_INTERVAL_SECONDS = 5.0


class Progress:
    """Logs how many of `total` items are done, the rate and the time left; also at the end.

    label: text at the start of each line. total: number of items; with 0, nothing is logged. unit:
    what is counted, in the plural.
    """

    def __init__(self, label: str, total: int, *, unit: str = "rows") -> None:
        self._label, self._total, self._unit = label, total, unit
        self._started = self._last_logged = time.monotonic()

    def reach(self, done: int) -> None:
        """Report that `done` items in all are finished; log a line if one is due."""
        now = time.monotonic()
        is_due = now - self._last_logged >= _LOG_INTERVAL_SECONDS or done >= self._total
        if not self._total or not done or not is_due:
            return
        self._last_logged = now
        rate = done / max(now - self._started, 1e-9)
        left = (self._total - done) / rate
        log.info(
            "%s: %d/%d %s, %.1f %s/s, %.0f s left",
            *(self._label, done, self._total, self._unit, rate, self._unit, left),
        )
