"""Log every step and every evaluation of a run as a line of JSON, and report the progress of the training."""

import json
import logging
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from gve_ray.progress import Progress

log = logging.getLogger(__name__)

STEPS_FILE = "steps.jsonl"
SCORES_FILE = "evaluations.jsonl"


@dataclass(frozen=True, kw_only=True)
class StepLog:
    """One line of the log.

    step: number of the step over all epochs, from 1. of: steps of the whole run. hardest_gap: None if there
    are no negatives. pairs_per_second: of all ranks. tokens_per_second: of this rank. data_wait: seconds that
    this rank waited for data. seconds: duration of the step.
    """

    epoch: int
    step: int
    of: int
    dataset: str
    loss: float
    mean_score: float
    mean_positive: float
    hardest_gap: float | None
    learning_rate: float
    gradient_norm: float
    pairs_per_second: float
    tokens_per_second: float
    data_wait: float
    seconds: float


@dataclass(frozen=True, kw_only=True)
class ScoreLog:
    """One evaluation. step: the step it follows, over all epochs. is_best: better than all before."""

    step: int
    scores: Mapping[str, float]
    is_best: bool
    seconds: float


class _Lines:
    """Lines of JSON by step. A run that resumes appends; lines of steps that it repeats are removed first."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._is_open = False

    def append(self, line: dict[str, Any]) -> None:
        if not self._is_open:
            self._rewind(line["step"])
            self._is_open = True
        with self.path.open("a", encoding="utf-8") as file:
            file.write(json.dumps(line) + "\n")

    def _rewind(self, first: int) -> None:
        """Remove the lines of steps from `first` on, and a line that a crash cut off."""
        self.path.parent.mkdir(parents=True, exist_ok=True)
        kept = [line for line in read_log(self.path) if line["step"] < first] if self.path.exists() else []
        part = self.path.with_name(f".{self.path.name}.part")
        part.write_text("".join(json.dumps(line) + "\n" for line in kept), encoding="utf-8")
        part.replace(self.path)


class RunLog:
    """Writes the log; the trainer of rank 0 calls it after each step. path: a .jsonl file."""

    def __init__(self, path: Path) -> None:
        self._lines = _Lines(path)
        self._progress: Progress | None = None

    def __call__(self, step: StepLog) -> None:
        if self._progress is None:
            # The clock of the rate starts here, after the first step, whose beginning is not known.
            self._progress = Progress("training", step.of, unit="steps", done=step.step)
        self._lines.append(asdict(step))
        self._progress.reach(step.step, detail_of(step))


class EvaluationLog:
    """Writes the scores of each evaluation during training. path: a .jsonl file."""

    def __init__(self, path: Path) -> None:
        self._lines = _Lines(path)

    def __call__(self, scores: ScoreLog) -> None:
        self._lines.append(asdict(scores))
        named = ", ".join(f"{name} {score:.3f}" for name, score in scores.scores.items())
        log.info("step %d: %s%s", scores.step, named, " (the best so far)" if scores.is_best else "")


def read_log(path: Path) -> Iterator[dict[str, Any]]:
    """Yield the complete lines of a log."""
    with path.open(encoding="utf-8") as file:
        for line in file:
            if line.endswith("\n"):
                yield json.loads(line)


def detail_of(step: StepLog) -> str:
    """Format the figures of a step for its progress."""
    gap = "-" if step.hardest_gap is None else f"{step.hardest_gap:.3f}"
    return (
        f"epoch {step.epoch} {step.dataset}: loss {step.loss:.4f}, "
        f"positive {step.mean_positive:.3f}, gap {gap}, lr {step.learning_rate:.2e}, "
        f"{step.pairs_per_second:.1f} pairs/s, {step.tokens_per_second:.0f} tokens/s, "
        f"data wait {100 * step.data_wait / max(step.seconds, 1e-9):.0f} %"
    )
