"""From a step of the schedule to what one rank embeds: items, ids and hard negatives, made ahead of the step."""

import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from itertools import islice
from typing import TypeVar

import numpy as np

from gve_ray.schema import Item
from gve_ray.training.mixture import MixtureTask
from gve_ray.training.pairs import Pair, id_of, source_of
from gve_ray.training.schedule import Step

In = TypeVar("In")
Out = TypeVar("Out")


@dataclass(frozen=True, kw_only=True, eq=False)
class Mined:
    """Hard negatives of one task. rows: int64 [pairs, k] of `items`, mining.NONE where there are fewer."""

    items: list[Item]
    rows: np.ndarray


@dataclass(frozen=True, kw_only=True, eq=False)
class StepItems:
    """What one rank embeds in one step: B pairs with H hard negatives a query.

    items: B queries, B targets, B * H negatives (those of the first query first).
    pair_ids, sources: int64 [B]. negative_sources: int64 [B, H]. See loss.info_nce.
    """

    step: Step
    items: list[Item]
    pair_ids: np.ndarray
    sources: np.ndarray
    negative_sources: np.ndarray


def items_of(step: Step, rank: int, task: MixtureTask, mined: Mined | None) -> StepItems:
    """One rank's share of a step.

    Hard negatives are the pair's own, then the mined ones; a query with fewer than the task's number gets
    its own target for each that is missing, which the loss leaves out. Without any source of them, H = 0.
    """
    rows = step.slice(rank)
    pairs = task.pairs.take(rows)
    hard = task.negatives if mined is not None or task.brings_negatives else 0
    negatives = [
        _negatives(pair, hard, mined, int(row)) for pair, row in zip(pairs, rows.tolist(), strict=True)
    ]
    sources = [id_of(source_of(pair.target)) for pair in pairs]
    negative_sources = [[id_of(source_of(one)) for one in some] for some in negatives]
    return StepItems(
        step=step,
        items=[
            *(pair.query for pair in pairs),
            *(pair.target for pair in pairs),
            *(one for some in negatives for one in some),
        ],
        pair_ids=np.asarray([id_of(pair.pair_id) for pair in pairs], dtype=np.int64),
        sources=np.asarray(sources, dtype=np.int64),
        negative_sources=np.asarray(negative_sources, dtype=np.int64).reshape(len(pairs), hard),
    )


def _negatives(pair: Pair, hard: int, mined: Mined | None, row: int) -> list[Item]:
    found = list(pair.negatives[:hard])
    if mined is not None:
        found += [mined.items[at] for at in mined.rows[row].tolist() if at >= 0]
    return (found + [pair.target] * hard)[:hard]


@dataclass(frozen=True, kw_only=True)
class Epoch:
    """What the feed needs of an epoch: tasks by name, and negatives mined for it."""

    tasks: Mapping[str, MixtureTask]
    mined: Mapping[str, Mined]

    def items(self, step: Step, rank: int) -> StepItems:
        return items_of(step, rank, self.tasks[step.task], self.mined.get(step.task))


def ahead(
    make: Callable[[In], Out], inputs: Iterable[In], *, depth: int = 2, workers: int = 1
) -> Iterator[tuple[Out, float]]:
    """`make` of each input, in order, made by threads up to `depth` ahead; with the seconds waited for it.

    An error in `make` is raised where its result would have come.
    """
    source = iter(inputs)
    with ThreadPoolExecutor(max_workers=workers, thread_name_prefix="gve-feed") as pool:
        waiting = deque(pool.submit(make, one) for one in islice(source, depth))
        try:
            while waiting:
                begun = time.monotonic()
                result = waiting.popleft().result()
                waited = time.monotonic() - begun
                waiting.extend(pool.submit(make, one) for one in islice(source, 1))
                yield result, waited
        finally:
            for future in waiting:
                future.cancel()
