"""The prober: an embedder that scores the tasks and mines their hard negatives before an epoch (METHOD 5).

An off-the-shelf embedder for the first epoch, the model in training after it: the loop does not care.
"""

import os
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import numpy as np

from gve_ray.schema import Item
from gve_ray.training.curriculum import alignment
from gve_ray.training.feed import Mined
from gve_ray.training.mining import mine
from gve_ray.training.mixture import MixtureTask
from gve_ray.training.pairs import Pair, corpus_of, id_of

Embed = Callable[[Sequence[Item]], np.ndarray]

_CHUNK = 4096  # pairs read at a time


def score(embed: Embed, tasks: Mapping[str, MixtureTask], *, pairs: int, seed: int) -> dict[str, float]:
    """R_k by task: the mean cosine of `pairs` of its pairs (N_p in the paper), drawn by the seed.

    embed: items -> unit-norm float32 [n, d]. The same pairs for every prober, so that scores compare.
    """
    found = {}
    for name, task in tasks.items():
        rng = np.random.default_rng(id_of(f"{seed}:{name}:probe") % 2**64)
        size = len(task.pairs)
        chosen = task.pairs.take(np.sort(rng.permutation(size)[: min(pairs, size)]))
        queries = embed([pair.query for pair in chosen])
        found[name] = alignment(queries, embed([pair.target for pair in chosen]))
    return found


def mine_task(embed: Embed, task: MixtureTask, *, margin: float | None) -> Mined:
    """The hardest `task.negatives` targets of the task for each of its pairs."""
    pairs = _all(task)
    corpus = corpus_of(pairs)
    rows = mine(
        embed([pair.query for pair in pairs]),
        embed(corpus.items),
        corpus.positives,
        k=task.negatives,
        groups=corpus.groups,
        margin=margin,
    )
    return Mined(items=corpus.items, rows=rows)


def save_mined(mined: Mined, path: Path) -> None:
    """Keep the rows of an epoch, whole or not at all; the items follow from the pairs."""
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(f".{path.name}.{os.getpid()}.part")
    with part.open("wb") as file:
        np.save(file, mined.rows, allow_pickle=False)
    os.replace(part, path)


def load_mined(task: MixtureTask, path: Path) -> Mined:
    """Inverse of `save_mined` for the same pairs. Raises ValueError when they are not."""
    corpus = corpus_of(_all(task))
    rows = np.load(path, allow_pickle=False)
    if len(rows) != len(corpus.positives) or (rows.size and rows.max() >= len(corpus.items)):
        raise ValueError(
            f"{path}: mined for {len(rows)} other pairs than the {len(corpus.positives)} there are"
        )
    return Mined(items=corpus.items, rows=rows)


def _all(task: MixtureTask) -> list[Pair]:
    """Every pair of a task, read in chunks."""
    size = len(task.pairs)
    return [
        pair
        for start in range(0, size, _CHUNK)
        for pair in task.pairs.take(range(start, min(start + _CHUNK, size)))
    ]
