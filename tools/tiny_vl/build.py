"""Write the folder of an untrained tiny Qwen2.5-VL: config, tokenizer, processors, weights.

python -m tools.tiny_vl.build FOLDER
"""

import json
import random
import sys
from collections.abc import Iterator
from pathlib import Path

import torch
from tokenizers import Regex, Tokenizer, models, pre_tokenizers, trainers
from transformers import (
    GenerationConfig,
    Qwen2_5_VLConfig,
    Qwen2_5_VLForConditionalGeneration,
    Qwen2_5_VLProcessor,
    Qwen2Tokenizer,
    Qwen2VLImageProcessor,
    Qwen2VLVideoProcessor,
)
from transformers.models.qwen2.tokenization_qwen2 import PRETOKENIZE_REGEX

from gve_ray.demo.language import Writer, terse_caption, to_json
from gve_ray.demo.scenes import draw_scene
from gve_ray.demo.tiny_vl import MAX_PIXELS, MIN_PIXELS
from gve_ray.synthesis import prompts

# The special tokens of Qwen2.5-VL, in the order of its tokenizer.
SPECIAL = (
    "<|endoftext|>", "<|im_start|>", "<|im_end|>", "<|object_ref_start|>", "<|object_ref_end|>",
    "<|box_start|>", "<|box_end|>", "<|quad_start|>", "<|quad_end|>", "<|vision_start|>", "<|vision_end|>",
    "<|vision_pad|>", "<|image_pad|>", "<|video_pad|>",
)  # fmt: skip
VOCABULARY = 1536
TEMPLATE = (
    "{%- if messages[0].role != 'system' -%}<|im_start|>system\nYou are a helpful assistant.<|im_end|>\n"
    "{%- endif -%}"
    "{%- for message in messages -%}{{ '<|im_start|>' + message.role + '\n' }}"
    "{%- if message.content is string -%}{{ message.content }}{%- else -%}"
    "{%- for part in message.content -%}"
    "{%- if part.type in ('image', 'image_url') -%}<|vision_start|><|image_pad|><|vision_end|>"
    "{%- elif part.type in ('video', 'video_url') -%}<|vision_start|><|video_pad|><|vision_end|>"
    "{%- else -%}{{ part.text }}{%- endif -%}"
    "{%- endfor -%}{%- endif -%}{{ '<|im_end|>\n' }}{%- endfor -%}"
    "{%- if add_generation_prompt -%}{{ '<|im_start|>assistant\n' }}{%- endif -%}"
)


def _sentences(count: int = 4000) -> Iterator[str]:
    """Yield captions, queries and prompts of the miniature world, from which the tokenizer learns
    its merges.
    """
    rng = random.Random(0)
    for seed in range(count):
        scene = draw_scene(seed, "tiny")
        writer = Writer(
            rng.choice(prompts.READABILITY), rng.choice(prompts.EDUCATION), rng.choice(list(prompts.PROFILES))
        )
        yield to_json(writer.captions(scene))
        yield to_json(writer.frame_captions(scene, rng.random()))
        yield to_json({"query": writer.image_query(scene, rng.random(), rng.choice(prompts.STRATEGIES))})
        yield to_json({"query": writer.clip_query(scene, rng.random(), rng.choice(prompts.RELATIONS))})
        yield terse_caption(scene, rng)
    for name in ("video_captions", "frame_captions", "composed_image", "composed_clip"):
        prompt = prompts.load_prompt(name)
        for seed in range(20):
            if name.endswith("captions"):
                slots = prompts.draw_caption_slots(seed, "v", name, None)
            else:
                slots = prompts.draw_query_slots(seed, "v", name)
            yield from (prompt.system, prompt.fill(**slots), "Target video: Reference: system user assistant")


def build_tokenizer() -> Qwen2Tokenizer:
    """Train a byte-level BPE tokenizer of about 1,100 tokens, Qwen2.5-VL's special tokens included."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(pattern=Regex(PRETOKENIZE_REGEX), behavior="isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    trainer = trainers.BpeTrainer(
        vocab_size=VOCABULARY - len(SPECIAL),
        min_frequency=8,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(_sentences(), trainer)
    bpe = json.loads(tokenizer.to_str())["model"]
    vocab = dict(bpe["vocab"])
    vocab |= {token: len(bpe["vocab"]) + i for i, token in enumerate(SPECIAL)}
    fast = Qwen2Tokenizer(
        vocab=vocab,
        merges=[tuple(m) for m in bpe["merges"]],
        extra_special_tokens=list(SPECIAL[1:]),
        model_max_length=8192,
        eos_token="<|im_end|>",
        pad_token="<|endoftext|>",
    )
    fast.chat_template = TEMPLATE
    return fast


def build_config(tokenizer: Qwen2Tokenizer) -> Qwen2_5_VLConfig:
    """Return a Qwen2.5-VL configuration with 4 layers of width 256 (language) and 4 of width 192
    (vision).
    """
    ids = {token: tokenizer.convert_tokens_to_ids(token) for token in SPECIAL}
    vocab_size = -(-len(tokenizer) // 64) * 64
    ends = {
        "bos_token_id": ids["<|endoftext|>"],
        "eos_token_id": ids["<|im_end|>"],
        "pad_token_id": ids["<|endoftext|>"],
    }
    return Qwen2_5_VLConfig(
        text_config={
            "vocab_size": vocab_size,
            "hidden_size": 256,
            "intermediate_size": 768,
            "num_hidden_layers": 4,
            "num_attention_heads": 4,
            "num_key_value_heads": 2,
            "max_position_embeddings": 8192,
            "rms_norm_eps": 1e-6,
            "tie_word_embeddings": True,
            "rope_parameters": {"rope_type": "default", "mrope_section": [8, 12, 12], "rope_theta": 100.0},
            **ends,
        },
        vision_config={
            "depth": 4,
            "hidden_size": 192,
            "intermediate_size": 512,
            "num_heads": 3,
            "out_hidden_size": 256,
            "patch_size": 14,
            "spatial_merge_size": 2,
            "temporal_patch_size": 2,
            "tokens_per_second": 4,  # keeps the temporal patches of a one-second video at distinct positions
            "window_size": 112,
            "fullatt_block_indexes": [0, 1, 2, 3],
        },
        image_token_id=ids["<|image_pad|>"],
        video_token_id=ids["<|video_pad|>"],
        vision_start_token_id=ids["<|vision_start|>"],
        vision_end_token_id=ids["<|vision_end|>"],
        tie_word_embeddings=True,
    )


def build(folder: Path, seed: int = 0) -> None:
    """Write a model folder that transformers and vLLM can load, with random weights drawn from
    `seed`.
    """
    torch.manual_seed(seed)
    tokenizer = build_tokenizer()
    config = build_config(tokenizer)
    model = Qwen2_5_VLForConditionalGeneration(config)
    text = config.text_config
    model.generation_config = GenerationConfig(
        do_sample=False,
        bos_token_id=text.bos_token_id,
        eos_token_id=text.eos_token_id,
        pad_token_id=text.pad_token_id,
    )
    size = {"shortest_edge": MIN_PIXELS, "longest_edge": MAX_PIXELS}
    processor = Qwen2_5_VLProcessor(
        image_processor=Qwen2VLImageProcessor(size=size),
        video_processor=Qwen2VLVideoProcessor(size=size, do_sample_frames=False),
        tokenizer=tokenizer,
        chat_template=TEMPLATE,
    )
    processor.save_pretrained(folder)
    model.save_pretrained(folder)


if __name__ == "__main__":
    build(Path(sys.argv[1]))
