"""Choose the pairs of each step, identically on every rank. A step has one task (arXiv:2510.27571, section 5).

    schedule = Schedule(seed=42, epoch=1, probabilities=p, sizes=n, batch_sizes=b, world_size=32)
    for step in schedule.steps(start=120):
        step.slice(rank)                          # int32 [batch]: rows of step.task

Tasks are drawn independently with P(k). Rows are drawn without replacement: all pairs of a task are used
before any is repeated, and no step holds a pair twice. Memory holds the current permutation of each task, 4
bytes per pair (50 MB for the paper's 12.55 M pairs). A checkpoint stores only the number of the step.
"""

import hashlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True, kw_only=True)
class Step:
    """One step: index, from 0 within the epoch, and rows of `task`, int32 [world_size * batch], in rank order."""

    index: int
    task: str
    rows: np.ndarray
    world_size: int

    def slice(self, rank: int) -> np.ndarray:
        """Return the rows of one rank, int32 [batch]."""
        share = len(self.rows) // self.world_size
        return self.rows[rank * share : (rank + 1) * share]


@dataclass(frozen=True, kw_only=True)
class Schedule:
    """All steps of one epoch.

    probabilities: P(k). sizes: pairs by task. batch_sizes: pairs per rank and step, by task (Table 7); a
    task with fewer pairs than a full step gets smaller steps, equal on all ranks. length: number of steps;
    None: one pass over all pairs. Raises ValueError on tasks that cannot fill a step.
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
        for task in self.tasks:
            if task not in self.batch_sizes or self.batch_sizes[task] < 1:
                raise ValueError(f"batch_sizes.{task}={self.batch_sizes.get(task)}: use 1 or more")
            if not 0 < self.sizes.get(task, 0) < 2**31:
                raise ValueError(f"sizes.{task}={self.sizes.get(task)}: no pairs for this task, or over 2^31")
            if self.sizes[task] < self.world_size:
                raise ValueError(
                    f"{task} has {self.sizes[task]} pairs for {self.world_size} ranks: a step gives each rank "
                    "at least one; use fewer workers or drop the task"
                )
        total = sum(self.probabilities.values())
        if not self.tasks or abs(total - 1) > 1e-6:
            raise ValueError(f"probabilities={dict(self.probabilities)}: give probabilities that sum to 1")
        if self.length is not None and self.length < 1:
            raise ValueError(f"length={self.length}: an epoch has at least one step")

    @property
    def tasks(self) -> list[str]:
        """The tasks that can be drawn, in the order of their names."""
        return sorted(task for task, share in self.probabilities.items() if share > 0)

    def batch_size(self, task: str) -> int:
        """Return the pairs per rank in a step of `task`."""
        return min(self.batch_sizes[task], self.sizes[task] // self.world_size)

    def __len__(self) -> int:
        if self.length is not None:
            return self.length
        sizes = {task: self.sizes[task] for task in self.tasks}
        return one_pass(sizes, self.batch_sizes, self.world_size)

    def draws(self) -> np.ndarray:
        """Draw the task of each step: int64 [steps], indices into `tasks`."""
        shares = np.array([self.probabilities[task] for task in self.tasks])
        rng = np.random.default_rng(hash_of(self.seed, self.epoch, "tasks"))
        # Inverse transform sampling instead of rng.choice gives the same draws in every version of numpy.
        return np.searchsorted(np.cumsum(shares)[:-1], rng.random(len(self)), side="right")

    def steps(self, start: int = 0) -> Iterator[Step]:
        """Yield the steps from `start` on, without building those before it."""
        tasks, draws = self.tasks, self.draws()
        streams: dict[str, _Rows] = {}
        before = np.bincount(draws[:start], minlength=len(tasks))
        for index in range(start, len(draws)):
            place = int(draws[index])
            task = tasks[place]
            if task not in streams:
                batch = self.batch_size(task) * self.world_size
                streams[task] = _Rows(self.sizes[task], batch, (self.seed, self.epoch, task))
                streams[task].skip(int(before[place]))
            yield Step(index=index, task=task, rows=streams[task].take(), world_size=self.world_size)


def one_pass(sizes: Mapping[str, int], batch_sizes: Mapping[str, int], world_size: int) -> int:
    """Return the number of steps in one pass over all pairs, at least 1."""
    steps = [
        size / (min(batch_sizes[task], max(size // world_size, 1)) * world_size)
        for task, size in sizes.items()
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
    """Hash the parts to a seed, so that, for example, each seed, epoch, task and pass has its own stream."""
    digest = hashlib.sha256(":".join(map(str, parts)).encode()).digest()
    return int.from_bytes(digest[:n_bytes], "big")
