"""The embedding model: a differentiable module that turns a `Batch` into unit vectors."""

import os
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from gve_ray.embedder.checkpoint_files import family_of
from gve_ray.embedder.collate import Batch
from gve_ray.embedder.dtypes import default_dtype
from gve_ray.embedder.model_families import ModelFamily, model_family
from gve_ray.embedder.vision import PatchSpec, normalise


def pool_last(hidden: Tensor, mask: Tensor) -> Tensor:
    """Return the hidden state of each row's last token, [B, d].

    hidden: [B, L, d]. mask: int [B, L], 1 for tokens, then 0 for padding.
    """
    return hidden[torch.arange(len(hidden), device=hidden.device), mask.sum(dim=1) - 1]


class GveModel(nn.Module):
    """A vision-language model without its generation head.

    language_model: a `...ForConditionalGeneration` of Hugging Face, or a PEFT model that wraps one.
    It is kept whole, although its LM head never runs, so that LoRA parameters have the names that
    PEFT gives them everywhere. spec: patch geometry of the vision tower. revision: of the base
    model on the hub; PEFT records it in the config of an adapter.
    """

    def __init__(self, language_model: nn.Module, spec: PatchSpec, *, revision: str | None = None) -> None:
        super().__init__()
        self.language_model = language_model
        self.spec = spec
        self.revision = revision

    @property
    def plain(self) -> Any:
        """The Hugging Face model without the PEFT wrapper; LoRA layers, if any, stay in it."""
        inner = self.language_model
        return inner.get_base_model() if hasattr(inner, "get_base_model") else inner

    @property
    def config(self) -> Any:
        """The Hugging Face config of the model."""
        return self.plain.config

    @property
    def family(self) -> ModelFamily:
        """The architecture of the model."""
        return model_family(self.config.model_type)

    @property
    def dimension(self) -> int:
        """Length d of an embedding."""
        return int(self.config.get_text_config().hidden_size)

    @property
    def device(self) -> torch.device:
        """The device of the weights."""
        return next(self.parameters()).device

    @property
    def dtype(self) -> torch.dtype:
        """The dtype of the base model's weights and of its computations. LoRA weights stay float32."""
        return self.plain.get_input_embeddings().weight.dtype

    def compile_layers(self) -> None:
        """Compile each layer of the vision tower and the language model in place.

        This fuses kernels that only move memory, which take 40 % of the GPU's time otherwise. The
        first batch takes about a minute longer.
        """
        inner = self.plain.model
        for layer in (*inner.visual.blocks, *inner.language_model.layers):
            layer.compile(dynamic=True)

    def checkpoint_layers(self) -> None:
        """Recompute the activations of each layer in the backward pass instead of keeping them."""
        self.plain.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})
        # Non-reentrant checkpointing needs no input with a gradient. If one had it, the backward
        # pass would include the frozen vision tower.
        self.plain.disable_input_require_grads()

    def forward(self, batch: Batch) -> Tensor:
        """Return unit-norm float32 embeddings [B, d] of a batch that is on the model's device."""
        if self.dtype == torch.float32:
            return self._embed(batch)
        # Autocast converts the float32 weights of LoRA for each matrix product.
        with torch.autocast(self.device.type, self.dtype):
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
            attention_mask=None,  # see Batch
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
    load_in_4bit: bool = False,
    processor: Any,
) -> GveModel:
    """Load a checkpoint from a folder or the hub. Raises ValueError for an unsupported model type.

    dtype: a torch dtype or its name; by default `default_dtype` of the device.
    attention: a transformers attention implementation ("sdpa", "flash_attention_2", ...).
    load_in_4bit: keep the projections of the language model as 4-bit NF4 and compute in `dtype`
    (arXiv:2305.14314). Raises ImportError if that needs bitsandbytes and it is not installed.
    """
    from transformers import AutoModelForImageTextToText

    target = torch.device(device) if device else default_device()
    family_of(path, revision=revision)  # raises ValueError before the weights are loaded
    as_loaded = as_dtype(dtype, target)
    # Quantized weights are made on the device where they stay.
    quantized = {"quantization_config": _nf4(as_loaded), "device_map": {"": target}} if load_in_4bit else {}
    model = AutoModelForImageTextToText.from_pretrained(
        path, revision=revision, dtype=as_loaded, attn_implementation=attention, **quantized
    )
    for module in model.modules() if load_in_4bit else ():
        # On a CPU, bitsandbytes would repack the weights in the first evaluation, for a kernel without gradients.
        if hasattr(module, "support_avx512bf16_for_cpu"):
            module.support_avx512bf16_for_cpu = False
    if target.type != "cpu":
        # Imported here because it loads the compiler of torch, which takes seconds.
        from gve_ray.embedder.vision_attention import use_fast_attention

        use_fast_attention(model.model.visual)
    wrapped = GveModel(model, PatchSpec.from_processor(processor.image_processor), revision=revision)
    return wrapped.to(target).eval()


def _nf4(dtype: torch.dtype) -> Any:
    """Return the quantization of QLoRA; the vision tower and the head keep their weights."""
    from importlib.util import find_spec

    from transformers import BitsAndBytesConfig

    if find_spec("bitsandbytes") is None:
        raise ImportError(
            "load_in_4bit=True needs bitsandbytes; install it with pip install 'gve-ray[qlora]'"
        )
    return BitsAndBytesConfig(
        load_in_4bit=True,
        bnb_4bit_quant_type="nf4",
        bnb_4bit_use_double_quant=True,
        bnb_4bit_compute_dtype=dtype,
        llm_int8_skip_modules=["model.visual", "lm_head"],
    )


def default_device() -> torch.device:
    """Return the accelerator if there is one, else the CPU."""
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


def as_dtype(dtype: torch.dtype | str | None, device: torch.device) -> torch.dtype:
    """Return a torch dtype given it or its name; None means `default_dtype` of the device."""
    if dtype is None:
        dtype = default_dtype(on_gpu=device.type != "cpu")
    resolved = getattr(torch, dtype, None) if isinstance(dtype, str) else dtype
    if not isinstance(resolved, torch.dtype):
        raise ValueError(f"dtype={dtype!r} is not a torch dtype; use 'float32', 'bfloat16' or 'float16'")
    return resolved
