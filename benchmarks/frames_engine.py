"""Speed of the engine frames compared with sentence-transformers' own loop on the same frames.

    python benchmarks/frames_engine.py [--videos 8] [--repeats 5] [--threads 2]

Prints JSON. The model has the shape of openai/clip-vit-base-patch32 with random weights and a small text
tower: the weights do not change the time. The baseline is what a user of sentence-transformers
writes: all frames as Pillow images in one call of `encode`, then the mean of each video's unit vectors.
`ratio` is the engine's videos a second divided by the baseline's: above 1 is faster. Rounds are
interleaved in one run. `difference` is the largest difference of the vectors of the two.
"""

import argparse
import json
import statistics
import tempfile
import time
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from gve_ray.config import ModelConfig
from gve_ray.embedder import EmbedderSettings
from gve_ray.embedder.backends import identify, open_model
from gve_ray.schema import Frames, Item

HEIGHT, WIDTH, COUNT = 288, 512, 8  # a 16:9 frame within the default pixel budget


def save_model(folder: Path) -> None:
    """Write a CLIP with the vision tower of ViT-B/32 and random weights."""
    from tokenizers import pre_tokenizers
    from transformers import CLIPConfig, CLIPImageProcessor, CLIPModel, CLIPProcessor, CLIPTokenizer

    letters = sorted(pre_tokenizers.ByteLevel.alphabet())
    symbols = [*letters, *(f"{letter}</w>" for letter in letters), "<|startoftext|>", "<|endoftext|>"]
    tokenizer = CLIPTokenizer(vocab={symbol: i for i, symbol in enumerate(symbols)}, merges=[])
    tokenizer.model_max_length = 77
    text = {"vocab_size": len(tokenizer), "num_hidden_layers": 2}
    text |= {f"{name}_token_id": getattr(tokenizer, f"{name}_token_id") for name in ("bos", "eos", "pad")}
    torch.manual_seed(0)
    CLIPModel(CLIPConfig(text_config=text)).save_pretrained(folder)
    CLIPProcessor(CLIPImageProcessor(), tokenizer).save_pretrained(folder)


def make_video(seed: int) -> Frames:
    """Return a video of blocks of random colours."""
    coarse = np.random.default_rng(seed).integers(
        0, 256, (COUNT, HEIGHT // 16, WIDTH // 16, 3), dtype=np.uint8
    )
    numbers = np.arange(COUNT)
    return Frames(
        pixels=coarse.repeat(16, axis=1).repeat(16, axis=2),
        timestamps=numbers / 1.0,
        indices=numbers,
        fps=1.0,
        duration=float(COUNT),
        total_frames=COUNT,
    )


def main() -> None:
    """Measure both and print the result."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--videos", type=int, default=8)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--threads", type=int, default=2)
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    from sentence_transformers import SentenceTransformer
    from sentence_transformers.base.modules import Transformer

    clips = [make_video(seed) for seed in range(args.videos)]
    videos = [Item(video=frames) for frames in clips]
    with tempfile.TemporaryDirectory() as folder:
        save_model(Path(folder))
        config = ModelConfig(name="clip", model=folder, engine="frames", dtype="float32")
        settings = EmbedderSettings(frames=COUNT)
        ours = open_model(config, settings, identify(config, settings, on_gpu=False))
        theirs = SentenceTransformer(modules=[Transformer(folder)], device="cpu")

    def run_ours() -> np.ndarray:
        return ours.embed(videos).vectors

    def run_theirs() -> np.ndarray:
        pictures = [Image.fromarray(frame) for frames in clips for frame in frames.pixels]
        vectors = theirs.encode(pictures, normalize_embeddings=True, batch_size=32, show_progress_bar=False)
        means = vectors.reshape(len(videos), COUNT, -1).mean(axis=1)
        return means / np.linalg.norm(means, axis=1, keepdims=True)

    difference = float(np.abs(run_ours() - run_theirs()).max())  # also warms up
    seconds: dict[str, list[float]] = {"frames": [], "sentence-transformers": []}
    for _ in range(args.repeats):
        for name, work in (("frames", run_ours), ("sentence-transformers", run_theirs)):
            started = time.perf_counter()
            work()
            seconds[name].append(time.perf_counter() - started)
    speed = {name: round(len(videos) / statistics.median(times), 2) for name, times in seconds.items()}
    ratios = [b / a for a, b in zip(seconds["frames"], seconds["sentence-transformers"], strict=True)]
    result = {
        "weights": "random, vision tower of ViT-B/32",
        "videos": args.videos,
        "frames": COUNT,
        "threads": args.threads,
        "videos_per_second": speed,
        "ratio": round(statistics.median(ratios), 2),
        "ratios": [round(ratio, 2) for ratio in ratios],
        "difference": difference,
    }
    print(json.dumps(result, indent=2))


if __name__ == "__main__":
    main()
