"""Run an expensive stage on Ray: each input row gives exactly one output row or one reject.

    counts = run_stage("captions", pending=table, worker=Captioner, worker_args={...},
                       out=annotations, rejects=rejects, resources=StageResources(num_gpus=1))

Rows stream through a Ray Data actor pool. Each actor writes its results as Lance fragments, which
stay invisible until the driver commits their metadata every few seconds. If a worker or the driver
is killed at any point and the job is started again, the result has the same rows: none is lost and
none occurs twice.

Retries are limited. If a batch raises an exception, it is rerun row by row, and a row that still
raises becomes `Reject("error")`. If a worker process dies, the rows that were in flight are retried
one at a time, and a row that kills its worker `max_attempts` times becomes `Reject("quarantined")`. If the
worker's node had no memory left (memory.py), later batches are processed in smaller parts, and a row with which
this happens again and again is left undone: the others are committed, and then the stage fails. An error of
storage, such as a full disk, is not counted against the row either, but fails the stage.
A worker that cannot start, or that raises on every row, fails the job. A worker that cannot go on for a
reason outside of its rows returns them `Undone`: the others are committed, and then the stage fails.

A worker whose batches or start take long calls `row_finished` and `report_status`, so that the
progress of the stage shows more than its finished batches; one with a language model calls `report_tokens`.

Trade-off: exactly-once processing costs two actor calls and one Lance fragment per batch (see
benchmarks/stage.py), so a batch should take longer than that.
"""

from gve_ray.config import StageResources
from gve_ray.stage.reporter import report_status, row_finished
from gve_ray.stage.run import StageCounts, StagePace, StageRunner, run_stage
from gve_ray.stage.tokens import report_tokens
from gve_ray.stage.worker import REJECT_SCHEMA, BrokenWorker, Reject, Result, StageError, Undone

__all__ = [
    "REJECT_SCHEMA",
    "BrokenWorker",
    "Reject",
    "Result",
    "StageCounts",
    "StageError",
    "StagePace",
    "StageResources",
    "StageRunner",
    "Undone",
    "report_status",
    "report_tokens",
    "row_finished",
    "run_stage",
]
