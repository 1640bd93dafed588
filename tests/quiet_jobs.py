"""Jobs for test_stage: one after another, each on one stage, with a line of "====" between them.

python quiet_jobs.py ADDRESS FOLDER
"""

import logging
import os
import sys
import threading
from pathlib import Path
from typing import Any

import stage_workers as workers

from gve_ray import progress
from gve_ray.job import run_job
from gve_ray.stage import StageResources, run_stage
from gve_ray.store import RunFolder


class Seen:
    """A stream that passes text on, and an event for the moment at which the line of a text has passed."""

    def __init__(self, stream: Any, text: str) -> None:
        self.stream, self.text, self.event = stream, text, threading.Event()
        self.has_begun = False

    def write(self, text: str) -> None:
        self.stream.write(text)
        self.has_begun = self.has_begun or self.text in text
        if self.has_begun and text.endswith("\n"):  # Ray may write the end of the line separately
            self.event.set()

    def __getattr__(self, name: str) -> Any:
        return getattr(self.stream, name)


class Release(logging.Handler):
    """Let the worker continue after the driver has reported half of its first batch."""

    def __init__(self, hold: Path) -> None:
        super().__init__()
        self.hold = hold

    def emit(self, record: logging.LogRecord) -> None:
        if "squares: 4/16" in record.getMessage():
            self.hold.touch()


def work(folder: Path, hold: Path, fail: str) -> str:
    before = sys.stdout, sys.stderr  # of a quiet job: its log file
    printed = Seen(sys.stdout, "a line of a library"), Seen(sys.stderr, "sides are square")
    sys.stdout, sys.stderr = printed  # type: ignore[assignment]
    try:
        with RunFolder(str(folder), job="squares", config={}):
            out, rejects = workers.stores(folder)
            counts = run_stage(
                "squares",
                pending=workers.pending(16),
                worker=workers.Chatty,
                worker_args={"hold": str(hold), "fail": fail},
                out=out,
                rejects=rejects,
                resources=StageResources(actors=1, num_cpus=0.5, batch_size=8),
            )
            for stream in printed:
                stream.event.wait()  # Ray delivers the output of workers later than their results
    finally:
        sys.stdout, sys.stderr = before
    return f"{counts.n_in} squares"


def main(address: str, folder: Path) -> int:
    import ray

    # One connection for all jobs, which is faster; `run_job` leaves a connection that it finds.
    environment = {"env_vars": {"PYTHONPATH": os.environ["PYTHONPATH"]}}
    ray.init(address, logging_level="ERROR", runtime_env=environment)
    progress.LOG_SECONDS = 0.0  # all news is logged
    hold = folder / "hold"
    progress.log.addHandler(Release(hold))
    statuses = [run_job("squares", lambda: work(folder / "quiet", hold, ""))]
    print("====", flush=True)
    statuses.append(run_job("squares", lambda: work(folder / "failing", hold, "too many sides")))
    print("====", flush=True)
    statuses.append(
        run_job("squares", lambda: work(folder / "verbose", hold, ""), verbose=True),
    )
    return 0 if statuses == [0, 1, 0] else 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1], Path(sys.argv[2])))
