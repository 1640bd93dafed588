"""Prepare what a rank embeds in a step (items, ids, hard negatives), ahead of the step, in threads."""

import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import TypeVar

import numpy as np

from gve_ray.schema import Item
from gve_ray.training.mining import NONE
from gve_ray.training.mixture import DataSet
from gve_ray.training.pairs import id_of, identity_of, source_of
from gve_ray.training.schedule import Step

In = TypeVar("In")
Out = TypeVar("Out")


@dataclass(frozen=True, kw_only=True)
class Mined:
    """Mined hard negatives of one data set.

    path: a local .npy file, int32 [pairs, k]: numbers of the pairs whose targets are the hard negatives of
    each pair, hardest first, with mining.NONE where there are fewer than k.
    """

    path: Path

    def of(self, rows: np.ndarray) -> np.ndarray:
        """Return the hard negatives of these pairs, int32 [rows, k]. Only these rows are read from the disk."""
        return np.asarray(np.load(self.path, mmap_mode="r", allow_pickle=False)[rows])


@dataclass(frozen=True, kw_only=True, eq=False)
class StepItems:
    """What one rank embeds in one step: B pairs with H hard negatives per query.

    items: B queries, then B targets, then B * H negatives (those of the first query first).
    pair_ids, sources, query_sources: int64 [B]. negative_sources: int64 [B, H]. See loss.info_nce.
    """

    step: Step
    items: list[Item]
    pair_ids: np.ndarray
    sources: np.ndarray
    query_sources: np.ndarray
    negative_sources: np.ndarray


def items_of(step: Step, rank: int, dataset: DataSet, mined: Mined | None) -> StepItems:
    """Return one rank's share of a step.

    Hard negatives are those of the data set, then the mined ones. If a query has fewer than the data set asks
    for, its own target fills the gaps, and the loss ignores it. If it has neither kind, H = 0.
    """
    rows = step.slice(rank)
    pairs = dataset.pairs.take(rows)
    hard = dataset.negatives if mined is not None or dataset.brings_negatives else 0
    negatives = [
        # A mined negative comes after those of the data set. The target of the pair fills the gaps.
        [*pair.negatives, *found, *[pair.target] * hard][:hard]
        for pair, found in zip(pairs, _mined_items(dataset, mined, rows), strict=True)
    ]
    sources = [id_of(source_of(pair.target)) for pair in pairs]
    negative_sources = [[id_of(source_of(item)) for item in row] for row in negatives]
    return StepItems(
        step=step,
        items=[
            *(pair.query for pair in pairs),
            *(pair.target for pair in pairs),
            *(item for row in negatives for item in row),
        ],
        pair_ids=np.asarray([id_of(pair.pair_id) for pair in pairs], dtype=np.int64),
        sources=np.asarray(sources, dtype=np.int64),
        query_sources=np.asarray([identity_of(pair.query) for pair in pairs], dtype=np.int64),
        negative_sources=np.asarray(negative_sources, dtype=np.int64).reshape(len(pairs), hard),
    )


def _mined_items(dataset: DataSet, mined: Mined | None, rows: np.ndarray) -> list[list[Item]]:
    """Return the mined hard negatives of each of these pairs."""
    if mined is None:
        return [[] for _ in rows]
    found = mined.of(rows)  # [rows, k]
    distinct = np.unique(found[found != NONE])
    targets = dict(
        zip(distinct.tolist(), (pair.target for pair in dataset.pairs.take(distinct)), strict=True)
    )
    return [[targets[row] for row in line if row != NONE] for line in found.tolist()]


def ahead(make: Callable[[In], Out], inputs: Iterable[In], *, depth: int = 2) -> Iterator[tuple[Out, float]]:
    """Yield `make` of each input, in order, and the seconds waited for it.

    A thread computes up to `depth` results ahead. An error in `make` is raised in place of its result.
    """
    source = iter(inputs)
    with ThreadPoolExecutor(max_workers=1, thread_name_prefix="gve-feed") as pool:
        waiting = deque(pool.submit(make, value) for value in islice(source, depth))
        try:
            while waiting:
                begun = time.monotonic()
                result = waiting.popleft().result()
                waited = time.monotonic() - begun
                waiting.extend(pool.submit(make, value) for value in islice(source, 1))
                yield result, waited
        finally:
            for future in waiting:
                future.cancel()
