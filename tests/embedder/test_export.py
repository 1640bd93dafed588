"""Tests that an exported folder gives the same vectors however it is loaded."""

import os

import numpy as np
import pytest
import torch
from PIL import Image
from transformers import AutoModelForImageTextToText, AutoProcessor

from gve_ray.embedder import Embedder, export_merged
from gve_ray.media.video_metadata import video_metadata
from gve_ray.schema import Item


@pytest.fixture(scope="module")
def exported(tiny, tiny_adapter, tmp_path_factory):
    folder = tmp_path_factory.mktemp("exported")
    return export_merged(tiny, tiny_adapter, folder, prompts={"find": "Find the video."})


@pytest.fixture(scope="module")
def expected(tiny, tiny_adapter, items) -> np.ndarray:
    """Vectors of the unmerged adapter by the torch engine."""
    return Embedder.from_pretrained(tiny, tiny_adapter, device="cpu").embed(list(items.values()))


def test_this_package_loads_merged_weights(exported, expected, items) -> None:
    merged = Embedder.from_pretrained(exported, device="cpu")
    assert merged.settings.max_pixels == 50 * 784
    np.testing.assert_allclose(merged.embed(list(items.values())), expected, atol=1e-4)


def test_plain_transformers_loads_the_export(exported, expected, items) -> None:
    """No settings are passed: the template and the processor in the folder are sufficient."""
    processor = AutoProcessor.from_pretrained(exported)
    model = AutoModelForImageTextToText.from_pretrained(exported, dtype=torch.float32).eval()
    for name, vector in zip(items, expected, strict=True):
        item = items[name]
        content = [{"type": "text", "text": item.text}] if item.text else []
        media = {}
        if item.image is not None:
            content.append({"type": "image"})
            media["images"] = [Image.fromarray(item.image.pixels[0])]
        if item.video is not None:
            content.append({"type": "video"})
            media["videos"] = [torch.from_numpy(item.video.pixels).permute(0, 3, 1, 2)]
            metadata = video_metadata(item.video)
            metadata.pop("do_sample_frames")
            media["videos_kwargs"] = {"video_metadata": [metadata]}
        messages = [{"role": "user", "content": content}]
        if item.instruction:
            messages.insert(0, {"role": "system", "content": item.instruction})
        text = processor.apply_chat_template(messages, tokenize=False)
        with torch.inference_mode():
            inputs = processor(text=[text], return_tensors="pt", **media)
            hidden = model.model(**inputs).last_hidden_state[0, -1].numpy()
        assert hidden @ vector / np.linalg.norm(hidden) > 0.9999, name


def as_sentence_input(item: Item):
    parts = {}
    if item.text:
        parts["text"] = item.text
    if item.image is not None:
        parts["image"] = Image.fromarray(item.image.pixels[0])
    if item.video is not None:
        metadata = video_metadata(item.video)
        metadata.pop("do_sample_frames")
        pixels = torch.from_numpy(item.video.pixels).permute(0, 3, 1, 2)
        parts["video"] = {"array": pixels, "video_metadata": metadata}
    return item.text if list(parts) == ["text"] else parts


def test_sentence_transformers_loads_the_export(exported, expected, items) -> None:
    from sentence_transformers import SentenceTransformer

    model = SentenceTransformer(str(exported), device="cpu")
    assert model.prompts["find"] == "Find the video."
    for name, vector in zip(items, expected, strict=True):
        prompt = "find" if items[name].instruction else None
        encoded = model.encode(as_sentence_input(items[name]), prompt_name=prompt)
        assert np.linalg.norm(encoded) == pytest.approx(1, abs=1e-5)
        assert encoded @ vector > 0.9999, name
    texts = [items["text"].text, items["text"].text + " and then some more"]
    # The first text is padded to the length of the second.
    assert model.encode(texts)[0] @ expected[list(items).index("text")] > 0.9999


def test_vllm_reads_pooling_and_template_from_the_folder(exported) -> None:
    from vllm.renderers.hf import _detect_content_format
    from vllm.transformers_utils.config import get_pooling_config

    pooling = get_pooling_config(str(exported), revision=None)
    assert pooling is not None
    assert pooling["use_activation"] is True
    assert pooling.get("seq_pooling_type", pooling.get("pooling_type")) == "LAST"
    template = (exported / "chat_template.jinja").read_text()
    assert _detect_content_format(template, default="string") == "openai"


def test_an_export_can_be_exported_again(exported, expected, items, tmp_path) -> None:
    again = export_merged(exported, None, tmp_path / "again")
    first, second = ((folder / "chat_template.jinja").read_text() for folder in (exported, again))
    assert first == second
    np.testing.assert_allclose(
        Embedder.from_pretrained(again, device="cpu").embed(list(items.values())), expected, atol=1e-4
    )


def test_weights_keep_the_checkpoints_dtype(tiny, tmp_path) -> None:
    model = AutoModelForImageTextToText.from_pretrained(tiny, dtype=torch.bfloat16)
    model.save_pretrained(tmp_path / "half")
    AutoProcessor.from_pretrained(tiny).save_pretrained(tmp_path / "half")
    merged = export_merged(tmp_path / "half", None, tmp_path / "merged")
    assert AutoModelForImageTextToText.from_pretrained(merged, dtype="auto").dtype == torch.bfloat16
    assert os.path.getsize(merged / "model.safetensors") < 1.1 * os.path.getsize(
        tmp_path / "half" / "model.safetensors"
    )
