"""Compares the engine frames with the processors and models of transformers, one item at a time."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from transformers import AutoModel, AutoProcessor

from gve_ray.config import ModelConfig
from gve_ray.embedder import EmbedderSettings
from gve_ray.embedder.backends import identify, open_model
from gve_ray.schema import Item
from tests.embedder.conftest import make_frames
from tests.embedder.dual_encoders import KINDS, TEXT_LIMIT, save_dual_encoder

TEXTS = ["a red ball moves left", "a ball", "a text that is longer than the limit of the model"]
VIDEOS = [make_frames(8, 112, 140, seed=1), make_frames(8, 90, 60, seed=2)]


def unit(features: Any) -> np.ndarray:
    """Return unit vectors, [n, d], of the features that a model returns."""
    vectors = getattr(features, "pooler_output", features)
    return torch.nn.functional.normalize(vectors, dim=-1).numpy()


def reference(folder: Path, kind: str) -> np.ndarray:
    """Return the vectors of the texts, then of the videos, by transformers alone."""
    model = AutoModel.from_pretrained(folder, dtype=torch.float32).eval()
    processor = AutoProcessor.from_pretrained(folder)
    padding = "max_length" if kind.startswith("siglip") else True
    vectors = []
    with torch.inference_mode():
        for text in TEXTS:
            inputs = processor(
                text=[text], padding=padding, truncation=True, max_length=TEXT_LIMIT, return_tensors="pt"
            )
            vectors.append(unit(model.get_text_features(**inputs))[0])
        for video in VIDEOS:
            if kind == "xclip":
                pixels = processor.image_processor(list(video.pixels), return_tensors="pt")["pixel_values"]
                pixels = pixels.reshape(1, 8, *pixels.shape[-3:])
                vectors.append(unit(model.get_video_features(pixel_values=pixels))[0])
                continue
            frames = [
                unit(
                    model.get_image_features(**processor(images=Image.fromarray(frame), return_tensors="pt"))
                )
                for frame in video.pixels
            ]
            mean = np.concatenate(frames).mean(axis=0)
            vectors.append(mean / np.linalg.norm(mean))
    return np.stack(vectors)


@pytest.mark.parametrize("kind", KINDS)
def test_vectors_equal_those_of_transformers(
    kind: str, tmp_path: Path, record: Callable[[str, str, float], float]
) -> None:
    folder = save_dual_encoder(tmp_path, kind)
    config = ModelConfig(name="tiny", model=str(folder), engine="frames", dtype="float32")
    settings = EmbedderSettings()
    model = open_model(config, settings, identify(config, settings, on_gpu=False))
    items = [*(Item(text=text) for text in TEXTS), *(Item(video=video) for video in VIDEOS)]
    expected = reference(folder, kind)
    difference = np.abs(model.embed(items).vectors - expected).max(axis=1)
    assert record(kind, "vector of text", float(difference[:3].max())) < 1e-5
    assert record(kind, "vector of video", float(difference[3:].max())) < 1e-5
