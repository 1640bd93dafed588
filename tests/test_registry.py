"""Tests that every name in the registry exists, and that `gve` and jobs/ take their jobs from it."""

import os
import subprocess
import sys
import tempfile
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from pkgutil import resolve_name
from runpy import run_path

import pytest

from gve_ray import cli
from gve_ray.job import JobError, connect_to_ray
from gve_ray.registry import JOBS, Job

ROOT = Path(__file__).resolve().parent.parent


@pytest.mark.parametrize("name", JOBS)
def test_every_function_exists_and_belongs_to_its_job(name: str) -> None:
    job = JOBS[name]
    assert resolve_name(job.config).job == name
    assert all(callable(resolve_name(path)) for path in (job.needs, job.run, *job.alone.values()))
    assert (ROOT / "jobs" / f"{name}.py").is_file()


@pytest.mark.parametrize("name", JOBS)
def test_the_script_of_a_job_connects_as_gve_does(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without a cluster, `ray.init()` itself would listen on all interfaces."""
    calls: list[dict[str, object]] = []

    def record(self: Job, args: list[str], **options: object) -> int:
        calls.append({"job": self.name, **options})
        return 0

    monkeypatch.setattr(Job, "main", record)
    assert run_path(str(ROOT / "jobs" / f"{name}.py"))["main"]() == 0
    connect = calls[0].pop("connect")
    if name == "train":
        assert isinstance(connect, partial)
        assert connect.keywords == {"dashboard": True}
        connect = connect.func
    assert connect is cli.connect
    assert calls == [{"job": name, "prog": f"jobs/{name}.py"}]


@pytest.mark.slow
def test_ray_listens_on_the_loopback_only() -> None:
    """All processes of a Ray that `connect` starts are children of the process that calls it."""
    code = """
import psutil
from gve_ray.cli import connect
connect(num_cpus=1, dashboard=True)
me = psutil.Process()
sockets = [s for p in (me, *me.children(recursive=True)) for s in p.net_connections("tcp") if s.status == "LISTEN"]
print(len(sockets), *sorted({s.laddr.ip for s in sockets}))
"""
    environment = {name: value for name, value in os.environ.items() if not name.startswith("RAY_")}
    with tempfile.TemporaryDirectory(prefix="r-") as folder:  # not tmp_path: paths of sockets must be short
        ended = subprocess.run(
            [sys.executable, "-c", code],
            env=environment | {"PYTHONPATH": str(ROOT), "RAY_TMPDIR": folder},
            capture_output=True,
            text=True,
            check=False,
        )
    assert ended.returncode == 0, ended.stderr
    count, *addresses = ended.stdout.splitlines()[-1].split()
    assert int(count) > 5
    assert {address.removeprefix("::ffff:") for address in addresses} <= {"127.0.0.1", "::1"}


def connect() -> None:
    """Stand-in for a connection to Ray."""


def run(config: object, *, connect: Callable[[], object]) -> str:
    """A job that only prints its config."""
    connect()
    return f"ran {config}"


def check_data(config: object) -> str:
    """A check that only prints its config."""
    return f"checked {config}"


def test_check_runs_the_check_instead_of_the_job(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    here = replace(JOBS["evaluate"], run=f"{__name__}:run", alone={"--check": f"{__name__}:check_data"})
    monkeypatch.setattr(type(here), "read_config", lambda self, args, *, prog: list(args))
    assert here.main(["--a", "1"], prog="gve", connect=connect) == 0
    assert here.main(["--check", "--a", "1"], prog="gve", connect=connect) == 0
    assert capsys.readouterr().out == "ran ['--a', '1']\nchecked ['--a', '1']\n"
    assert here.main(["--check", "--json"], prog="gve", connect=connect) == 0  # not an option of --check
    assert capsys.readouterr().out == "checked ['--json']\n"
    without = replace(here, alone={})  # then --check is an option like any other
    assert without.main(["--check"], prog="gve", connect=connect) == 0
    assert capsys.readouterr().out == "ran ['--check']\n"


def test_no_job_imports_ray_before_its_settings_are_made() -> None:
    """Ray reads the token of the cluster from the environment when it is imported."""
    program = (
        "import sys; from gve_ray.registry import JOBS; from pkgutil import resolve_name; "
        "[(resolve_name(job.run), job.needs_of) for job in JOBS.values()]; print('ray' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout == "False\n"


def test_verbose_shows_the_output_of_libraries(
    monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    def connect() -> None:
        os.write(2, b"from Ray\n")

    here = replace(JOBS["index"], run=f"{__name__}:run")
    monkeypatch.setattr(type(here), "read_config", lambda self, args, *, prog: list(args))
    assert here.main(["--a", "1"], prog="gve", connect=connect) == 0
    ran, said = capfd.readouterr()
    assert (ran, said[9:]) == ("ran ['--a', '1']\n", "Ray: starting on this machine\n")  # after the time
    assert here.main(["--verbose", "--a", "1"], prog="gve", connect=connect) == 0
    ran, said = capfd.readouterr()
    assert ran == "ran ['--a', '1']\n"
    assert said.endswith("from Ray\n")


def test_the_error_of_a_ray_that_does_not_start_names_no_cluster(monkeypatch: pytest.MonkeyPatch) -> None:
    def connect() -> None:
        raise RuntimeError("The current node timed out.\nmore")

    monkeypatch.delenv("RAY_ADDRESS")
    with pytest.raises(JobError) as caught:
        connect_to_ray(connect)
    assert str(caught.value) == (
        "cannot start or reach Ray on this machine: The current node timed out; make sure that it has free "
        "CPUs and memory"
    )


def test_a_failed_connection_is_an_error_with_the_reason_and_the_log(
    monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    def connect() -> None:
        os.write(2, b"no answer from the head\n")
        raise ConnectionError("timed out\nmore")

    here = replace(JOBS["index"], run=f"{__name__}:run")
    monkeypatch.setattr(type(here), "read_config", lambda self, args, *, prog: list(args))
    monkeypatch.setenv("RAY_ADDRESS", "10.0.0.1:6379")
    assert here.main(["--a", "1"], prog="gve", connect=connect) == 1
    start, logged, first, second, *error = capfd.readouterr().err.splitlines()
    for line in (start, logged):
        assert line.endswith(" Ray: connecting to 10.0.0.1:6379")
    assert first == "  no answer from the head"
    log = Path(second.removeprefix("log    "))
    assert log.read_text().endswith("no answer from the head\n")
    log.unlink()
    log.parent.rmdir()
    assert error[0].startswith("error: cannot connect to Ray at 10.0.0.1:6379: timed out; check")
