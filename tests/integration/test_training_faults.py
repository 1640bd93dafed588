"""`gve train` on two ranks of a Ray cluster: killed at any point and started again, it ends with the same weights.

A random Qwen2.5-VL of two layers, text pairs, gloo. Ranks and drivers are killed with SIGKILL when the log
of steps has come to a chosen line. One Ray cluster outlives all drivers, as under a job server.
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
DEADLINE = 300.0  # seconds for any one wait; a fifth of it on two idle cores

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]


@dataclass(frozen=True)
class World:
    """A cluster, a config, and the folder of an undisturbed run."""

    address: str
    config: Path
    finished: Path


def settings(folder: Path, base: Path) -> dict[str, Any]:
    sets = []
    for name, negatives in (("mined", 1), ("plain", 0)):
        lines = [{"query": f"{name} {i}", "positive": f"the answer {i * 7 % 40}"} for i in range(40)]
        path = folder / f"{name}.jsonl"
        path.write_text("\n".join(map(json.dumps, lines)))
        one = {"name": name, "uri": str(path), "format": "text_pairs"}
        sets.append({**one, "batch_size": 4, "negatives": negatives})
    return {
        "model": str(base),
        "output": "set on the command line",
        "data": sets,
        "frames": 4,
        "curriculum": {"epochs": EPOCHS},
        "prober": {"pairs": 20, "margin": None},
        "lora": {"r": 4, "alpha": 8, "dropout": 0.1},
        "loop": {"steps": STEPS, "save_steps": SAVE, "optimiser": {"learning_rate": 1e-3}},
        "resources": {"workers": 2, "num_cpus": 1, "timeout_s": 60},
    }


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    import ray

    folder = tmp_path_factory.mktemp("training")
    base = save_tiny(tmp_path_factory.mktemp("base"), "qwen2_5_vl")
    path = folder / "config.yaml"
    path.write_text(yaml.safe_dump(settings(folder, base)))
    ray.init(num_cpus=2)
    try:
        made = World(ray.get_runtime_context().gcs_address, path, folder / "finished")
        with driver(made, made.finished) as process:
            assert process.wait(DEADLINE) == 0, log_of(made.finished)
        yield made
    finally:
        ray.shutdown()


def driver(world: World, output: Path, *options: str) -> "AbstractContextManager[subprocess.Popen[bytes]]":
    """`gve train` on the world's config."""
    return drivers.driver("train", *options, config=world.config, output=output, address=world.address)


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
    """The processes of Ray Train's workers."""
    found = []
    for process in psutil.Process().children(recursive=True):
        try:
            if any("RayTrainWorker" in part for part in process.cmdline()):
                found.append(process)
        except psutil.NoSuchProcess:
            continue
    return found


def same_run(output: Path, finished: Path) -> None:
    """Steps in the same order at the same rates, and the same weights."""
    told, expected = (list(read_log(one / "steps.jsonl")) for one in (output, finished))
    assert [one["step"] for one in told] == list(range(1, STEPS * EPOCHS + 1))
    for key in ("task", "learning_rate", "epoch"):
        assert [one[key] for one in told] == [one[key] for one in expected]
    weights, wanted = (load_file(one / "adapter" / "adapter_model.safetensors") for one in (output, finished))
    assert weights.keys() == wanted.keys()
    for name, tensor in weights.items():
        torch.testing.assert_close(tensor, wanted[name], rtol=0, atol=1e-5)


def test_an_undisturbed_run_leaves_what_it_promises(world: World) -> None:
    told = log_of(world.finished)
    assert f"steps    {STEPS * EPOCHS} in" in told
    assert "left" in told  # progress with the time left
    facts = json.loads((world.finished / "run.json").read_text())
    assert (facts["finished"], facts["job"], len(facts["runs"])) == (True, "train", 1)
    names = {"training.png", "curriculum.png", "steps.jsonl", "adapter"}
    assert names <= {path.name for path in world.finished.iterdir()}
    trained = load_file(world.finished / "adapter" / "adapter_model.safetensors")
    assert max(float(one.abs().max()) for name, one in trained.items() if "lora_B" in name) > 1e-3
    with driver(world, world.finished) as process:
        assert process.wait(DEADLINE) == 0
    assert "already finished; nothing was done" in log_of(world.finished)


@pytest.mark.parametrize("at", [SAVE + 3, STEPS + 12])
def test_a_killed_rank_is_started_again(world: World, tmp_path: Path, at: int) -> None:
    output = tmp_path / "run"
    with driver(world, output) as process:
        wait(lambda: steps_done(output) >= at, process, output)
        victim = ranks()[0]
        victim.kill()
        assert process.wait(DEADLINE) == 0, log_of(output)
    assert "starting the ranks again" in log_of(output)
    same_run(output, world.finished)


@pytest.mark.parametrize("at", [SAVE + 3, STEPS + 12])
def test_a_killed_driver_is_started_again(world: World, tmp_path: Path, at: int) -> None:
    output = tmp_path / "run"
    with driver(world, output) as process:
        wait(lambda: steps_done(output) >= at, process, output)
        process.kill()
    assert not (output / "adapter").exists()
    with driver(world, output) as process:
        assert process.wait(DEADLINE) == 0, log_of(output)
    same_run(output, world.finished)


def test_what_ranks_tell_programs(world: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Their log as JSON under the run's name, and the figures that they leave with their node's agent."""
    monkeypatch.setenv(SWITCH, "JSON")
    monkeypatch.setenv("RAY_DEDUP_LOGS", "0")
    output = tmp_path / "run"
    with driver(world, output, "--loop.steps", "4") as process:
        assert process.wait(DEADLINE) == 0, log_of(output)
    pages = "".join(httpx.get(url, trust_env=False).text for url in agents())
    run = json.loads((output / "run.json").read_text())["runs"][0]["id"]
    records = [json.loads(line) for line in log_of(output).splitlines() if line.startswith("{")]
    (last,) = (one for one in records if "step 8/8" in one["message"])
    assert (last["logger"], last["job"], last["run"], last["rank"]) == (
        "gve_ray.training.runlog",
        "train",
        run,
        0,
    )
    written = [record["message"] for record in records if record["message"].endswith(": 40 pairs")]
    assert sorted(written) == ["mined: 40 pairs", "plain: 40 pairs"]  # once, by one of the two ranks
    assert {"asctime", "levelname", "worker_id", "actor_id"} <= set(last)
    ours = [one for one in records if one["logger"].startswith("gve_ray.training")]
    assert all((one["job"], one["run"]) == ("train", run) for one in ours)
    assert "rank" not in next(one for one in ours if one["logger"] == "gve_ray.training.run")
    steps = [line for line in pages.splitlines() if line.startswith("ray_gve_training_step{") and run in line]
    assert [float(line.split()[-1]) for line in steps] == [8.0]  # of rank 0 alone


def test_an_error_that_would_come_again_is_told_once(world: World, tmp_path: Path) -> None:
    output = tmp_path / "run"
    with driver(world, output, "--loop.optimiser.learning_rate", "1e30") as process:
        assert process.wait(DEADLINE) == 1
    told = log_of(output)
    assert "error: training, rank 0: FloatingPointError: step" in told
    assert "starting the ranks again" not in told


def test_more_ranks_than_the_cluster_holds(world: World, tmp_path: Path) -> None:
    with driver(world, tmp_path / "run", "--resources.workers", "3") as process:
        assert process.wait(DEADLINE) == 2
    told = log_of(tmp_path / "run")
    assert "resources: needs 3 x (1 CPU), the cluster has 2 CPU" in told
    assert "--resources.workers 2" in told
    assert not (tmp_path / "run").exists()


def test_an_elastic_run_takes_the_ranks_there_are(world: World, tmp_path: Path) -> None:
    output = tmp_path / "run"
    options = ("--resources.workers", "4", "--resources.min_workers", "1")
    with driver(world, output, *options) as process:
        assert process.wait(DEADLINE) == 0, log_of(output)
    same_run(output, world.finished)  # the cluster holds two
