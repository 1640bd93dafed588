"""The model: a `Batch` in, unit vectors out. Differentiable; training, evaluation and serving share it."""

import os
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from gve_ray.embedder.backbones import Backbone, backbone_for
from gve_ray.embedder.collate import Batch
from gve_ray.embedder.tower import quicken
from gve_ray.embedder.vision import PatchSpec, normalise


def pool_last(hidden: Tensor, mask: Tensor) -> Tensor:
    """Hidden state of each row's last attended token, whichever side the padding is on.

    hidden: [B, L, d]; mask: int [B, L], 1 where attended; returns [B, d].
    """
    length = mask.shape[1]
    last = length - 1 - mask.flip(1).argmax(dim=1)  # [B]
    return hidden[torch.arange(len(hidden), device=hidden.device), last]


class GveModel(nn.Module):
    """A vision-language model without its generation head.

    language_model: a `...ForConditionalGeneration` of Hugging Face, or a PEFT model around one. Its LM
    head is never run. The name of the LoRA parameters is therefore the one every PEFT user has.
    revision: of the base model on the hub; an adapter's config records it.
    """

    def __init__(self, language_model: nn.Module, spec: PatchSpec, *, revision: str | None = None) -> None:
        super().__init__()
        self.language_model = language_model
        self.spec = spec
        self.revision = revision

    @property
    def plain(self) -> Any:
        """The Hugging Face model inside, without a PEFT wrapper (LoRA layers, if any, in place)."""
        inner = self.language_model
        return inner.get_base_model() if hasattr(inner, "get_base_model") else inner

    @property
    def config(self) -> Any:
        return self.plain.config

    @property
    def backbone(self) -> Backbone:
        return backbone_for(self.config.model_type)

    @property
    def dimension(self) -> int:
        """Length d of an embedding."""
        return int(self.config.get_text_config().hidden_size)

    @property
    def device(self) -> torch.device:
        return next(self.parameters()).device

    @property
    def dtype(self) -> torch.dtype:
        """Of the base model's weights, in which it computes. LoRA weights are float32 in any case."""
        return self.plain.get_input_embeddings().weight.dtype

    def compile_layers(self) -> None:
        """Compile the layers of the tower and the language model, each for itself, in place.

        Kernels that only move memory, 40 % of a GPU's time otherwise, are fused. The first batch takes a minute more.
        """
        inner = self.plain.model
        for layer in (*inner.visual.blocks, *inner.language_model.layers):
            layer.compile(dynamic=True)

    def checkpoint_layers(self) -> None:
        """Recompute the activations of each layer in the backward pass instead of keeping them."""
        self.plain.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})
        # Without re-entry no input needs a gradient; with one, the frozen tower would be run backward, too.
        self.plain.disable_input_require_grads()

    def forward(self, batch: Batch) -> Tensor:
        """Unit-norm float32 embeddings [B, d] of a batch on the model's device."""
        if self.dtype == torch.float32:
            return self._embed(batch)
        with torch.autocast(self.device.type, self.dtype):  # narrows LoRA's float32 weights for each product
            return self._embed(batch)

    def _embed(self, batch: Batch) -> Tensor:
        visual: dict[str, Tensor] = {}
        if batch.image_patches is not None:
            assert batch.image_grid is not None
            visual |= {
                "pixel_values": normalise(batch.image_patches, self.spec),
                "image_grid_thw": batch.image_grid,
            }
        if batch.video_patches is not None:
            assert batch.video_grid is not None
            visual |= {
                "pixel_values_videos": normalise(batch.video_patches, self.spec),
                "video_grid_thw": batch.video_grid,
            }
        output = self.plain.model(
            input_ids=batch.input_ids,
            attention_mask=None if batch.right_padded else batch.attention_mask,
            position_ids=batch.position_ids,
            use_cache=False,
            **visual,
        )
        pooled = pool_last(output.last_hidden_state, batch.attention_mask)  # [B, d]
        return F.normalize(pooled.float(), dim=-1)


def load_model(
    path: str | os.PathLike[str],
    *,
    revision: str | None = None,
    dtype: torch.dtype | str | None = None,
    device: torch.device | str | None = None,
    attention: str | None = None,
    processor: Any,
) -> GveModel:
    """Load a checkpoint (folder or hub id) by its model type. Raises ValueError on unsupported types.

    dtype: a torch dtype or its name; by default bfloat16 on GPU and float32 on CPU. attention: a
    transformers attention implementation ("sdpa", "flash_attention_2", ...).
    """
    from transformers import AutoConfig, AutoModelForImageTextToText

    place = torch.device(device) if device else default_device()
    backbone_for(AutoConfig.from_pretrained(path, revision=revision).model_type)
    model = AutoModelForImageTextToText.from_pretrained(
        path, revision=revision, dtype=as_dtype(dtype, place), attn_implementation=attention
    )
    if place.type != "cpu":
        quicken(model.model.visual)
    wrapped = GveModel(model, PatchSpec.from_processor(processor.image_processor), revision=revision)
    return wrapped.to(place).eval()


def default_device() -> torch.device:
    """The accelerator if there is one, else the CPU."""
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


def as_dtype(dtype: torch.dtype | str | None, device: torch.device) -> torch.dtype:
    """A torch dtype from its name; None is bfloat16 on an accelerator and float32 on CPU."""
    if dtype is None:
        return torch.float32 if device.type == "cpu" else torch.bfloat16
    found = getattr(torch, dtype, None) if isinstance(dtype, str) else dtype
    if not isinstance(found, torch.dtype):
        raise ValueError(f"dtype={dtype!r} is not a torch dtype; use 'float32', 'bfloat16' or 'float16'")
    return found
