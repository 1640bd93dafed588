"""Log every step of a run as a line of JSON, and report the progress of the training."""

import json
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any

from gve_ray.progress import Progress
from gve_ray.training.loop import StepLog

STEPS_FILE = "steps.jsonl"


class RunLog:
    """Writes the log; the trainer of rank 0 calls it after each step.

    path: a .jsonl file; a run that resumes appends to it. When steps are repeated after a crash, their old
    lines are removed first.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._progress: Progress | None = None

    def __call__(self, step: StepLog) -> None:
        if self._progress is None:
            self._progress = Progress("training", step.of, unit="steps", done=step.step - 1)
            self._rewind(step.step)
        with self.path.open("a", encoding="utf-8") as file:
            file.write(json.dumps(asdict(step)) + "\n")
        self._progress.reach(step.step, detail_of(step))

    def _rewind(self, first: int) -> None:
        """Remove the lines of steps from `first` on, and a line that a crash cut off."""
        self.path.parent.mkdir(parents=True, exist_ok=True)
        kept = [line for line in read_log(self.path) if line["step"] < first] if self.path.exists() else []
        part = self.path.with_name(f".{self.path.name}.part")
        part.write_text("".join(json.dumps(line) + "\n" for line in kept), encoding="utf-8")
        part.replace(self.path)


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
        f"epoch {step.epoch} {step.task}: loss {step.loss:.4f}, "
        f"positive {step.mean_positive:.3f}, gap {gap}, lr {step.learning_rate:.2e}, "
        f"{step.pairs_per_second:.1f} pairs/s, {step.tokens_per_second:.0f} tokens/s, "
        f"data wait {100 * step.data_wait / max(step.seconds, 1e-9):.0f} %"
    )
