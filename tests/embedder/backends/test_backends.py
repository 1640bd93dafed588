"""Tests the backends: identities that change whenever vectors would, and vectors that agree."""

from dataclasses import replace

import numpy as np
import pytest

from gve_ray.config import ModelConfig, resolve_model
from gve_ray.embedder import EmbedderSettings
from gve_ray.embedder.backends import cache_name, identify, open_model
from gve_ray.schema import Item

TINY = "package://demo/tiny_vl/model"
ADAPTER = "package://demo/tiny_vl/adapter"
SETTINGS = EmbedderSettings(frames=8, max_pixels=12544, min_pixels=3136)
CONFIG = ModelConfig(name="tiny", model=TINY)


def test_everything_that_changes_a_vector_changes_the_cache_name() -> None:
    identities = [
        identify(replace(CONFIG, dtype="float32"), SETTINGS, on_gpu=False),
        identify(CONFIG, SETTINGS, on_gpu=True),
        identify(replace(CONFIG, adapter=ADAPTER), SETTINGS, on_gpu=True),
        identify(replace(CONFIG, engine="vllm"), SETTINGS, on_gpu=True),
        identify(CONFIG, replace(SETTINGS, frames=6), on_gpu=True),
    ]
    assert [identity["dtype"] for identity in identities[:2]] == ["float32", "bfloat16"]
    assert len({cache_name(identity) for identity in identities}) == len(identities)
    same = identify(replace(CONFIG, name="other", dtype="float32"), SETTINGS, on_gpu=True)
    assert cache_name(same) == cache_name(identities[0])


def test_two_names_of_the_same_folder_have_the_same_identity() -> None:
    by_path = identify(replace(CONFIG, model=resolve_model(TINY)), SETTINGS, on_gpu=False)
    assert by_path == identify(CONFIG, SETTINGS, on_gpu=False)


def test_a_cut_text_is_reported() -> None:
    config, settings = replace(CONFIG, rescale=True), replace(SETTINGS, max_tokens=40)
    model = open_model(config, settings, identify(config, settings, on_gpu=False))
    short, long = Item(text="short"), Item(text="word " * 60)
    embeddings = model.embed([short, long, short])
    assert embeddings.cut.tolist() == [False, True, False]
    assert embeddings.tokens[1] == 40
    assert np.linalg.norm(embeddings.vectors, axis=1) == pytest.approx(1, abs=1e-5)
