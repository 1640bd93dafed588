"""Fixtures: complete folders of tiny random models of every supported family, and items to embed."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from gve_ray.embedder import EmbedderSettings, add_lora, export_merged, load_torch_model, save_adapter
from gve_ray.schema import Frames, Item

SPECIAL = [
    "<|endoftext|>",
    "<|im_start|>",
    "<|im_end|>",
    "<|vision_start|>",
    "<|vision_end|>",
    "<|image_pad|>",
    "<|video_pad|>",
]
TEMPLATE = """{%- if messages[0].role != 'system' -%}
<|im_start|>system
You are a helpful assistant.<|im_end|>
{% endif -%}
{%- for message in messages -%}
<|im_start|>{{ message.role }}
{% if message.content is string %}{{ message.content }}{% else %}{% for part in message.content -%}
{%- if part.type == 'image' -%}<|vision_start|><|image_pad|><|vision_end|>
{%- elif part.type == 'video' -%}<|vision_start|><|video_pad|><|vision_end|>
{%- elif part.type == 'text' -%}{{ part.text }}{%- endif -%}
{%- endfor -%}{%- endif %}<|im_end|>
{% endfor -%}
{%- if add_generation_prompt -%}<|im_start|>assistant
{% endif -%}"""


def make_tokenizer() -> Any:
    """Return a byte tokenizer with Qwen's pre-tokenizer and special tokens: 256 + 7 ids, no merges."""
    from tokenizers import pre_tokenizers
    from transformers import Qwen2Tokenizer

    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    tokenizer = Qwen2Tokenizer(vocab={char: i for i, char in enumerate(alphabet)}, merges=[])
    tokenizer.add_special_tokens({"additional_special_tokens": SPECIAL[1:]})
    tokenizer.model_max_length = 32768
    return tokenizer


def make_config(model_type: str, tokenizer: Any) -> Any:
    """Return a config for a model that runs in a second on a CPU: 2 layers each, head_dim 32."""
    from transformers import AutoConfig

    ids = {token: tokenizer.convert_tokens_to_ids(token) for token in SPECIAL}
    text = {
        "vocab_size": len(tokenizer),
        "hidden_size": 128,
        "intermediate_size": 192,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "max_position_embeddings": 32768,
        "initializer_range": 0.15,
        "eos_token_id": ids["<|im_end|>"],
        "bos_token_id": ids["<|endoftext|>"],
        "pad_token_id": ids["<|endoftext|>"],
        "rope_parameters": {"rope_type": "default", "mrope_section": [4, 6, 6], "rope_theta": 10000.0},
    }
    vision: dict[str, Any] = {"depth": 2, "num_heads": 4, "initializer_range": 0.15}
    per_type: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {
        "qwen2_5_vl": (
            {
                "hidden_size": 64,
                "intermediate_size": 96,
                "out_hidden_size": 128,
                "patch_size": 14,
                "window_size": 112,
                "fullatt_block_indexes": [1],
                "tokens_per_second": 2,
            },
            {},
        ),
        "qwen2_vl": ({"embed_dim": 64, "hidden_size": 128, "mlp_ratio": 2, "patch_size": 14}, {}),
        "qwen3_vl": (
            {
                "hidden_size": 64,
                "intermediate_size": 96,
                "out_hidden_size": 128,
                "patch_size": 16,
                "num_position_embeddings": 64,
                "deepstack_visual_indexes": [0],
            },
            {"head_dim": 32},
        ),
    }
    per_type["qwen3_5"] = (
        {
            name: value
            for name, value in per_type["qwen3_vl"][0].items()
            if name != "deepstack_visual_indexes"
        },
        {
            "head_dim": 32,
            "layer_types": ["linear_attention", "full_attention"],
            "linear_key_head_dim": 16,
            "linear_value_head_dim": 16,
            "linear_num_key_heads": 2,
            "linear_num_value_heads": 4,
            "rope_parameters": text["rope_parameters"] | {"partial_rotary_factor": 1.0},
        },
    )
    vision_extra, text_extra = per_type[model_type]
    return AutoConfig.for_model(
        model_type,
        text_config=text | text_extra,
        vision_config=vision | vision_extra,
        image_token_id=ids["<|image_pad|>"],
        video_token_id=ids["<|video_pad|>"],
        vision_start_token_id=ids["<|vision_start|>"],
        vision_end_token_id=ids["<|vision_end|>"],
        tie_word_embeddings=True,
    )


def save_tiny(folder: Path, model_type: str, tokenizer: Any = None) -> Path:
    """Write the config, random weights, tokenizer, template and processor of one family.

    tokenizer: None for that of `make_tokenizer`.
    """
    from transformers import (
        AutoModelForImageTextToText,
        Qwen2_5_VLProcessor,
        Qwen2VLImageProcessor,
        Qwen2VLProcessor,
        Qwen2VLVideoProcessor,
        Qwen3VLProcessor,
        Qwen3VLVideoProcessor,
    )

    tokenizer = tokenizer or make_tokenizer()
    torch.manual_seed(0)
    model = AutoModelForImageTextToText.from_config(make_config(model_type, tokenizer))
    model.generation_config.eos_token_id = tokenizer.convert_tokens_to_ids("<|im_end|>")
    model.generation_config.pad_token_id = tokenizer.pad_token_id
    model.generation_config.bos_token_id = None
    model.save_pretrained(folder)
    half = {"image_mean": [0.5] * 3, "image_std": [0.5] * 3, "patch_size": 16}
    image, video, processor = {
        "qwen2_5_vl": (Qwen2VLImageProcessor(), Qwen2VLVideoProcessor(), Qwen2_5_VLProcessor),
        "qwen2_vl": (Qwen2VLImageProcessor(), Qwen2VLVideoProcessor(), Qwen2VLProcessor),
        "qwen3_vl": (Qwen2VLImageProcessor(**half), Qwen3VLVideoProcessor(), Qwen3VLProcessor),
        "qwen3_5": (Qwen2VLImageProcessor(**half), Qwen3VLVideoProcessor(), Qwen3VLProcessor),
    }[model_type]
    processor(
        image_processor=image, tokenizer=tokenizer, video_processor=video, chat_template=TEMPLATE
    ).save_pretrained(folder)
    return folder


def export_published(folder: Path, model_type: str) -> Path:
    """Return an exported folder whose video processor samples frames, as those of published models do."""
    exported = export_merged(save_tiny(folder / "base", model_type), None, folder / "exported")
    (file,) = [
        path for path in exported.glob("*processor_config.json") if "do_sample_frames" in path.read_text()
    ]
    values = json.loads(file.read_text())
    values.get("video_processor", values)["do_sample_frames"] = True
    file.write_text(json.dumps(values))
    return exported


@pytest.fixture(scope="session")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A random Qwen2.5-VL model folder."""
    return save_tiny(tmp_path_factory.mktemp("tiny") / "qwen2_5_vl", "qwen2_5_vl")


@pytest.fixture(scope="session", params=["qwen2_5_vl", "qwen2_vl", "qwen3_vl"])
def tiny_family(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A random model folder of each supported family in turn."""
    return save_tiny(tmp_path_factory.mktemp("family") / request.param, request.param)


def make_frames(
    count: int,
    height: int,
    width: int,
    *,
    fps: float = 8.0,
    seconds: float = 4.0,
    seed: int = 0,
    start: int = 0,
) -> Frames:
    """Return blocks of random colours, sampled uniformly from the first to the last frame."""
    rng = np.random.default_rng(seed)
    coarse = rng.integers(0, 256, (count, height // 14 + 1, width // 14 + 1, 3), dtype=np.uint8)
    pixels = coarse.repeat(14, axis=1).repeat(14, axis=2)[:, :height, :width]
    total = round(seconds * fps) if count > 1 else 1
    indices = np.linspace(0, total - 1, count).round().astype(np.int64) + start
    return Frames(
        pixels=np.ascontiguousarray(pixels),
        timestamps=indices / fps if fps else np.zeros(count),
        indices=indices,
        fps=fps if count > 1 else 0.0,
        duration=seconds if count > 1 else 0.0,
        total_frames=total,
    )


@pytest.fixture(scope="session")
def frames_like() -> Callable[..., Frames]:
    """The function `make_frames`."""
    return make_frames


@pytest.fixture(scope="session")
def items() -> dict[str, Item]:
    """One item of each kind. The video is short, so that transformers computes the same positions."""
    video = make_frames(8, 112, 140, seconds=3)
    image = make_frames(1, 100, 90, seed=3)
    return {
        "text": Item(text="a red ball moves left"),
        "instructed": Item(text="a red ball moves left", instruction="Find the video."),
        "image": Item(image=image),
        "video": Item(video=video),
        "resized video": Item(video=make_frames(8, 300, 250, seconds=3, fps=30)),
        "composed image": Item(image=image, text="and it flies"),
        "composed video": Item(video=video, text="but slower"),
        "all": Item(video=video, image=image, text="both at once", instruction="Find the video."),
    }


@pytest.fixture(scope="session")
def tiny_adapter(tiny: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An adapter folder for `tiny` with its own settings, whose weights change every vector."""
    model = add_lora(load_torch_model(tiny))
    torch.manual_seed(1)
    for name, weight in model.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(weight, std=0.1)
    settings = EmbedderSettings(max_pixels=50 * 28 * 28)
    return save_adapter(model, tmp_path_factory.mktemp("adapter"), settings)
