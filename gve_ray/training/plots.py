"""Plot the steps and the curriculum of a run as PNG files in the run's folder."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from gve_ray.training.curriculum import History
from gve_ray.training.runlog import STEPS_FILE, read_log

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_CURVES = {
    "loss": "loss",
    "mean_positive": "mean positive score",
    "hardest_gap": "positive minus hardest negative",
    "learning_rate": "learning rate",
}


def save_plots(run: Path, history: History) -> tuple[str, str]:
    """Write `run`/training.png from `run`/steps.jsonl, and `run`/curriculum.png and return both names."""
    steps, epochs = "training.png", "curriculum.png"
    curves(list(read_log(run / STEPS_FILE))).savefig(run / steps, dpi=120)
    pyramid(history).savefig(run / epochs, dpi=120)
    return steps, epochs


def curves(steps: Sequence[Mapping[str, Any]]) -> "Figure":
    """Plot loss, scores and learning rate over the steps, one colour per task."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(11, 7), layout="constrained")
    tasks = sorted({step["task"] for step in steps})
    for axes, (key, title) in zip(figure.subplots(2, 2).flat, _CURVES.items(), strict=True):
        for task in tasks:
            points = [
                (step["step"], step[key]) for step in steps if step["task"] == task and step[key] is not None
            ]
            axes.plot([x for x, _ in points], [y for _, y in points], ".-", label=task, markersize=3)
        axes.set_title(title)
        axes.set_xlabel("step")
    figure.axes[0].legend()
    return figure


def pyramid(history: History) -> "Figure":
    """Plot R_k and P(k) by epoch, one line per task. The labels of the epochs show sigma."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(11, 4), layout="constrained")
    epochs = [record.epoch for record in history.epochs]
    labels = [f"{record.epoch}\nsigma {record.sigma:.2f}" for record in history.epochs]
    tasks = sorted({task for record in history.epochs for task in record.probabilities})
    shown = (("R_k: mean cosine of pairs", "scores"), ("P(k): share of the steps", "probabilities"))
    for axes, (title, part) in zip(figure.subplots(1, 2), shown, strict=True):
        for task in tasks:
            values = [getattr(record, part).get(task, float("nan")) for record in history.epochs]
            axes.plot(epochs, values, "o-", label=task)
        axes.set_title(title)
        axes.set_xticks(epochs, labels)
        axes.set_xlabel("epoch")
    figure.axes[1].legend()
    return figure
