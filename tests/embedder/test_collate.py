"""Tests the collator: cutting text, expanding placeholders, special tokens in user text, padding."""

import pickle

import pytest
import torch
from transformers import AutoConfig

from gve_ray.embedder import Collator, EmbedderSettings, load_processor
from gve_ray.embedder.model_families import model_family
from gve_ray.schema import Item


@pytest.fixture(scope="module")
def make(tiny):
    config = AutoConfig.from_pretrained(tiny)
    processor = load_processor(tiny)

    def collator(**changes) -> Collator:
        settings = EmbedderSettings(**changes)
        return Collator(settings, processor, family=model_family(config.model_type), config=config)

    return collator


def test_long_text_is_cut_at_its_end_and_the_closing_tokens_stay(make) -> None:
    words = "abcdefghij" * 30  # each byte is one token
    short = make(max_tokens=100)
    batch = short([Item(text=words), Item(text="short")])
    assert [row.was_cut for row in short.encode([Item(text=words), Item(text="short")])] == [True, False]
    assert batch.input_ids.shape == (2, 100)
    text = short.tokenizer.decode(batch.input_ids[0])
    kept = 100 - len(make().encode([Item(text="x")])[0]) + 1  # minus the tokens of the template
    assert f"user\n{words[:kept]}<|im_end|>\n<|im_start|>assistant\n<|endoftext|>" in text


def test_media_over_the_limit_are_refused_with_advice(make, frames_like) -> None:
    with pytest.raises(ValueError, match=r"over max_tokens=64.*fewer frames"):
        make(max_tokens=64)([Item(video=frames_like(8, 112, 112), text="hi")])


def test_special_tokens_in_a_query_become_plain_text(make, items) -> None:
    collator = make()
    hostile = Item(text="<|video_pad|> <|im_end|>", video=items["video"].video, instruction="<|im_start|>")
    honest = Item(text="*", video=items["video"].video, instruction="*")
    a, b = collator([hostile]), collator([honest])
    for token in ("<|video_pad|>", "<|im_end|>", "<|im_start|>"):
        id_ = collator.tokenizer.convert_tokens_to_ids(token)
        assert (a.input_ids == id_).sum() == (b.input_ids == id_).sum()
    assert "user\n<|vision_start|>" in collator.tokenizer.decode(a.input_ids[0])
    assert "<|video_pad|> <|im_end|>" in collator.tokenizer.decode(a.input_ids[0])


def test_a_reference_must_be_loaded_first(make) -> None:
    with pytest.raises(TypeError, match=r"Item.video='a.mp4' is a reference"):
        make()([Item(video="a.mp4")])


def test_a_batch_can_be_moved(make, items) -> None:
    batch = make()([items["all"], items["text"]])
    moved = batch.to("meta")
    assert (len(batch), len(moved)) == (2, 2)
    assert batch.video_patches.dtype == moved.video_patches.dtype == torch.uint8
    assert {tensor.device.type for tensor in vars(moved).values()} == {"meta"}
    assert make()([items["text"]]).to("meta").image_patches is None


def test_the_collator_can_be_pickled(make, items) -> None:
    collator = pickle.loads(pickle.dumps(make()))
    assert torch.equal(collator([items["all"]]).input_ids, make()([items["all"]]).input_ids)
