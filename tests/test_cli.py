"""Tests the verbs, errors and exit statuses of `gve`. Whole jobs are tested in tests/integration."""

import json
import shlex
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from gve_ray import cli
from gve_ray.registry import JOBS
from gve_ray.synthesis import job
from gve_ray.synthesis.config import SynthesisConfig
from gve_ray.training import run
from gve_ray.training.config import TrainingJobConfig


def test_help_lists_the_verbs_and_the_recipes(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["--help"]) == 0
    output = capsys.readouterr().out
    assert "synthesize" in output
    assert "gve diagnose [results.csv ...]" in output
    assert "demo.yaml, gve-3b-full.yaml, gve-3b.yaml, gve-7b.yaml" in output


def test_the_examples_of_the_help_are_valid(capsys: pytest.CaptureFixture[str]) -> None:
    cli.main(["--help"])
    examples = capsys.readouterr().out.partition("examples:\n")[2].partition("\n\n")[0].splitlines()
    verbs = set()
    for _, verb, *args in map(shlex.split, examples):
        verbs.add(verb)
        if verb in JOBS:
            JOBS[verb].read_config(args, prog="gve")
    assert verbs == {"index", "serve", "search", "synthesize", "train"}


def test_the_help_imports_nothing_that_takes_long() -> None:
    heavy = set("faiss httpx jsonargparse lance numpy pyarrow ray rich torch transformers vllm".split())
    program = (
        f"import sys; from gve_ray import cli; cli.main(['--help']); print({heavy} & sys.modules.keys())"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1] == "set()"


def test_no_arguments_are_an_error(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main([]) == 2
    assert "verbs:" in capsys.readouterr().out


def test_an_unknown_verb_is_named(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["synthesise", "--config", "demo.yaml"]) == 2
    verbs = (
        "synthesize, train, evaluate, index, serve, demo, search, mcp, export, diagnose, leaderboard, uvrb, models, "
        "doctor"
    )
    assert f"verb 'synthesise': unknown; use {verbs}" in capsys.readouterr().err


def test_the_verb_runs_the_job_with_the_config(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    connections: list[dict[str, bool]] = []

    def synthesize(config: SynthesisConfig, *, connect: Callable[[], object]) -> str:
        connect()
        return f"made {config.input} {config.media.frames} {config.output}"

    def train(config: TrainingJobConfig, *, connect: Callable[[], object]) -> str:
        connect()
        return f"trained {config.frames} {config.output} {config.resources.workers}"

    monkeypatch.setattr(cli, "connect", lambda **options: connections.append(options))
    monkeypatch.setattr(job, "synthesize", synthesize)
    monkeypatch.setattr(run, "train", train)
    assert cli.main(["synthesize", "--config", "demo.yaml", "--input", "mine", "--media.frames", "4"]) == 0
    assert cli.main(["train", "--config", "demo.yaml", "--resources.workers", "1"]) == 0
    assert capsys.readouterr().out == "made mine 4 runs/demo/synthesis\ntrained 8 runs/demo/training 1\n"
    assert connections == [{"dashboard": False}, {"dashboard": True}]


def test_diagnose_prints_a_page_or_json(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["diagnose"]) == 0
    assert "GVE-7B               0.573     0.599" in capsys.readouterr().out
    table = tmp_path / "mine.csv"
    table.write_text("model,MS-TI,MS-TV\nmine,0.25,0.5\n")
    assert cli.main(["diagnose", str(table), "--models", "mine, GVE-3B", "--json"]) == 0
    models = json.loads(capsys.readouterr().out)["models"]
    assert [(model["model"], model["abilities"]["CMP"]) for model in models] == [
        ("mine", 0.375),
        ("GVE-3B", pytest.approx(0.304)),
    ]


@pytest.mark.parametrize(
    "args,message",
    [(["nowhere.csv"], "nowhere.csv"), (["--models", "nobody"], "model 'nobody': not in any table")],
)
def test_wrong_arguments_of_diagnose(
    args: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli.main(["diagnose", *args]) == 2
    assert message in capsys.readouterr().err


def test_a_wrong_option_ends_with_status_2(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        cli.main(["synthesize", "--config", "demo.yaml", "--no.such", "1"])
    assert ended.value.code == 2
    assert "--no.such" in capsys.readouterr().err


@pytest.mark.parametrize("option", ["--help", "--print_config"])
def test_options_and_config_can_be_shown(option: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        cli.main(["synthesize", "--config", "demo.yaml", option])
    assert ended.value.code == 0
    assert "motion_threshold" in capsys.readouterr().out


def test_a_missing_input_is_reported_before_ray_starts(
    tmp_path: Any, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def connect() -> None:
        raise AssertionError("Ray must not be started for a job that cannot run")

    monkeypatch.setattr(cli, "connect", connect)
    out = tmp_path / "run"
    args = ["synthesize", "--config", "demo.yaml", "--input", str(tmp_path / "nowhere"), "--output", str(out)]
    assert cli.main(args) == 2
    assert "nowhere'" in capsys.readouterr().err
    assert not out.exists()


@pytest.mark.parametrize("time,seconds", [("90", 90.0), ("10:00", 600.0), ("1:02:03.5", 3723.5)])
def test_times(time: str, seconds: float) -> None:
    assert cli._seconds(time) == seconds


@pytest.mark.parametrize("time", ["soon", "", "1:-2", "1:2:3:4", "inf"])
def test_no_times(time: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        cli.main(["search", "a ball", "--after", time])
    assert f"--after: {time!r} is not a time; write seconds" in capsys.readouterr().err
