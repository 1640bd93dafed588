"""Whether the model that a job names can be loaded as the config says, without loading it."""

from gve_ray.config import ModelConfig, resolve_model
from gve_ray.doctor import Weights, weights_of
from gve_ray.embedder import EmbedderSettings
from gve_ray.embedder.checkpoint import resolve_settings


def loads_of(where: str, model: ModelConfig) -> list[Weights]:
    """What workers load of it; nothing of an endpoint. where: the config's name for it."""
    if model.engine == "openai":
        return []
    file = "modules.json" if model.engine == "sentence-transformers" else "config.json"
    return weights_of(where, model.model, model.adapter, revision=model.revision, file=file)


def check_embedder(where: str, model: ModelConfig, settings: EmbedderSettings) -> None:
    """Its files are there, and were made with these settings. where: the config's name for the model.

    Raises PreflightError where a file is not there, ValueError where settings disagree.
    """
    for one in loads_of(where, model):
        one.check()
    if model.engine in ("openai", "sentence-transformers") or model.rescale:
        return
    adapter = resolve_model(model.adapter) if model.adapter else None
    try:
        resolve_settings(resolve_model(model.model), adapter, settings, revision=model.revision)
    except ValueError as error:
        raise ValueError(
            f"{where}: {error}. In this config: set frames, max_pixels, min_pixels and max_tokens to the saved "
            "ones, or rescale: true on the model to depart from them on purpose"
        ) from error
