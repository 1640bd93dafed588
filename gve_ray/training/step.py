"""Compute the gradient of one step on one rank: embed the chunks, compute the loss of all ranks, backpropagate."""

from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from gve_ray.training.config import DistillationConfig, LossConfig
from gve_ray.training.feed import StepItems
from gve_ray.training.gather import gather
from gve_ray.training.gradcache import backward_in_chunks
from gve_ray.training.loss import Loss, divergence, info_nce


@dataclass(frozen=True, kw_only=True, eq=False)
class Taught:
    """The teacher's unit-norm embeddings [rows, d'] of the items of one step, and what they are used for."""

    embeddings: np.ndarray
    config: DistillationConfig


@dataclass(frozen=True, kw_only=True, eq=False)
class Chunk:
    """Items that share a forward pass. rows: their indices in the step's items. tokens: their number of tokens."""

    rows: Sequence[int]
    batch: Any
    tokens: int


def backward(
    model: nn.Module,
    chunks: Sequence[Chunk],
    items: StepItems,
    config: LossConfig,
    *,
    gradcache: bool,
    taught: Taught | None = None,
) -> Loss:
    """Add the gradient of the whole batch's loss to the weights. Return the loss, detached.

    model: takes the batches of all chunks and returns unit-norm embeddings [total rows, d]; wrapped in DDP if
    there are several ranks. chunks: cover every item once. gradcache: hold the activations of one chunk at a
    time. taught: for the term of the distillation; None: without one.
    """
    place = np.argsort(np.concatenate([np.asarray(chunk.rows) for chunk in chunks]))
    order = torch.from_numpy(place)

    def loss_of(embeddings: Tensor) -> Loss:
        return _loss(embeddings[order.to(embeddings.device)], items, config, taught)

    if gradcache:
        no_sync = getattr(model, "no_sync", nullcontext)  # DDP's
        return backward_in_chunks(chunks, lambda chunk: model([chunk.batch]), loss_of, no_sync=no_sync)
    loss = loss_of(model([chunk.batch for chunk in chunks]))
    loss.value.backward()
    return replace(loss, value=loss.value.detach())


def _loss(embeddings: Tensor, items: StepItems, config: LossConfig, taught: Taught | None) -> Loss:
    """Compute the loss over all ranks. embeddings: [B * (2 + H), d] in the order of `items.items`."""
    pairs, hard = items.negative_sources.shape
    parts = {
        **_sides(embeddings, pairs, hard),
        "pairs": _on(embeddings, items.pair_ids),
        "sources": _on(embeddings, items.sources),
        "query_sources": _on(embeddings, items.query_sources),
    }
    if hard:
        parts["negative_sources"] = _on(embeddings, items.negative_sources)
    whole = dict(zip(parts, gather(*parts.values()), strict=True))
    loss = info_nce(
        **whole, temperature=config.temperature, margin=config.margin, dimensions=config.dimensions
    )
    if taught is None:
        return loss
    sides = _sides(_on(embeddings, taught.embeddings).to(embeddings.dtype), pairs, hard)
    term = divergence(
        _scores({name: whole[name] for name in sides}),
        _scores(dict(zip(sides, gather(*sides.values()), strict=True))),
        temperature=config.temperature,
        teacher_temperature=taught.config.temperature,
    )
    return replace(loss, value=loss.value + taught.config.weight * term)


def _sides(embeddings: Tensor, pairs: int, hard: int) -> dict[str, Tensor]:
    """Split embeddings [B * (2 + H), d] into queries and targets, [B, d], and negatives, [B, H, d], if any."""
    sides = {"queries": embeddings[:pairs], "targets": embeddings[pairs : 2 * pairs]}
    if hard:
        sides["negatives"] = embeddings[2 * pairs :].view(pairs, hard, -1)
    return sides


def _scores(sides: Mapping[str, Tensor]) -> Tensor:
    """Cosines of each query with all targets and its own negatives, [N, N + H]."""
    scores = sides["queries"] @ sides["targets"].T
    if "negatives" not in sides:
        return scores
    return torch.cat([scores, torch.einsum("nd,nhd->nh", sides["queries"], sides["negatives"])], dim=1)


def _on(like: Tensor, values: np.ndarray) -> Tensor:
    return torch.from_numpy(values).to(like.device)
