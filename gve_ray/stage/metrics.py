"""Prometheus metrics of a stage, exported through Ray: row counts, rates and durations.

The driver's counts are exact: each row is counted once, however often it is retried. Workers count
the batches they ran; a worker that is killed loses what it has not sent yet. On Ray's metrics
endpoint the names below start with `ray_`, and counters end with `_total`. The dashboards in
cluster/grafana show them.
"""

import threading
from collections import Counter as Tally
from collections.abc import Iterable
from functools import partial
from typing import Any

from gve_ray.logs import metric_tags
from gve_ray.stage.tokens import TokenCounts

# The tag is `gve_job`, not `job`, because Prometheus adds its own `job` label to every metric.
TAGS = ("gve_job", "run", "stage")
OTHER = "other"
_MAX_REASONS = 32  # a bound on metric series, for workers that make up reasons
_SECONDS = [0.01, 0.03, 0.1, 0.3, 1.0, 3.0, 10.0, 30.0, 100.0, 300.0, 1000.0, 3000.0]


class StageMetrics:
    """Metrics that the driver of one stage reports."""

    def __init__(self, stage: str) -> None:
        from ray.util.metrics import Counter, Gauge, Histogram

        metric = partial(_metric, stage)
        self._rows = metric(
            Gauge,
            "rows",
            "Rows of a stage over all its runs: out, rejected, or waiting for a result",
            "state",
        )
        self._rate = metric(Gauge, "rows_per_second", "Rows per second that this run has finished")
        self._rejects = metric(Counter, "rejects", "Rows that this run has rejected, by reason", "reason")
        self._errors = metric(Counter, "errors", "Rows that this run has rejected because they raised")
        self._commits = metric(
            Histogram,
            "commit_seconds",
            "Duration of commits, which make results visible",
            boundaries=_SECONDS,
        )
        self._reasons: set[str] = set()
        self._parts: dict[int, tuple[int, int, int]] = {}
        self._lock = threading.Lock()

    def progress(self, *, out: int, rejected: int, waiting: int, rate: float, part: int = 0) -> None:
        """Set the numbers of rows of one part by state, and the rate in rows per second.

        The metrics are the sums over all parts of this run so far.
        """
        with self._lock:
            self._parts[part] = out, rejected, waiting
            totals = [sum(column) for column in zip(*self._parts.values(), strict=True)]
        for state, rows in zip(("out", "rejected", "waiting"), totals, strict=True):
            self._rows.set(rows, tags={"state": state})
        self._rate.set(rate)

    def rejected(self, reasons: Iterable[str], errors: int) -> None:
        """Count rejected rows, given the reason of each; `errors` of them raised an exception."""
        for reason, count in Tally(map(self._bounded, reasons)).items():
            self._rejects.inc(count, tags={"reason": reason})
        if errors:
            self._errors.inc(errors)

    def committed(self, seconds: float) -> None:
        """Record the duration of one commit."""
        self._commits.observe(seconds)

    def _bounded(self, reason: str) -> str:
        """Return the reason, or "other" once there are too many different ones."""
        if reason not in self._reasons and len(self._reasons) >= _MAX_REASONS:
            return OTHER
        self._reasons.add(reason)
        return reason


class WorkerMetrics:
    """Metrics that each worker of a stage reports."""

    def __init__(self, stage: str) -> None:
        from ray.util.metrics import Counter, Histogram

        self._seconds = _metric(
            stage,
            Histogram,
            "batch_seconds",
            "Duration of a batch in its worker, including writing its results",
            boundaries=_SECONDS,
        )
        self._retries = _metric(
            stage, Counter, "retries", "Batches that were started again because their worker or its node died"
        )

        self._tokens = _metric(
            stage, Counter, "tokens", "Tokens that engines have processed, of prompts and output", "kind"
        )
        self._busy = _metric(stage, Counter, "busy_seconds", "Time in which the worker's engine worked")

    def tokens(self, new: TokenCounts) -> None:
        """Count more tokens, and time of the engine."""
        for kind, count in (("prompt", new.prompt), ("output", new.output)):
            if count:
                self._tokens.inc(count, tags={"kind": kind})
        if new.busy_seconds > 0:
            self._busy.inc(new.busy_seconds)

    def batch(self, seconds: float) -> None:
        """Record the duration of a batch that has finished."""
        self._seconds.observe(seconds)

    def retry(self) -> None:
        """Count a batch that was started before."""
        self._retries.inc()


def _metric(stage: str, kind: Any, name: str, description: str, *tags: str, **options: Any) -> Any:
    """Return a metric of a stage, with the usual tags and others that are set with each value."""
    metric = kind(f"gve_stage_{name}", description, tag_keys=(*TAGS, *tags), **options)
    return metric.set_default_tags({**metric_tags(), "stage": stage})
