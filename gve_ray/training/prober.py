"""Score the data sets and mine their hard negatives before an epoch (arXiv:2510.27571, section 5).

The prober is an off-the-shelf embedder in the first epoch and the model in training after it.
"""

import functools
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, replace
from functools import partial
from typing import Any

import numpy as np
from pyarrow import fs

from gve_ray.embedder import Embedder
from gve_ray.embedder.backends import open_as_saved
from gve_ray.embedder.load_media import load_media
from gve_ray.progress import Progress
from gve_ray.schema import Item
from gve_ray.store import AssetReader, SharedFolder
from gve_ray.store.runfolder import write_atomically
from gve_ray.training.config import HelperModel, ProberConfig
from gve_ray.training.curriculum import Alignment, alignment
from gve_ray.training.gather import barrier, rank, world_size
from gve_ray.training.hard_negatives import Embed, mine_hard_negatives, mined_by
from gve_ray.training.loop import Probe
from gve_ray.training.mixture import DataSet
from gve_ray.training.pairs import id_of

_ITEMS = 64  # whose frames are in memory at once: 0.3 GB at the paper's settings


def open_helper(
    option: str,
    model: HelperModel,
    assets: AssetReader | None,
    *,
    dtype: str | None,
    device: str | None,
) -> Embed:
    """Open a prober or a teacher, and return its embed function.

    option: the config section that names it. dtype, device: of the training; the dtype holds if the
    section has none. Both this and the function raise ValueError, the latter for an item that the
    model cannot embed.
    """
    config = replace(model.named(option), dtype=model.dtype or dtype)
    if config.engine == "torch":
        embedder = Embedder.from_pretrained(
            config.model, config.adapter, revision=config.revision, dtype=config.dtype, device=device
        )
        if config.default_instruction is not None:
            embedder = embedder.with_settings(default_instruction=config.default_instruction)
        return partial(embedder.embed, assets=assets)
    backend, settings = open_as_saved(config)

    def embed(items: Sequence[Item]) -> np.ndarray:
        """Embed a few items at a time, since their frames are in memory: float32 [n, d]."""
        for item in items:
            if why := backend.refuses(item):
                raise ValueError(
                    f"{option}.model={config.model!r}: {why}; name a model that embeds all data sets of the mixture"
                )
        parts = (items[start : start + _ITEMS] for start in range(0, len(items), _ITEMS))
        return np.concatenate([backend.embed(load_media(part, settings, assets)).vectors for part in parts])

    return embed


def score_dataset(embed: Embed, dataset: DataSet, *, pairs: int, seed: int) -> Alignment:
    """Return the mean cosines of `pairs` of the data set's pairs (N_p in the paper), sampled with the seed.

    embed: items -> unit-norm float32 [n, d]. All probers get the same pairs, so scores are comparable.
    """
    rng = np.random.default_rng(id_of(f"{seed}:{dataset.pairs.name}:probe") % 2**64)
    chosen = dataset.pairs.take(np.sort(rng.permutation(len(dataset.pairs))[:pairs]))
    queries = embed([pair.query for pair in chosen])
    return alignment(queries, embed([pair.target for pair in chosen]))


class EpochProber:
    """Scores and mines before each epoch, and keeps the results in `folder`.

    Each rank scores a share of the data sets. All of them mine one data set after the other (hard_negatives.py).

    embed_for: epoch -> name of its prober and its embed function; called only if there is work to do.
    needs_scores: whether the curriculum needs scores. folder: the same for all ranks. Results in it are reused,
    so a run that resumes within an epoch has the negatives that the epoch started with.
    """

    def __init__(
        self,
        embed_for: Callable[[int], tuple[str, Embed]],
        datasets: Mapping[str, DataSet],
        folder: SharedFolder,
        config: ProberConfig,
        *,
        needs_scores: bool,
        seed: int,
    ) -> None:
        self.embed_for, self.datasets, self.folder, self.config = embed_for, datasets, folder, config
        self.needs_scores, self.seed = needs_scores, seed

    def __call__(self, epoch: int) -> Probe:
        folder = self.folder.below(f"epoch-{epoch}")
        # Loads the prober once per epoch. It is not kept, because its memory is needed for training.
        prober = functools.cache(partial(self.embed_for, epoch))
        share = sorted(self.datasets)[rank() :: world_size()]
        progress = Progress("probing", len(share), unit="data sets")
        for done, name in enumerate(share, 1):
            self._score(folder, prober, name)
            progress.reach(done)
        barrier()
        mined = {
            name: mine_hard_negatives(prober, dataset, folder, self.config, seed=self.seed)
            for name, dataset in sorted(self.datasets.items())
            if self._mines(dataset)
        }
        notes = {name: self._note(folder, name) for name in sorted(self.datasets)}
        probed = {name: note for name, note in notes.items() if note is not None}
        probers = [note["prober"] for note in probed.values()] + [mined_by(folder, name) for name in mined]
        return Probe(
            prober=next(iter(probers), None),
            alignments={
                name: Alignment(**note["score"]) for name, note in probed.items() if self.needs_scores
            },
            mined=mined,
        )

    def _mines(self, dataset: DataSet) -> bool:
        return self.config.mine and dataset.negatives > 0 and not dataset.brings_negatives

    def _score(self, folder: SharedFolder, prober: Callable[[], tuple[str, Embed]], name: str) -> None:
        """Score one data set if that is needed and not done yet. The note marks it as done."""
        if not self.needs_scores or self._note(folder, name) is not None:
            return
        prober_name, embed = prober()
        score = score_dataset(embed, self.datasets[name], pairs=self.config.pairs, seed=self.seed)
        note = {"prober": prober_name, "score": asdict(score)}
        folder.path.mkdir(parents=True, exist_ok=True)
        write_atomically(fs.LocalFileSystem(), f"{folder.path}/{name}.json", json.dumps(note).encode())
        folder.publish(f"{name}.json")

    def _note(self, folder: SharedFolder, name: str) -> dict[str, Any] | None:
        file = f"{name}.json"
        return json.loads(folder.fetch(file).read_text()) if folder.exists(file) else None
