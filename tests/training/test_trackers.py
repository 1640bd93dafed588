"""Tests the trackers. TensorBoard's files are read; W&B, an optional package, is replaced by a fake."""

import struct
import sys
import types
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from tensorboardX.proto.event_pb2 import Event

from gve_ray.store import SharedFolder
from gve_ray.training.runlog import StepLog
from gve_ray.training.trackers import Trackers, check_trackers


def log_of(step: int, **values: Any) -> StepLog:
    settings = {
        "epoch": 1, "step": step, "of": 9, "dataset": "uvrd-T2V", "loss": 2.0, "mean_score": 0.1,
        "mean_positive": 0.5, "hardest_gap": None, "learning_rate": 1e-3, "gradient_norm": 1.0,
        "pairs_per_second": 3.0, "tokens_per_second": 9.0, "data_wait": 0.0, "seconds": 1.0,
    }  # fmt: skip
    return StepLog(**settings | values)


def events(folder: Path) -> Iterator[Event]:
    """Yield TensorBoard's events. A record has a length (8 bytes), a checksum (4), the event, a checksum (4)."""
    for path in sorted(folder.glob("events.*")):
        data = path.read_bytes()
        while data:
            (length,) = struct.unpack("<Q", data[:8])
            yield Event.FromString(data[12 : 12 + length])
            data = data[16 + length :]


def test_tensorboard_gets_every_number_and_discards_repeated_steps(tmp_path: Path) -> None:
    first = Trackers(("tensorboard",), SharedFolder(tmp_path), {})
    for step in (1, 2, 3):
        first(log_of(step, loss=float(step)))
    first.close()
    again = Trackers(("tensorboard",), SharedFolder(tmp_path), {})
    again(log_of(3, loss=30.0, hardest_gap=0.2))
    again.close()
    records = list(events(tmp_path / "tensorboard"))
    losses = [
        (event.step, value.simple_value)
        for event in records
        for value in event.summary.value
        if value.tag == "loss"
    ]
    assert losses == [(1, 1.0), (2, 2.0), (3, 3.0), (3, 30.0)]
    assert any(event.session_log.status == event.session_log.START and event.step == 3 for event in records)
    tags = {value.tag for event in records for value in event.summary.value}
    assert {
        "loss_by_dataset/uvrd-T2V",
        "hardest_gap",
        "learning_rate",
        "data_wait",
        "tokens_per_second",
    } <= tags
    assert not {"step", "of", "dataset"} & tags


@pytest.mark.parametrize("on", ["disk", "store"])
def test_a_resumed_run_continues_the_same_record(
    on: str, tmp_path: Path, s3: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "run").mkdir()
    opened: list[dict[str, Any]] = []
    logged: list[tuple[int, float]] = []

    class Run:
        id = "abc"

        def log(self, values: dict[str, float], step: int) -> None:
            logged.append((step, values["loss"]))

        def finish(self) -> None:
            logged.append((-1, 0.0))

    def init(**options: Any) -> Run:
        opened.append(options)
        return Run()

    monkeypatch.setitem(sys.modules, "wandb", types.SimpleNamespace(init=init, __spec__=object()))
    place = tmp_path / "run" if on == "disk" else f"{s3}/run"
    for step in (1, 2):
        tracker = Trackers(("wandb",), SharedFolder(place), {"seed": 7})
        tracker(log_of(step))
        tracker.close()
    assert [options["id"] for options in opened] == [None, "abc"]
    assert opened[0]["config"] == {"seed": 7}
    assert opened[0]["name"] == "run"
    assert logged == [(1, 2.0), (-1, 0.0), (2, 2.0), (-1, 0.0)]


def test_unavailable_trackers_are_refused_before_the_run() -> None:
    with pytest.raises(ValueError, match="trackers='tensorbord': unknown; use tensorboard, wandb, mlflow"):
        check_trackers(["tensorbord"])
    with pytest.raises(ValueError, match="trackers='mlflow': the package mlflow is not installed"):
        check_trackers(["tensorboard", "mlflow"])
