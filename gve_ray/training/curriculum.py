"""The Modality Pyramid curriculum: how often each task is trained per epoch (arXiv:2510.27571, section 5).

A prober scores each task by R_k, the mean cosine of N_p of its pairs: well-aligned tasks are easy. Tasks
are drawn with P(k) proportional to exp(R_k / sigma). Sigma rises from 0.1 to 1.0 over the epochs, so easy
tasks dominate at first and harder ones catch up. A task is one data set; a batch holds pairs of one task.
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

    epochs: number of epochs; tasks are scored before each. kind: `pyramid` is the paper's
    curriculum. `uniform` gives all tasks the same probability. `proportional` draws by number of
    pairs. `easy_to_hard` keeps the order of the first epoch's R_k: epoch t draws from the easiest
    ceil(K * t / epochs) of the K tasks, by number of pairs. sigma: temperature in the first and in
    the last epoch (pyramid).
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
        """Whether the curriculum needs scores of a prober."""
        return self.kind in ("pyramid", "easy_to_hard")

    def sigma_at(self, epoch: int) -> float:
        """Return sigma, linear from the first epoch to the last. Raises ValueError outside 1..epochs."""
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
        """Return P(k) of an epoch; the values sum to 1.

        sizes: number of pairs by task. scores: R_k of this epoch (for pyramid). first_scores: R_k of the
        first epoch (for easy_to_hard). weights: factors on P(k) before it is normalised.

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
    """Return R_k, the mean cosine of pairs. queries, targets: unit-norm float [N_p, d]."""
    return float(np.einsum("nd,nd->n", queries, targets, dtype=np.float64).mean())


def easy_first(scores: Mapping[str, float]) -> list[str]:
    """Return the tasks by decreasing R_k; tasks with equal R_k by name."""
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
    """The curriculum of one epoch. scores: R_k by task, empty when no prober ran."""

    epoch: int
    sigma: float
    prober: str | None
    scores: Mapping[str, float]
    probabilities: Mapping[str, float]


@dataclass(frozen=True, kw_only=True)
class History:
    """The epochs so far, in order. It is saved in every checkpoint and with the final adapter."""

    kind: Kind
    epochs: Sequence[EpochRecord] = field(default_factory=tuple)

    @property
    def first_scores(self) -> Mapping[str, float] | None:
        """R_k of the first epoch; None before there is one."""
        return self.epochs[0].scores if self.epochs else None

    def of(self, epoch: int) -> EpochRecord | None:
        """Return the record of an epoch, or None if it has none yet (it may have one after a restart)."""
        return next((record for record in self.epochs if record.epoch == epoch), None)

    def add(self, record: EpochRecord) -> "History":
        """Return this history with `record` appended. Raises ValueError unless it is the next epoch."""
        if record.epoch != len(self.epochs) + 1:
            raise ValueError(f"epoch {record.epoch} after {len(self.epochs)}: add epochs in order")
        return replace(self, epochs=(*self.epochs, record))

    def save(self, uri: str) -> None:
        """Write the history as JSON in one atomic step."""
        files, path = filesystem(uri)
        write_atomically(files, path, (json.dumps(asdict(self), indent=2) + "\n").encode())

    @classmethod
    def load(cls, uri: str | Path) -> "History":
        """Read what `save` wrote."""
        files, path = filesystem(str(uri))
        with files.open_input_stream(path) as stream:
            return cls.from_plain(json.loads(stream.read()))

    @classmethod
    def from_plain(cls, values: Mapping[str, Any]) -> "History":
        """Build a history from the values of `dataclasses.asdict`, also after a JSON round trip."""
        return cls(kind=values["kind"], epochs=tuple(EpochRecord(**record) for record in values["epochs"]))
