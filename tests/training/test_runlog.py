import json
from pathlib import Path

from gve_ray.progress import ProgressState, shown_by
from gve_ray.training.runlog import RunLog, StepLog, detail_of, read_log


def step(number: int, loss: float = 1.5) -> StepLog:
    return StepLog(
        epoch=1,
        step=number,
        of=1000,
        dataset="uvrd-T2V",
        loss=loss,
        mean_score=0.1,
        mean_positive=0.5,
        hardest_gap=None if number == 1 else 0.25,
        learning_rate=3e-5,
        gradient_norm=1.0,
        pairs_per_second=64.0,
        tokens_per_second=5000.0,
        data_wait=0.5,
        seconds=10.0,
    )


def test_each_step_is_one_line_and_a_repeated_step_replaces_its_line(tmp_path: Path) -> None:
    path = tmp_path / "run" / "steps.jsonl"
    first = RunLog(path)
    for number in (1, 2, 3):
        first(step(number))
    with path.open("a") as file:
        file.write('{"step": 4, "lo')  # as after a crash
    again = RunLog(path)
    again(step(3, loss=9.0))
    again(step(4))
    lines = list(read_log(path))
    assert [line["step"] for line in lines] == [1, 2, 3, 4]
    assert [line["loss"] for line in lines] == [1.5, 1.5, 9.0, 1.5]
    assert lines[0]["hardest_gap"] is None
    assert all(json.loads(json.dumps(line)) == line for line in lines)
    assert [entry.name for entry in path.parent.iterdir()] == ["steps.jsonl"]


def test_no_rate_is_shown_before_the_second_step(tmp_path: Path) -> None:
    states: list[ProgressState] = []

    class Recorder:
        def show(self, state: ProgressState) -> None:
            states.append(state)

        def hide(self, label: str) -> None: ...

    with shown_by(Recorder()):
        run_log = RunLog(tmp_path / "steps.jsonl")
        run_log(step(1))
        run_log(step(2))
    assert [(state.done, state.rate > 0) for state in states] == [(1, False), (2, True)]


def test_the_progress_shows_the_figures_of_a_step() -> None:
    # 0.5 of 10 s is 5 %.
    assert detail_of(step(100)) == (
        "epoch 1 uvrd-T2V: loss 1.5000, positive 0.500, gap 0.250, lr 3.00e-05, 64.0 pairs/s, "
        "5000 tokens/s, data wait 5 %"
    )
    assert "gap -" in detail_of(step(1))
