"""What each process of tests/training/test_sharding.py runs: a whole training, with or without sharding."""

import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from datetime import timedelta
from pathlib import Path

import numpy as np
import torch
import torch.distributed as dist
from PIL import Image
from torch.distributed.tensor import DTensor

from gve_ray.training import fit as fitting
from gve_ray.training import sharding
from gve_ray.training.config import (
    DataSetConfig,
    LoopConfig,
    LoraConfig,
    OptimiserConfig,
    ProberConfig,
    TrainingConfig,
    ValidationConfig,
)
from gve_ray.training.curriculum import Curriculum
from gve_ray.training.encoder import Encoder

RANKS = 2


def write_data(folder: Path) -> None:
    """Write pairs of texts, of which one query is much longer, and captions of which each has an image."""
    texts = [
        {"query": "word " * (500 if i == 5 else 5) + str(i), "positive": f"text {i * 7 % 12}"}
        for i in range(12)
    ]
    images = [{"caption": f"image {i}", "image": f"{i}.png"} for i in range(12)]
    for name, rows in (("texts", texts), ("images", images)):
        (folder / f"{name}.jsonl").write_text("\n".join(map(json.dumps, rows)))
    for i in range(12):
        Image.fromarray(np.full((56 + 28 * (i % 2), 56, 3), 20 * i, np.uint8)).save(folder / f"{i}.png")


def config_for(base: Path, folder: Path) -> TrainingConfig:
    """Return a config with mining, evaluation and, because of the small token budget, several chunks a step."""
    data = (
        DataSetConfig(
            name="texts", uri=f"{folder}/texts.jsonl", format="text_pairs", batch_size=3, negatives=1
        ),
        DataSetConfig(
            name="images",
            uri=f"{folder}/images.jsonl",
            format="image_captions",
            root=str(folder),
            batch_size=3,
            negatives=0,
        ),
    )
    return TrainingConfig(
        model=str(base),
        data=data,
        frames=4,
        dtype="float32",
        token_budget=400,
        trackers=(),
        checkpointing=True,
        curriculum=Curriculum(epochs=2),
        prober=ProberConfig(pairs=5, margin=None),
        lora=LoraConfig(r=4, alpha=8, dropout=0.0),
        loop=LoopConfig(steps=3, optimiser=OptimiserConfig(learning_rate=1e-2, warmup=0.0), save_steps=2),
        validation=ValidationConfig(eval_steps=3, data=(data[0],)),
    )


@contextmanager
def counted_batches(counts: list[int]) -> Iterator[None]:
    """Record how many batches this rank has in each step."""
    forward = Encoder.forward

    def record(self: Encoder, batches: list) -> torch.Tensor:
        counts.append(len(batches))
        return forward(self, batches)

    Encoder.forward = record
    try:
        yield
    finally:
        Encoder.forward = forward


def sharded_share(encoder: Encoder) -> float:
    """Return the share of the frozen weights that this rank holds."""
    frozen = [weight for weight in encoder.parameters() if not weight.requires_grad]
    held = sum(
        weight.to_local().numel() if isinstance(weight, DTensor) else weight.numel() for weight in frozen
    )
    return held / sum(weight.numel() for weight in frozen)


def rank_main(rank: int, base: str, folder: str) -> None:
    """Train with and without sharding; write the number of batches of each rank and its share of the weights."""
    torch.set_num_threads(1)
    dist.init_process_group(
        "gloo",
        init_method=f"file://{folder}/store",
        rank=rank,
        world_size=RANKS,
        timeout=timedelta(seconds=120),
    )
    config = config_for(Path(base), Path(folder))
    shares: list[float] = []
    shard = sharding.shard

    def measured(encoder: Encoder, device: torch.device) -> torch.nn.Module:
        wrapped = shard(encoder, device)
        shares.append(sharded_share(encoder))
        return wrapped

    sharding.shard = measured
    counts: list[int] = []
    for name in ("plain", "sharded"):
        with counted_batches(counts):
            fitting.fit(replace(config, sharded=name == "sharded"), f"{folder}/{name}", device="cpu")
    (Path(folder) / f"facts-{rank}.json").write_text(json.dumps({"counts": counts, "shares": shares}))
    dist.destroy_process_group()
