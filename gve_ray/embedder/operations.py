"""Count the floating-point operations of embedding, from the shape of a Qwen2.5-VL.

    embed_operations(config, frames=8, max_pixels=156_800)     # of one video

Two operations are counted for each multiply-add of matrix products and attention; all others are
ignored. A shape has the keys of the model's config.json.
"""

from collections.abc import Mapping
from typing import Any

_PATCH = 14  # pixels of a patch's side; two frames and 2 * 2 patches make one visual token
_WINDOW = 64  # patches that a patch attends to in the layers with window attention
_CHAT_TOKENS = 30  # of the conversation around a video


def vision_operations(vision: Mapping[str, Any], *, patches: int, patches_per_frame: int) -> float:
    """Return the operations of the vision tower and its merger for all patches of a video."""
    d, inner, layers = (vision[name] for name in ("hidden_size", "intermediate_size", "depth"))
    full = len(vision["fullatt_block_indexes"])
    attended = full * patches_per_frame + (layers - full) * _WINDOW  # keys of a patch, over all layers
    tower = 2 * patches * (layers * (4 * d * d + 3 * d * inner) + 3 * 2 * _PATCH * _PATCH * d)
    merger = 2 * patches / 4 * (16 * d * d + 4 * d * vision["out_hidden_size"])
    return float(tower + 4 * patches * d * attended + merger)


def language_operations(text: Mapping[str, Any], *, tokens: int) -> float:
    """Return the operations of the language model for a sequence."""
    width, inner, layers = (text[name] for name in ("hidden_size", "intermediate_size", "num_hidden_layers"))
    heads, kv_heads = text["num_attention_heads"], text["num_key_value_heads"]
    weights = layers * (2 * width * width + 2 * width * width * kv_heads // heads + 3 * width * inner)
    # Attention is causal, so half of the matrix is computed.
    return float(2 * tokens * weights + 2 * tokens * tokens * width * layers)


def embed_operations(config: Mapping[str, Any], *, frames: int, max_pixels: int) -> float:
    """Return the operations of embedding a video whose frames use the whole pixel budget."""
    per_frame = max_pixels // (_PATCH * _PATCH)
    patches = frames // 2 * per_frame
    return vision_operations(
        config["vision_config"], patches=patches, patches_per_frame=per_frame
    ) + language_operations(config["text_config"], tokens=patches // 4 + _CHAT_TOKENS)
