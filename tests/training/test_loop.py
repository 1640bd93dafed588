import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from gve_ray.store import SharedFolder
from gve_ray.training import checkpoint
from gve_ray.training.config import LoopConfig, LossConfig, OptimiserConfig, ValidationConfig
from gve_ray.training.curriculum import Alignment, Curriculum
from gve_ray.training.loop import Probe, Trainer
from gve_ray.training.runlog import ScoreLog, StepLog
from tests.training import tiny

FAST = LoopConfig(
    seed=3,
    optimiser=OptimiserConfig(learning_rate=0.02, weight_decay=0.0, warmup=0.1),
    loss=LossConfig(temperature=0.1),
    save_steps=4,
)
UNIFORM = Curriculum(kind="uniform", epochs=2, tasks="dataset")


def trainer(folder: Path, logs: list[StepLog], **options: Any) -> Trainer:
    model = options.pop("model", None) or tiny.Letters(dropout=0.1)
    settings: dict[str, Any] = {"curriculum": UNIFORM, "config": FAST, "on_step": logs.append} | options
    curriculum, config = settings.pop("curriculum"), settings.pop("config")
    datasets = tiny.datasets(folder)
    return Trainer(
        model, tiny.collate, datasets, curriculum, config, SharedFolder(folder / "checkpoints"), **settings
    )


def weights(run: Trainer) -> dict[str, torch.Tensor]:
    return checkpoint.trained_weights(run.inner)


def test_a_run_learns_and_logs_every_step(tmp_path: Path) -> None:
    logs: list[StepLog] = []
    history = trainer(tmp_path, logs, curriculum=replace(UNIFORM, epochs=8)).run()
    # One pass: 40 / 8 + 24 / 4 = 11 steps.
    assert [log.step for log in logs] == list(range(1, 89))
    assert {log.of for log in logs} == {88}
    assert [log.epoch for log in logs] == [1 + i // 11 for i in range(88)]
    assert {log.dataset for log in logs} == {"two", "three"}
    first, last = logs[:11], logs[-11:]
    assert sum(log.loss for log in last) < 0.5 * sum(log.loss for log in first)
    assert sum(log.mean_positive - log.mean_score for log in last) > 0
    assert all(log.data_wait >= 0 and log.seconds > 0 and log.tokens_per_second > 0 for log in logs)
    assert logs[-1].learning_rate < 1e-3 * FAST.optimiser.learning_rate
    assert [record.probabilities for record in history.epochs] == [{"two": 0.5, "three": 0.5}] * 8


class KilledError(Exception):
    pass


def interrupted(folder: Path, at: int, **options: Any) -> list[StepLog]:
    """Start a run that is interrupted after step `at`; return the logs of its steps."""
    logs: list[StepLog] = []

    def interrupt(log: StepLog) -> None:
        logs.append(log)
        if log.step == at:
            raise KilledError

    with pytest.raises(KilledError):
        trainer(folder, logs, on_step=interrupt, **options).run()
    return logs


# Interrupted before the first checkpoint, in each epoch, and just before the end.
@pytest.mark.parametrize("at,gradcache", [(2, False), (10, True), (13, False), (21, True)])
def test_an_interrupted_run_resumes_with_the_result_of_an_undisturbed_one(
    tmp_path: Path, at: int, gradcache: bool
) -> None:
    config = replace(FAST, gradcache=gradcache)
    whole: list[StepLog] = []
    undisturbed = trainer(tmp_path / "a", whole, config=config)
    undisturbed.run()
    before = interrupted(tmp_path / "b", at, config=config)
    rest: list[StepLog] = []
    continued = trainer(tmp_path / "b", rest, config=config, model=tiny.Letters(dropout=0.1))
    torch.manual_seed(999)  # as in a new process, which has another random state
    continued.run()
    # Checkpoints are made every 4 steps and after the 11 of an epoch. Steps after the newest are repeated.
    start = max(save for save in (0, 4, 8, 11, 12, 16, 20) if save < at)
    assert rest[0].step == start + 1
    done = before[:start] + rest
    assert [(log.step, log.dataset, log.learning_rate) for log in done] == [
        (log.step, log.dataset, log.learning_rate) for log in whole
    ]
    for name, mine in weights(continued).items():
        torch.testing.assert_close(mine, weights(undisturbed)[name], atol=1e-5, rtol=0)


def test_a_run_resumes_from_the_checkpoint_before_a_damaged_one(tmp_path: Path) -> None:
    interrupted(tmp_path, 10)
    newest = checkpoint.newest(SharedFolder(tmp_path / "checkpoints"))
    assert newest is not None
    assert newest.name == "step-00000008"
    (newest / "weights.pt").write_bytes(b"torn")
    rest: list[StepLog] = []
    trainer(tmp_path, rest).run()
    assert rest[0].step == 5
    assert rest[-1].step == 22


def test_a_finished_run_does_nothing(tmp_path: Path) -> None:
    trainer(tmp_path, []).run()
    logs: list[StepLog] = []
    history = trainer(tmp_path, logs).run()
    assert logs == []
    assert len(history.epochs) == 2


def test_the_curriculum_follows_the_prober_and_is_decided_once_per_epoch(tmp_path: Path) -> None:
    prepared_epochs: list[int] = []

    def prepare(epoch: int) -> Probe:
        prepared_epochs.append(epoch)
        return Probe(
            prober=f"model {epoch}",
            alignments={
                "two": Alignment(positive=0.9, mismatched=0.5),
                "three": Alignment(positive=0.9 - epoch / 10 / len(prepared_epochs), mismatched=0.5),
            },
        )

    pyramid = Curriculum(kind="pyramid", epochs=2, tasks="dataset", prior="none")
    interrupted(tmp_path, 10, curriculum=pyramid, prepare=prepare)
    history = trainer(tmp_path, [], curriculum=pyramid, prepare=prepare).run()
    assert prepared_epochs == [1, 1, 2]
    # Epoch 1 keeps the scores from before the interruption (a gap of 0.1), not the second ones (0.05).
    assert history.epochs[0].scores == pytest.approx({"two": 0.4, "three": 0.3})
    odds = history.epochs[0].probabilities["two"] / history.epochs[0].probabilities["three"]
    assert odds == pytest.approx(2.718281828)  # exp(0.1 / 0.1)
    state = json.loads((tmp_path / "checkpoints/step-00000022/state.json").read_text())
    assert [record["prober"] for record in state["history"]["epochs"]] == ["model 1", "model 2"]


def test_a_loss_that_is_not_a_number_stops_the_run(tmp_path: Path) -> None:
    model = tiny.Letters()
    logs: list[StepLog] = []

    def spoil(log: StepLog) -> None:
        logs.append(log)
        if log.step == 6:
            model.body[0].weight.data[0, 0] = float("nan")

    with pytest.raises(
        FloatingPointError, match=r"step 7 .*loss nan.*last good checkpoint is .*step-00000004"
    ):
        trainer(tmp_path, logs, model=model, on_step=spoil).run()
    assert len(logs) == 6


def scoring(
    folder: Path, scores: list[float], logs: list[StepLog], **options: Any
) -> tuple[Trainer, list[ScoreLog]]:
    """Return a trainer that is evaluated every 4 of its 22 steps, with given scores, and what it logs."""
    found: list[ScoreLog] = []
    left = iter(scores)
    validation = ValidationConfig(eval_steps=4, root="unused", metric="set", **options.pop("validation", {}))
    run = trainer(
        folder,
        logs,
        validation=validation,
        validate=lambda: {"set": next(left), "mean": 0.0},
        on_scores=found.append,
        **options,
    )
    return run, found


def test_the_best_step_is_kept_and_can_be_restored(tmp_path: Path) -> None:
    kept: dict[int, dict[str, torch.Tensor]] = {}
    run, found = scoring(tmp_path, [0.1, 0.5, 0.3, 0.5, 0.4, 0.2], [])
    run.on_step = lambda log: kept.update({log.step: {k: v.clone() for k, v in weights(run).items()}})
    run.run()
    assert [log.step for log in found] == [4, 8, 12, 16, 20, 22]
    assert [log.is_best for log in found] == [True, True, False, False, False, False]
    assert run.best == checkpoint.Best(step=8, score=0.5)
    folder = SharedFolder(tmp_path / "checkpoints")
    assert [name for name in folder.names() if "best" in name] == ["best-00000008.pt"]
    checkpoint.load_best(folder, run.inner, 8)
    for name, best in kept[8].items():
        torch.testing.assert_close(weights(run)[name], best, atol=0, rtol=0)
    assert any((kept[22][name] - kept[8][name]).abs().max() > 1e-3 for name in kept[8])
    # Called again, the finished run still knows its best step.
    again, found = scoring(tmp_path, [], [])
    again.run()
    assert again.best == run.best
    assert found == []
    with pytest.raises(FileNotFoundError, match="weights of the best step are lost"):
        checkpoint.load_best(folder, run.inner, 4)


def test_a_run_that_was_interrupted_after_its_best_step_finds_it_again(tmp_path: Path) -> None:
    def interrupt(log: StepLog) -> None:
        if log.step == 13:
            raise KilledError

    # The checkpoints are made every 5 steps, so that step 12's evaluation is newer than all of them.
    config = replace(FAST, save_steps=5)
    run, _ = scoring(tmp_path, [0.1, 0.2, 0.9], [], config=config)
    run.on_step = interrupt
    with pytest.raises(KilledError):
        run.run()
    folder = SharedFolder(tmp_path / "checkpoints")
    assert "best-00000012.pt" in folder.names()
    assert "best-00000008.pt" in folder.names()  # as the newest checkpoint has it
    rest, found = scoring(tmp_path, [0.9, 0.3, 0.3, 0.3], [], config=config)
    rest.run()
    assert [log.step for log in found] == [12, 16, 20, 22]
    assert rest.best == checkpoint.Best(step=12, score=0.9)
    assert [name for name in folder.names() if "best" in name] == ["best-00000012.pt"]


def test_training_ends_after_evaluations_without_a_better_score(tmp_path: Path) -> None:
    logs: list[StepLog] = []
    run, found = scoring(tmp_path, [0.1, 0.5, 0.3, 0.5], logs, validation={"patience": 2})
    history = run.run()
    assert [log.step for log in found] == [4, 8, 12, 16]
    assert len(logs) == 16
    assert len(history.epochs) == 2
    assert run.best == checkpoint.Best(step=8, score=0.5)
    again, found = scoring(tmp_path, [], logs, validation={"patience": 2})
    again.run()
    assert len(logs) == 16
    assert again.best == run.best


def test_evaluations_do_not_change_the_training(tmp_path: Path) -> None:
    plain = trainer(tmp_path / "a", [])
    plain.run()
    run, _ = scoring(tmp_path / "b", [0.1] * 6, [])
    run.run()
    for name, weight in weights(run).items():
        torch.testing.assert_close(weight, weights(plain)[name], atol=0, rtol=0)
