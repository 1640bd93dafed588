"""Embed items as unit vectors: the one implementation for training, evaluation and serving."""

from gve_ray.embedder.checkpoint import add_lora, load_processor, load_torch_model, save_adapter
from gve_ray.embedder.collate import Batch, Collator
from gve_ray.embedder.embedder import Embedder
from gve_ray.embedder.embeddings import Embeddings
from gve_ray.embedder.export import export, export_merged, merge
from gve_ray.embedder.model import GveModel
from gve_ray.embedder.settings import EmbedderSettings

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
