"""The prober: an embedder that scores the tasks and mines their hard negatives before an epoch (METHOD 5).

An off-the-shelf embedder for the first epoch, the model in training after it: the loop does not care.
"""

import json
import os
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch.distributed as dist
from pyarrow import fs

from gve_ray.schema import Item
from gve_ray.store import SharedFolder
from gve_ray.store.runfolder import write_atomically
from gve_ray.training.config import ProberConfig
from gve_ray.training.curriculum import alignment
from gve_ray.training.feed import Mined
from gve_ray.training.gather import world_size
from gve_ray.training.loop import Probe
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


class EpochProber:
    """Scores and mines before each epoch, tasks shared out among the ranks, results kept in `folder`.

    embed_for: epoch -> name of its prober and its embed function; called only when something is to be done.
    score_tasks: whether the curriculum needs scores. folder: the same for all ranks. What it holds is not
    computed again, so that a run that continues within an epoch has the epoch's own negatives.
    """

    def __init__(
        self,
        embed_for: Callable[[int], tuple[str, Embed]],
        tasks: Mapping[str, MixtureTask],
        folder: SharedFolder,
        config: ProberConfig,
        *,
        score_tasks: bool,
        seed: int,
    ) -> None:
        self.embed_for, self.tasks, self.folder, self.config = embed_for, tasks, folder, config
        self.score_tasks, self.seed = score_tasks, seed

    def __call__(self, epoch: int) -> Probe:
        ranks = world_size()
        rank = dist.get_rank() if ranks > 1 else 0
        folder = self.folder.below(f"epoch-{epoch}")
        for name in sorted(self.tasks)[rank::ranks]:
            self._work(folder, epoch, name)
        if ranks > 1:
            dist.barrier()
        notes = {name: self._note(folder, name) for name in sorted(self.tasks)}
        known = {name: note for name, note in notes.items() if note is not None}
        return Probe(
            prober=next((note["prober"] for note in known.values()), None),
            scores={name: note["score"] for name, note in known.items() if self.score_tasks},
            mined={
                name: load_mined(task, folder.fetch(f"{name}.npy"))
                for name, task in self.tasks.items()
                if self._mines(task)
            },
        )

    def _mines(self, task: MixtureTask) -> bool:
        return self.config.mine and task.negatives > 0 and not task.brings_negatives

    def _work(self, folder: SharedFolder, epoch: int, name: str) -> None:
        """Score and mine one task, unless that is done or not wanted. The note is written last."""
        task = self.tasks[name]
        if self._note(folder, name) is not None or not (self.score_tasks or self._mines(task)):
            return
        prober, embed = self.embed_for(epoch)
        note: dict[str, Any] = {"prober": prober}
        if self.score_tasks:
            note |= {"score": score(embed, {name: task}, pairs=self.config.pairs, seed=self.seed)[name]}
        if self._mines(task):
            save_mined(mine_task(embed, task, margin=self.config.margin), folder.path / f"{name}.npy")
            folder.publish(f"{name}.npy")
        folder.path.mkdir(parents=True, exist_ok=True)
        write_atomically(fs.LocalFileSystem(), f"{folder.path}/{name}.json", json.dumps(note).encode())
        folder.publish(f"{name}.json")

    def _note(self, folder: SharedFolder, name: str) -> dict[str, Any] | None:
        file = f"{name}.json"
        return json.loads(folder.fetch(file).read_text()) if folder.exists(file) else None


def _all(task: MixtureTask) -> list[Pair]:
    """Every pair of a task, read in chunks."""
    size = len(task.pairs)
    return [
        pair
        for start in range(0, size, _CHUNK)
        for pair in task.pairs.take(range(start, min(start + _CHUNK, size)))
    ]
