"""Compute the gradient of one step on one rank: embed the chunks, compute the loss of all ranks, backpropagate."""

from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from gve_ray.training.config import LossConfig
from gve_ray.training.feed import StepItems
from gve_ray.training.gather import gather
from gve_ray.training.gradcache import backward_in_chunks
from gve_ray.training.loss import Loss, info_nce


@dataclass(frozen=True, kw_only=True, eq=False)
class Chunk:
    """Items that share a forward pass. rows: their indices in the step's items. tokens: their number of tokens."""

    rows: Sequence[int]
    batch: Any
    tokens: int


def backward(
    model: nn.Module, chunks: Sequence[Chunk], items: StepItems, config: LossConfig, *, gradcache: bool
) -> Loss:
    """Add the gradient of the whole batch's loss to the weights. Return the loss, detached.

    model: takes the batches of all chunks and returns unit-norm embeddings [total rows, d]; wrapped in DDP if
    there are several ranks. chunks: cover every item once. gradcache: hold the activations of one chunk at a
    time.
    """
    place = np.argsort(np.concatenate([np.asarray(chunk.rows) for chunk in chunks]))
    order = torch.from_numpy(place)

    def loss_of(embeddings: Tensor) -> Loss:
        return _loss(embeddings[order.to(embeddings.device)], items, config)

    if gradcache:
        no_sync = getattr(model, "no_sync", nullcontext)  # DDP's
        return backward_in_chunks(chunks, lambda chunk: model([chunk.batch]), loss_of, no_sync=no_sync)
    loss = loss_of(model([chunk.batch for chunk in chunks]))
    loss.value.backward()
    return replace(loss, value=loss.value.detach())


def _loss(embeddings: Tensor, items: StepItems, config: LossConfig) -> Loss:
    """Compute the loss over all ranks. embeddings: [B * (2 + H), d] in the order of `items.items`."""
    pairs, hard = items.negative_sources.shape
    parts = {
        "queries": embeddings[:pairs],
        "targets": embeddings[pairs : 2 * pairs],
        "pairs": _on(embeddings, items.pair_ids),
        "sources": _on(embeddings, items.sources),
        "query_sources": _on(embeddings, items.query_sources),
    }
    if hard:
        parts["negatives"] = embeddings[2 * pairs :].view(pairs, hard, -1)
        parts["negative_sources"] = _on(embeddings, items.negative_sources)
    whole = dict(zip(parts, gather(*parts.values()), strict=True))
    return info_nce(
        **whole, temperature=config.temperature, margin=config.margin, dimensions=config.dimensions
    )


def _on(like: Tensor, values: np.ndarray) -> Tensor:
    return torch.from_numpy(values).to(like.device)
