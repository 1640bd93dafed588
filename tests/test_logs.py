"""Records that say where they come from, in text for people and as JSON for programs."""

import json
import logging
import os
import re
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from gve_ray import logs
from gve_ray.logs import SWITCH, mark, marked, marks, new_run, origin

HERE = Path(__file__).resolve().parent


def test_runs_have_names_that_sort_by_time() -> None:
    assert re.fullmatch(r"\d{8}-\d{6}-[0-9a-f]{4}", new_run())
    assert len({new_run() for _ in range(20)}) > 15  # of 65,536 a second


def test_records_carry_what_holds_while_they_are_made(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(logs, "_marks", {})  # a run that was here before leaves its own
    caplog.set_level(logging.INFO)
    log = logging.getLogger("gve_ray.some.module")

    def say() -> dict[str, object]:
        thread = threading.Thread(target=log.info, args=("word",))  # as commits do
        thread.start()
        thread.join()
        record = vars(caplog.records[-1])
        return {name: record.get(name) for name in ("job", "run", "stage", "logger")}

    assert origin() == {"gve_job": "", "run": ""}
    with marked(job="synthesize", run="r1"):
        mark({})  # twice is once
        assert origin() == {"gve_job": "synthesize", "run": "r1"}
        with marked(stage="captions"):
            assert say() == {"job": "synthesize", "run": "r1", "stage": "captions", "logger": log.name}
        assert say() == {"job": "synthesize", "run": "r1", "stage": None, "logger": log.name}
    assert say() == {"job": None, "run": None, "stage": None, "logger": log.name}
    assert marks() == {}


def run(*words: str, **env: str) -> "subprocess.CompletedProcess[str]":
    paths = os.pathsep.join([str(HERE), str(HERE.parent), os.environ.get("PYTHONPATH", "")])
    return subprocess.run(
        [sys.executable, *words],
        env={**os.environ, "PYTHONPATH": paths, **env},
        capture_output=True,
        text=True,
        timeout=280,
    )


@pytest.mark.slow
def test_the_log_of_a_run_as_json(tmp_path: Path) -> None:
    """Of the driver before and after it has connected, of its commits' thread, of workers, and of its end."""
    done = run(str(HERE / "logging_job.py"), str(tmp_path), **{SWITCH: "JSON", "RAY_DEDUP_LOGS": "0"})
    assert done.returncode == 1, done.stderr
    lines = done.stderr.splitlines()
    records = [json.loads(line) for line in lines if line.startswith("{")]
    (this,) = json.loads((tmp_path / "run" / "run.json").read_text())["runs"]
    for one in records:
        if one["logger"].startswith(("gve_ray.stage", "stage_workers")):
            assert (one["job"], one["run"], one["stage"]) == ("synthesize", this["id"], "squares")
            assert {"asctime", "levelname", "message", "job_id", "node_id", "worker_id"} <= set(one)
    said = {one["logger"]: one for one in records}
    assert "squares: 24/24 rows" in said["gve_ray.stage.sink"]["message"]
    assert (said["logging_job"]["message"], said["logging_job"]["run"]) == ("not connected yet", this["id"])
    words = {one["message"] for one in records if one["logger"] == "stage_workers"}
    assert {f"4 rows from v{first:04d}" for first in range(0, 24, 4)} <= words
    assert "actor_id" in said["stage_workers"]
    # Records have a time in nanoseconds: a line twice is a handler too many.
    assert len({line for line in lines if line.startswith("{")}) == len(records)
    assert "trying row by row" in said["gve_ray.stage.worker"]["message"]
    assert said["gve_ray.job"]["message"].startswith("error: the disk is full\nwhat was committed is kept")
    assert (said["gve_ray.job"]["levelname"], said["gve_ray.job"]["run"]) == ("ERROR", this["id"])


def test_the_log_of_a_run_as_text() -> None:
    """Nothing of the marks shows, and what a job ends with is on stdout."""
    program = (
        "import logging\n"
        "from gve_ray.job import run_job\n"
        "from gve_ray.logs import mark\n"
        "mark({'job': 'synthesize', 'run': 'r1'})\n"
        "run_job(lambda: logging.getLogger('a').info('24 rows') or 'done')\n"
    )
    done = run("-c", program, **{SWITCH: ""})
    assert re.fullmatch(r"\d\d:\d\d:\d\d 24 rows\n", done.stderr)
    assert done.stdout == "done\n"
