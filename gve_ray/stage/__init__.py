"""The one engine for expensive stages: strictly one row in, one row out, or one reject.

    counts = run_stage("captions", pending=table, worker=Captioner, worker_args={...},
                       out=annotations, rejects=rejects, resources=StageResources(num_gpus=1))

Rows stream through a Ray Data actor pool. Each actor writes its results as invisible Lance fragments and
returns only their metadata; the driver commits them every few seconds. Kill a worker or the driver
anywhere and start again: the same rows, none lost, none twice.

What fails is finite. An exception reruns the batch row by row, and a row that still raises becomes
`Reject("error")`. When a worker process dies, the rows that were in flight are retried one at a time,
and a row that kills its worker `max_attempts` times becomes `Reject("quarantined")`. A worker that
cannot start, or that raises on every row, fails the job.

Trade-off: exactly-once costs two ledger calls and a fragment a batch (see benchmarks/stage.py); give
batches that take longer than that.
"""

from gve_ray.config import StageResources
from gve_ray.stage.run import StageCounts, check_resources, run_stage
from gve_ray.stage.sink import StageProgress
from gve_ray.stage.worker import REJECT_SCHEMA, BrokenWorker, Reject, StageError

__all__ = [
    "REJECT_SCHEMA",
    "BrokenWorker",
    "Reject",
    "StageCounts",
    "StageError",
    "StageProgress",
    "StageResources",
    "check_resources",
    "run_stage",
]
