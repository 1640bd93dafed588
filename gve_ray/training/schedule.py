"""Choose the pairs of each step, identically on every rank.

    schedule = Schedule(seed=42, epoch=1, probabilities=p, sizes=n, batch_sizes=b, world_size=32)
    for step in schedule.steps(start=120):
        step.slice(rank)                          # int32 [batch]: rows of step.dataset

A step has pairs of one data set (arXiv:2510.27571, section 5). Data sets are drawn independently, with
the probabilities that the curriculum gives them. Rows are drawn without replacement: all pairs of a data
set are used before any is repeated, and no step holds a pair twice. Memory holds the current permutation
of each data set, 4 bytes per pair (50 MB for the paper's 12.55 M pairs). A checkpoint stores only the
number of the step.
"""

import hashlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True, kw_only=True)
class Step:
    """One step: index, from 0 within the epoch, and rows of `dataset`, int32 [world_size * batch], in rank order."""

    index: int
    dataset: str
    rows: np.ndarray
    world_size: int

    def slice(self, rank: int) -> np.ndarray:
        """Return the rows of one rank, int32 [batch]."""
        share = len(self.rows) // self.world_size
        return self.rows[rank * share : (rank + 1) * share]


@dataclass(frozen=True, kw_only=True)
class Schedule:
    """All steps of one epoch.

    probabilities: of each data set. sizes: pairs by data set. batch_sizes: pairs per rank and step, by data set
    (Table 7); one with fewer pairs than a full step gets smaller steps, equal on all ranks. length: number of steps;
    None: one pass over all pairs. Raises ValueError on data sets that cannot fill a step.
    """

    seed: int
    epoch: int
    probabilities: Mapping[str, float]
    sizes: Mapping[str, int]
    batch_sizes: Mapping[str, int]
    world_size: int
    length: int | None = None

    def __post_init__(self) -> None:
        if self.world_size < 1:
            raise ValueError(f"world_size={self.world_size}: use 1 or more")
        for dataset in self.datasets:
            if dataset not in self.batch_sizes or self.batch_sizes[dataset] < 1:
                raise ValueError(f"batch_sizes.{dataset}={self.batch_sizes.get(dataset)}: use 1 or more")
            if not 0 < self.sizes.get(dataset, 0) < 2**31:
                raise ValueError(
                    f"sizes.{dataset}={self.sizes.get(dataset)}: no pairs for this data set, or over 2^31"
                )
            if self.sizes[dataset] < self.world_size:
                raise ValueError(
                    f"{dataset} has {self.sizes[dataset]} pairs for {self.world_size} ranks: a step gives each rank "
                    "at least one; use fewer workers or drop the data set"
                )
        total = sum(self.probabilities.values())
        if not self.datasets or abs(total - 1) > 1e-6:
            raise ValueError(f"probabilities={dict(self.probabilities)}: give probabilities that sum to 1")
        if self.length is not None and self.length < 1:
            raise ValueError(f"length={self.length}: an epoch has at least one step")

    @property
    def datasets(self) -> list[str]:
        """The data sets that can be drawn, in the order of their names."""
        return sorted(dataset for dataset, share in self.probabilities.items() if share > 0)

    def batch_size(self, dataset: str) -> int:
        """Return the pairs per rank in a step of `dataset`."""
        return min(self.batch_sizes[dataset], self.sizes[dataset] // self.world_size)

    def __len__(self) -> int:
        if self.length is not None:
            return self.length
        sizes = {dataset: self.sizes[dataset] for dataset in self.datasets}
        return one_pass(sizes, self.batch_sizes, self.world_size)

    def draws(self) -> np.ndarray:
        """Draw the data set of each step: int64 [steps], indices into `datasets`."""
        shares = np.array([self.probabilities[dataset] for dataset in self.datasets])
        rng = np.random.default_rng(hash_of(self.seed, self.epoch, "tasks"))
        # Inverse transform sampling instead of rng.choice gives the same draws in every version of numpy.
        return np.searchsorted(np.cumsum(shares)[:-1], rng.random(len(self)), side="right")

    def steps(self, start: int = 0) -> Iterator[Step]:
        """Yield the steps from `start` on, without building those before it."""
        datasets, draws = self.datasets, self.draws()
        streams: dict[str, _Rows] = {}
        before = np.bincount(draws[:start], minlength=len(datasets))
        for index in range(start, len(draws)):
            place = int(draws[index])
            dataset = datasets[place]
            if dataset not in streams:
                batch = self.batch_size(dataset) * self.world_size
                streams[dataset] = _Rows(self.sizes[dataset], batch, (self.seed, self.epoch, dataset))
                streams[dataset].skip(int(before[place]))
            yield Step(index=index, dataset=dataset, rows=streams[dataset].take(), world_size=self.world_size)


def one_pass(sizes: Mapping[str, int], batch_sizes: Mapping[str, int], world_size: int) -> int:
    """Return the number of steps in one pass over all pairs, at least 1."""
    steps = [
        size / (min(batch_sizes[dataset], max(size // world_size, 1)) * world_size)
        for dataset, size in sizes.items()
    ]
    return max(1, round(sum(steps)))


class _Rows:
    """Batches from an endless stream of permutations of `size` rows, without a repeat in a batch."""

    def __init__(self, size: int, batch: int, key: tuple[int, int, str]) -> None:
        self._size, self._batch, self._key = size, batch, key
        self._pass, self._at = 0, 0
        self._order = self._permutation(np.empty(0, dtype=np.int32))

    def skip(self, batches: int) -> None:
        for _ in range(batches):
            self.take()

    def take(self) -> np.ndarray:
        """Return the next batch, int32 [batch]; it may span the end of a pass and the start of the next."""
        tail = self._order[self._at : self._at + self._batch]
        self._at += len(tail)
        if len(tail) == self._batch:
            return tail
        self._pass += 1
        self._order = self._permutation(tail)
        self._at = self._batch - len(tail)
        return np.concatenate([tail, self._order[: self._at]])

    def _permutation(self, tail: np.ndarray) -> np.ndarray:
        """Return the order of a pass. Rows in `tail`, which are in its first batch, come after that batch."""
        rng = np.random.default_rng(hash_of(*self._key, self._pass))
        order = np.arange(self._size, dtype=np.int32)
        rng.shuffle(order)
        if not len(tail):
            return order
        # Of the first `batch` rows at most `tail` are in the tail, so enough of them complete the batch.
        fresh = np.flatnonzero(~np.isin(order[: self._batch], tail))[: self._batch - len(tail)]
        rest = np.ones(len(order), dtype=bool)
        rest[fresh] = False
        return np.concatenate([order[fresh], order[rest]])


def hash_of(*parts: object, n_bytes: int = 16) -> int:
    """Hash the parts to a seed, so that, for example, each seed, epoch, data set and pass has its own stream."""
    digest = hashlib.sha256(":".join(map(str, parts)).encode()).digest()
    return int.from_bytes(digest[:n_bytes], "big")
