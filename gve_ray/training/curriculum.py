"""The Modality Pyramid curriculum: how often each task is trained per epoch (arXiv:2510.27571, section 5).

A prober scores each task k by R_k, from the cosines of N_p of its pairs: well-aligned tasks are easy.
Tasks are drawn with P(k) proportional to n_k * exp(R_k / sigma). Sigma rises from 0.1 to 1.0 over the
epochs, so easy tasks dominate at first and harder ones catch up. A task is a format, such as text ->
video, and its data sets are drawn by size; a batch holds pairs of one data set.

The paper prints P(k) proportional to exp(R_k / sigma), leaves open whether a task is a format or a data
set, and takes raw cosines. Read literally, over the data sets of UVRD alone, that repeats 36 K pairs 27
times in an epoch and hardly trains text -> video. In miniature, drawing in proportion to the data was
better than every reading of it, so that is the default; docs/method.md compares them.
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
TaskUnit = Literal["format", "dataset"]
Prior = Literal["none", "size"]
ScoreKind = Literal["raw", "centred"]


@dataclass(frozen=True, kw_only=True)
class DataSetSize:
    """What a curriculum needs to know about a data set.

    weight: how much one of its pairs counts. batch_size: pairs per rank and step.
    """

    format: str
    pairs: int
    weight: float = 1.0
    batch_size: int = 1

    @property
    def size(self) -> float:
        """The steps of one pass, so that tasks drawn by size are passed over equally often."""
        return self.pairs * self.weight / self.batch_size


@dataclass(frozen=True, kw_only=True)
class Alignment:
    """Mean cosines of probed pairs: of each query with its own target, and with the other pairs' targets."""

    positive: float
    mismatched: float


@dataclass(frozen=True, kw_only=True)
class Curriculum:
    """How tasks are drawn in each of `epochs` epochs (counted from 1).

    epochs: number of epochs. kind: `proportional` draws by size: the number of steps of one pass; it
    was the best in the paper in miniature (docs/method.md). `pyramid` is the paper's curriculum,
    which scores the tasks before each epoch. `uniform` gives all tasks the same probability.
    `easy_to_hard` keeps the order of the first epoch's R_k: epoch t draws from the easiest
    ceil(K * t / epochs) of the K tasks, by size. sigma: temperature in the first and in the last
    epoch (pyramid). tasks: what is scored and drawn: each `format` (T2V, V2V, ...), whose data sets
    then share its steps by size, or each `dataset`. prior: `size` multiplies exp(R_k / sigma) by the
    size of the task, `none` does not, as in the paper's formula (pyramid). scores: R_k is the mean
    cosine of the pairs (`raw`, the paper's), or that minus the mean cosine of mismatched pairs
    (`centred`), which can be compared between formats.
    """

    kind: Kind = "proportional"
    epochs: int = 3
    sigma: tuple[float, float] = (0.1, 1.0)
    tasks: TaskUnit = "format"
    prior: Prior = "size"
    scores: ScoreKind = "centred"

    def __post_init__(self) -> None:
        for name, kind in (("kind", Kind), ("tasks", TaskUnit), ("prior", Prior), ("scores", ScoreKind)):
            if getattr(self, name) not in get_args(kind):
                raise ValueError(
                    f"curriculum.{name}={getattr(self, name)!r}: use one of {', '.join(get_args(kind))}"
                )
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

    def members(self, datasets: Mapping[str, DataSetSize]) -> dict[str, list[str]]:
        """Return the names of the data sets of each task k, in the order of names.

        Raises ValueError when there is no data set, or one without pairs.
        """
        if not datasets:
            raise ValueError("data=[]: a curriculum needs at least one data set")
        if empty := sorted(name for name, dataset in datasets.items() if dataset.pairs < 1):
            raise ValueError(f"no pairs for {', '.join(empty)}: drop it or synthesize pairs for it")
        tasks: dict[str, list[str]] = {}
        for name in sorted(datasets):
            tasks.setdefault(datasets[name].format if self.tasks == "format" else name, []).append(name)
        return {task: tasks[task] for task in sorted(tasks)}

    def task_scores(
        self, datasets: Mapping[str, DataSetSize], alignments: Mapping[str, Alignment]
    ) -> dict[str, float]:
        """Return R_k of each task: the mean over the pairs of its data sets.

        alignments: of the probed pairs of each data set. Raises ValueError when one is missing or not finite.
        """
        if missing := sorted(set(datasets) - set(alignments)):
            raise ValueError(f"no score for {', '.join(missing)}: probe every data set of the mixture first")
        values = {
            name: found.positive - (found.mismatched if self.scores == "centred" else 0.0)
            for name, found in alignments.items()
        }
        return {
            task: float(
                np.average([values[name] for name in names], weights=[datasets[name].pairs for name in names])
            )
            for task, names in self.members(datasets).items()
        }

    def probabilities(
        self,
        epoch: int,
        datasets: Mapping[str, DataSetSize],
        *,
        scores: Mapping[str, float] | None = None,
        first_scores: Mapping[str, float] | None = None,
    ) -> dict[str, float]:
        """Return P(k) of each task in an epoch; the values sum to 1.

        scores: R_k of this epoch (for pyramid). first_scores: R_k of the first epoch (for easy_to_hard).

        Raises ValueError when a data set has no pairs or the scores it needs are missing.
        """
        sigma = self.sigma_at(epoch)
        members = self.members(datasets)
        pairs = {task: sum(datasets[name].pairs for name in names) for task, names in members.items()}
        sizes = {task: sum(datasets[name].size for name in names) for task, names in members.items()}
        weights = {
            task: sum(datasets[name].pairs * datasets[name].weight for name in names) / pairs[task]
            for task, names in members.items()
        }
        if self.kind == "pyramid":
            drawn = _complete(scores, members)
            factors = sizes if self.prior == "size" else weights
        elif self.kind == "uniform":
            drawn, factors = dict.fromkeys(members, 0.0), weights
        elif self.kind == "proportional":
            drawn, factors = dict.fromkeys(members, 0.0), sizes
        else:
            easiest = easy_first(_complete(first_scores, members))
            chosen = easiest[: math.ceil(len(easiest) * epoch / self.epochs)]
            drawn, factors = dict.fromkeys(chosen, 0.0), sizes
        highest = max(drawn.values())  # exp() of at most 0: no overflow at sigma = 0.01
        shares = {
            task: math.exp((drawn[task] - highest) / sigma) * factors[task] if task in drawn else 0.0
            for task in members
        }
        total = sum(shares.values())
        if total <= 0:
            raise ValueError(f"every data set drawn in epoch {epoch} has weight 0: give one a weight above 0")
        return {task: share / total for task, share in shares.items()}

    def dataset_probabilities(
        self, datasets: Mapping[str, DataSetSize], probabilities: Mapping[str, float]
    ) -> dict[str, float]:
        """Share P(k) of each task among its data sets, by their sizes; the values sum to 1."""
        shares: dict[str, float] = {}
        for task, names in self.members(datasets).items():
            total = sum(datasets[name].size for name in names)
            for name in names:
                shares[name] = probabilities[task] * datasets[name].size / total if total else 0.0
        return shares


def alignment(queries: np.ndarray, targets: np.ndarray) -> Alignment:
    """Return the mean cosines of pairs. queries, targets: unit-norm float [N_p, d]; row i of both is a pair."""
    n = len(queries)
    positives = float(np.einsum("nd,nd->", queries, targets, dtype=np.float64))
    everything = float(queries.sum(axis=0, dtype=np.float64) @ targets.sum(axis=0, dtype=np.float64))
    mismatched = (everything - positives) / (n * (n - 1)) if n > 1 else 0.0
    return Alignment(positive=positives / n, mismatched=mismatched)


def easy_first(scores: Mapping[str, float]) -> list[str]:
    """Return the tasks by decreasing R_k; tasks with equal R_k by name."""
    return sorted(scores, key=lambda task: (-scores[task], task))


def _complete(scores: Mapping[str, float] | None, tasks: Mapping[str, object]) -> dict[str, float]:
    missing = sorted(set(tasks) - set(scores or {}))
    if missing or scores is None:
        raise ValueError(f"no score R_k for {', '.join(missing)}: probe every task of the mixture first")
    if bad := sorted(task for task in tasks if not math.isfinite(scores[task])):
        raise ValueError(f"score of {', '.join(bad)} is not a number: the prober's embeddings are broken")
    return {task: scores[task] for task in tasks}


@dataclass(frozen=True, kw_only=True)
class EpochRecord:
    """The curriculum of one epoch.

    scores: R_k by task, empty when no prober ran. probabilities: P(k) by task. datasets: the probability of each
    data set.
    """

    epoch: int
    sigma: float
    prober: str | None
    scores: Mapping[str, float]
    probabilities: Mapping[str, float]
    datasets: Mapping[str, float]


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
