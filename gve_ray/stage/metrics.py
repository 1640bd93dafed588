"""Figures of a stage for Prometheus, by Ray's metrics: what the driver has counted, how long its workers took.

The driver's counts are exact: each row once, whatever is retried. Workers tell of the batches they ran, but what
one that is killed has not sent yet is lost. On the agents' pages the names below begin with `ray_`, and counters
end with `_total`; cluster/grafana draws them.
"""

from collections import Counter as Tally
from collections.abc import Iterable

from gve_ray.logs import origin

# `job` is a label that Prometheus gives to whatever it scrapes.
TAGS = ("gve_job", "run", "stage")
OTHER = "other"
_REASONS = 32  # a stage has a handful; a worker that makes them up must not fill the page
_SECONDS = [0.01, 0.03, 0.1, 0.3, 1.0, 3.0, 10.0, 30.0, 100.0, 300.0, 1000.0, 3000.0]


class StageMetrics:
    """What the driver of one stage tells."""

    def __init__(self, stage: str) -> None:
        from ray.util.metrics import Counter, Gauge, Histogram

        tags = {**origin(), "stage": stage}
        self._rows = Gauge(
            "gve_stage_rows",
            "Rows of a stage over all its runs: out, rejected, or waiting for a result",
            tag_keys=(*TAGS, "state"),
        ).set_default_tags(tags)
        self._rate = Gauge(
            "gve_stage_rows_per_second", "Rows a second that this run has got results for", tag_keys=TAGS
        ).set_default_tags(tags)
        self._rejects = Counter(
            "gve_stage_rejects", "Rows that this run has rejected, by reason", tag_keys=(*TAGS, "reason")
        ).set_default_tags(tags)
        self._errors = Counter(
            "gve_stage_errors", "Rows that this run has rejected because they raised", tag_keys=TAGS
        ).set_default_tags(tags)
        self._commits = Histogram(
            "gve_stage_commit_seconds",
            "Time of making results visible",
            boundaries=_SECONDS,
            tag_keys=TAGS,
        ).set_default_tags(tags)
        self._reasons: set[str] = set()

    def progress(self, *, out: int, rejected: int, waiting: int, rate: float) -> None:
        """Where the stage is. rate: rows a second."""
        for state, rows in (("out", out), ("rejected", rejected), ("waiting", waiting)):
            self._rows.set(rows, tags={"state": state})
        self._rate.set(rate)

    def rejected(self, reasons: Iterable[str], errors: int) -> None:
        """Count rejects, a reason each; `errors` of them raised."""
        for reason, count in Tally(map(self._known, reasons)).items():
            self._rejects.inc(count, tags={"reason": reason})
        if errors:
            self._errors.inc(errors)

    def committed(self, seconds: float) -> None:
        """Count one commit."""
        self._commits.observe(seconds)

    def _known(self, reason: str) -> str:
        if reason not in self._reasons and len(self._reasons) >= _REASONS:
            return OTHER
        self._reasons.add(reason)
        return reason


class WorkerMetrics:
    """What each worker of a stage tells."""

    def __init__(self, stage: str) -> None:
        from ray.util.metrics import Counter, Histogram

        tags = {**origin(), "stage": stage}
        self._seconds = Histogram(
            "gve_stage_batch_seconds",
            "Time of a batch in its worker, writing it included",
            boundaries=_SECONDS,
            tag_keys=TAGS,
        ).set_default_tags(tags)
        self._again = Counter(
            "gve_stage_retries",
            "Batches that were begun again: their worker died, or its node",
            tag_keys=TAGS,
        ).set_default_tags(tags)

    def batch(self, seconds: float) -> None:
        """Count a batch that came to its end."""
        self._seconds.observe(seconds)

    def retry(self) -> None:
        """Count a batch that had been begun before."""
        self._again.inc()
