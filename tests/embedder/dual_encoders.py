"""Folders of tiny random dual encoders: CLIP, SigLIP, SigLIP 2 and X-CLIP."""

from pathlib import Path
from typing import Any

import torch

TEXT_LIMIT = 24
SIDE = 32  # pixels of a picture
KINDS = ("clip", "siglip", "siglip2", "xclip")


def make_clip_tokenizer() -> Any:
    """Return a byte tokenizer that adds CLIP's tokens of start and end."""
    from tokenizers import pre_tokenizers
    from transformers import CLIPTokenizer

    letters = sorted(pre_tokenizers.ByteLevel.alphabet())
    symbols = [*letters, *(f"{letter}</w>" for letter in letters), "<|startoftext|>", "<|endoftext|>"]
    return CLIPTokenizer(vocab={symbol: i for i, symbol in enumerate(symbols)}, merges=[])


def save_dual_encoder(folder: Path, kind: str, *, base: bool = False) -> Path:
    """Write the config, random weights and processor of one of `KINDS`.

    base: the shape of a published base model with patches of 32 pixels instead of a tiny one.
    """
    from transformers import (
        AutoConfig,
        AutoModel,
        CLIPImageProcessor,
        CLIPProcessor,
        Siglip2ImageProcessor,
        Siglip2Processor,
        SiglipImageProcessor,
        SiglipProcessor,
        XCLIPProcessor,
    )

    tokenizer = make_clip_tokenizer()
    tokenizer.model_max_length = TEXT_LIMIT
    side = 224 if base else SIDE
    text: dict[str, Any] = {"hidden_size": 64, "intermediate_size": 96, "num_hidden_layers": 2}
    vision: dict[str, Any] = dict(text)
    if base:
        vision = {"hidden_size": 768, "intermediate_size": 3072, "num_hidden_layers": 12}
    text |= {
        "num_attention_heads": 4,
        "vocab_size": len(tokenizer),
        "max_position_embeddings": TEXT_LIMIT,
        "bos_token_id": tokenizer.bos_token_id,
        "eos_token_id": tokenizer.eos_token_id,
        "pad_token_id": tokenizer.pad_token_id,
        "projection_size": vision["hidden_size"],
    }
    vision |= {"num_attention_heads": 12 if base else 4, "image_size": side, "patch_size": 32 if base else 8}
    more: dict[str, Any] = {}
    if kind in ("clip", "xclip"):
        more["projection_dim"] = 64
    if kind == "xclip":
        vision |= {
            "num_frames": 8,
            "mit_hidden_size": 64,
            "mit_intermediate_size": 96,
            "mit_num_hidden_layers": 1,
        }
        more |= {"prompt_layers": 1, "prompt_num_attention_heads": 4}
    if kind == "siglip2":
        vision |= {"num_patches": 256, "patch_size": 16}  # those of Siglip2Processor
    config = AutoConfig.for_model(kind, text_config=text, vision_config=vision, **more)
    torch.manual_seed(0)
    AutoModel.from_config(config).save_pretrained(folder)
    size = {"height": side, "width": side}
    processor = {
        "clip": lambda: CLIPProcessor(
            CLIPImageProcessor(size={"shortest_edge": side}, crop_size=size), tokenizer
        ),
        "xclip": lambda: XCLIPProcessor(
            CLIPImageProcessor(size={"shortest_edge": side}, crop_size=size), tokenizer
        ),
        "siglip": lambda: SiglipProcessor(SiglipImageProcessor(size=size), tokenizer),
        "siglip2": lambda: Siglip2Processor(Siglip2ImageProcessor(), tokenizer),
    }[kind]()
    processor.save_pretrained(folder)
    return folder
