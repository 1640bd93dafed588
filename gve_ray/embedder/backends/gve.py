"""The engines torch and vllm: GVE, and any other checkpoint of an architecture in `model_families`."""

from collections.abc import Sequence
from dataclasses import asdict

from gve_ray.config import ModelConfig
from gve_ray.embedder.backends.backend import Backend
from gve_ray.embedder.embedder import Embedder
from gve_ray.embedder.embeddings import Embeddings, Finished, ignore
from gve_ray.embedder.settings import EmbedderSettings
from gve_ray.schema import Item


class GveBackend(Backend):
    """Runs a checkpoint that `Embedder` can load. It accepts any mix of video, image and text."""

    def __init__(
        self, config: ModelConfig, settings: EmbedderSettings, *, revision: str | None, dtype: str
    ) -> None:
        assert config.engine in ("torch", "vllm")
        embedder = Embedder.from_pretrained(
            config.model,
            config.adapter or None,
            revision=revision,
            engine=config.engine,
            dtype=dtype,
            settings=None if config.rescale else settings,
            compile=config.compile,
            engine_args=dict(config.engine_args),
        )
        self.is_thread_safe = config.engine == "torch"
        changes = {name: value for name, value in asdict(settings).items() if value is not None}
        self._embedder = embedder.with_settings(**changes) if config.rescale else embedder

    def embed(self, items: Sequence[Item], finished: Finished = ignore) -> Embeddings:
        """See `Backend.embed`."""
        return self._embedder.encode(items, finished=finished)

    def close(self) -> None:
        """Stop vLLM's processes, if there are any."""
        self._embedder.close()
