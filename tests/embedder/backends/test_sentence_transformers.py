"""Tests the engine sentence-transformers: the same vectors as the torch engine, and frames sampled once."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from gve_ray.config import ModelConfig, resolve_model
from gve_ray.embedder import Embedder, EmbedderSettings, export_merged
from gve_ray.embedder.backends import identify, open_model
from gve_ray.embedder.backends.sentence_transformers import sentence_input
from gve_ray.schema import Item
from tests.embedder.conftest import export_published

TINY = "package://demo/tiny_vl/model"
ADAPTER = "package://demo/tiny_vl/adapter"
SETTINGS = EmbedderSettings(frames=8, max_pixels=12544, min_pixels=3136)
CONFIG = ModelConfig(name="tiny", model=TINY)


def test_sentence_transformers_computes_the_same_vectors(tmp_path: Path, frames_like) -> None:
    """Compares an export that sentence-transformers has opened with the torch engine."""
    video, image = frames_like(8, 112, 112, seconds=1), frames_like(1, 112, 112)
    items = [
        Item(text="a red circle moves to the right"),
        Item(text="the same", instruction="Find the video."),
        Item(video=video),
        Item(image=image),
        Item(text="but faster", video=video, instruction="Find the video."),
    ]
    export_merged(resolve_model(TINY), resolve_model(ADAPTER), tmp_path / "merged")
    ours = replace(CONFIG, adapter=ADAPTER)
    theirs = ModelConfig(name="st", model=str(tmp_path / "merged"), engine="sentence-transformers")
    models = [
        open_model(config, SETTINGS, identify(config, SETTINGS, on_gpu=False)) for config in (ours, theirs)
    ]
    assert [models[1].refuses(item) for item in items] == [""] * len(items)
    expected, actual = (model.embed(items) for model in models)
    assert actual.vectors.shape == expected.vectors.shape
    assert (actual.vectors * expected.vectors).sum(axis=1) == pytest.approx(np.ones(len(items)), abs=1e-4)
    assert not actual.cut.any()


@pytest.mark.parametrize("model_type", ["qwen2_vl", "qwen3_vl"])
def test_the_model_sees_the_sampled_frames_once(model_type: str, tmp_path: Path, frames_like) -> None:
    """The 8 frames are from a video of 90; sampled again by number, they would be other frames or an error."""
    folder = export_published(tmp_path, model_type)
    config = ModelConfig(name="st", model=str(folder), engine="sentence-transformers", dtype="float32")
    settings = EmbedderSettings()
    items = [Item(video=frames_like(8, 112, 140, seconds=3, fps=30, seed=seed)) for seed in (1, 2)]
    model = open_model(config, settings, identify(config, settings, on_gpu=False))
    expected = Embedder.from_pretrained(folder, dtype="float32", device="cpu").embed(items)
    vectors = model.embed([*items, Item(text="a text between them")]).vectors[:2]
    assert vectors == pytest.approx(expected, abs=2e-5)
    assert abs(float(vectors[0] @ vectors[1])) < 0.999  # the test would see a wrong frame


def test_a_video_has_its_channels_last(frames_like) -> None:
    """Code that comes with published models takes arrays of other shapes for something else than a video."""
    video = frames_like(8, 112, 140)
    sentence = sentence_input(Item(video=video, text="but slower"))
    assert sentence["video"]["array"].shape == (8, 112, 140, 3)
    assert sentence_input(Item(text="a text")) == "a text"
