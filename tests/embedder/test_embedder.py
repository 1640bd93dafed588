"""Tests `Embedder` on the torch engine. test_golden.py compares its vectors with plain transformers."""

import logging
import shutil
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from gve_ray import progress
from gve_ray.embedder import Embedder, EmbedderSettings, add_lora, export, load_torch_model, save_adapter
from gve_ray.embedder import embedder as embedder_module
from gve_ray.schema import Frames, Item

SETTINGS = EmbedderSettings()


@pytest.fixture(scope="module")
def embedder(tiny) -> Embedder:
    return Embedder.from_pretrained(tiny, device="cpu")


def test_order_is_kept_across_windows_and_batches(embedder, items, monkeypatch, caplog) -> None:
    rows = [Item(text="word " * n) for n in (3, 30, 1, 12)] + list(items.values()) * 2
    alone = np.concatenate([embedder.embed([item]) for item in rows])
    monkeypatch.setattr(embedder_module, "VISUAL_WINDOW", 3)
    monkeypatch.setattr(embedder_module, "TEXT_WINDOW", 2)
    monkeypatch.setattr(progress, "WORTH_A_LINE_SECONDS", 0.0)
    with caplog.at_level(logging.INFO, logger="gve_ray"):
        together = embedder.embed(rows, progress=True)
    np.testing.assert_allclose(together, alone, atol=1e-5)
    assert f"embedded: {len(rows)}/{len(rows)} items" in caplog.text


def test_two_threads_get_the_vectors_of_one(embedder, items) -> None:
    """`Backend.is_thread_safe` of the torch engine depends on this."""
    large = [Item(text="word " * 400), *items.values()] * 4
    short = [Item(text="a red ball"), items["image"]]
    alone = embedder.embed(large), embedder.embed(short)
    with ThreadPoolExecutor(1) as pool:
        future = pool.submit(embedder.embed, large)
        meanwhile = [embedder.embed(short) for _ in range(25)]
        np.testing.assert_array_equal(future.result(), alone[0])
    for vectors in meanwhile:
        np.testing.assert_array_equal(vectors, alone[1])


def test_no_items_give_an_empty_matrix(embedder) -> None:
    assert embedder.embed([]).shape == (0, 128)


def test_cut_texts_are_counted(tiny, caplog) -> None:
    short = Embedder.from_pretrained(tiny, device="cpu", settings=EmbedderSettings(max_tokens=100))
    with caplog.at_level(logging.WARNING, logger="gve_ray.embedder"):
        embeddings = short.encode([Item(text="a" * 300), Item(text="c"), Item(text="b" * 300)])
    assert embeddings.cut.tolist() == [True, False, True]
    assert embeddings.tokens[[0, 2]].tolist() == [100, 100]
    assert 0 < embeddings.tokens[1] < 100
    assert "2 of 3 texts were cut to 100 tokens" in caplog.text


def test_running_out_of_memory_halves_the_batch(tiny, caplog) -> None:
    embedder = Embedder.from_pretrained(tiny, device="cpu")
    rows = [Item(text="x" * n) for n in range(1, 9)]
    expected = embedder.embed(rows)
    forward, sizes = embedder.engine.model.forward, []

    def forward_of_at_most_two(batch):
        sizes.append(len(batch))
        if len(batch) > 2:
            raise torch.OutOfMemoryError("no memory")
        return forward(batch)

    embedder.engine.model.forward = forward_of_at_most_two
    np.testing.assert_allclose(embedder.embed(rows), expected, atol=1e-5)
    assert sizes == [8, 4, 2, 2, 4, 2, 2]
    embedder.embed(rows)
    assert max(sizes[7:]) <= 2  # later batches keep the lower limit
    assert "out of memory with 8 rows" in caplog.text


def test_the_error_for_one_item_that_does_not_fit_is_clear(tiny) -> None:
    embedder = Embedder.from_pretrained(tiny, device="cpu")

    def forward(batch):
        raise torch.OutOfMemoryError("no memory")

    embedder.engine.model.forward = forward
    with pytest.raises(torch.OutOfMemoryError, match=r"one item of \d+ tokens does not fit"):
        embedder.embed([Item(text="x"), Item(text="y")])


class _Assets:
    """Returns frames by reference like an AssetReader, and counts its calls."""

    def __init__(self, frames: dict[str, Frames]) -> None:
        self.frames = frames
        self.calls = 0

    def frames_many(self, refs):
        self.calls += 1
        return [self.frames[ref] for ref in refs]


def test_asset_references_are_read_in_one_call_and_give_the_same_vectors(embedder, items) -> None:
    video, image = items["all"].video, items["all"].image
    assets = _Assets({"asset://a/video": video, "asset://a/frame/1": image})
    refs = [
        Item(video="asset://a/video"),
        Item(image="asset://a/frame/1"),
        Item(video="asset://a/video", text="but slower"),
    ]
    in_memory = [Item(video=video), Item(image=image), Item(video=video, text="but slower")]
    np.testing.assert_array_equal(embedder.embed(refs, assets=assets), embedder.embed(in_memory))
    assert assets.calls == 1
    with pytest.raises(ValueError, match="'asset://a/video' is an asset reference; pass assets="):
        embedder.embed(refs)


def test_files_are_read_with_the_frame_count_and_budget_of_the_settings(embedder, items, monkeypatch) -> None:
    from gve_ray.embedder import load_media as load_media_module

    calls = {}

    def read_frames(source, **options):
        calls[source] = options
        return items["video"].video

    def read_image(source, **options):
        calls[source] = options
        return items["image"].image

    monkeypatch.setattr(load_media_module, "read_frames", read_frames)
    monkeypatch.setattr(load_media_module, "read_image", read_image)
    scaled = embedder.with_settings(frames=16, max_pixels=400 * 784)
    scaled.embed([Item(video="a.mp4"), Item(image="b.png")])
    assert calls == {
        "a.mp4": {"k": 16, "max_pixels": 400 * 784, "min_pixels": 4 * 784},
        "b.png": {"max_pixels": 400 * 784, "min_pixels": 4 * 784},
    }


def test_settings_are_saved_with_the_adapter_and_conflicting_ones_are_refused(
    tiny, tiny_adapter, items
) -> None:
    loaded = Embedder.from_pretrained(tiny, tiny_adapter, device="cpu")
    assert loaded.settings.max_pixels == 50 * 784
    with pytest.raises(ValueError, match="max_pixels: 39200 saved, 156800 asked for"):
        Embedder.from_pretrained(tiny, tiny_adapter, device="cpu", settings=SETTINGS)
    plain = Embedder.from_pretrained(tiny, device="cpu", settings=loaded.settings)
    cosines = (loaded.embed(list(items.values())) * plain.embed(list(items.values()))).sum(axis=1)
    assert cosines.max() < 0.99  # the adapter is in use


def test_with_settings_overrides_the_saved_settings_and_shares_the_model(embedder, items) -> None:
    scaled = embedder.with_settings(max_pixels=8 * 784)
    assert scaled.engine.model is embedder.engine.model
    assert scaled.settings.max_pixels == 8 * 784
    assert embedder.settings == replace(SETTINGS, default_instruction="You are a helpful assistant.")
    item = items["resized video"]
    assert float((scaled.embed([item]) * embedder.embed([item])).sum()) < 0.999


def test_a_saved_and_loaded_adapter_gives_the_same_vectors(tiny, tiny_adapter, items, tmp_path) -> None:
    model = load_torch_model(tiny, tiny_adapter, device="cpu")
    again = save_adapter(model, tmp_path / "again", EmbedderSettings(max_pixels=50 * 784))
    first = Embedder.from_pretrained(tiny, tiny_adapter, device="cpu").embed([items["all"]])
    second = Embedder.from_pretrained(tiny, again, device="cpu").embed([items["all"]])
    np.testing.assert_array_equal(first, second)
    assert {path.name for path in again.iterdir()} >= {
        "adapter_config.json",
        "adapter_model.safetensors",
        "embedder.json",
    }


def renamed_adapter(adapter: Path, folder: Path, old: str, new: str) -> Path:
    """Copy an adapter folder, and replace a part of the names of its weights."""
    shutil.copytree(adapter, folder)
    file = folder / "adapter_model.safetensors"
    weights = {name.replace(old, new): weight for name, weight in load_file(file).items()}
    save_file(weights, file, metadata={"format": "pt"})
    return folder


def test_an_adapter_with_the_names_of_older_libraries_gives_the_same_vectors(
    tiny, tiny_adapter, items, tmp_path
) -> None:
    older = renamed_adapter(tiny_adapter, tmp_path / "older", "model.language_model.layers", "model.layers")
    expected = Embedder.from_pretrained(tiny, tiny_adapter, device="cpu").embed([items["text"]])
    actual = Embedder.from_pretrained(tiny, older, device="cpu").embed([items["text"]])
    np.testing.assert_array_equal(actual, expected)


def test_an_adapter_whose_weights_would_be_left_out_is_refused(tiny, tiny_adapter, tmp_path) -> None:
    other = renamed_adapter(tiny_adapter, tmp_path / "other", "language_model.layers", "decoder.layers")
    with pytest.raises(ValueError, match=r"other: its weights do not have the names of the model's layers"):
        Embedder.from_pretrained(tiny, other, device="cpu")


def test_invalid_calls_are_refused(tiny, tmp_path) -> None:
    with pytest.raises(ValueError, match="engine='onnx': use 'torch' or 'vllm'"):
        Embedder.from_pretrained(tiny, engine="onnx")
    with pytest.raises(ValueError, match="has no adapter"):
        save_adapter(load_torch_model(tiny, device="cpu"), tmp_path, SETTINGS)
    adapted = add_lora(load_torch_model(tiny, device="cpu"))
    with pytest.raises(ValueError, match="still has an adapter; call merge first"):
        export(adapted, tmp_path, SETTINGS, None)
