"""Tests that every name in the registry exists, and that `gve` and jobs/ take their jobs from it."""

import os
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from pkgutil import resolve_name

import pytest

from gve_ray.job import JobError, connect_to_ray
from gve_ray.registry import JOBS

ROOT = Path(__file__).resolve().parent.parent


@pytest.mark.parametrize("name", JOBS)
def test_every_function_exists_and_belongs_to_its_job(name: str) -> None:
    job = JOBS[name]
    assert resolve_name(job.config).job == name
    assert all(callable(resolve_name(path)) for path in (job.needs, job.run, *job.alone.values()))
    assert (ROOT / "jobs" / f"{name}.py").is_file()


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


def test_verbose_shows_the_output_of_libraries(
    monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    def connect() -> None:
        os.write(2, b"from Ray\n")

    here = replace(JOBS["index"], run=f"{__name__}:run")
    monkeypatch.setattr(type(here), "read_config", lambda self, args, *, prog: list(args))
    assert here.main(["--a", "1"], prog="gve", connect=connect) == 0
    assert capfd.readouterr() == ("ran ['--a', '1']\n", "")
    assert here.main(["--verbose", "--a", "1"], prog="gve", connect=connect) == 0
    assert capfd.readouterr() == ("ran ['--a', '1']\n", "from Ray\n")


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
    first, second, *error = capfd.readouterr().err.splitlines()
    assert first == "  no answer from the head"
    log = Path(second.removeprefix("log    "))
    assert log.read_text() == "no answer from the head\n"
    log.unlink()
    log.parent.rmdir()
    assert error[0].startswith("error: cannot connect to Ray at 10.0.0.1:6379: timed out; check")
