"""Embed items as unit vectors: the entry point for training, evaluation and serving.

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

from gve_ray.config import resolve_model
from gve_ray.embedder.checkpoint import load_processor, load_torch_model
from gve_ray.embedder.checkpoint_files import resolve_settings
from gve_ray.embedder.collate import Collator
from gve_ray.embedder.embeddings import Embeddings, Finished, ignore
from gve_ray.embedder.load_media import load_media
from gve_ray.embedder.model import GveModel
from gve_ray.embedder.settings import EmbedderSettings
from gve_ray.embedder.torch_engine import TorchEngine
from gve_ray.progress import Progress
from gve_ray.schema import Item

if TYPE_CHECKING:
    from gve_ray.store import AssetReader

log = logging.getLogger(__name__)

# Items in memory at a time. A visual item takes 3.8 MB at the default budget of 8 frames, twice: as
# frames and as patches.
VISUAL_WINDOW = 64
TEXT_WINDOW = 4096

EngineName = Literal["torch", "vllm"]


class Engine(Protocol):
    """Runs the model. The result of `prepare` is valid for `encode` of the same engine only."""

    collator: Collator
    dimension: int  # length d of an embedding

    def prepare(self, items: Sequence[Item]) -> Any:
        """Do the CPU's part of the work for items whose media are in memory.

        Called in another thread than `encode`.
        """

    def encode(self, prepared: Any, finished: Finished) -> Embeddings:
        """Return the embeddings of the prepared items, in order.

        finished: called with the number of items that each pass of the model has finished.
        """

    def close(self) -> None:
        """Stop processes that the engine has started, if any."""


class Embedder:
    """Embeds any mix of video, image and text as unit vectors. Create one with `from_pretrained`."""

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
        """Load a model from a folder or the hub, with an adapter from a PEFT folder if given.

        path_or_id, adapter: as in a config, so also a URI or `package://` (`config.resolve_model`).
        revision: commit or tag of the model on the hub. device: by default a GPU if there is one.
        dtype: by default bfloat16 on a GPU and on a processor that computes it natively, else
        float32. attention: a transformers attention implementation (torch engine only). settings:
        the settings that the caller expects; if other settings are saved with the weights,
        ValueError is raised. token_budget: padded tokens per batch (torch engine only). compile:
        compile the layers on a GPU, which doubles the speed after a first batch that takes a minute
        (torch engine only). engine_args: extra arguments of vllm.LLM (vllm engine only). Raises
        PermissionError if the hub refuses access to a gated or private repository.
        """
        path_or_id = resolve_model(os.fspath(path_or_id))
        adapter = None if adapter is None else resolve_model(os.fspath(adapter))
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
            if compile and model.device.type != "cpu":  # compiling for a CPU takes minutes and gains little
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
        """Wrap a model that is already in memory, such as one in training, without copying it."""
        collator = Collator(settings, processor, family=model.family, config=model.config)
        return cls(TorchEngine(model, collator, token_budget=token_budget))

    @property
    def settings(self) -> EmbedderSettings:
        """The settings with which items are embedded."""
        return self.engine.collator.settings

    @property
    def dimension(self) -> int:
        """Length d of an embedding."""
        return self.engine.dimension

    def with_settings(self, **changes: Any) -> "Embedder":
        """Return an embedder with other settings than those of the weights (test-time scaling).

        It shares the model with this one. Raises ValueError for the vLLM engine, whose memory plan
        depends on the settings at the start.
        """
        if not isinstance(self.engine, TorchEngine):
            raise ValueError("with_settings: only the torch engine can change settings after loading")
        collator = self.engine.collator
        settings = replace(collator.settings, **changes)
        changed = Collator(
            settings, collator.processor, family=collator.family, config=self.engine.model.config
        )
        return Embedder(TorchEngine(self.engine.model, changed, token_budget=self.engine.token_budget))

    def embed(
        self, items: Sequence[Item], *, assets: "AssetReader | None" = None, progress: bool = False
    ) -> np.ndarray:
        """Return unit vectors, float32 [n, d], in the order of the items. See `encode`."""
        return self.encode(items, assets=assets, progress=progress).vectors

    def encode(
        self,
        items: Sequence[Item],
        *,
        assets: "AssetReader | None" = None,
        progress: bool = False,
        finished: Finished = ignore,
    ) -> Embeddings:
        """Return the vectors, the number of tokens of each item, and whether its text was cut.

        The order is that of the items. assets: the store for `asset://` references. progress: log
        the rate and the time left every few seconds. finished: called with the number of items that
        each pass of the model has finished. While the model processes one window of items,
        the next window is read and prepared.
        """
        out = Embeddings.empty(len(items), self.dimension)
        progress_log, done = Progress("embedded", len(items) if progress else 0, unit="items"), 0

        def finish(items: int) -> None:
            nonlocal done
            done += items
            progress_log.reach(done)
            finished(items)

        for where, prepared in self._windows(items, assets):
            out.put(where, self.engine.encode(prepared, finish))
        if cut := int(out.cut.sum()):
            log.warning("%d of %d texts were cut to %d tokens", cut, len(items), self.settings.max_tokens)
        return out

    def close(self) -> None:
        """Stop the engine's processes (vLLM); the torch engine has none."""
        self.engine.close()

    def _windows(
        self, items: Sequence[Item], assets: "AssetReader | None"
    ) -> Iterator[tuple[list[int], Any]]:
        """Yield windows of (indices, prepared items), preparing the next one in the background."""

        def prepare(where: list[int]) -> Any:
            return self.engine.prepare(load_media([items[i] for i in where], self.settings, assets))

        with ThreadPoolExecutor(max_workers=1, thread_name_prefix="gve-read") as pool:
            waiting: tuple[list[int], Future[Any]] | None = None
            for where in _window_indices(items):
                future = pool.submit(prepare, where)
                if waiting is not None:
                    yield waiting[0], waiting[1].result()
                waiting = where, future
            if waiting is not None:
                yield waiting[0], waiting[1].result()


def _window_indices(items: Sequence[Item]) -> Iterator[list[int]]:
    """Yield the indices of text-only items, then of visual ones, in windows that limit memory."""
    is_visual = [item.image is not None or item.video is not None for item in items]
    for kind, size in ((False, TEXT_WINDOW), (True, VISUAL_WINDOW)):
        chosen = [i for i, visual in enumerate(is_visual) if visual is kind]
        for start in range(0, len(chosen), size):
            yield chosen[start : start + size]
