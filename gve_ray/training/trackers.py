"""A run's steps to TensorBoard, Weights & Biases or MLflow: whatever is named and installed.

A run that continues goes on in the same record: TensorBoard drops what lies after the step it goes on from,
the other two keep their run's id in the run's folder.
"""

import importlib
import importlib.util
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from types import ModuleType
from typing import Any, get_args

from gve_ray.store import SharedFolder
from gve_ray.training.config import TrackerName
from gve_ray.training.loop import StepLog

_PACKAGES: dict[TrackerName, str] = {"tensorboard": "tensorboardX", "wandb": "wandb", "mlflow": "mlflow"}
_ID = "{}.id"  # the file of a tracker that names runs itself
_LEFT_OUT = ("step", "of", "task")  # the axis, a constant, and a text

Send = Callable[[int, Mapping[str, float]], None]


def check_trackers(names: Sequence[str]) -> None:
    """Raises ValueError for a tracker that is unknown or whose package is not installed."""
    for name in names:
        if name not in _PACKAGES:
            raise ValueError(f"trackers={name!r}: unknown; use {', '.join(get_args(TrackerName))}")
        if importlib.util.find_spec(_PACKAGES[name]) is None:
            raise ValueError(
                f"trackers={name!r}: the package {_PACKAGES[name]} is not installed; pip install it, or leave it out"
            )


class Trackers:
    """Give it to the trainer of rank 0 as `on_step`; close it at the end.

    names: of trackers; config: what they show as the run's settings; folder: the run's.
    """

    def __init__(self, names: Sequence[TrackerName], folder: SharedFolder, config: Mapping[str, Any]) -> None:
        check_trackers(names)
        self.names, self.folder, self.config = names, folder, config
        self._senders: list[Send] | None = None
        self._flushers: list[Callable[[], object]] = []
        self._closers: list[Callable[[], object]] = []

    def __call__(self, step: StepLog) -> None:
        if self._senders is None:  # only now is it known where the run goes on
            openers = {"tensorboard": self._tensorboard, "wandb": self._wandb, "mlflow": self._mlflow}
            self._senders = [openers[name](step.step) for name in self.names]
        values = {k: float(v) for k, v in asdict(step).items() if k not in _LEFT_OUT and v is not None}
        values[f"loss_by_task/{step.task}"] = step.loss  # not loss/: MLflow keeps both as files
        for send in self._senders:
            send(step.step, values)

    def publish(self) -> None:
        """Show others what is known by now, where the folder is not on a disk that they see."""
        for flush in self._flushers:
            flush()
        if self._flushers:
            self.folder.publish("tensorboard")

    def close(self) -> None:
        """Flush and end the records; a run that continues opens them again."""
        for close in self._closers:
            close()

    def _tensorboard(self, first: int) -> Send:
        writer = _import("tensorboardX").SummaryWriter(
            str(self.folder.path / "tensorboard"),
            purge_step=first,
            filename_suffix=f".from-{first}",  # a file's name has whole seconds, and would be overwritten
            flush_secs=10,
        )
        self._flushers.append(writer.flush)
        self._closers.append(writer.close)

        def send(step: int, values: Mapping[str, float]) -> None:
            for name, value in values.items():
                writer.add_scalar(name, value, step)

        return send

    def _wandb(self, _: int) -> Send:
        wandb = _import("wandb")
        known = self._kept("wandb")
        run = wandb.init(
            id=known, resume="allow" if known else None, name=self.folder.name, dir=str(self.folder.path),
            config=dict(self.config),
        )  # fmt: skip
        self._keep("wandb", run.id)
        self._closers.append(run.finish)
        return lambda step, values: run.log(dict(values), step=step)

    def _mlflow(self, _: int) -> Send:
        mlflow = _import("mlflow")
        known = self._kept("mlflow")
        run = mlflow.start_run(run_id=known, run_name=None if known else self.folder.name)
        self._keep("mlflow", run.info.run_id)
        if not known:
            mlflow.log_params({name: str(value)[:500] for name, value in self.config.items()})
        self._closers.append(mlflow.end_run)
        return lambda step, values: mlflow.log_metrics(dict(values), step=step)

    def _kept(self, name: str) -> str | None:
        file = _ID.format(name)
        return self.folder.fetch(file).read_text().strip() if self.folder.exists(file) else None

    def _keep(self, name: str, run_id: str) -> None:
        file = _ID.format(name)
        (self.folder.path / file).write_text(run_id + "\n")
        self.folder.publish(file)


def _import(name: str) -> ModuleType:
    """A package that brings no types, or that is not installed everywhere."""
    return importlib.import_module(name)
