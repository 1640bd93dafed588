"""What determines the vectors of a model besides the item, and the name of the cache that keeps them."""

from collections.abc import Mapping
from dataclasses import asdict, replace
from typing import Any

from gve_ray.config import ModelConfig, resolve_model
from gve_ray.embedder.checkpoint_files import complete_settings, resolve_settings
from gve_ray.embedder.dtypes import default_dtype
from gve_ray.embedder.settings import EmbedderSettings
from gve_ray.store import fingerprint
from gve_ray.store.weights import weights_identity


def identify(config: ModelConfig, settings: EmbedderSettings, *, on_gpu: bool) -> dict[str, Any]:
    """Return everything besides the item that determines a vector; its fingerprint keys the cache.

    The values are plain JSON values. Local weights are identified by a content hash, hub weights by
    their commit, and a remote endpoint by its name only. Raises OSError if the weights cannot be
    read.
    """
    remote = config.engine == "openai"
    settings = with_own_default(config, settings)
    if config.engine in ("torch", "vllm"):
        adapter = resolve_model(config.adapter) if config.adapter else None
        settings = complete_settings(resolve_model(config.model), adapter, settings, config.revision)
    identity: dict[str, Any] = {
        "engine": config.engine,
        "model": config.model if remote else weights_identity(config.model, config.revision),
        "adapter": weights_identity(config.adapter, None, "adapter_config.json") if config.adapter else None,
        "dtype": None if remote else config.dtype or default_dtype(on_gpu=on_gpu),
        "settings": asdict(settings),
        "engine_args": dict(config.engine_args),
        "url": config.url,
    }
    # Only options that differ from the first versions of this package, so that caches stay valid.
    if remote:
        identity["video_as"] = config.video_as
    if config.end_instructions:
        identity["end_instructions"] = True
    if config.dimension is not None:
        identity["dimension"] = config.dimension
    return identity


def with_own_default(config: ModelConfig, settings: EmbedderSettings) -> EmbedderSettings:
    """Return the settings with the default instruction of the config, if it has one."""
    if config.default_instruction is None:
        return settings
    return replace(settings, default_instruction=config.default_instruction)


def saved_settings(config: ModelConfig) -> EmbedderSettings:
    """Return the settings that are saved with the weights, or the defaults if there are none."""
    if config.engine not in ("torch", "vllm"):
        return EmbedderSettings()
    adapter = resolve_model(config.adapter) if config.adapter else None
    return resolve_settings(resolve_model(config.model), adapter, None, revision=config.revision)


def cache_name(identity: Mapping[str, Any]) -> str:
    """Return the name of the cache folder for embeddings of a model, given its `identify`."""
    return fingerprint(identity)[:32]
