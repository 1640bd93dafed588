"""Any model with the first dimensions of its vectors only (`ModelConfig.dimension`)."""

from collections.abc import Sequence
from dataclasses import replace

from gve_ray.embedder.backends.backend import Backend
from gve_ray.embedder.embeddings import Embeddings, Finished, ignore
from gve_ray.schema import Item, truncated


class TruncatedBackend(Backend):
    """Runs another backend and keeps the first `dimension` dimensions, divided by their norm."""

    def __init__(self, model: Backend, dimension: int) -> None:
        self._model, self._dimension = model, dimension
        self.is_thread_safe = model.is_thread_safe

    def refuses(self, item: Item) -> str:
        """See `Backend.refuses`."""
        return self._model.refuses(item)

    def embed(self, items: Sequence[Item], finished: Finished = ignore) -> Embeddings:
        """See `Backend.embed`. Raises ValueError if the model has fewer dimensions."""
        embeddings = self._model.embed(items, finished)
        return replace(embeddings, vectors=truncated(embeddings.vectors, self._dimension))

    def close(self) -> None:
        """See `Backend.close`."""
        self._model.close()
