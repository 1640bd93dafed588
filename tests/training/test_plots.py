import json
from pathlib import Path

from gve_ray.training.curriculum import EpochRecord, History
from gve_ray.training.plots import curves, pyramid, save_plots

STEPS = [
    {"step": 1, "dataset": "a", "loss": 3.0, "mean_positive": 0.1, "hardest_gap": None, "learning_rate": 0.1},
    {"step": 2, "dataset": "b", "loss": 2.0, "mean_positive": 0.2, "hardest_gap": 0.3, "learning_rate": 0.2},
    {"step": 3, "dataset": "a", "loss": 1.0, "mean_positive": 0.4, "hardest_gap": 0.5, "learning_rate": 0.1},
]
HISTORY = History(
    kind="pyramid",
    epochs=(
        EpochRecord(
            epoch=1,
            sigma=0.1,
            prober="base",
            scores={"a": 0.5, "b": 0.4},
            probabilities={"a": 0.75, "b": 0.25},
            datasets={"one": 0.75, "two": 0.25},
        ),
        EpochRecord(
            epoch=2,
            sigma=1.0,
            prober="one",
            scores={"a": 0.6, "b": 0.5},
            probabilities={"a": 0.5, "b": 0.5},
            datasets={"one": 0.5, "two": 0.5},
        ),
    ),
)


def test_each_data_set_is_drawn_as_a_line_over_its_steps() -> None:
    loss, _, gap, _ = curves(STEPS).axes
    lines = {line.get_label(): line.get_xydata().tolist() for line in loss.get_lines()}
    assert lines == {"a": [[1, 3.0], [3, 1.0]], "b": [[2, 2.0]]}
    # A step without a negative has no gap to draw.
    assert [line.get_xydata().tolist() for line in gap.get_lines()] == [[[3, 0.5]], [[2, 0.3]]]


def test_the_pyramid_shows_scores_and_shares_by_epoch() -> None:
    scores, shares = pyramid(HISTORY).axes
    assert [list(line.get_ydata()) for line in scores.get_lines()] == [[0.5, 0.6], [0.4, 0.5]]
    assert [list(line.get_ydata()) for line in shares.get_lines()] == [[0.75, 0.5], [0.25, 0.5]]
    assert [label.get_text() for label in shares.get_xticklabels()] == ["1\nsigma 0.10", "2\nsigma 1.00"]


def test_both_plots_are_saved(tmp_path: Path) -> None:
    (tmp_path / "steps.jsonl").write_text("".join(json.dumps(step) + "\n" for step in STEPS))
    save_plots(tmp_path, HISTORY)
    for name in ("training.png", "curriculum.png"):
        assert (tmp_path / name).read_bytes().startswith(b"\x89PNG")
