"""Tests that `gve train` on two ranks ends with the same weights when it is killed and restarted.

The model is a random Qwen2.5-VL of two layers, the data are text pairs, and the backend is gloo. The tests send
SIGKILL to ranks and drivers when steps.jsonl has a given number of lines. One Ray cluster outlives all drivers,
as with a job server.
"""

import json
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import psutil
import pytest
import torch
import yaml
from safetensors.torch import load_file

from gve_ray.logs import SWITCH
from gve_ray.serving.metrics import agents
from gve_ray.training.runlog import read_log
from tests.embedder.conftest import save_tiny
from tests.integration import drivers
from tests.integration.drivers import log_of

STEPS, EPOCHS, SAVE = 24, 2, 10
DEADLINE = 300.0  # seconds per wait; on two idle cores, a wait takes a fifth of this

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]


@dataclass(frozen=True)
class Baseline:
    """A cluster, a config, and the output folder of an uninterrupted run."""

    address: str
    config: Path
    finished: Path


def settings(folder: Path, base: Path) -> dict[str, Any]:
    datasets = []
    for name, negatives in (("mined", 1), ("plain", 0)):
        lines = [{"query": f"{name} {i}", "positive": f"the answer {i * 7 % 40}"} for i in range(40)]
        path = folder / f"{name}.jsonl"
        path.write_text("\n".join(map(json.dumps, lines)))
        source = {"name": name, "uri": str(path), "format": "text_pairs"}
        datasets.append({**source, "batch_size": 4, "negatives": negatives})
    return {
        "model": str(base),
        "output": "set on the command line",
        "data": datasets,
        "frames": 4,
        "curriculum": {"epochs": EPOCHS},
        "prober": {"pairs": 20, "margin": None},
        "lora": {"r": 4, "alpha": 8, "dropout": 0.1},
        "loop": {"steps": STEPS, "save_steps": SAVE, "optimiser": {"learning_rate": 1e-3}},
        "resources": {"workers": 2, "num_cpus": 1, "timeout_s": 60},
    }


@pytest.fixture(scope="module")
def baseline(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Baseline]:
    import ray

    folder = tmp_path_factory.mktemp("training")
    base = save_tiny(tmp_path_factory.mktemp("base"), "qwen2_5_vl")
    path = folder / "config.yaml"
    path.write_text(yaml.safe_dump(settings(folder, base)))
    ray.init(num_cpus=2)
    try:
        baseline = Baseline(ray.get_runtime_context().gcs_address, path, folder / "finished")
        with driver(baseline, baseline.finished) as process:
            assert process.wait(DEADLINE) == 0, log_of(baseline.finished)
        yield baseline
    finally:
        ray.shutdown()


def driver(
    baseline: Baseline, output: Path, *options: str
) -> "AbstractContextManager[subprocess.Popen[bytes]]":
    """Run `gve train` with the config of `baseline`."""
    return drivers.driver("train", *options, config=baseline.config, output=output, address=baseline.address)


def wait(ready: Callable[[], object], process: "subprocess.Popen[bytes]", output: Path) -> None:
    deadline = time.monotonic() + DEADLINE
    while not ready():
        assert time.monotonic() < deadline, "waited too long"
        assert process.poll() is None, log_of(output)
        time.sleep(0.005)


def steps_done(output: Path) -> int:
    path = output / "steps.jsonl"
    return path.read_bytes().count(b"\n") if path.exists() else 0


def ranks() -> list[psutil.Process]:
    """Return the processes of Ray Train's workers."""
    matches = []
    for process in psutil.Process().children(recursive=True):
        try:
            if any("RayTrainWorker" in part for part in process.cmdline()):
                matches.append(process)
        except psutil.NoSuchProcess:
            continue
    return matches


def assert_same_run(output: Path, finished: Path) -> None:
    """Check for the same steps in the same order, the same learning rates, and the same weights."""
    steps, expected = (list(read_log(folder / "steps.jsonl")) for folder in (output, finished))
    assert [step["step"] for step in steps] == list(range(1, STEPS * EPOCHS + 1))
    for key in ("dataset", "learning_rate", "epoch"):
        assert [step[key] for step in steps] == [step[key] for step in expected]
    weights, expected_weights = (
        load_file(folder / "adapter" / "adapter_model.safetensors") for folder in (output, finished)
    )
    assert weights.keys() == expected_weights.keys()
    for name, tensor in weights.items():
        torch.testing.assert_close(tensor, expected_weights[name], rtol=0, atol=1e-5)


def test_output_of_an_uninterrupted_run(baseline: Baseline) -> None:
    log = log_of(baseline.finished)
    assert f"steps    {STEPS * EPOCHS} in" in log
    facts = json.loads((baseline.finished / "run.json").read_text())
    assert (facts["finished"], facts["job"], len(facts["runs"])) == (True, "train", 1)
    names = {"training.png", "curriculum.png", "steps.jsonl", "adapter"}
    assert names <= {path.name for path in baseline.finished.iterdir()}
    trained = load_file(baseline.finished / "adapter" / "adapter_model.safetensors")
    assert max(float(tensor.abs().max()) for name, tensor in trained.items() if "lora_B" in name) > 1e-3
    with driver(baseline, baseline.finished) as process:
        assert process.wait(DEADLINE) == 0
    assert "already finished; nothing was done" in log_of(baseline.finished)


@pytest.mark.parametrize("step", [SAVE + 3, STEPS + 12])
def test_training_continues_after_a_killed_rank(baseline: Baseline, tmp_path: Path, step: int) -> None:
    output = tmp_path / "run"
    with driver(baseline, output) as process:
        wait(lambda: steps_done(output) >= step, process, output)
        victim = ranks()[0]
        victim.kill()
        assert process.wait(DEADLINE) == 0, log_of(output)
    assert "starting the ranks again" in log_of(output)
    assert_same_run(output, baseline.finished)


@pytest.mark.parametrize("step", [SAVE + 3, STEPS + 12])
def test_training_resumes_after_a_killed_driver(baseline: Baseline, tmp_path: Path, step: int) -> None:
    output = tmp_path / "run"
    with driver(baseline, output) as process:
        wait(lambda: steps_done(output) >= step, process, output)
        process.kill()
    assert not (output / "adapter").exists()
    with driver(baseline, output) as process:
        assert process.wait(DEADLINE) == 0, log_of(output)
    assert_same_run(output, baseline.finished)


def test_json_logs_and_metrics_of_the_ranks(
    baseline: Baseline, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Ranks log JSON with the id of the run, and report metrics to the metrics agent of their node."""
    monkeypatch.setenv(SWITCH, "JSON")
    monkeypatch.setenv("RAY_DEDUP_LOGS", "0")
    output = tmp_path / "run"
    with driver(baseline, output, "--loop.steps", "4") as process:
        assert process.wait(DEADLINE) == 0, log_of(output)
    pages = "".join(httpx.get(url, trust_env=False).text for url in agents())
    run = json.loads((output / "run.json").read_text())["runs"][0]["id"]
    records = [json.loads(line) for line in log_of(output).splitlines() if line.startswith("{")]
    (last_step,) = (record for record in records if "step 8/8" in record["message"])
    assert (last_step["logger"], last_step["job"], last_step["run"], last_step["rank"]) == (
        "gve_ray.training.runlog",
        "train",
        run,
        0,
    )
    written = [record["message"] for record in records if record["message"].endswith(": 40 pairs")]
    assert sorted(written) == ["mined: 40 pairs", "plain: 40 pairs"]  # once, by only one of the two ranks
    assert {"asctime", "levelname", "worker_id", "actor_id"} <= set(last_step)
    ours = [record for record in records if record["logger"].startswith("gve_ray.training")]
    assert all((record["job"], record["run"]) == ("train", run) for record in ours)
    assert "rank" not in next(record for record in ours if record["logger"] == "gve_ray.training.run")
    steps = [line for line in pages.splitlines() if line.startswith("ray_gve_training_step{") and run in line]
    assert [float(line.split()[-1]) for line in steps] == [8.0]  # of rank 0 only


def test_a_permanent_error_is_not_retried(baseline: Baseline, tmp_path: Path) -> None:
    output = tmp_path / "run"
    with driver(baseline, output, "--loop.optimiser.learning_rate", "1e30") as process:
        assert process.wait(DEADLINE) == 1
    log = log_of(output)
    assert "error: training, rank 0: FloatingPointError: step" in log
    assert "starting the ranks again" not in log


def test_more_ranks_than_fit_on_the_cluster(baseline: Baseline, tmp_path: Path) -> None:
    with driver(baseline, tmp_path / "run", "--resources.workers", "3") as process:
        assert process.wait(DEADLINE) == 2
    log = log_of(tmp_path / "run")
    assert "resources: needs 3 x (1 CPU), the cluster has 2 CPU" in log
    assert "--resources.workers 2" in log
    assert not (tmp_path / "run").exists()


def test_an_elastic_run_uses_the_ranks_that_fit(baseline: Baseline, tmp_path: Path) -> None:
    output = tmp_path / "run"
    options = ("--resources.workers", "4", "--resources.min_workers", "1")
    with driver(baseline, output, *options) as process:
        assert process.wait(DEADLINE) == 0, log_of(output)
    assert_same_run(output, baseline.finished)  # two ranks fit on the cluster
