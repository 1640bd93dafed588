"""Embed items as unit vectors: the one implementation for training, evaluation and serving.

What runs a model is imported when it is first used, since importing torch takes seconds: drivers and workers
that run none use the rest of this package without it.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

from gve_ray.embedder.embeddings import Embeddings
from gve_ray.embedder.settings import EmbedderSettings

if TYPE_CHECKING:
    from gve_ray.embedder.checkpoint import add_lora, load_processor, load_torch_model, save_adapter
    from gve_ray.embedder.collate import Batch, Collator
    from gve_ray.embedder.embedder import Embedder
    from gve_ray.embedder.export_folder import export, export_merged, merge
    from gve_ray.embedder.model import GveModel

__all__ = [
    "Batch",
    "Collator",
    "Embedder",
    "EmbedderSettings",
    "Embeddings",
    "GveModel",
    "add_lora",
    "export",
    "export_merged",
    "load_processor",
    "load_torch_model",
    "merge",
    "save_adapter",
]

_WITH_TORCH = {
    "checkpoint": ("add_lora", "load_processor", "load_torch_model", "save_adapter"),
    "collate": ("Batch", "Collator"),
    "embedder": ("Embedder",),
    "export_folder": ("export", "export_merged", "merge"),
    "model": ("GveModel",),
}


def __getattr__(name: str) -> Any:
    for module, names in _WITH_TORCH.items():
        if name in names:
            return getattr(import_module(f"{__name__}.{module}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
