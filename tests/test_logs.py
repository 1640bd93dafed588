"""Tests that log records carry their context, and that the log can be text or JSON."""

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
from gve_ray.logs import SWITCH, extend_log_context, extra_log_context, log_context, metric_tags, new_run

HERE = Path(__file__).resolve().parent


def test_run_ids_contain_the_time_and_are_unique() -> None:
    assert re.fullmatch(r"\d{8}-\d{6}-[0-9a-f]{4}", new_run())
    assert len({new_run() for _ in range(20)}) > 15  # 65,536 different ids are possible in a second


def test_records_carry_the_context_at_the_time_they_are_created(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(logs, "_context", {})  # earlier tests in this process may have set it
    caplog.set_level(logging.INFO)
    log = logging.getLogger("gve_ray.some.module")

    def say(**fields: str | int) -> None:
        with extra_log_context(**fields):
            log.info("word")

    def fields_of_new_record() -> dict[str, object]:
        thread = threading.Thread(target=say, kwargs=log_context())  # as commits do
        thread.start()
        thread.join()
        record = vars(caplog.records[-1])
        return {name: record.get(name) for name in ("job", "run", "stage", "logger")}

    assert metric_tags() == {"gve_job": "", "run": ""}
    with extra_log_context(job="synthesize", run="r1"):
        extend_log_context({})  # installing the record factory again changes nothing
        assert metric_tags() == {"gve_job": "synthesize", "run": "r1"}
        with extra_log_context(stage="captions"):
            assert fields_of_new_record() == {
                "job": "synthesize",
                "run": "r1",
                "stage": "captions",
                "logger": log.name,
            }
        assert fields_of_new_record() == {"job": "synthesize", "run": "r1", "stage": None, "logger": log.name}
    assert fields_of_new_record() == {"job": None, "run": None, "stage": None, "logger": log.name}
    assert log_context() == {}


def run(*arguments: str, **env: str) -> "subprocess.CompletedProcess[str]":
    paths = os.pathsep.join([str(HERE), str(HERE.parent), os.environ.get("PYTHONPATH", "")])
    return subprocess.run(
        [sys.executable, *arguments],
        env={**os.environ, "PYTHONPATH": paths, **env},
        capture_output=True,
        text=True,
        timeout=280,
    )


@pytest.mark.slow
def test_the_log_of_a_run_as_json(tmp_path: Path) -> None:
    """Covers the driver before and after it connects to Ray, the commit thread and workers."""
    done = run(str(HERE / "logging_job.py"), str(tmp_path), **{SWITCH: "JSON", "RAY_DEDUP_LOGS": "0"})
    assert done.returncode == 1, done.stderr
    lines = done.stderr.splitlines()
    records = [json.loads(line) for line in lines if line.startswith("{")]
    (this,) = json.loads((tmp_path / "run" / "run.json").read_text())["runs"]
    for record in records:
        if record["logger"].startswith(("gve_ray.stage", "gve_ray.progress", "stage_workers")):
            assert (record["job"], record["run"], record["stage"]) == ("synthesize", this["id"], "squares")
            assert {"asctime", "levelname", "message", "job_id", "node_id", "worker_id"} <= set(record)
    last = {record["logger"]: record for record in records}
    assert "squares: 24/24 rows" in last["gve_ray.progress"]["message"]
    assert (last["logging_job"]["message"], last["logging_job"]["run"]) == ("not connected yet", this["id"])
    messages = {record["message"] for record in records if record["logger"] == "stage_workers"}
    assert {f"4 rows from v{first:04d}" for first in range(0, 24, 4)} <= messages
    assert "actor_id" in last["stage_workers"]
    # Records have a timestamp in nanoseconds, so an identical line would mean a duplicate handler.
    assert len({line for line in lines if line.startswith("{")}) == len(records)
    assert "trying row by row" in last["gve_ray.stage.worker"]["message"]
    assert last["gve_ray.job"]["message"].startswith("error: the disk is full\nwhat was committed is kept")
    assert (last["gve_ray.job"]["levelname"], last["gve_ray.job"]["run"]) == ("ERROR", this["id"])


def test_the_warnings_of_ranks_are_recognizable() -> None:
    """Ray Train's handlers print only the message; `gve_ray.console` looks for level and logger."""
    program = (
        "import logging\n"
        "from gve_ray.logs import set_up_rank\n"
        "logging.basicConfig(level=logging.INFO, format='%(message)s')\n"
        "set_up_rank(as_json=False)\n"
        "logging.getLogger('gve_ray.training.loop').warning('continuing with 1 rank')\n"
    )
    done = run("-c", program)
    assert re.fullmatch(
        r"\d\d:\d\d:\d\d WARNING gve_ray.training.loop: continuing with 1 rank\n", done.stderr
    )


def test_the_log_of_a_run_as_text() -> None:
    """The context is not shown in text, and the job's summary goes to stdout."""
    program = (
        "import logging\n"
        "from gve_ray.job import run_job\n"
        "from gve_ray.logs import extend_log_context\n"
        "extend_log_context({'job': 'synthesize', 'run': 'r1'})\n"
        "run_job('a', lambda: logging.getLogger('gve_ray.a').info('24 rows') or 'done')\n"
    )
    done = run("-c", program, **{SWITCH: ""})
    assert re.fullmatch(r"\d\d:\d\d:\d\d 24 rows\n", done.stderr)
    assert done.stdout == "done\n"
