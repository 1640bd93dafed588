"""What each process of tests/training/test_hard_negatives.py runs: mine one data set, with or without a fault."""

import os
import signal
from collections.abc import Sequence
from datetime import timedelta
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.distributed as dist

from gve_ray.embedder import Embedder
from gve_ray.schema import Item, Task
from gve_ray.store import SharedFolder
from gve_ray.training.config import ProberConfig
from gve_ray.training.hard_negatives import Embed, mine_hard_negatives
from gve_ray.training.mixture import DataSet
from gve_ray.training.pairs import PairSet, freeze
from tests.training import tiny

PAIRS = 300


def make_dataset(folder: Path, *, pairs: int = PAIRS, negatives: int = 2) -> DataSet:
    """Return a data set in which every target has two queries and every fifth query has two targets."""
    path = folder / "texts.arrow"
    if not path.exists():
        freeze([_row(i) for i in range(pairs)], path)
    pair_set = PairSet(path, name="texts", task=Task.T2T)
    return DataSet(pairs=pair_set, weight=1.0, batch_size=4, negatives=negatives, brings_negatives=False)


def _row(i: int) -> dict[str, Any]:
    none = {"text": None, "image": None, "video": None}
    return {
        "pair_id": str(i),
        "query": {**none, "text": word(i - i % 5 % 2 if i % 5 == 1 else i)},
        "target": {**none, "text": word(i // 2 * 7 + 1).upper()},
        "negatives": [],
        "instruction": None,
        "domain": None,
        "style": None,
    }


def word(i: int) -> str:
    """Return a different word for every number below 8,000."""
    letters = tiny.LETTERS
    return letters[i % 20] + letters[i // 20 % 20] + letters[i // 400 % 20] + letters[(i * 7) % 13]


def letters_embed() -> Embed:
    """Return the embed function of the encoder of letters."""
    model = tiny.Letters().eval()

    def embed(items: Sequence[Item]) -> np.ndarray:
        with torch.inference_mode():
            chunks = tiny.collate(items)
            order = np.argsort(np.concatenate([np.asarray(chunk.rows) for chunk in chunks]))
            return model([chunk.batch for chunk in chunks])[torch.from_numpy(order)].numpy()

    return embed


def rank_main(
    rank: int,
    size: int,
    folder: str,
    uri: str,
    killed: int | None,
    model: str | None,
    environment: dict[str, str],
) -> None:
    """Mine on `size` ranks into `uri` and count the embedded items in `folder`/items-<rank>.

    killed: the last rank is killed in its call of embed with this number. model: folder of the model that embeds;
    None: the encoder of letters. environment: variables that the server
    process of the ranks may not have, such as the address of the object store.
    """
    os.environ.update(environment)
    torch.set_num_threads(1)
    # A rank whose peer was killed fails in its next barrier.
    dist.init_process_group(
        "gloo", init_method=f"file://{folder}/store", rank=rank, world_size=size, timeout=timedelta(minutes=5)
    )
    inner, calls = Embedder.from_pretrained(model, device="cpu").embed if model else letters_embed(), 0

    def embed(items: Sequence[Item]) -> np.ndarray:
        nonlocal calls
        calls += 1
        if rank == size - 1 and calls == killed:
            os.kill(os.getpid(), signal.SIGKILL)
        with (Path(folder) / f"items-{rank}").open("a") as counts:
            counts.write(f"{len(items)}\n")
        return inner(items)

    config = ProberConfig(corpus=130, margin=0.1)
    mine_hard_negatives(
        lambda: ("letters", embed), make_dataset(Path(folder)), SharedFolder(uri), config, seed=3
    )
