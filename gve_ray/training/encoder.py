"""The GVE model as the loop trains it: LoRA on, all else frozen; items -> chunks -> embeddings.

Rendering, patches and pooling are the embedder's own, so training cannot disagree with what is served.
"""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from gve_ray.embedder import Batch, Collator, GveModel, add_lora
from gve_ray.embedder.batching import plan_batches
from gve_ray.embedder.load_media import load_media
from gve_ray.schema import Item
from gve_ray.store import AssetReader
from gve_ray.training.optimiser import check_frozen
from gve_ray.training.step import Chunk

FROZEN = ("visual", "embed_tokens", "lm_head")  # in the names of the weights of every supported family


class Encoder(nn.Module):
    """Batches on any device -> unit-norm float32 embeddings [rows of all, d], one graph.

    One call a step, so that DDP sees one forward pass.
    """

    def __init__(self, model: GveModel) -> None:
        super().__init__()
        self.model = model

    def forward(self, batches: Sequence[Batch]) -> Tensor:
        device = self.model.device
        return torch.cat([self.model(batch.to(device, non_blocking=True)) for batch in batches])


def with_lora(
    model: GveModel,
    *,
    r: int = 16,
    alpha: int = 32,
    dropout: float = 0.1,
    seed: int = 0,
    checkpointing: bool = False,
    compile: bool = False,
) -> Encoder:
    """Fresh LoRA on the language model (paper section 5), checked to be all that is trained.

    checkpointing: recompute activations in the backward pass instead of keeping them. compile: the layers.
    Raises ValueError when a weight of the vision tower or of the token embeddings would be trained.
    """
    add_lora(model, r=r, alpha=alpha, dropout=dropout, seed=seed)
    check_frozen(model, FROZEN)
    if checkpointing:
        model.checkpoint_layers()
    if compile:
        model.compile_layers()
    return Encoder(model)


class GveCollate:
    """Items with references -> chunks within a token budget, text-only apart from visual. CPU only.

    assets: where `asset://` references are read; stored frames are read, no video is decoded.
    token_budget: padded tokens a chunk, the unit of memory under GradCache.
    """

    def __init__(
        self,
        collator: Collator,
        assets: AssetReader | None = None,
        *,
        token_budget: int = 32_768,
        max_rows: int = 256,
    ) -> None:
        self.collator, self.assets = collator, assets
        self.token_budget, self.max_rows = token_budget, max_rows

    def __call__(self, items: Sequence[Item]) -> list[Chunk]:
        rows = self.collator.encode(load_media(items, self.collator.settings, self.assets))
        plan = plan_batches(
            [len(row) for row in rows],
            [row.image is not None or row.video is not None for row in rows],
            token_budget=self.token_budget,
            max_rows=self.max_rows,
        )
        return [
            Chunk(
                rows=where,
                batch=self.collator.pad([rows[i] for i in where]),
                tokens=sum(len(rows[i]) for i in where),
            )
            for where in plan
        ]
