"""Checkpoints of a run: written whole, newest first on reading, a torn one skipped for the one before.

A checkpoint is the folder `step-00000120` with the trained weights, the optimiser's state and state.json.
Its digest file is written last into a folder of another name, which is then renamed: what is there under
its name is whole, and what a disk lost afterwards shows in the digests. On an object store, which renames
nothing, the digests are uploaded last. Random states are not stored: the
loop seeds each step from (seed, epoch, step, rank), and schedules follow from the step's number.
"""

import hashlib
import json
import logging
import os
import shutil
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from gve_ray.store import SharedFolder

log = logging.getLogger(__name__)

_DIGESTS = "digests.json"
_NAME = "step-{:08d}"


@dataclass(frozen=True, kw_only=True)
class Position:
    """Where a run is. epoch: from 1. step: done in this epoch. total: done in all epochs.

    world_size: the schedule depends on it. history: the curriculum's, as plain values.
    """

    epoch: int
    step: int
    total: int
    world_size: int
    history: Mapping[str, Any]


def trained_weights(model: nn.Module) -> dict[str, Tensor]:
    """The weights that require a gradient, on CPU, by name."""
    return {name: one.detach().cpu() for name, one in model.named_parameters() if one.requires_grad}


def save(
    folder: SharedFolder, model: nn.Module, optimiser: torch.optim.Optimizer, position: Position, *, keep: int
) -> Path:
    """Write a checkpoint (call it on one rank) and drop all but the newest `keep`."""
    folder.path.mkdir(parents=True, exist_ok=True)
    target = folder.path / _NAME.format(position.total)
    part = folder.path / f".{target.name}.part"
    shutil.rmtree(part, ignore_errors=True)
    part.mkdir()
    torch.save(trained_weights(model), part / "weights.pt")
    torch.save(optimiser.state_dict(), part / "optimiser.pt")
    (part / "state.json").write_text(json.dumps(asdict(position), indent=2) + "\n")
    digests = {path.name: _digest(path) for path in sorted(part.iterdir())}
    (part / _DIGESTS).write_text(json.dumps(digests, indent=2) + "\n")
    for path in part.iterdir():
        _flush(path)
    folder.remove(target.name)  # a torn one, or the run would have gone on from it
    os.replace(part, target)
    folder.publish(target.name, last=_DIGESTS)
    for old in _all(folder)[keep:]:
        folder.remove(old)
    return target


def newest(folder: SharedFolder) -> Path | None:
    """The newest whole checkpoint, None without one, on this node. Says which torn ones were passed over."""
    for name in _all(folder):
        path = folder.fetch(name)
        if (wrong := _torn(path)) is None:
            return path
        log.warning("%s/%s is torn (%s); going back to the checkpoint before it", folder.uri, name, wrong)
    return None


def load(path: Path, model: nn.Module, optimiser: torch.optim.Optimizer) -> Position:
    """Put a checkpoint into the model and the optimiser. Raises ValueError when the weights are others."""
    weights: dict[str, Tensor] = torch.load(path / "weights.pt", weights_only=True)
    mine = {name: one for name, one in model.named_parameters() if one.requires_grad}
    if differing := sorted(set(weights) ^ set(mine)):
        raise ValueError(
            f"{path} has other trained weights than the model ({len(differing)} differ, e.g. {differing[0]}); "
            "continue with the run's own model and LoRA settings"
        )
    with torch.no_grad():
        for name, one in mine.items():
            one.copy_(weights[name])
    optimiser.load_state_dict(torch.load(path / "optimiser.pt", weights_only=True))
    return Position(**json.loads((path / "state.json").read_text()))


def _all(folder: SharedFolder) -> list[str]:
    """Names of checkpoints, newest first."""
    return sorted((name for name in folder.names() if name.startswith("step-")), reverse=True)


def _torn(path: Path) -> str | None:
    """What is wrong with a checkpoint, in words; None if nothing is."""
    try:
        digests = json.loads((path / _DIGESTS).read_text())
    except (OSError, ValueError) as error:
        return f"{_DIGESTS}: {error}"
    for name, digest in digests.items():
        if not (path / name).is_file() or _digest(path / name) != digest:
            return f"{name} is missing or changed"
    return None


def _digest(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _flush(path: Path) -> None:
    with path.open("rb") as file:
        os.fsync(file.fileno())
