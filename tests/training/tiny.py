"""A miniature training: pairs of short texts, and an encoder of their letters that learns in a second."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from gve_ray.schema import Item, Task
from gve_ray.training.mixture import DataSet
from gve_ray.training.pairs import PairSet, freeze
from gve_ray.training.step import Chunk

LETTERS = "abcdefghijklmnopqrst"


def datasets(folder: Path, *, ranks: int = 1, batches: tuple[int, int] = (8, 4)) -> dict[str, DataSet]:
    """Return data sets of 40 pairs (`ab` -> `AB`) and 24 pairs (`abc` -> `ABC`).

    batches: pairs per step of each data set, over all ranks.
    """
    mixture = {}
    for name, size, width, batch in (("two", 40, 2, batches[0]), ("three", 24, 3, batches[1])):
        path = folder / f"{name}.arrow"
        if not path.exists():
            freeze([_row(i, width) for i in range(size)], path)
        mixture[name] = DataSet(
            pairs=PairSet(path, name=name, task=Task.T2T),
            weight=1.0,
            batch_size=batch // ranks,
            negatives=0,
            brings_negatives=False,
        )
    return mixture


def _row(number: int, width: int) -> dict[str, Any]:
    text = "".join(LETTERS[(number * (3 + 2 * i) + i) % 20] for i in range(width)) + LETTERS[number // 20]
    none = {"text": None, "image": None, "video": None}
    return {
        "pair_id": f"{width}-{number}",
        "query": {**none, "text": text},
        "target": {**none, "text": text.upper()},
        "negatives": [],
        "instruction": None,
        "domain": None,
        "style": None,
    }


class Letters(nn.Module):
    """Embed chunks of letter counts as unit vectors."""

    def __init__(self, *, dropout: float = 0.0) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.body = nn.Sequential(nn.Linear(256, 16), nn.Tanh(), nn.Dropout(dropout), nn.Linear(16, 8))

    def forward(self, batches: Sequence[Tensor]) -> Tensor:
        return nn.functional.normalize(self.body(torch.cat(list(batches))), dim=-1)


def collate(items: Sequence[Item]) -> list[Chunk]:
    """Make chunks of five items, last items first, so that tests notice if the order is not restored."""
    rows = list(range(len(items)))[::-1]
    chunks = []
    for start in range(0, len(rows), 5):
        counts = torch.zeros(len(rows[start : start + 5]), 256)
        for i, row in enumerate(rows[start : start + 5]):
            for position, letter in enumerate(str(items[row].text)):
                counts[i, ord(letter)] += 1 + position
        chunks.append(Chunk(rows=rows[start : start + 5], batch=counts, tokens=len(counts)))
    return chunks
