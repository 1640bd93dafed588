"""Prepare a GVE model for training: add LoRA, freeze the rest, and turn items into chunks and embeddings.

Rendering, patches and pooling are those of gve_ray.embedder, so training and serving cannot disagree.
"""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from gve_ray.embedder import Batch, Collator, GveModel, add_lora
from gve_ray.embedder.batching import plan_batches
from gve_ray.embedder.load_media import load_media
from gve_ray.embedder.torch_engine import MAX_ROWS
from gve_ray.schema import Item
from gve_ray.store import AssetReader
from gve_ray.training.gather import largest
from gve_ray.training.optimiser import check_frozen
from gve_ray.training.step import Chunk

FROZEN = ("visual", "embed_tokens", "lm_head")  # parts of weight names, in every supported model family


class Encoder(nn.Module):
    """Embed a list of batches: unit-norm float32 [total rows, d], in one autograd graph.

    Batches may be on any device. It is called once per step, so that DDP sees one forward pass.
    has_equal_batches: all ranks run equally many batches, as sharded weights require (sharding.py).
    """

    def __init__(self, model: GveModel) -> None:
        super().__init__()
        self.model = model
        self.has_equal_batches = False

    def forward(self, batches: Sequence[Batch]) -> Tensor:
        device = self.model.device
        # Asked before the first batch, because the weights of that are gathered in collectives, too.
        missing = largest(len(batches), device) - len(batches) if self.has_equal_batches else 0
        embeddings = torch.cat([self.model(batch.to(device, non_blocking=True)) for batch in batches])
        for _ in range(missing):
            # Part of the graph, so that the backward pass is also the same on all ranks.
            embeddings = embeddings + 0 * self.model(_one_token(device)).sum()
        return embeddings


def _one_token(device: torch.device) -> Batch:
    zeros = torch.zeros(1, 1, dtype=torch.int64, device=device)
    return Batch(input_ids=zeros, attention_mask=zeros + 1, position_ids=zeros.expand(3, 1, 1))


def with_lora(model: GveModel, *, checkpointing: bool = False, compile: bool = False, **lora: Any) -> Encoder:
    """Add new LoRA weights to the language model (arXiv:2510.27571, section 5) and train only those.

    checkpointing: recompute activations in the backward pass instead of keeping them. compile: compile the
    layers, on a GPU only. lora: the options of `gve_ray.embedder.add_lora`. Raises ValueError when a weight of
    the vision tower or of the token embeddings would be trained.
    """
    add_lora(model, **lora)
    check_frozen(model, FROZEN)
    if checkpointing:
        model.checkpoint_layers()
    if compile and model.device.type != "cpu":
        model.compile_layers()
    return Encoder(model)


class GveCollate:
    """Turn items with references into chunks within a token budget, on the CPU.

    Items with and without media go to separate chunks. assets: where `asset://` references are read; stored
    frames are used, so no video is decoded. token_budget: maximum padded tokens per chunk, which bounds the
    memory under GradCache.
    """

    def __init__(
        self,
        collator: Collator,
        assets: AssetReader | None = None,
        *,
        token_budget: int = 32_768,
    ) -> None:
        self.collator, self.assets, self.token_budget = collator, assets, token_budget

    def __call__(self, items: Sequence[Item]) -> list[Chunk]:
        rows = self.collator.encode(load_media(items, self.collator.settings, self.assets))
        plan = plan_batches(
            [len(row) for row in rows],
            [row.image is not None or row.video is not None for row in rows],
            token_budget=self.token_budget,
            max_rows=MAX_ROWS,
        )
        return [
            Chunk(
                rows=where,
                batch=self.collator.pad([rows[i] for i in where]),
                tokens=sum(len(rows[i]) for i in where),
            )
            for where in plan
        ]
