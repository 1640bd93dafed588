"""Where the driver collects fragment metadata, makes it visible in time, and shows progress."""

import logging
import math
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from gve_ray.stage.metrics import StageMetrics
from gve_ray.stage.worker import StageError
from gve_ray.store import Store

log = logging.getLogger(__name__)

_PROGRESS_SECONDS = 5.0
_COMMIT_SHARE = 0.05  # of the time: as manifests grow, commits become rarer instead of dearer


@dataclass(frozen=True, kw_only=True)
class StageProgress:
    """done and rejected count all runs (done includes rejected); rate is rows a second of this run."""

    name: str
    total: int
    done: int
    rejected: int
    rate: float
    eta_seconds: float

    def __str__(self) -> str:
        left = "?" if math.isinf(self.eta_seconds) else f"{self.eta_seconds:.0f} s"
        return (
            f"{self.name}: {self.done}/{self.total} rows, {self.rate:.1f} rows/s, "
            f"{left} left, {self.rejected} rejected"
        )


class Sink:
    """Collects fragment metadata and makes it visible in time; shows progress. A context manager.

    A thread commits and reports, since the next batch may be minutes away. Its errors are raised by the
    next `add`, or on leaving.
    """

    def __init__(
        self,
        name: str,
        out: Store,
        rejects: Store,
        *,
        total: int,
        done: int,
        rejected: int,
        commit_seconds: float,
        on_progress: Callable[[StageProgress], None] | None,
    ) -> None:
        self._name, self._out, self._rejects, self._total = name, out, rejects, total
        self._before, self._done, self._rejected = done + rejected, done + rejected, rejected
        self._commit_seconds, self._on_progress = commit_seconds, on_progress
        self._waiting: dict[str, list[str]] = {"out": [], "rejects": [], "held": []}
        # By first key: a batch is a block of the input, so that tells it. Keys of all rows would be 0.2 GB a million.
        self._seen: dict[str, int] = {}
        self._lock = threading.Lock()
        self._stop = threading.Event()
        self._error: Exception | None = None
        self._begun = self._reported = self._committed = time.monotonic()
        self._pause = commit_seconds
        self._metrics = StageMetrics(name)
        self._thread = threading.Thread(target=self._tick, name=f"{name}-commits", daemon=True)

    def __enter__(self) -> "Sink":
        self._thread.start()
        return self

    def __exit__(self, kind: type | None, *_: object) -> None:
        self._stop.set()
        self._thread.join()
        if kind is None:
            self._raise()
            self._release()
        if self._error is None and (kind is None or not math.isinf(self._commit_seconds)):
            self._commit()  # after a failure too: what is done stays done
        self._report()

    def add(self, record: Mapping[str, Any]) -> None:
        """Take one record of `RECORD_SCHEMA`. Ray may deliver a batch again after losing a node."""
        self._raise()
        keys = tuple(record["keys"])
        if (before := self._seen.get(keys[0])) is not None:
            if before != hash(keys):
                raise StageError(f"stage {self._name}: a batch came back with other rows than before")
            return
        with self._lock:
            self._seen[keys[0]] = hash(keys)
            self._done += len(keys)
            self._rejected += len(record["reasons"])
            self._metrics.rejected(record["reasons"], record["errors"])
            if record["errors"] == len(keys):
                # Perhaps the worker is broken and not the rows: wait for a row that works.
                self._waiting["held"] += record["rejects"]
            else:
                self._release()
                self._waiting["out"] += record["out"]
                self._waiting["rejects"] += record["rejects"]

    def _release(self) -> None:
        self._waiting["rejects"] += self._waiting["held"]
        self._waiting["held"] = []

    def _tick(self) -> None:
        try:
            while not self._stop.wait(min(1.0, self._commit_seconds)):
                if time.monotonic() - self._committed >= self._pause:
                    self._commit()
                if time.monotonic() - self._reported >= _PROGRESS_SECONDS:
                    self._report()
        except Exception as error:  # noqa: BLE001 - raised in the driver's thread by `_raise`
            self._error = error

    def _raise(self) -> None:
        if self._error is not None:
            raise StageError(f"stage {self._name}: commit failed: {self._error}") from self._error

    def _commit(self) -> None:
        begun = time.monotonic()
        with self._lock:
            out, rejects = self._waiting["out"], self._waiting["rejects"]
            self._waiting["out"], self._waiting["rejects"] = [], []
        self._out.commit(out)
        self._rejects.commit(rejects)
        self._committed = time.monotonic()
        self._metrics.committed(self._committed - begun)
        self._pause = max(self._commit_seconds, (self._committed - begun) / _COMMIT_SHARE)

    def _report(self) -> None:
        self._reported = time.monotonic()
        rate = (self._done - self._before) / max(self._reported - self._begun, 1e-9)
        progress = StageProgress(
            name=self._name,
            total=self._total,
            done=self._done,
            rejected=self._rejected,
            rate=rate,
            eta_seconds=(self._total - self._done) / rate if rate else math.inf,
        )
        log.info("%s", progress)
        self._metrics.progress(
            out=self._done - self._rejected,
            rejected=self._rejected,
            waiting=self._total - self._done,
            rate=rate,
        )
        if self._on_progress:
            self._on_progress(progress)
