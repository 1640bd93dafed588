"""Collect the workers' fragment metadata in the driver, commit it regularly, and report progress."""

import math
import threading
import time
from collections.abc import Callable, Collection, Mapping
from typing import Any

from gve_ray.logs import extra_log_context, log_context
from gve_ray.progress import Progress
from gve_ray.stage.in_flight import Activity
from gve_ray.stage.metrics import StageMetrics
from gve_ray.stage.tokens import TokenCounts, tokens_text
from gve_ray.stage.worker import StageError
from gve_ray.store import Store

_PROGRESS_SECONDS = 1.0
# Commits take at most this share of the time: as manifests grow, commits become less frequent.
_COMMIT_SHARE = 0.05


class Committer:
    """A context manager that commits fragment metadata every few seconds and reports progress.

    A thread commits and reports, because the next batch may be minutes away. Errors of that thread
    are raised by the next `add`, or when the block ends.

    activity: returns what the workers do now. The progress counts the finished rows of batches in work,
    too; `batches` are their first keys, None for all. If a worker dies with its batch, these rows are done
    again, and until then the progress does not change. In the end, it counts the rows that `add` has
    received. undone: the reasons of the rows so far that have no result. first: the rows of the first
    batch, and the time of the monotonic clock at which it arrived. metrics, part: of the stage, and which
    of its parts these rows are.
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
        activity: Callable[[], Activity] = Activity,
        batches: Collection[str] | None = None,
        metrics: StageMetrics | None = None,
        part: int = 0,
        label: str = "",
    ) -> None:
        self._name, self._out, self._rejects, self._total = name, out, rejects, total
        self._done_before, self._done, self.rejected = done + rejected, done + rejected, rejected
        self._commit_seconds = commit_seconds
        self._waiting: dict[str, list[str]] = {"out": [], "rejects": [], "held": []}
        # A batch is a block of the input, so its first key identifies it. Keeping the keys of all
        # rows would take 0.2 GB per million.
        self._seen: dict[str, int] = {}
        self.first = (0, time.monotonic())
        self.undone: list[str] = []
        self._lock = threading.Lock()
        self._stop = threading.Event()
        self._error: Exception | None = None
        self._started = self._reported = self._committed = time.monotonic()
        self._pause = commit_seconds
        self._metrics, self._part = metrics or StageMetrics(name), part
        self._activity, self._batches = activity, batches
        self._shown = self._done
        self._progress = Progress(label or name, total, done=self._done)
        self._log_context = log_context()
        self._thread = threading.Thread(target=self._tick, name=f"{name}-commits", daemon=True)

    def __enter__(self) -> "Committer":
        self._thread.start()
        return self

    def __exit__(self, kind: type | None, *_: object) -> None:
        self._stop.set()
        self._thread.join()
        if kind is None:
            self._raise_thread_error()
            self._release_held()
        if self._error is None and (kind is None or not math.isinf(self._commit_seconds)):
            self._commit()  # after a failure too, so that finished rows are kept
        self._report_metrics()
        self._progress.reach(self._done, self._detail())
        self._progress.close()

    @property
    def done(self) -> int:
        """The rows that have a result, those of earlier runs among them. `rejected`: those that are rejects."""
        return self._done

    def add(self, record: Mapping[str, Any]) -> None:
        """Take one record of `RECORD_SCHEMA`; ignore it if the batch was delivered before.

        Ray may deliver a batch again after losing a node. Raises StageError if the batch then has
        other rows, or if a commit has failed.
        """
        self._raise_thread_error()
        keys = tuple(record["keys"])
        if (seen := self._seen.get(keys[0])) is not None:
            if seen != hash(keys):
                raise StageError(
                    f"stage {self._name}: the batch that begins with {keys[0]!r} was delivered twice with "
                    "different rows; start the job again"
                )
            return
        with self._lock:
            if not self._seen:
                self.first = (len(keys), time.monotonic())
            self._seen[keys[0]] = hash(keys)
            self._done += len(keys)
            self.rejected += len(record["reasons"])
            self.undone += record["undone"]
            self._metrics.rejected(record["reasons"], record["errors"])
            if record["errors"] == len(keys):
                # The worker may be broken rather than the rows: hold until some row succeeds.
                self._waiting["held"] += record["rejects"]
            else:
                self._release_held()
                self._waiting["out"] += record["out"]
                self._waiting["rejects"] += record["rejects"]

    def _release_held(self) -> None:
        self._waiting["rejects"] += self._waiting["held"]
        self._waiting["held"] = []

    def _tick(self) -> None:
        try:
            with extra_log_context(**self._log_context):
                while not self._stop.wait(min(1.0, self._commit_seconds)):
                    if time.monotonic() - self._committed >= self._pause:
                        self._commit()
                    if time.monotonic() - self._reported >= _PROGRESS_SECONDS:
                        self._report_progress(self._activity())
                        self._report_metrics()
        except Exception as error:  # noqa: BLE001 - raised by `_raise_thread_error`
            self._error = error

    def _raise_thread_error(self) -> None:
        if self._error is not None:
            raise StageError(f"stage {self._name}: commit failed: {self._error}") from self._error

    def _commit(self) -> None:
        started = time.monotonic()
        with self._lock:
            out, rejects = self._waiting["out"], self._waiting["rejects"]
            self._waiting["out"], self._waiting["rejects"] = [], []
        self._out.commit(out)
        self._rejects.commit(rejects)
        self._committed = time.monotonic()
        self._metrics.committed(self._committed - started)
        self._pause = max(self._commit_seconds, (self._committed - started) / _COMMIT_SHARE)

    def _report_progress(self, activity: Activity) -> None:
        """Report the rows that have arrived, and those of batches in work that workers have finished."""
        with self._lock:
            in_work = sum(
                rows
                for key, rows in activity.finished.items()
                if key not in self._seen and (self._batches is None or key in self._batches)
            )
            # The last row counts when its batch has arrived.
            self._shown = max(self._shown, min(self._done + in_work, self._total - 1), self._done)
        if activity.workers or self._shown > self._done_before:
            self._progress.reach(self._shown, self._detail(activity.tokens))
        else:
            self._progress.wait_for(activity.status or "starting the workers")

    def _detail(self, tokens: TokenCounts | None = None) -> str:
        """Return what follows the number of rows in the progress."""
        parts = [f"{self.rejected} rejected"] if self.rejected else []
        if tokens is not None and tokens.workers:
            parts.append(tokens_text(tokens.to_dict()))
        return ", ".join(parts)

    def _report_metrics(self) -> None:
        self._reported = time.monotonic()
        rate = (self._done - self._done_before) / max(self._reported - self._started, 1e-9)
        self._metrics.progress(
            out=self._done - self.rejected,
            rejected=self.rejected,
            waiting=self._total - self._done,
            rate=rate,
            part=self._part,
        )
