"""How long work that a driver does itself still takes: a line in the log every few seconds."""

import logging
import time

log = logging.getLogger(__name__)

_SECONDS = 5.0


class Progress:
    """Says how much of `total` is done, how fast, and how long the rest takes; and once more at the end.

    what: begins the lines. total: 0 says nothing. unit: what is counted.
    """

    def __init__(self, what: str, total: int, *, unit: str = "rows") -> None:
        self._what, self._total, self._unit = what, total, unit
        self._begun = self._told = time.monotonic()

    def reach(self, done: int) -> None:
        """`done` of all are done."""
        now = time.monotonic()
        if not self._total or not done or (now - self._told < _SECONDS and done < self._total):
            return
        self._told = now
        rate = done / max(now - self._begun, 1e-9)
        left = (self._total - done) / rate
        log.info(
            "%s: %d/%d %s, %.1f %s/s, %.0f s left",
            *(self._what, done, self._total, self._unit, rate, self._unit, left),
        )
