"""A job for test_logs: runs one stage on a new Ray cluster and then fails.

python logging_job.py FOLDER
"""

import logging
import sys
from pathlib import Path

import stage_workers as workers

from gve_ray.job import JobError, run_job
from gve_ray.stage import StageResources, run_stage
from gve_ray.store import RunFolder

log = logging.getLogger("logging_job")


def work(folder: Path) -> None:
    import ray

    with RunFolder(str(folder / "run"), job="synthesize", config={}):
        log.info("not connected yet")
        ray.init(num_cpus=2, include_dashboard=False)
        out, rejects = workers.stores(folder)
        run_stage(
            "squares",
            pending=workers.pending(24),
            worker=workers.Logging,
            worker_args={"folder": str(folder)},
            out=out,
            rejects=rejects,
            resources=StageResources(actors=2, num_cpus=0.5, batch_size=4),
        )
        raise JobError("the disk is full")


if __name__ == "__main__":
    sys.exit(run_job("squares", lambda: work(Path(sys.argv[1]))))
