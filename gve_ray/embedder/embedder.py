"""`Embedder`: items in, unit vectors out. The one way to embed, in training, evaluation and serving.

embedder = Embedder.from_pretrained("Alibaba-NLP/GVE-3B")
vectors = embedder.embed([Item(text="a dog runs"), Item(video="dog.mp4")])   # float32 [2, d]
"""

import logging
import os
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import replace
from typing import TYPE_CHECKING, Any, Literal, Protocol

import numpy as np
import torch

from gve_ray.embedder.checkpoint import load_processor, load_torch_model, resolve_settings
from gve_ray.embedder.collate import Collator
from gve_ray.embedder.embeddings import Embeddings
from gve_ray.embedder.model import GveModel
from gve_ray.embedder.resolve import resolve
from gve_ray.embedder.settings import EmbedderSettings
from gve_ray.embedder.torch_engine import TorchEngine
from gve_ray.progress import Progress
from gve_ray.schema import Item

if TYPE_CHECKING:
    from gve_ray.store import AssetReader

log = logging.getLogger(__name__)

VISUAL_WINDOW = 64  # items held at a time, as frames and as patches: 8 at the default budget are 3.8 MB each
TEXT_WINDOW = 4096

EngineName = Literal["torch", "vllm"]


class Engine(Protocol):
    """What runs the model. What `prepare` gives is for the same engine's `encode` only."""

    collator: Collator

    @property
    def dimension(self) -> int: ...

    def prepare(self, items: Sequence[Item]) -> Any:
        """The CPU's part, of items whose media are in memory. Called by another thread than `encode`."""

    def encode(self, prepared: Any) -> Embeddings:
        """Of the prepared items, in order."""

    def close(self) -> None:
        """Give back what the engine holds outside this process."""


class Embedder:
    """Embeds any mix of video, image and text into unit vectors. Make one with `from_pretrained`."""

    def __init__(self, engine: Engine) -> None:
        self.engine = engine

    @classmethod
    def from_pretrained(
        cls,
        path_or_id: str | os.PathLike[str],
        adapter: str | os.PathLike[str] | None = None,
        *,
        revision: str | None = None,
        engine: EngineName = "torch",
        dtype: torch.dtype | str | None = None,
        device: torch.device | str | None = None,
        attention: str | None = None,
        settings: EmbedderSettings | None = None,
        token_budget: int | None = None,
        compile: bool = False,
        engine_args: dict[str, Any] | None = None,
    ) -> "Embedder":
        """Load a model folder or hub id, optionally with a PEFT adapter folder.

        revision: of the model on the hub. dtype, device: bfloat16 on GPU, float32 on CPU by default.
        attention: a transformers attention implementation (torch engine). settings: what the caller
        expects; ValueError if other settings travel with the weights. token_budget: padded tokens a
        batch (torch engine). compile: compile the layers: twice the speed on a GPU after a first batch that
        takes a minute (torch engine). engine_args: extra arguments of vllm.LLM (vllm engine).
        """
        agreed_settings = resolve_settings(path_or_id, adapter, settings, revision=revision)
        processor = load_processor(path_or_id, revision=revision)
        if engine == "torch":
            model = load_torch_model(
                path_or_id,
                adapter,
                revision=revision,
                dtype=dtype,
                device=device,
                attention=attention,
                processor=processor,
            )
            if compile:
                model.compile_layers()
            return cls.from_model(model, processor, agreed_settings, token_budget=token_budget)
        if engine == "vllm":
            from gve_ray.embedder.vllm_engine import VllmEngine

            return cls(
                VllmEngine.from_pretrained(
                    path_or_id,
                    adapter,
                    revision=revision,
                    dtype=dtype,
                    settings=agreed_settings,
                    processor=processor,
                    engine_args=engine_args or {},
                )
            )
        raise ValueError(f"engine={engine!r}: use 'torch' or 'vllm'")

    @classmethod
    def from_model(
        cls, model: GveModel, processor: Any, settings: EmbedderSettings, *, token_budget: int | None = None
    ) -> "Embedder":
        """Wrap a model that is already in memory, e.g. the one being trained, without copying it."""
        collator = Collator(settings, processor, backbone=model.backbone, config=model.config)
        return cls(TorchEngine(model, collator, token_budget=token_budget))

    @property
    def settings(self) -> EmbedderSettings:
        return self.engine.collator.settings

    @property
    def dimension(self) -> int:
        """Length d of an embedding."""
        return self.engine.dimension

    def with_settings(self, **changes: Any) -> "Embedder":
        """Depart from the settings of the weights on purpose (test-time scaling). Shares the model.

        Torch engine only: vLLM's memory plan depends on its limits at start.
        """
        if not isinstance(self.engine, TorchEngine):
            raise ValueError("with_settings: only the torch engine can change settings after loading")
        collator = self.engine.collator
        settings = replace(collator.settings, **changes)
        changed = Collator(
            settings, collator.processor, backbone=collator.backbone, config=self.engine.model.config
        )
        return Embedder(TorchEngine(self.engine.model, changed, token_budget=self.engine.token_budget))

    def embed(
        self, items: Sequence[Item], *, assets: "AssetReader | None" = None, progress: bool = False
    ) -> np.ndarray:
        """Unit vectors float32 [n, d], in the order of the items; arguments as of `encode`."""
        return self.encode(items, assets=assets, progress=progress).vectors

    def encode(
        self, items: Sequence[Item], *, assets: "AssetReader | None" = None, progress: bool = False
    ) -> Embeddings:
        """Vectors in the order of the items, how long each item was, and whether it was cut.

        assets: where `asset://` references are read. progress: log rate and ETA every few seconds.
        The next window is read and prepared while the model works on this one.
        """
        out = Embeddings.empty(len(items), self.dimension)
        report, done = Progress("embedded", len(items) if progress else 0, unit="items"), 0
        for where, prepared in self._windows(items, assets):
            out.put(where, self.engine.encode(prepared))
            done += len(where)
            report.reach(done)
        if cut := int(out.cut.sum()):
            log.warning("%d of %d texts were cut to %d tokens", cut, len(items), self.settings.max_tokens)
        return out

    def close(self) -> None:
        """Stop the engine's processes (vLLM); the torch engine has none."""
        self.engine.close()

    def _windows(
        self, items: Sequence[Item], assets: "AssetReader | None"
    ) -> Iterator[tuple[list[int], Any]]:
        """Windows of (indices, prepared items); the next one is made in the background."""

        def make(where: list[int]) -> Any:
            return self.engine.prepare(resolve([items[i] for i in where], self.settings, assets))

        with ThreadPoolExecutor(max_workers=1, thread_name_prefix="gve-read") as pool:
            waiting: tuple[list[int], Future[Any]] | None = None
            for where in _window_indices(items):
                future = pool.submit(make, where)
                if waiting is not None:
                    yield waiting[0], waiting[1].result()
                waiting = where, future
            if waiting is not None:
                yield waiting[0], waiting[1].result()


def _window_indices(items: Sequence[Item]) -> Iterator[list[int]]:
    """Indices of text-only items, then of visual ones, in windows that bound memory."""
    is_visual = [item.image is not None or item.video is not None for item in items]
    for kind, size in ((False, TEXT_WINDOW), (True, VISUAL_WINDOW)):
        chosen = [i for i, visual in enumerate(is_visual) if visual is kind]
        for start in range(0, len(chosen), size):
            yield chosen[start : start + size]
