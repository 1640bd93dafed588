"""Tests the probes of a node (versions, GPUs), and how probes are run."""

import sys
import threading
from pathlib import Path

import pytest

import gve_ray
from gve_ray.preflight.nodes import Outcome, gpu_facts, installed_versions, run_probes, source_digest


def test_probes_run_at_the_same_time_and_report_their_errors() -> None:
    together = threading.Barrier(2)  # each of the two probes waits for the other

    def fail() -> None:
        raise OSError("the disk is gone")

    outcomes = run_probes(
        {"a": lambda: together.wait(60) >= 0, "b": lambda: together.wait(60) >= 0, "bad": fail}, seconds=60
    )
    assert outcomes == {
        "a": Outcome(value=True),
        "b": Outcome(value=True),
        "bad": Outcome(problem="the disk is gone"),
    }


def test_a_probe_that_hangs_is_abandoned() -> None:
    forever = threading.Event()
    outcomes = run_probes({"hangs": forever.wait}, seconds=0.1)
    assert outcomes["hangs"].problem.startswith("no answer in 0.1 s; ")
    forever.set()


def test_versions_of_this_process() -> None:
    versions = installed_versions()
    assert versions["python"] == sys.version.split()[0]
    assert versions["gve_ray"] == gve_ray.__version__
    assert {"ray", "torch", "transformers", "vllm", "source"} <= set(versions)


def test_the_source_digest_covers_the_python_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "__init__.py").write_text("A = 1\n")
    monkeypatch.setattr(gve_ray, "__file__", str(tmp_path / "__init__.py"))
    before = source_digest()
    (tmp_path / "cache.pyc").write_text("not a source file")
    assert source_digest() == before
    (tmp_path / "more.py").write_text("")
    assert source_digest() != before


def program(path: Path, body: str) -> str:
    path.write_text(f"#!/bin/sh\n{body}\n")
    path.chmod(0o755)
    return str(path)


def test_the_gpus_that_torch_reports(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    answer = '{"built": "13.0", "count": 0, "driver": "12.2"}'
    stand_in = program(tmp_path / "python", f"echo 'UserWarning: old driver' >&2; echo '{answer}'")
    monkeypatch.setattr(sys, "executable", stand_in)
    assert gpu_facts() == {
        "built": "13.0",
        "count": 0,
        "driver": "12.2",
        "warning": "UserWarning: old driver",
    }
    monkeypatch.setattr(sys, "executable", program(tmp_path / "broken", "echo 'no libcudart' >&2; exit 1"))
    with pytest.raises(RuntimeError, match="torch does not load: no libcudart"):
        gpu_facts()


def test_ray_does_not_hide_gpus_from_the_check(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Ray sets CUDA_VISIBLE_DEVICES in a task that reserves no GPU."""
    stand_in = program(tmp_path / "python", 'echo "{\\"seen\\": \\"${CUDA_VISIBLE_DEVICES-all}\\"}"')
    monkeypatch.setattr(sys, "executable", stand_in)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    assert gpu_facts()["seen"] == "all"
