"""Tests the count of operations against transformers' own matrix products, counted by torch."""

import json
from pathlib import Path

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from gve_ray.config import resolve_model
from gve_ray.embedder.operations import language_operations, vision_operations


def test_the_language_model_of_the_demo() -> None:
    from transformers import AutoConfig, AutoModel

    folder = resolve_model("package://demo/tiny_vl/model")
    text = json.loads((Path(folder) / "config.json").read_text())["text_config"]
    with torch.device("meta"):
        model = AutoModel.from_config(AutoConfig.from_pretrained(folder).text_config)
    tokens = 64
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        model(inputs_embeds=torch.zeros(1, tokens, text["hidden_size"], device="meta"), use_cache=False)
    attention = 2 * tokens * tokens * text["hidden_size"] * text["num_hidden_layers"]
    # torch counts the whole attention matrix (or, without its kernel, none of it).
    assert counter.get_total_flops() == pytest.approx(
        language_operations(text, tokens=tokens), abs=attention * 1.01
    )


def test_the_published_3b_shape() -> None:
    """8 frames of 800 patches: 8.9 TFLOP in all with 830 tokens, of which the tower takes about half."""
    text = {
        "hidden_size": 2048, "intermediate_size": 11008, "num_hidden_layers": 36,
        "num_attention_heads": 16, "num_key_value_heads": 2,
    }  # fmt: skip
    vision = {
        "hidden_size": 1280, "intermediate_size": 3420, "depth": 32, "out_hidden_size": 2048,
        "fullatt_block_indexes": [7, 15, 23, 31],
    }  # fmt: skip
    total = vision_operations(vision, patches=3200, patches_per_frame=800) + language_operations(
        text, tokens=830
    )
    assert total == pytest.approx(8.9e12, rel=0.05)
