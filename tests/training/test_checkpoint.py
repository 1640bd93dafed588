import json
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from torch import nn

from gve_ray.store import SharedFolder
from gve_ray.training import checkpoint
from gve_ray.training.checkpoint import Position
from gve_ray.training.config import OptimiserConfig
from gve_ray.training.optimiser import check_frozen, learning_rate, make_optimiser

ROOT = Path(__file__).resolve().parents[2]


def model_and_optimiser(seed: int = 0) -> tuple[nn.Sequential, torch.optim.AdamW]:
    """Two layers, the first frozen, after one step, so that the optimiser has moments."""
    torch.manual_seed(seed)
    model = nn.Sequential(nn.Linear(2, 3), nn.Linear(3, 2))
    model[0].requires_grad_(False)
    optimiser = make_optimiser(model, OptimiserConfig(learning_rate=0.1))
    model(torch.ones(1, 2)).square().sum().backward()
    optimiser.step()
    return model, optimiser


def position(total: int) -> Position:
    return Position(epoch=2, step=3, total=total, world_size=4, history={"kind": "pyramid", "epochs": []})


def test_weights_moments_and_position_are_restored(tmp_path: Path) -> None:
    model, optimiser = model_and_optimiser()
    path = checkpoint.save(SharedFolder(tmp_path), model, optimiser, position(7), keep=2)
    other, its_optimiser = model_and_optimiser(seed=1)
    frozen = other[0].weight.clone()
    assert checkpoint.load(path, other, its_optimiser) == position(7)
    assert torch.equal(other[1].weight, model[1].weight)
    assert torch.equal(other[0].weight, frozen)
    moments = [adam.state_dict()["state"][0]["exp_avg"] for adam in (optimiser, its_optimiser)]
    assert moments[0].abs().sum() > 0
    assert torch.equal(*moments)
    assert set(checkpoint.trained_weights(model)) == {"1.weight", "1.bias"}


def test_only_the_newest_checkpoints_are_kept(tmp_path: Path) -> None:
    model, optimiser = model_and_optimiser()
    for total in (1, 2, 10, 9):
        checkpoint.save(SharedFolder(tmp_path), model, optimiser, position(total), keep=2)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["step-00000009", "step-00000010"]


@pytest.mark.parametrize("damage", ["cut", "gone", "undigested", "garbled"])
def test_a_damaged_checkpoint_is_skipped(tmp_path: Path, damage: str) -> None:
    model, optimiser = model_and_optimiser()
    first = checkpoint.save(SharedFolder(tmp_path), model, optimiser, position(1), keep=2)
    second = checkpoint.save(SharedFolder(tmp_path), model, optimiser, position(2), keep=2)
    assert checkpoint.newest(SharedFolder(tmp_path)) == second
    if damage == "cut":
        file = second / "optimiser.pt"
        file.write_bytes(file.read_bytes()[:-1])
    elif damage == "gone":
        (second / "weights.pt").unlink()
    elif damage == "undigested":
        (second / "digests.json").unlink()
    else:
        (second / "digests.json").write_text("{")
    assert checkpoint.newest(SharedFolder(tmp_path)) == first


def test_incomplete_checkpoints_are_ignored(tmp_path: Path) -> None:
    (tmp_path / ".step-00000005.part").mkdir()
    assert checkpoint.newest(SharedFolder(tmp_path)) is None
    assert checkpoint.newest(SharedFolder(tmp_path / "nowhere")) is None


def test_a_checkpoint_of_another_model_is_refused(tmp_path: Path) -> None:
    model, optimiser = model_and_optimiser()
    path = checkpoint.save(SharedFolder(tmp_path), model, optimiser, position(1), keep=2)
    model[0].requires_grad_(True)
    with pytest.raises(ValueError, match=r"2 differ, e\.g\. 0\.bias"):
        checkpoint.load(path, model, optimiser)


def test_checkpoints_load_without_executing_code(tmp_path: Path) -> None:
    path = checkpoint.save(SharedFolder(tmp_path), *model_and_optimiser(), position(1), keep=2)
    assert json.loads((path / "state.json").read_text())["total"] == 1
    for name in ("weights.pt", "optimiser.pt"):
        torch.load(path / name, weights_only=True)


def test_learning_rate_by_hand() -> None:
    config = OptimiserConfig(learning_rate=1.0, warmup=0.2)
    # 10 steps, 2 of warm-up: 1/2, 1; then 8 steps of 0.5 * (1 + cos(pi * i / 8)).
    rates = [learning_rate(step, 10, config) for step in range(10)]
    assert rates[:3] == pytest.approx([0.5, 1.0, 1.0])
    assert rates[4] == pytest.approx(0.853553, abs=1e-6)  # cos 45 degrees = 0.707107
    assert rates[6] == pytest.approx(0.5)
    assert rates[8] == pytest.approx(0.146447, abs=1e-6)
    assert learning_rate(0, 4, OptimiserConfig(learning_rate=2.0, warmup=0.0)) == 2.0
    constant = OptimiserConfig(learning_rate=1.0, warmup=0.2, decay="constant")
    assert [learning_rate(step, 10, constant) for step in (0, 1, 2, 9)] == [0.5, 1.0, 1.0, 1.0]


def test_biases_have_no_weight_decay_and_frozen_weights_are_not_optimised() -> None:
    model, optimiser = model_and_optimiser()
    matrix, vector = optimiser.param_groups
    assert (matrix["params"], matrix["weight_decay"]) == ([model[1].weight], 0.1)
    assert (vector["params"], vector["weight_decay"]) == ([model[1].bias], 0.0)
    model.requires_grad_(False)
    with pytest.raises(ValueError, match="no weight requires a gradient"):
        make_optimiser(model, OptimiserConfig())


def test_trainable_weights_that_must_be_frozen_are_refused() -> None:
    model, _ = model_and_optimiser()
    check_frozen(model, ["0."])
    with pytest.raises(ValueError, match=r"2 weights of 1\. are trainable, e\.g\. 1\.weight"):
        check_frozen(model, ["1."])


# Saves step 2 and is killed after one file has been uploaded, before the others.
KILLED = """
import os, signal, sys
from gve_ray.store import SharedFolder
from gve_ray.training import checkpoint
from tests.training.test_checkpoint import model_and_optimiser, position
folder = SharedFolder(sys.argv[1])
upload = folder._upload
def die(source, name):
    if name.endswith("state.json"):
        os.kill(os.getpid(), signal.SIGKILL)
    upload(source, name)
folder._upload = die
checkpoint.save(folder, *model_and_optimiser(), position(2), keep=2)
"""


def test_after_a_killed_upload_the_checkpoint_before_is_used_and_the_next_save_completes(
    s3: str, caplog: pytest.LogCaptureFixture
) -> None:
    uri = f"{s3}/run/checkpoints"
    model, optimiser = model_and_optimiser()
    checkpoint.save(SharedFolder(uri), model, optimiser, position(1), keep=2)
    killed = subprocess.run([sys.executable, "-c", KILLED, uri], cwd=ROOT, check=False)
    assert killed.returncode == -signal.SIGKILL
    assert SharedFolder(uri).names("step-00000002") == ["optimiser.pt"]

    rank = SharedFolder(uri)  # as on another node: it sees only what was published
    path = checkpoint.newest(rank)
    assert path == rank.path / "step-00000001"
    assert "step-00000002 is damaged" in caplog.text
    other, its_optimiser = model_and_optimiser(seed=1)
    assert checkpoint.load(path, other, its_optimiser) == position(1)
    assert torch.equal(other[1].weight, model[1].weight)

    checkpoint.save(rank, model, optimiser, position(2), keep=2)
    again = SharedFolder(uri)
    assert checkpoint.newest(again) == again.path / "step-00000002"
    checkpoint.save(rank, model, optimiser, position(3), keep=2)
    assert SharedFolder(uri).names() == ["step-00000002", "step-00000003"]
    assert sorted(path.name for path in rank.path.iterdir()) == ["step-00000002", "step-00000003"]
