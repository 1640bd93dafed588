"""Score the tasks and mine their hard negatives before an epoch (arXiv:2510.27571, section 5).

The prober is an off-the-shelf embedder in the first epoch and the model in training after it.
"""

import json
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
from pyarrow import fs

from gve_ray.schema import Item
from gve_ray.store import SharedFolder
from gve_ray.store.runfolder import write_atomically
from gve_ray.training.config import ProberConfig
from gve_ray.training.curriculum import Alignment, alignment
from gve_ray.training.feed import Mined
from gve_ray.training.gather import barrier, rank, world_size
from gve_ray.training.loop import Probe
from gve_ray.training.mining import mine
from gve_ray.training.mixture import MixtureTask
from gve_ray.training.pairs import corpus_of, id_of

Embed = Callable[[Sequence[Item]], np.ndarray]


def score_task(embed: Embed, task: MixtureTask, *, pairs: int, seed: int) -> Alignment:
    """Return the mean cosines of `pairs` of the data set's pairs (N_p in the paper), sampled with the seed.

    embed: items -> unit-norm float32 [n, d]. All probers get the same pairs, so scores are comparable.
    """
    rng = np.random.default_rng(id_of(f"{seed}:{task.pairs.name}:probe") % 2**64)
    chosen = task.pairs.take(np.sort(rng.permutation(len(task.pairs))[:pairs]))
    queries = embed([pair.query for pair in chosen])
    return alignment(queries, embed([pair.target for pair in chosen]))


def mine_task(embed: Embed, task: MixtureTask, *, margin: float | None) -> Mined:
    """Mine the hardest `task.negatives` targets of the task for each of its pairs."""
    pairs = task.pairs.take(range(len(task.pairs)))
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
    """Write the mined rows in one atomic step. Items are not stored, as they follow from the pairs."""
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(f".{path.name}.{os.getpid()}.part")
    with part.open("wb") as file:
        np.save(file, mined.rows, allow_pickle=False)
    os.replace(part, path)


def load_mined(task: MixtureTask, path: Path) -> Mined:
    """Read what `save_mined` wrote for the same pairs. Raises ValueError if the pairs have changed."""
    corpus = corpus_of(task.pairs.take(range(len(task.pairs))))
    rows = np.load(path, allow_pickle=False)
    if len(rows) != len(corpus.positives) or (rows.size and rows.max() >= len(corpus.items)):
        raise ValueError(
            f"{path}: mined for {len(rows)} pairs, not for the {len(corpus.positives)} of this task; delete the file"
        )
    return Mined(items=corpus.items, rows=rows)


class EpochProber:
    """Scores and mines before each epoch. The ranks share the tasks, and results are kept in `folder`.

    embed_for: epoch -> name of its prober and its embed function; called only if there is work to do.
    score_tasks: whether the curriculum needs scores. folder: the same for all ranks. Results in it are reused,
    so a run that resumes within an epoch has the negatives that the epoch started with.
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
        folder = self.folder.below(f"epoch-{epoch}")
        for name in sorted(self.tasks)[rank() :: world_size()]:
            self._work(folder, epoch, name)
        barrier()
        notes = {name: self._note(folder, name) for name in sorted(self.tasks)}
        probed = {name: note for name, note in notes.items() if note is not None}
        return Probe(
            prober=next((note["prober"] for note in probed.values()), None),
            alignments={
                name: Alignment(**note["score"]) for name, note in probed.items() if self.score_tasks
            },
            mined={
                name: load_mined(task, folder.fetch(f"{name}.npy"))
                for name, task in self.tasks.items()
                if self._mines(task)
            },
        )

    def _mines(self, task: MixtureTask) -> bool:
        return self.config.mine and task.negatives > 0 and not task.brings_negatives

    def _work(self, folder: SharedFolder, epoch: int, name: str) -> None:
        """Score and mine one task if that is needed and not done yet. The note, written last, marks it as done."""
        task = self.tasks[name]
        if self._note(folder, name) is not None or not (self.score_tasks or self._mines(task)):
            return
        prober, embed = self.embed_for(epoch)
        note: dict[str, Any] = {"prober": prober}
        if self.score_tasks:
            note["score"] = asdict(score_task(embed, task, pairs=self.config.pairs, seed=self.seed))
        if self._mines(task):
            save_mined(mine_task(embed, task, margin=self.config.margin), folder.path / f"{name}.npy")
            folder.publish(f"{name}.npy")
        folder.path.mkdir(parents=True, exist_ok=True)
        write_atomically(fs.LocalFileSystem(), f"{folder.path}/{name}.json", json.dumps(note).encode())
        folder.publish(f"{name}.json")

    def _note(self, folder: SharedFolder, name: str) -> dict[str, Any] | None:
        file = f"{name}.json"
        return json.loads(folder.fetch(file).read_text()) if folder.exists(file) else None
