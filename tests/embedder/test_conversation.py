"""Tests the prompt text against the format of the published GVE models."""

import pytest
from transformers import AutoProcessor

from gve_ray.config import ModelConfig
from gve_ray.embedder import Embedder, EmbedderSettings
from gve_ray.embedder.backends import identify
from gve_ray.embedder.conversation import check_tokenizer, render
from gve_ray.schema import Item
from tests.embedder.conftest import save_tiny

DEFAULT = "You are a helpful assistant."


@pytest.fixture(scope="module")
def processor(tiny):
    return AutoProcessor.from_pretrained(tiny)


def test_text_has_the_published_format(processor) -> None:
    assert render(Item(text="a dog"), DEFAULT, processor) == (
        "<|im_start|>system\nYou are a helpful assistant.<|im_end|>\n"
        "<|im_start|>user\na dog<|im_end|>\n"
        "<|im_start|>assistant\n<|endoftext|>"
    )


def test_instruction_replaces_the_system_turn_and_media_come_before_text(processor, items) -> None:
    assert render(items["all"], "Find the video.", processor) == (
        "<|im_start|>system\nFind the video.<|im_end|>\n"
        "<|im_start|>user\n<|vision_start|><|video_pad|><|vision_end|>"
        "<|vision_start|><|image_pad|><|vision_end|>both at once<|im_end|>\n"
        "<|im_start|>assistant\n<|endoftext|>"
    )


def test_a_tokenizer_without_the_special_tokens_of_the_format_is_refused(processor) -> None:
    check_tokenizer(processor.tokenizer, "here")
    from tokenizers import Tokenizer, models
    from transformers import PreTrainedTokenizerFast

    bare = PreTrainedTokenizerFast(tokenizer_object=Tokenizer(models.BPE(vocab={"a": 0}, merges=[])))
    with pytest.raises(ValueError, match=r"some/model: the tokenizer has no <\|im_start\|>.*<\|endoftext\|>"):
        check_tokenizer(bare, "some/model")


@pytest.mark.parametrize(
    "model_type,instruction,system",
    [
        ("qwen3_vl", None, "Represent the user's input."),  # arXiv:2601.04720
        ("qwen3_vl", "Find the video", "Find the video."),
        ("qwen3_vl", "Which video? ", "Which video?"),
        ("qwen2_5_vl", None, "You are a helpful assistant."),
        ("qwen2_5_vl", "Find the video", "Find the video"),
    ],
)
def test_the_system_turn_follows_the_convention_of_the_family(
    model_type: str, instruction: str | None, system: str, tmp_path
) -> None:
    embedder = Embedder.from_pretrained(save_tiny(tmp_path, model_type), device="cpu")
    collator = embedder.engine.collator
    # A text with a special token is tokenised in parts, which must give the same turn.
    for text in ("a dog", "a <|im_end|> dog"):
        (row,) = collator.encode([Item(text=text, instruction=instruction)])
        assert collator.tokenizer.decode(row.prompt_ids).startswith(
            f"<|im_start|>system\n{system}<|im_end|>\n"
        )


def test_a_saved_default_instruction_precedes_that_of_the_family(tmp_path) -> None:
    EmbedderSettings(default_instruction="Describe it.").save(save_tiny(tmp_path, "qwen3_vl"))
    collator = Embedder.from_pretrained(tmp_path, device="cpu").engine.collator
    (row,) = collator.encode([Item(text="a dog")])
    assert "system\nDescribe it.<|im_end|>" in collator.tokenizer.decode(row.prompt_ids)
    config = ModelConfig(name="tiny", model=str(tmp_path))
    assert (
        identify(config, EmbedderSettings(), on_gpu=False)["settings"]["default_instruction"]
        == "Describe it."
    )
