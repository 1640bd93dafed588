"""The vLLM engine: the same vectors as the torch engine, computed faster on a GPU by vLLM.

vLLM gets token ids from the same collator as the torch engine, and frames that already have the
right size. It therefore performs only the forward pass; the prompt format, the cut and the resize
are the same. vLLM needs all weights in one folder, so an adapter is first merged into a temporary
folder. Starting takes 10 s or more.
"""

import tempfile
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch

from gve_ray.embedder.collate import Collator, Encoded, lengths_and_cuts
from gve_ray.embedder.embeddings import Embeddings, Finished
from gve_ray.embedder.export_folder import export_merged
from gve_ray.embedder.model import as_dtype, default_device
from gve_ray.embedder.model_families import model_family
from gve_ray.embedder.settings import EmbedderSettings
from gve_ray.embedder.vision import resize
from gve_ray.media.video_metadata import video_metadata
from gve_ray.schema import Frames, Item

CPU_KV_BYTES = 4 * 2**30  # one 8192-token sequence of the 7B shape in float32 takes 3.5 GiB


class VllmEngine:
    """Embeds items whose media are in memory with `vllm.LLM`. An `embedder.Engine`."""

    def __init__(self, llm: Any, collator: Collator, *, dimension: int, merged: Any = None) -> None:
        self.llm, self.collator, self.dimension, self._merged = llm, collator, dimension, merged

    @classmethod
    def from_pretrained(
        cls,
        path_or_id: str | Any,
        adapter: str | Any | None,
        *,
        revision: str | None,
        dtype: torch.dtype | str | None,
        settings: EmbedderSettings,
        processor: Any,
        engine_args: dict[str, Any],
    ) -> "VllmEngine":
        """Start vLLM with a model from a folder or the hub.

        engine_args override the arguments of `vllm.LLM`. See `Embedder.from_pretrained` for the
        rest.
        """
        from transformers import AutoConfig
        from vllm import LLM

        config = AutoConfig.from_pretrained(path_or_id, revision=revision)
        family = model_family(config.model_type)
        collator = Collator(settings, processor, family=family, config=config)
        merged = None
        if adapter is not None:
            merged = tempfile.TemporaryDirectory(prefix="gve-merged-")
            export_merged(path_or_id, adapter, merged.name, revision=revision)
        arguments = engine_arguments(settings, family.processor_sizes(settings), dtype)
        llm = LLM(
            model=merged.name if merged is not None else str(path_or_id),
            revision=None if merged is not None else revision,
            **(arguments | engine_args),
        )
        return cls(llm, collator, dimension=int(config.get_text_config().hidden_size), merged=merged)

    def prepare(self, items: Sequence[Item]) -> list[Encoded]:
        """Encode items whose media are in memory."""
        return self.collator.encode(items)

    def encode(self, rows: list[Encoded], finished: Finished) -> Embeddings:
        """Return the embeddings of the prepared items, in order. finished: called once, at the end."""
        outputs = self.llm.embed([self._prompt(row) for row in rows], use_tqdm=False)
        vectors = np.asarray([output.outputs.embedding for output in outputs], dtype=np.float32)
        finished(len(rows))
        return Embeddings(
            vectors=vectors / np.linalg.norm(vectors, axis=1, keepdims=True), **lengths_and_cuts(rows)
        )

    def close(self) -> None:
        """Stop vLLM's processes and remove the merged weights, if any."""
        self.llm.llm_engine.engine_core.shutdown()
        if self._merged is not None:
            self._merged.cleanup()

    def _prompt(self, row: Encoded) -> dict[str, Any]:
        media: dict[str, Any] = {}
        if isinstance(row.item.image, Frames):
            media["image"] = self._pixels(row.item.image)[0]
        if isinstance(row.item.video, Frames):
            media["video"] = (self._pixels(row.item.video), video_metadata(row.item.video))
        prompt: dict[str, Any] = {"prompt_token_ids": row.prompt_ids.tolist()}
        return prompt | {"multi_modal_data": media} if media else prompt

    def _pixels(self, frames: Frames) -> np.ndarray:
        """Return the pixels resized to the budget, uint8 [T, H, W, 3]."""
        resized = resize(frames.pixels, self.collator.settings, self.collator.spec.factor)
        return np.ascontiguousarray(resized.permute(0, 2, 3, 1).numpy())


def engine_arguments(
    settings: EmbedderSettings, sizes: dict[str, dict[str, int]], dtype: torch.dtype | str | None
) -> dict[str, Any]:
    """Return the arguments of `vllm.LLM` for embedding with these settings.

    sizes: `ModelFamily.processor_sizes`.
    """
    from vllm.config import PoolerConfig

    device = default_device()
    arguments: dict[str, Any] = {
        "runner": "pooling",
        "convert": "embed",
        "pooler_config": PoolerConfig(seq_pooling_type="LAST", use_activation=True),
        "dtype": str(as_dtype(dtype, device)).removeprefix("torch."),
        "max_model_len": settings.max_tokens,
        "limit_mm_per_prompt": {"image": 1, "video": 1},
        "mm_processor_kwargs": {
            "images_kwargs": {"do_resize": False, "size": sizes["image"]},
            "videos_kwargs": {"do_resize": False, "do_sample_frames": False, "size": sizes["video"]},
        },
        "seed": 0,
    }
    if device.type == "cpu":
        arguments |= {"enforce_eager": True, "kv_cache_memory_bytes": CPU_KV_BYTES}
    return arguments
