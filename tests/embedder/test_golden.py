"""Compare the vectors of `Embedder` with an independent computation that uses only transformers.

By default the checkpoints are random models of every supported family and the model that ships with the package.
GVE_CHECKPOINT adds the folder of a published checkpoint (Alibaba-NLP/GVE-3B or GVE-7B) or of an own one:

    GVE_CHECKPOINT=/models/GVE-3B pytest tests/embedder/test_golden.py

The comparison is in float32, on the GPU if there is one; a model of 7 B parameters needs 30 GB of memory.
"""

import os
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from transformers import AutoModelForImageTextToText, AutoProcessor
from transformers.video_utils import VideoMetadata

from gve_ray.config import resolve_model
from gve_ray.embedder import Embedder
from gve_ray.embedder.model import default_device
from gve_ray.schema import Item
from tests.embedder.conftest import make_frames, save_tiny

FAMILIES = ("qwen2_5_vl", "qwen2_vl", "qwen3_vl")
SHIPPED = "package://demo/tiny_vl/model"
PUBLISHED = os.environ.get("GVE_CHECKPOINT")


@pytest.fixture(scope="module", params=[*FAMILIES, SHIPPED, *([PUBLISHED] if PUBLISHED else [])])
def checkpoint(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of weights."""
    if request.param in FAMILIES:
        return save_tiny(tmp_path_factory.mktemp("family") / request.param, request.param)
    folder = Path(resolve_model(request.param))
    assert folder.is_dir(), f"GVE_CHECKPOINT={folder}: no such folder; download the checkpoint first"
    return folder


def golden_items() -> dict[str, Item]:
    """Return ten items: texts, images, videos and mixtures.

    The videos last one second, because transformers 5 computes other positions for the text after a long video
    (see `gve_ray.embedder.model_families.positions`).
    """
    video, image = make_frames(8, 112, 140, seconds=1), make_frames(1, 100, 90, seed=3)
    return {
        "text": Item(text="a red ball moves left"),
        "long text": Item(text="A red ball rolls along the grass and stops at the wall. " * 8),
        "instructed text": Item(text="a red ball moves left", instruction="Find the video."),
        "image": Item(image=image),
        "video": Item(video=video),
        "resized video": Item(video=make_frames(8, 300, 250, seconds=1, fps=30)),
        "instructed video": Item(video=video, instruction="Find the text."),
        "composed image": Item(image=image, text="and it flies"),
        "composed video": Item(video=video, text="but slower"),
        "all": Item(video=video, image=image, text="both at once", instruction="Find the video."),
    }


def vectors_of_transformers(folder: Path, items: list[Item]) -> np.ndarray:
    """Embed items as the published models require, using only transformers, one by one without padding.

    An embedding is the normalised hidden state of the last token, float32 [n, d].
    """
    processor = AutoProcessor.from_pretrained(folder)
    model = AutoModelForImageTextToText.from_pretrained(folder, dtype=torch.float32)
    model = model.to(default_device()).eval()
    # The budget of Qwen3-VL is for all frames together.
    budget_is_total = model.config.model_type == "qwen3_vl"
    return np.stack([vector_of_transformers(model, processor, item, budget_is_total) for item in items])


def vector_of_transformers(model, processor, item: Item, budget_is_total: bool) -> np.ndarray:
    content: list[dict[str, str]] = []
    media = {}
    if item.video is not None:
        content.append({"type": "video"})
        frames = item.video
        budgets = len(frames.pixels) if budget_is_total else 1
        size = {"shortest_edge": 4 * 784 * budgets, "longest_edge": 200 * 784 * budgets}
        metadata = VideoMetadata(
            total_num_frames=frames.total_frames, fps=frames.fps, frames_indices=frames.indices.tolist()
        )
        media["videos"] = [torch.from_numpy(frames.pixels).permute(0, 3, 1, 2)]
        media["videos_kwargs"] = {"video_metadata": [metadata], "do_sample_frames": False, "size": size}
    if item.image is not None:
        content.append({"type": "image"})
        media["images"] = [Image.fromarray(item.image.pixels[0])]
        media["images_kwargs"] = {"size": {"shortest_edge": 4 * 784, "longest_edge": 200 * 784}}
    if item.text:
        content.append({"type": "text", "text": item.text})
    # budget_is_total: a Qwen3-VL, whose published embedder has a default of its own (arXiv:2601.04720)
    default = "Represent the user's input." if budget_is_total else "You are a helpful assistant."
    system = item.instruction or default
    messages = [
        {"role": "system", "content": [{"type": "text", "text": system}]},
        {"role": "user", "content": content},
    ]
    text = processor.apply_chat_template(messages, tokenize=False, add_generation_prompt=True)
    inputs = processor(text=[text + "<|endoftext|>"], return_tensors="pt", **media).to(model.device)
    with torch.inference_mode():
        hidden = model.model(**inputs).last_hidden_state[0, -1]
    return torch.nn.functional.normalize(hidden, dim=0).cpu().numpy()


def test_vectors_equal_those_of_plain_transformers(checkpoint: Path) -> None:
    items = golden_items()
    rows = list(items.values())
    assert len(rows) == 10
    vectors = Embedder.from_pretrained(checkpoint, dtype="float32").embed(rows)
    expected = vectors_of_transformers(checkpoint, rows)
    assert vectors.dtype == np.float32
    assert vectors.shape == expected.shape
    cosines = (vectors * expected).sum(axis=1)
    assert cosines.min() >= 0.9999, dict(zip(items, cosines, strict=True))
    # If all vectors were nearly equal, the comparison would prove nothing.
    assert (expected @ expected.T - 2 * np.eye(10)).max() < 0.9999
