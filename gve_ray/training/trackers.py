"""Send the steps of a run to TensorBoard, Weights & Biases or MLflow.

A run that resumes continues the same record: TensorBoard discards the steps that are repeated, and for the
other two the id of the run is kept in the run's folder.
"""

import importlib
import importlib.util
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from typing import Any, get_args

from gve_ray.store import SharedFolder
from gve_ray.training.config import TrackerName
from gve_ray.training.runlog import ScoreLog, StepLog

_PACKAGES: dict[TrackerName, str] = {"tensorboard": "tensorboardX", "wandb": "wandb", "mlflow": "mlflow"}
_ID = "{}.id"  # the file with the run's id at a tracker that assigns ids
_LEFT_OUT = ("step", "of", "dataset")  # the x axis, a constant and a text

Send = Callable[[int, Mapping[str, float]], None]


def check_trackers(names: Sequence[str]) -> None:
    """Raise ValueError for a tracker that is unknown or whose package is not installed."""
    for name in names:
        if name not in _PACKAGES:
            raise ValueError(f"trackers={name!r}: unknown; use {', '.join(get_args(TrackerName))}")
        if importlib.util.find_spec(_PACKAGES[name]) is None:
            raise ValueError(
                f"trackers={name!r}: the package {_PACKAGES[name]} is not installed; pip install it, or leave it out"
            )


class Trackers:
    """Sends each step to the trackers. The trainer of rank 0 calls it after each step; close it at the end.

    names: the trackers to use. folder: the run's folder. config: shown by the trackers as the run's settings.
    """

    def __init__(self, names: Sequence[TrackerName], folder: SharedFolder, config: Mapping[str, Any]) -> None:
        check_trackers(names)
        self.names, self.folder, self.config = names, folder, config
        self._senders: list[Send] | None = None
        self._flushers: list[Callable[[], object]] = []
        self._closers: list[Callable[[], object]] = []

    def __call__(self, step: StepLog) -> None:
        values = {k: float(v) for k, v in asdict(step).items() if k not in _LEFT_OUT and v is not None}
        values[f"loss_by_dataset/{step.dataset}"] = step.loss  # not loss/: MLflow keeps both as files
        self._send(step.step, values)

    def send_scores(self, scores: ScoreLog) -> None:
        """Send the scores of an evaluation."""
        self._send(scores.step, {f"evaluation/{name}": score for name, score in scores.scores.items()})

    def _send(self, step: int, values: Mapping[str, float]) -> None:
        if self._senders is None:  # the first step is not known before
            openers = {"tensorboard": self._tensorboard, "wandb": self._wandb, "mlflow": self._mlflow}
            self._senders = [openers[name](step) for name in self.names]
        for send in self._senders:
            send(step, values)

    def publish(self) -> None:
        """Flush the records and upload them if the run's folder is remote."""
        for flush in self._flushers:
            flush()
        if self._flushers:
            self.folder.publish("tensorboard")

    def close(self) -> None:
        """Flush and end the records; a run that continues opens them again."""
        for close in self._closers:
            close()

    def _tensorboard(self, first: int) -> Send:
        writer = importlib.import_module("tensorboardX").SummaryWriter(
            str(self.folder.path / "tensorboard"),
            purge_step=first,
            filename_suffix=f".from-{first}",  # the default has whole seconds: a restart could overwrite it
            flush_secs=10,
        )
        self._flushers.append(writer.flush)
        self._closers.append(writer.close)

        def send(step: int, values: Mapping[str, float]) -> None:
            for name, value in values.items():
                writer.add_scalar(name, value, step)

        return send

    def _wandb(self, _: int) -> Send:
        wandb = importlib.import_module("wandb")
        run_id = self._load_id("wandb")
        run = wandb.init(
            id=run_id, resume="allow" if run_id else None, name=self.folder.name, dir=str(self.folder.path),
            config=dict(self.config),
        )  # fmt: skip
        self._save_id("wandb", run.id)
        self._closers.append(run.finish)
        return lambda step, values: run.log(dict(values), step=step)

    def _mlflow(self, _: int) -> Send:
        mlflow = importlib.import_module("mlflow")
        run_id = self._load_id("mlflow")
        run = mlflow.start_run(run_id=run_id, run_name=None if run_id else self.folder.name)
        self._save_id("mlflow", run.info.run_id)
        if not run_id:
            mlflow.log_params({name: str(value)[:500] for name, value in self.config.items()})
        self._closers.append(mlflow.end_run)
        return lambda step, values: mlflow.log_metrics(dict(values), step=step)

    def _load_id(self, name: str) -> str | None:
        file = _ID.format(name)
        return self.folder.fetch(file).read_text().strip() if self.folder.exists(file) else None

    def _save_id(self, name: str, run_id: str) -> None:
        file = _ID.format(name)
        (self.folder.path / file).write_text(run_id + "\n")
        self.folder.publish(file)
