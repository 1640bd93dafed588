"""Which pairs make which step: pure, and the same on every rank. One task a step (paper section 5).

    schedule = Schedule(seed=42, epoch=1, probabilities=p, sizes=n, batch_sizes=b, world_size=32)
    for step in schedule.steps(start=120):
        step.slice(rank)                          # int32 [batch]: rows of step.task

Tasks are drawn independently with P(k). Rows are drawn without replacement: a task's pairs are all used
before any comes again, and no step holds a pair twice. Only the permutations in use are in memory, 4 bytes
a pair (50 MB at the paper's 12.55 M), so nothing is stored with a checkpoint but the number of the step.
"""

import hashlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True, kw_only=True)
class Step:
    """index: from 0 within the epoch. rows: int32 [world_size * batch], pairs of `task`, rank after rank."""

    index: int
    task: str
    rows: np.ndarray
    world_size: int

    def slice(self, rank: int) -> np.ndarray:
        """int32 [batch]: the rows of one rank."""
        share = len(self.rows) // self.world_size
        return self.rows[rank * share : (rank + 1) * share]


@dataclass(frozen=True, kw_only=True)
class Schedule:
    """All steps of one epoch.

    probabilities: P(k). sizes: pairs by task. batch_sizes: pairs a rank and step, by task (Table 7); a
    task with fewer pairs than a whole step gets smaller steps that the ranks share evenly. length: number of
    steps; None: as many as one pass over all pairs has. Raises ValueError on tasks that cannot fill a step.
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
        """Pairs a rank in a step of `task`."""
        return min(self.batch_sizes[task], self.sizes[task] // self.world_size)

    def __len__(self) -> int:
        if self.length is not None:
            return self.length
        sizes = {task: self.sizes[task] for task in self.tasks}
        return one_pass(sizes, self.batch_sizes, self.world_size)

    def draws(self) -> np.ndarray:
        """int64 [steps]: the index in `tasks` of each step's task."""
        shares = np.array([self.probabilities[task] for task in self.tasks])
        rng = np.random.default_rng(_seed(self.seed, self.epoch, "tasks"))
        # Inverse of the cumulative distribution, by hand: the same draws in every version of numpy.
        return np.searchsorted(np.cumsum(shares)[:-1], rng.random(len(self)), side="right")

    def steps(self, start: int = 0) -> Iterator[Step]:
        """The steps from `start` on; those before it are skipped without being made."""
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

    def pairs(self) -> dict[str, int]:
        """Pairs drawn from each task in the epoch, repeats counted."""
        counts = np.bincount(self.draws(), minlength=len(self.tasks))
        return {
            task: int(count) * self.batch_size(task) * self.world_size
            for task, count in zip(self.tasks, counts, strict=True)
        }


def one_pass(sizes: Mapping[str, int], batch_sizes: Mapping[str, int], world_size: int) -> int:
    """Steps that hold as many pairs as there are, at least one."""
    steps = [
        size / (min(batch_sizes[task], max(size // world_size, 1)) * world_size)
        for task, size in sizes.items()
    ]
    return max(1, round(sum(steps)))


class _Rows:
    """Batches from an endless stream of permutations of `size` rows, no row twice in a batch."""

    def __init__(self, size: int, batch: int, key: tuple[int, int, str]) -> None:
        self._size, self._batch, self._key = size, batch, key
        self._pass, self._at = 0, 0
        self._order = self._permutation(np.empty(0, dtype=np.int32))

    def skip(self, batches: int) -> None:
        for _ in range(batches):
            self.take()

    def take(self) -> np.ndarray:
        """int32 [batch]; the tail of one pass and the head of the next may share a batch."""
        tail = self._order[self._at : self._at + self._batch]
        self._at += len(tail)
        if len(tail) == self._batch:
            return tail
        self._pass += 1
        self._order = self._permutation(tail)
        self._at = self._batch - len(tail)
        return np.concatenate([tail, self._order[: self._at]])

    def _permutation(self, tail: np.ndarray) -> np.ndarray:
        """The order of a pass. Rows in `tail`, used in the same batch, are moved behind that batch."""
        rng = np.random.default_rng(_seed(*self._key, self._pass))
        order = np.arange(self._size, dtype=np.int32)
        rng.shuffle(order)
        if not len(tail):
            return order
        # Of the first `batch` rows at most `tail` are in the tail, so enough of them complete the batch.
        fresh = np.flatnonzero(~np.isin(order[: self._batch], tail))[: self._batch - len(tail)]
        rest = np.ones(len(order), dtype=bool)
        rest[fresh] = False
        return np.concatenate([order[fresh], order[rest]])


def _seed(*parts: object) -> int:
    """128 bits of a hash: streams of different seeds, epochs, tasks and passes do not overlap."""
    digest = hashlib.sha256(":".join(map(str, parts)).encode()).digest()
    return int.from_bytes(digest[:16], "big")
