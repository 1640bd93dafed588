"""Write and read the checkpoints of a training run. A damaged checkpoint is skipped for the one before it.

A checkpoint is the folder `step-00000120` with the trained weights, the optimiser's state and state.json.
It is written under a temporary name, with its digest file last, and then renamed, so a folder with the
final name is complete; the digests reveal what a disk has lost since. An object store cannot rename, so
there the digests are uploaded last. Random states are not stored: the loop seeds each step from the seed,
the number of the step and the rank, and the schedule follows from the number of the step.
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
_BEST_PREFIX = "best-"


def _best_name(step: int) -> str:
    return f"{_BEST_PREFIX}{step:08d}.pt"


@dataclass(frozen=True, kw_only=True)
class Best:
    """The step, over all epochs, after which the model had its best score."""

    step: int
    score: float


@dataclass(frozen=True, kw_only=True)
class Position:
    """How far a run has come.

    epoch: counted from 1. step: steps done in this epoch. total: steps done in all epochs. world_size:
    number of ranks, on which the schedule depends. history: the curriculum's history, as plain values. best:
    the best evaluation so far. evaluations_since_best: evaluations after it.
    """

    epoch: int
    step: int
    total: int
    world_size: int
    history: Mapping[str, Any]
    best: Best | None = None
    evaluations_since_best: int = 0


def trained_weights(model: nn.Module) -> dict[str, Tensor]:
    """The weights that require a gradient, on CPU, by name."""
    return {name: weight.detach().cpu() for name, weight in model.named_parameters() if weight.requires_grad}


def save(
    folder: SharedFolder, model: nn.Module, optimiser: torch.optim.Optimizer, position: Position, *, keep: int
) -> Path:
    """Write a checkpoint and delete all but the newest `keep`. Call it on one rank. Return its folder."""
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
    folder.remove(target.name)  # it is damaged, or the run would have resumed from it
    os.replace(part, target)
    folder.publish(target.name, last=_DIGESTS)
    for old in _all(folder)[keep:]:
        folder.remove(old)
    for name in folder.names():
        # Those of later steps were written before the run was interrupted; they will be written again.
        if name.startswith(_BEST_PREFIX) and (
            position.best is None or name != _best_name(position.best.step)
        ):
            folder.remove(name)
    return target


def save_best(folder: SharedFolder, model: nn.Module, step: int) -> None:
    """Write the trained weights of the best step; those before are kept until the next checkpoint."""
    folder.path.mkdir(parents=True, exist_ok=True)
    target = folder.path / _best_name(step)
    part = folder.path / f".{target.name}.part"
    torch.save(trained_weights(model), part)
    _flush(part)
    os.replace(part, target)
    folder.publish(target.name)


def load_best(folder: SharedFolder, model: nn.Module, step: int) -> None:
    """Load the weights that `save_best` wrote. Raises FileNotFoundError if there are none."""
    name = _best_name(step)
    if not folder.exists(name):
        raise FileNotFoundError(
            f"{folder.uri}/{name}: the weights of the best step are lost; last/ has the last ones"
        )
    _assign(model, torch.load(folder.fetch(name), weights_only=True))


def newest(folder: SharedFolder) -> Path | None:
    """Return the local path of the newest complete checkpoint, or None. Damaged ones are logged and skipped."""
    for name in _all(folder):
        path = folder.fetch(name)
        if (damage := _damage(path)) is None:
            return path
        log.warning("%s/%s is damaged (%s); going back to the checkpoint before it", folder.uri, name, damage)
    return None


def load(path: Path, model: nn.Module, optimiser: torch.optim.Optimizer) -> Position:
    """Load a checkpoint into the model and the optimiser and return its position.

    Raises ValueError when the names of the trained weights differ from the model's.
    """
    weights: dict[str, Tensor] = torch.load(path / "weights.pt", weights_only=True)
    trained = {name: weight for name, weight in model.named_parameters() if weight.requires_grad}
    if differing := sorted(set(weights) ^ set(trained)):
        raise ValueError(
            f"{path} has other trained weights than the model ({len(differing)} differ, e.g. {differing[0]}); "
            "continue with the run's own model and LoRA settings"
        )
    _assign(model, weights)
    optimiser.load_state_dict(torch.load(path / "optimiser.pt", weights_only=True))
    state = json.loads((path / "state.json").read_text())
    return Position(**state | {"best": state["best"] and Best(**state["best"])})


def _assign(model: nn.Module, weights: Mapping[str, Tensor]) -> None:
    trained = {name: weight for name, weight in model.named_parameters() if weight.requires_grad}
    with torch.no_grad():
        for name, weight in trained.items():
            weight.copy_(weights[name])


def _all(folder: SharedFolder) -> list[str]:
    """Return the names of the checkpoints, newest first."""
    return sorted((name for name in folder.names() if name.startswith("step-")), reverse=True)


def _damage(path: Path) -> str | None:
    """Describe what is wrong with a checkpoint; return None if it is complete."""
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
