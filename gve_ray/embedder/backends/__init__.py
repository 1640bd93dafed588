"""Run any embedding model behind one interface: GVE, sentence-transformers, image-text models, an endpoint.

    identity = identify(config, settings, on_gpu=False)    # in the driver: pins the weights
    model = open_model(config, settings, identity)         # once per actor: loads the weights
    embeddings = model.embed(items)                        # vectors: float32 [n, d], unit length

A backend is the program that runs a model, chosen by `ModelConfig.engine`; the architectures that the
engines torch and vllm support are in `model_families`. gve_ray.media reads and samples the frames for
every backend, so all models get the same frames.
"""

from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager
from typing import Any

import numpy as np

from gve_ray.config import ModelConfig
from gve_ray.embedder.backends.backend import Backend
from gve_ray.embedder.backends.identity import cache_name, identify, saved_settings, with_own_default
from gve_ray.embedder.backends.truncated import TruncatedBackend
from gve_ray.embedder.settings import EmbedderSettings
from gve_ray.schema import Item
from gve_ray.stage import Reject, row_finished

__all__ = [
    "NOT_FINITE",
    "Backend",
    "cache_name",
    "embed_readable",
    "identify",
    "open_as_saved",
    "open_model",
    "saved_settings",
]

NOT_FINITE = ("not_finite", "the model returned a vector with NaN or infinity; try dtype float32")


def open_model(config: ModelConfig, settings: EmbedderSettings, identity: Mapping[str, Any]) -> Backend:
    """Load a model with the weights and dtype that `identify` has pinned.

    Raises what the library that loads it raises, and ValueError if the engine cannot run such a model.
    """
    model = _open(config, with_own_default(config, settings), identity)
    return model if config.dimension is None else TruncatedBackend(model, config.dimension)


def _open(config: ModelConfig, settings: EmbedderSettings, identity: Mapping[str, Any]) -> Backend:
    if config.engine == "openai":
        from gve_ray.embedder.backends.endpoint import EndpointBackend

        return EndpointBackend(config, settings)
    name, _, commit = str(identity["model"]).partition("@")
    revision = commit if name == config.model and commit else None
    dtype = identity["dtype"]
    if config.engine == "sentence-transformers":
        from gve_ray.embedder.backends.sentence_transformers import SentenceTransformersBackend

        return SentenceTransformersBackend(config, settings, revision=revision, dtype=dtype)
    if config.engine == "frames":
        from gve_ray.embedder.backends.frames import FramesBackend

        return FramesBackend(config, settings, revision=revision, dtype=dtype)
    from gve_ray.embedder.backends.gve import GveBackend

    return GveBackend(config, settings, revision=revision, dtype=dtype)


def open_as_saved(config: ModelConfig) -> tuple[Backend, EmbedderSettings]:
    """Load a model for this process alone, with the settings that are saved with its weights.

    Returns the settings too. Raises what `identify` and `open_model` raise.
    """
    from gve_ray.embedder.model import default_device

    settings = saved_settings(config)
    identity = identify(config, settings, on_gpu=default_device().type != "cpu")
    return open_model(config, settings, identity), settings


def embed_readable(
    model: Backend, items: Sequence[Item | Reject], lock: AbstractContextManager[object]
) -> list[tuple[np.ndarray, bool] | Reject]:
    """Return for each item its vector, float32 [d], and whether its text was cut; keep rejects.

    items: items with their media in memory, or the reject of an item whose media could not be read.
    lock: held while the model runs, so that other threads can read media meanwhile. In a worker of a
    stage, items count as finished rows as the model finishes them.
    """
    readable = [i for i, item in enumerate(items) if isinstance(item, Item)]
    results: dict[int, tuple[np.ndarray, bool] | Reject] = {}
    if readable:
        with lock:
            embedded = model.embed([item for item in items if isinstance(item, Item)], row_finished)
        for i, vector, cut in zip(readable, embedded.vectors, embedded.cut, strict=True):
            results[i] = (vector, bool(cut)) if np.isfinite(vector).all() else Reject(*NOT_FINITE)
    return [item if isinstance(item, Reject) else results[i] for i, item in enumerate(items)]
