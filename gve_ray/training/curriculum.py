"""The Modality Pyramid: which task is trained how often, epoch by epoch (paper section 5). Pure.

A prober scores each task by R_k, the mean cosine of N_p of its pairs: well-aligned tasks are easy. Tasks
are drawn with P(k) proportional to exp(R_k / sigma), sigma from 0.1 to 1.0 over the epochs, so easy ones
come first and harder ones catch up. A "task" here is one data set of the mixture: batches hold one each.
"""

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any, Literal, get_args

import numpy as np

from gve_ray.store.runfolder import filesystem, write_atomically

HISTORY_FILE = "curriculum.json"  # in the folder of an adapter
Kind = Literal["pyramid", "uniform", "proportional", "easy_to_hard"]


@dataclass(frozen=True, kw_only=True)
class Curriculum:
    """How tasks are drawn in each of `epochs` epochs (counted from 1).

    pyramid: the paper's. uniform: all alike. proportional: by number of pairs. easy_to_hard: static, in
    the order of the first epoch's R_k; epoch t draws from the easiest ceil(K * t / epochs) tasks, by
    number of pairs. sigma: of the first and of the last epoch (pyramid).
    """

    kind: Kind = "pyramid"
    epochs: int = 3
    sigma: tuple[float, float] = (0.1, 1.0)

    def __post_init__(self) -> None:
        if self.kind not in get_args(Kind):
            raise ValueError(f"curriculum.kind={self.kind!r}: use one of {', '.join(get_args(Kind))}")
        if self.epochs < 1:
            raise ValueError(f"curriculum.epochs={self.epochs}: use 1 or more")
        if min(self.sigma) <= 0:
            raise ValueError(f"curriculum.sigma={list(self.sigma)}: use positive numbers, e.g. [0.1, 1.0]")

    @property
    def needs_scores(self) -> bool:
        """Whether a prober has to run at all."""
        return self.kind in ("pyramid", "easy_to_hard")

    def sigma_at(self, epoch: int) -> float:
        """sigma(t), linear from the first epoch to the last. Raises ValueError outside 1..epochs."""
        if not 1 <= epoch <= self.epochs:
            raise ValueError(f"epoch={epoch}: this curriculum has epochs 1 to {self.epochs}")
        first, last = self.sigma
        return first + (last - first) * (epoch - 1) / max(self.epochs - 1, 1)

    def probabilities(
        self,
        epoch: int,
        sizes: Mapping[str, int],
        *,
        scores: Mapping[str, float] | None = None,
        first_scores: Mapping[str, float] | None = None,
        weights: Mapping[str, float] | None = None,
    ) -> dict[str, float]:
        """P(k) of an epoch, summing to 1. sizes: pairs by task. scores, first_scores: R_k of this epoch
        (pyramid) and of the first (easy_to_hard). weights: factors on P(k) before it is normalised.

        Raises ValueError when a task has no pairs or the scores it needs are missing.
        """
        sigma = self.sigma_at(epoch)
        if empty := sorted(task for task, size in sizes.items() if size < 1):
            raise ValueError(f"no pairs for {', '.join(empty)}: drop the task or synthesize pairs for it")
        if not sizes:
            raise ValueError("sizes={}: a curriculum needs at least one task")
        if self.kind == "pyramid":
            logits = {task: score / sigma for task, score in _complete(scores, sizes).items()}
        elif self.kind == "uniform":
            logits = dict.fromkeys(sizes, 0.0)
        elif self.kind == "proportional":
            logits = {task: math.log(size) for task, size in sizes.items()}
        else:
            easiest = easy_first(_complete(first_scores, sizes))
            chosen = easiest[: math.ceil(len(easiest) * epoch / self.epochs)]
            logits = {task: math.log(sizes[task]) for task in chosen}
        highest = max(logits.values())  # exp() of at most 0: no overflow at sigma = 0.01
        shares = {
            task: math.exp(logits[task] - highest) * (weights or {}).get(task, 1.0) if task in logits else 0.0
            for task in sizes
        }
        total = sum(shares.values())
        if total <= 0:
            raise ValueError(f"weights={dict(weights or {})}: every task drawn in epoch {epoch} has weight 0")
        return {task: share / total for task, share in shares.items()}


def alignment(queries: np.ndarray, targets: np.ndarray) -> float:
    """R_k: the mean cosine of pairs. queries, targets: unit-norm float [N_p, d]."""
    return float(np.einsum("nd,nd->n", queries, targets, dtype=np.float64).mean())


def easy_first(scores: Mapping[str, float]) -> list[str]:
    """Tasks by falling R_k; equal ones by name."""
    return sorted(scores, key=lambda task: (-scores[task], task))


def _complete(scores: Mapping[str, float] | None, sizes: Mapping[str, int]) -> dict[str, float]:
    missing = sorted(set(sizes) - set(scores or {}))
    if missing or scores is None:
        raise ValueError(f"no score R_k for {', '.join(missing)}: probe every task of the mixture first")
    if bad := sorted(task for task in sizes if not math.isfinite(scores[task])):
        raise ValueError(f"score of {', '.join(bad)} is not a number: the prober's embeddings are broken")
    return {task: scores[task] for task in sizes}


@dataclass(frozen=True, kw_only=True)
class EpochRecord:
    """What was decided for one epoch. scores: R_k by task, empty when no prober ran."""

    epoch: int
    sigma: float
    prober: str | None
    scores: Mapping[str, float]
    probabilities: Mapping[str, float]


@dataclass(frozen=True, kw_only=True)
class History:
    """The epochs so far, in order: part of every checkpoint and of the adapter that comes out."""

    kind: Kind
    epochs: Sequence[EpochRecord] = field(default_factory=tuple)

    @property
    def first_scores(self) -> Mapping[str, float] | None:
        """R_k of the first epoch, None before it."""
        return self.epochs[0].scores if self.epochs else None

    def of(self, epoch: int) -> EpochRecord | None:
        """The record of an epoch that was decided before, e.g. before a restart."""
        return next((one for one in self.epochs if one.epoch == epoch), None)

    def add(self, record: EpochRecord) -> "History":
        """This history with one epoch more. Raises ValueError unless it is the next one."""
        if record.epoch != len(self.epochs) + 1:
            raise ValueError(f"epoch {record.epoch} after {len(self.epochs)}: add epochs in order")
        return replace(self, epochs=(*self.epochs, record))

    def save(self, uri: str) -> None:
        """Write JSON, whole or not at all."""
        files, path = filesystem(uri)
        write_atomically(files, path, (json.dumps(asdict(self), indent=2) + "\n").encode())

    @classmethod
    def load(cls, uri: str | Path) -> "History":
        """Inverse of `save`."""
        files, path = filesystem(str(uri))
        with files.open_input_stream(path) as stream:
            return cls.from_plain(json.loads(stream.read()))

    @classmethod
    def from_plain(cls, values: Mapping[str, Any]) -> "History":
        """Inverse of `dataclasses.asdict`, also after a way through JSON."""
        return cls(kind=values["kind"], epochs=tuple(EpochRecord(**one) for one in values["epochs"]))
