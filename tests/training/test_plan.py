"""The plan of a run: its numbers are worked out by hand, or counted from the steps that are drawn."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from gve_ray.cli import main
from gve_ray.config import config_of, load_config
from gve_ray.job import PreflightError
from gve_ray.training.config import LoopConfig, OptimiserConfig, TrainingJobConfig
from gve_ray.training.curriculum import Curriculum, DataSetSize
from gve_ray.training.optimiser import learning_rate
from gve_ray.training.plan import plan_epoch, plan_run
from gve_ray.training.schedule import Schedule

LITERAL = {"kind": "pyramid", "tasks": "dataset", "prior": "none", "scores": "raw"}
# Mean cosines of pairs that a run of the miniature logged (docs/LOG.md).
RAW_SCORES = {"V2V": 0.93, "I2V": 0.8, "T2T": 0.8, "TI2V": 0.7, "TV2V": 0.7, "T2I": 0.6, "T2V": 0.54}


def config(**options: Any) -> TrainingJobConfig:
    values: dict[str, Any] = {
        "model": "m",
        "output": "x",
        "data": [{"name": "uvrd", "uri": "nowhere/uvrd"}],
        "loop": {"seed": 1},
    }
    return config_of(TrainingJobConfig, values | options)


def test_the_shares_of_an_epoch_are_those_of_its_steps() -> None:
    datasets = {
        "a": DataSetSize(format="T2V", pairs=600),
        "b": DataSetSize(format="T2V", pairs=200),
        "c": DataSetSize(format="V2V", pairs=40),
    }
    batches = {"a": 5, "b": 5, "c": 2}
    curriculum = Curriculum(kind="uniform", epochs=2)
    loop = LoopConfig(seed=3, steps=50, optimiser=OptimiserConfig(warmup=0.1))
    shares = {"T2V": 0.5, "V2V": 0.5}
    plan = plan_epoch(
        curriculum, loop, 2, datasets, batches, ranks=4, scores={"T2V": 0.4, "V2V": 0.6}, probabilities=shares
    )
    schedule = Schedule(
        seed=3,
        epoch=2,
        probabilities={"a": 0.375, "b": 0.125, "c": 0.5},
        sizes={"a": 600, "b": 200, "c": 40},
        batch_sizes=batches,
        world_size=4,
        length=50,
    )
    steps = list(schedule.steps())
    rates = [learning_rate(i, 100, loop.optimiser) for i in range(100)]
    for name, dataset in datasets.items():
        mine = [step for step in steps if step.dataset == name]
        share = plan.datasets[name]
        assert share.steps == len(mine)
        assert share.pairs == sum(len(step.rows) for step in mine)
        assert share.passes == pytest.approx(share.pairs / dataset.pairs)
        assert share.lr_share == pytest.approx(sum(rates[50 + step.index] for step in mine) / sum(rates))
    assert plan.tasks["T2V"].steps + plan.tasks["V2V"].steps == 50
    assert plan.tasks["T2V"].passes == pytest.approx(plan.tasks["T2V"].pairs / 800)
    assert plan.datasets["c"].pairs == 8 * plan.datasets["c"].steps
    assert "b" in str(plan)
    assert "V2V" in str(plan)


def test_the_literal_formula_hardly_trains_what_is_hard_and_repeats_what_is_easy() -> None:
    plan = plan_run(config(curriculum=LITERAL, plan={"scores": RAW_SCORES}))
    first = plan.epochs[0]
    assert first.probabilities["uvrd-V2V"] / first.probabilities["uvrd-T2V"] == pytest.approx(
        np.exp(3.9)
    )  # 49
    assert first.tasks["uvrd-V2V"].passes > 10
    assert first.tasks["uvrd-T2V"].passes < 0.2
    warnings = first.warnings()
    assert len(warnings) >= 2
    assert any("uvrd-V2V is passed over" in text and "memorise" in text for text in warnings)
    assert any("uvrd-T2V is passed over" in text and "unused" in text for text in warnings)


def test_the_recipe_trains_every_task_enough(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["train", "--config", "gve-3b.yaml", "--plan", "--json"]) == 0
    plan = json.loads(capsys.readouterr().out)
    assert len(plan["epochs"]) == 3
    for epoch in plan["epochs"]:
        assert set(epoch) == {"T2T", "T2I", "T2V", "TI2V", "TV2V", "I2V", "V2V"}
        assert epoch["T2V"]["passes"] >= 0.5
        assert all(share["passes"] <= 10 for share in epoch.values())
        assert set(epoch["T2V"]) == {"steps", "pairs", "passes", "lr_share"}
    assert plan["sizes"]["uvrd-T2V"] == 879_000
    assert sum(share["lr_share"] for epoch in plan["epochs"] for share in epoch.values()) == pytest.approx(1)
    # One pass over 1.549 M pairs with 64 pairs of 32 ranks a step, but 32 for text -> image.
    assert sum(share["steps"] for share in plan["epochs"][0].values()) == round(
        1_339_000 / 2048 + 210_000 / 1024
    )
    assert plan["gpu_hours"] == pytest.approx(
        sum(share["pairs"] for epoch in plan["epochs"] for share in epoch.values()) / 20 / 3600, abs=0.1
    )
    assert main(["train", "--config", "gve-3b.yaml", "--plan"]) == 0
    assert "epoch 1\n" in capsys.readouterr().out


def test_sizes_come_from_the_data_then_from_the_options(tmp_path: Path) -> None:
    rows = [{"query": f"q{i}", "positive": [f"a{i}", f"b{i}"]} for i in range(30)]
    (tmp_path / "there.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    data = [
        {"name": "there", "uri": str(tmp_path / "there.jsonl"), "format": "text_pairs"},
        {"name": "later", "uri": str(tmp_path / "later.jsonl"), "format": "text_pairs", "sample": 500},
        {"name": "uvrd", "uri": str(tmp_path / "uvrd"), "tasks": ["T2V", "V2V"]},
    ]
    resources = {"workers": 2}
    plan = plan_run(config(data=data, resources=resources))
    assert plan.sizes == {"there": 60, "later": 500, "uvrd-T2V": 879_000, "uvrd-V2V": 36_000}
    assert plan.ranks == 2
    assert plan.gpu_hours is None
    sizes = {"later": 70, "uvrd-T2V": 1000}
    plan = plan_run(config(data=data, resources=resources, plan={"sizes": sizes}))
    assert plan.sizes == {"there": 60, "later": 70, "uvrd-T2V": 1000, "uvrd-V2V": 36_000}
    del data[1]["sample"]
    with pytest.raises(
        PreflightError, match=r"data.later.uri=.*later.jsonl: not there, .*--plan.sizes.later N"
    ):
        plan_run(config(data=data))


def test_only_assumed_scores_are_called_so() -> None:
    plan = plan_run(config(curriculum={"kind": "pyramid"}, plan={"scores": {"T2V": 0.2, "uvrd-V2V": 0.4}}))
    assert plan.epochs[0].scores["T2V"] == 0.2
    assert plan.epochs[0].scores["V2V"] == 0.4
    assert plan.assumed == ["I2V", "T2I", "T2T", "TI2V", "TV2V"]
    assert plan_run(config(curriculum={"kind": "proportional"})).assumed == []


def test_a_plan_is_not_part_of_a_runs_identity() -> None:
    one = load_config(TrainingJobConfig, ["--config", "gve-3b.yaml"])
    other = load_config(TrainingJobConfig, ["--config", "gve-3b.yaml", "--plan.workers", "8"])
    assert one.identity() == other.identity()
