"""What a worker of a stage tells the driver while it works: its status, and rows that are finished.

    report_status("loading the model")     # in the constructor
    row_finished()                         # in __call__, after each row of the batch

Both are optional and only for the progress that users see; outside a stage they do nothing. Without
`row_finished`, rows are counted when their batch is. Counts are sent five times a second at most.
"""

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager

_SECONDS = 0.2

_send_status: Callable[[str], object] | None = None  # of this process: each worker has its own
_batch = threading.local()  # its `count` is the `_Count` of the batch that this thread works on


def report_status(status: str) -> None:
    """Tell the driver what this worker does before its first batch. Callable from any thread."""
    if _send_status is not None:
        _send_status(status)


def row_finished(rows: int = 1) -> None:
    """Tell the driver that more rows of the present batch have a result; call it in the batch's thread."""
    count: _Count | None = getattr(_batch, "count", None)
    if count is not None:
        count.add(rows)


def send_status_with(send: Callable[[str], object]) -> None:
    """Pass the statuses of this process to `send` from now on."""
    global _send_status
    _send_status = send


@contextmanager
def counted(send: Callable[[int], object]) -> Iterator[None]:
    """Pass the number of rows that this thread finishes during the block to `send`."""
    _batch.count = count = _Count(send)
    try:
        yield
    finally:
        _batch.count = None
        count.close()


class _Count:
    """Counts the finished rows of one batch and sends the count, not too often."""

    def __init__(self, send: Callable[[int], object]) -> None:
        self._send, self._rows, self._sent = send, 0, 0
        self._lock = threading.Lock()
        self._timer: threading.Timer | None = None

    def add(self, rows: int) -> None:
        with self._lock:
            self._rows += rows
            if self._timer is None:
                self._flush()

    def _flush(self) -> None:
        """Send the count if it has changed, and look again after a while. The lock is held."""
        self._timer = None
        if self._rows != self._sent:
            self._sent = self._rows
            self._send(self._rows)
            self._timer = threading.Timer(_SECONDS, self._flush_later)
            self._timer.daemon = True
            self._timer.start()

    def _flush_later(self) -> None:
        with self._lock:
            if self._timer is not None:
                self._flush()

    def close(self) -> None:
        with self._lock:
            if self._timer is not None:
                self._timer.cancel()
                self._timer = None
