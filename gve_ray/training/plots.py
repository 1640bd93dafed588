"""Plot the steps, the evaluations and the curriculum of a run as PNG files in the run's folder."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from gve_ray.training.curriculum import History
from gve_ray.training.runlog import SCORES_FILE, STEPS_FILE, read_log

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_CURVES = {
    "loss": "loss",
    "mean_positive": "mean positive score",
    "hardest_gap": "positive minus hardest negative",
    "learning_rate": "learning rate",
}


def save_plots(run: Path, history: History) -> list[str]:
    """Write training.png, curriculum.png and, if there were evaluations, evaluations.png to `run`.

    They are drawn from the logs in `run`. Returns their names.
    """
    figures = {
        "training.png": curves(list(read_log(run / STEPS_FILE))),
        "curriculum.png": pyramid(history),
    }
    if (run / SCORES_FILE).exists():
        figures["evaluations.png"] = evaluations(list(read_log(run / SCORES_FILE)))
    for name, figure in figures.items():
        figure.savefig(run / name, dpi=120)
    return list(figures)


def evaluations(lines: Sequence[Mapping[str, Any]]) -> "Figure":
    """Plot the scores of the evaluations over the steps, one line per set; a star marks the best step."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(8, 5), layout="constrained")
    axes = figure.subplots()
    for name in lines[0]["scores"]:
        axes.plot(
            [line["step"] for line in lines], [line["scores"][name] for line in lines], ".-", label=name
        )
    best = [line for line in lines if line["is_best"]][-1]
    axes.axvline(best["step"], color="grey", linestyle=":", label=f"best, step {best['step']}")
    axes.set_xlabel("step")
    axes.set_title("scores of the held-out sets")
    axes.legend()
    return figure


def curves(steps: Sequence[Mapping[str, Any]]) -> "Figure":
    """Plot loss, scores and learning rate over the steps, one colour per data set."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(11, 7), layout="constrained")
    datasets = sorted({step["dataset"] for step in steps})
    for axes, (key, title) in zip(figure.subplots(2, 2).flat, _CURVES.items(), strict=True):
        for dataset in datasets:
            points = [
                (step["step"], step[key])
                for step in steps
                if step["dataset"] == dataset and step[key] is not None
            ]
            axes.plot([x for x, _ in points], [y for _, y in points], ".-", label=dataset, markersize=3)
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
