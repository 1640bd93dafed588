"""Tests `gve demo`: its recipes, the configs of its jobs, and (slow) the whole chain at the smallest size."""

import json
import subprocess
import sys
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest

from gve_ray import cli
from gve_ray.config import load_config
from gve_ray.demo.config import DemoConfig
from gve_ray.demo.run import job_config
from gve_ray.registry import JOBS

SMALLEST = ["--videos", "40", "--described", "40", "--heldout", "10", "--queries", "2"]
SMALLEST += ["--benchmark_scale", "0.02", "--steps", "2", "--prober_pairs", "10"]


def strings(value: Any) -> list[str]:
    """Return all strings in a nested value."""
    if isinstance(value, dict):
        value = list(value.values())
    if isinstance(value, list | tuple):
        return [text for part in value for text in strings(part)]
    return [value] if isinstance(value, str) else []


@pytest.mark.parametrize("job", JOBS)
def test_all_paths_of_a_job_are_in_the_folder_of_the_demo(job: str, tmp_path: Path) -> None:
    texts = strings(asdict(job_config(job, tmp_path)))
    assert any(text.startswith(f"{tmp_path}/") for text in texts)
    assert not [text for text in texts if text.startswith("runs")]


def test_options_replace_those_of_the_recipe(tmp_path: Path) -> None:
    loop = job_config("train", tmp_path, loop={"steps": 3, "seed": 7}).loop
    recipe = job_config("train", tmp_path).loop
    assert (loop.steps, loop.seed) == (3, 7)
    assert loop.optimiser == recipe.optimiser


def test_the_paper_s_recipe_is_larger_than_the_demo_s() -> None:
    demo, paper = (load_config(DemoConfig, ["--config", f"{name}.yaml"]) for name in ("demo", "paper"))
    assert paper.videos > demo.videos
    assert paper.folder != demo.folder


def test_more_queries_than_videos_are_refused(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        cli.main(["demo", "--heldout", "10", "--queries", "11"])
    assert ended.value.code == 2
    assert "queries=11: at most one for each of heldout=10 videos" in capsys.readouterr().err


def test_a_folder_with_videos_of_another_size_is_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "raw").mkdir()
    (tmp_path / "raw/corpus.json").write_text('{"arguments": {"n": 1}, "complete": true}')
    assert cli.main(["demo", "--folder", str(tmp_path), *SMALLEST]) == 2
    assert "use another folder or delete this one" in capsys.readouterr().err


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_the_whole_chain_runs_once_and_not_again(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "gve_ray.cli", "demo", "--folder", str(tmp_path / "demo"), *SMALLEST]
    done = subprocess.run(command, capture_output=True, text=True, timeout=1500)
    assert done.returncode == 0, done.stderr[-3000:]
    summary = json.loads((tmp_path / "demo/summary.json").read_text())
    assert summary["synthesis"]["videos"] == 40
    assert summary["training"]["steps"] == 6
    assert summary["serving"]["queries"] == 8
    assert set(summary["evaluation"]) == {"seconds", "base", "trained"}
    assert "search   gve serve" in done.stdout
    assert len((done.stdout + done.stderr).splitlines()) <= 60
    again = subprocess.run(command, capture_output=True, text=True, timeout=600)
    assert again.returncode == 0, again.stderr[-3000:]
    second = json.loads((tmp_path / "demo/summary.json").read_text())
    for part in ("synthesis", "training", "evaluation"):
        assert second[part] == summary[part]  # seconds as well: the jobs were not repeated
