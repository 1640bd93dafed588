"""Tests the engine frames on tiny dual encoders; tests/conformance compares vectors with transformers."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from gve_ray.config import ModelConfig
from gve_ray.embedder import EmbedderSettings
from gve_ray.embedder.backends import Backend, identify, open_model
from gve_ray.schema import Item
from tests.embedder.conftest import save_tiny
from tests.embedder.dual_encoders import TEXT_LIMIT, save_dual_encoder

SETTINGS = EmbedderSettings()


def open_frames(folder: Path, settings: EmbedderSettings = SETTINGS) -> Backend:
    """Return a model opened by the engine frames."""
    config = ModelConfig(name="tiny", model=str(folder), engine="frames", dtype="float32")
    return open_model(config, settings, identify(config, settings, on_gpu=False))


@pytest.fixture(scope="module")
def clip(tmp_path_factory: pytest.TempPathFactory) -> Backend:
    return open_frames(save_dual_encoder(tmp_path_factory.mktemp("clip"), "clip"))


@pytest.fixture(scope="module")
def xclip_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_dual_encoder(tmp_path_factory.mktemp("xclip"), "xclip")


def test_a_video_is_the_mean_of_the_unit_vectors_of_its_frames(clip: Backend, frames_like) -> None:
    videos = [frames_like(8, 112, 140, seed=1), frames_like(8, 90, 60, seed=2)]
    frames = [
        Item(
            image=replace(
                video, pixels=video.pixels[i : i + 1], timestamps=np.zeros(1), indices=np.zeros(1, dtype=int)
            )
        )
        for video in videos
        for i in range(8)
    ]
    means = clip.embed(frames).vectors.reshape(2, 8, -1).mean(axis=1)
    expected = means / np.linalg.norm(means, axis=1, keepdims=True)
    assert clip.embed([Item(video=video) for video in videos]).vectors == pytest.approx(expected, abs=1e-6)


def test_a_text_is_cut_at_the_models_limit_and_reported(clip: Backend) -> None:
    room = TEXT_LIMIT - 2  # the tokens of start and end
    embedded = clip.embed([Item(text="x" * (room + 1)), Item(text="x" * room), Item(text="xyz")])
    assert embedded.cut.tolist() == [True, False, False]
    assert embedded.tokens.tolist() == [TEXT_LIMIT, TEXT_LIMIT, 5]


def test_the_order_is_that_of_the_items(clip: Backend, frames_like) -> None:
    items = [Item(text="a longer text"), Item(video=frames_like(8, 64, 64)), Item(text="ab")]
    done: list[int] = []
    together = clip.embed(items, done.append).vectors
    alone = np.concatenate([clip.embed([item]).vectors for item in items])
    assert together == pytest.approx(alone, abs=1e-5)
    assert sum(done) == 3


def test_a_mix_is_refused(clip: Backend, frames_like) -> None:
    video = frames_like(8, 64, 64)
    mix = Item(text="but slower", video=video)
    assert clip.refuses(mix) == "the model takes image or text or video, not text+video"
    with pytest.raises(ValueError, match="not text\\+video"):
        clip.embed([mix])
    assert [clip.refuses(item) for item in (Item(text="a"), Item(video=video))] == ["", ""]


def test_a_video_model_refuses_images_and_another_number_of_frames(xclip_folder: Path, frames_like) -> None:
    model = open_frames(xclip_folder)
    assert model.refuses(Item(image=frames_like(1, 64, 64))) == "the model takes text or video, not image"
    with pytest.raises(ValueError, match=r"frames=4: models.tiny was trained on 8; set frames to 8"):
        open_frames(xclip_folder, EmbedderSettings(frames=4))


def test_another_kind_of_model_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"text and an image or video encoder, .* not the type qwen2_vl"):
        open_frames(save_tiny(tmp_path, "qwen2_vl"))
