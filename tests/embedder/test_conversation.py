"""Tests the prompt text against the format of the published GVE models."""

import pytest
from transformers import AutoProcessor

from gve_ray.embedder.conversation import check_tokenizer, render
from gve_ray.schema import Item

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
    assert render(items["all"], DEFAULT, processor) == (
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
