"""The feed that uses Ray Data, on a real cluster."""

import os
from pathlib import Path

import pytest
import torch

from gve_ray.store import SharedFolder
from gve_ray.training import checkpoint, ray_feed
from gve_ray.training.config import LoopConfig, LossConfig
from gve_ray.training.curriculum import Curriculum
from gve_ray.training.loop import Trainer
from gve_ray.training.ray_feed import RayFeed
from gve_ray.training.runlog import StepLog
from tests.training import tiny

pytestmark = pytest.mark.usefixtures("cluster")


@pytest.mark.slow
def test_other_processes_prepare_the_steps_in_order(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ray_feed, "WINDOW", 7)  # 12 steps in windows of 7 and 5
    results = [made for made, waited in RayFeed(workers=2)(lambda n: (n * n, os.getpid()), range(12))]
    assert [square for square, _ in results] == [n * n for n in range(12)]
    processes = {process for _, process in results}
    assert len(processes) >= 2
    assert os.getpid() not in processes


@pytest.mark.slow
def test_an_error_in_another_process_is_raised_with_its_message() -> None:
    def make(n: int) -> int:
        if n == 3:
            raise ValueError("the video does not exist")
        return n

    feed = RayFeed(workers=1)(make, range(6))
    with pytest.raises(Exception, match="the video does not exist"):
        list(feed)


def test_a_run_ends_with_the_same_weights_as_with_threads(tmp_path: Path) -> None:
    weights = []
    for feed in ({}, {"feed": RayFeed(workers=2)}):
        logs: list[StepLog] = []
        folder = tmp_path / str(len(weights))
        folder.mkdir()
        trainer = Trainer(
            tiny.Letters(dropout=0.1),
            tiny.collate,
            tiny.datasets(folder),
            Curriculum(kind="uniform", epochs=1),
            LoopConfig(seed=3, loss=LossConfig(temperature=0.1)),
            SharedFolder(folder / "checkpoints"),
            on_step=logs.append,
            **feed,
        )
        trainer.run()
        assert len(logs) == 11
        weights.append(checkpoint.trained_weights(trainer.inner))
    for name, weight in weights[0].items():
        torch.testing.assert_close(weight, weights[1][name], rtol=0, atol=0)
