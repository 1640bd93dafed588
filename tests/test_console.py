"""Tests what reaches the user of a quiet job and what goes to the log file; tests/test_stage.py has one on Ray."""

import os
import pty
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
NOISE = """
import logging, os, sys, warnings
from gve_ray.console import lines_printed, log_to, print_result, quiet_output, show_only
from gve_ray.progress import Progress
from pathlib import Path
folder = Path(sys.argv[1])
"""


def run(program: str, folder: Path) -> "subprocess.CompletedProcess[str]":
    return subprocess.run(
        [sys.executable, "-c", NOISE + program, str(folder)],
        env={**os.environ, "PYTHONPATH": str(ROOT), "TMPDIR": str(folder)},
        capture_output=True, text=True, check=False, timeout=120,
    )  # fmt: skip


def test_only_what_concerns_the_user_is_shown_and_the_log_has_everything(tmp_path: Path) -> None:
    program = r"""
with quiet_output("index") as console:
    os.write(1, b"from C++\n")
    log_to(str(folder / "run" / "logs" / "a.log"))
    print("from Python")
    warnings.warn("old name", FutureWarning)
    logging.getLogger("httpx").info("a request")
    logging.getLogger("gve_ray.indexing").info("22 videos")
    for n in (8, 16):  # like Ray, which colors names
        worker = f"\x1b[36m(MapWorker(Actor) pid={n}, ip=10.0.0.1)\x1b[0m"
        print(f"{worker} 10:00:00 WARNING gve_ray.stage.worker: batch of {n} failed")
    print("(W pid=1) 10:00:00 INFO gve_ray.stage.worker: ready")
    print("(raylet) 1 Workers killed due to memory pressure (OOM)")
    print("(raylet) 7 Workers have died")
    subprocess = __import__("subprocess").run(["sh", "-c", "echo from a child"])
    console.print("done", result=True)
print("after")
"""
    done = run(program, tmp_path)
    assert done.returncode == 0, done.stderr
    assert done.stdout == "done\nafter\n"
    log = tmp_path / "run" / "logs" / "a.log"
    shown = done.stderr.splitlines()
    assert shown[0] == f"log  {log}"
    assert shown[1].endswith(" 22 videos")
    assert shown[2:] == [
        "warning: batch of 8 failed",
        "warning: 1 Workers killed due to memory pressure (OOM)",
    ]
    text = log.read_text()
    expected = ["from C++", "from Python", "FutureWarning: old name", "INFO httpx: a request",
                "INFO gve_ray.indexing: 22 videos", "batch of 16 failed", "have died", "from a child"]  # fmt: skip
    assert [part for part in expected if part not in text] == []
    assert list(tmp_path.iterdir()) == [tmp_path / "run"]  # the temporary folder is deleted


def test_the_log_of_a_job_without_a_folder(tmp_path: Path) -> None:
    """It is deleted, unless its name is shown to the user."""
    assert run('with quiet_output("doctor"):\n    print("noise")', tmp_path).returncode == 0
    assert list(tmp_path.iterdir()) == []
    done = run('with quiet_output("serve"):\n    log_to(None)\n    print("noise")', tmp_path)
    (log,) = tmp_path.glob("*/serve.log")
    assert done.stderr == f"log  {log}\n"
    assert log.read_text() == "noise\n"


def test_a_large_log_is_renamed(tmp_path: Path) -> None:
    program = """
from gve_ray import console
console.MAX_BYTES = 1000
with quiet_output("serve"):
    log_to(str(folder / "a.log"))
    print("x" * 2000)
    log = folder / "a.log"
    while not ((folder / "a.log.1").exists() and log.exists() and os.path.samestat(log.stat(), os.fstat(2))):
        pass
    print("later")
"""
    assert run(program, tmp_path).returncode == 0
    assert (tmp_path / "a.log").read_text() == "later\n"
    assert "x" * 2000 in (tmp_path / "a.log.1").read_text()


def on_terminal(program: str, folder: Path) -> str:
    """Return what a program shows on a terminal of 100 columns."""
    controller, terminal = pty.openpty()
    process = subprocess.Popen(
        [sys.executable, "-c", NOISE + program, str(folder)],
        env={**os.environ, "PYTHONPATH": str(ROOT), "TMPDIR": str(folder), "TERM": "xterm", "COLUMNS": "100"},
        stdin=terminal, stdout=terminal, stderr=terminal,
    )  # fmt: skip
    os.close(terminal)
    shown = b""
    while True:
        try:
            part = os.read(controller, 65536)
        except OSError:  # the last process that has the terminal open has ended
            break
        if not part:
            break
        shown += part
    os.close(controller)
    assert process.wait() == 0, shown
    return shown.decode()


def test_a_terminal_shows_a_live_line(tmp_path: Path) -> None:
    program = """
with quiet_output("synthesize") as console:
    step = Progress("captions", 4)
    step.wait_for("starting the captioner: loading tiny")
    logging.getLogger("gve_ray").info("first")
    print("noise")
    step.reach(1)
    logging.getLogger("gve_ray").info("a message")  # draws the live line again
    step.reach(3, "1 rejected")
    step.reach(4)
    console.print("the result", result=True)
"""
    shown = on_terminal(program, tmp_path)
    assert "starting the captioner: loading tiny" in shown
    assert "━" in shown  # the bar
    assert "1/4 rows" in shown
    assert "noise" not in shown
    lines = [line.split("\x1b[2K")[-1].strip() for line in shown.splitlines()]
    assert any(line.endswith(" a message") for line in lines)
    assert lines[-1].endswith("the result")


@pytest.mark.parametrize("options", [[], ["--verbose"]])
def test_in_this_process(options: list[str], capfd: pytest.CaptureFixture[str]) -> None:
    """The streams of the process are restored, also if it captures them itself."""
    from gve_ray.job import JobError, run_job

    def work() -> None:
        os.write(2, b"noise\n")
        raise JobError("the disk is full", ["worker: no space left"])

    before = sys.stdout, sys.stderr
    assert run_job("index", work, verbose=bool(options)) == 1
    assert (sys.stdout, sys.stderr) == before
    os.write(2, b"after\n")
    shown = capfd.readouterr().err
    assert "error: the disk is full" in shown
    assert shown.endswith("after\n")
    assert ("noise" in shown) == bool(options)
    assert ("  worker: no space left\nlog    " in shown) == (not options)


def test_a_block_may_show_its_own_lines_only(tmp_path: Path) -> None:
    program = """
with quiet_output("demo") as console:
    log_to(None)
    with show_only("gve_ray.demo.run", seconds=1000):
        logging.getLogger("gve_ray.demo.run").info("step 1")
        logging.getLogger("gve_ray.stage").info("detail")
        logging.getLogger("gve_ray.progress").info("1/4 rows")
        logging.getLogger("gve_ray.stage").warning("take care")
    logging.getLogger("gve_ray.stage").info("afterwards")
    print_result(f"{lines_printed()} lines")
"""
    done = run(program, tmp_path)
    assert [line.split(" ", 1)[1] for line in done.stderr.splitlines()[1:]] == [
        "step 1", "take care", "afterwards",
    ]  # fmt: skip
    assert done.stdout == "4 lines\n"
    (log,) = tmp_path.glob("*/demo.log")
    assert "detail" in log.read_text()
    assert "1/4 rows" in log.read_text()
