"""Throughput of embedding and training on a GPU, and the share of its peak FLOP/s that they reach.

    python benchmarks/gpu.py [--shape 3b] [--peak 989] [--videos 512] [--pairs 12] [--profile]

The model is a Qwen2.5-VL of the given shape with random weights in bfloat16. Videos have 8 frames
at the default pixel budget (3,200 patches, 800 tokens) and the tokens of the chat template.
Embedding calls `Embedder.embed` on frames in memory. A training step is that of the package: items
prepared ahead in a thread, LoRA, InfoNCE, AdamW. Prints a JSON object per line: the rate of each
variant, its TFLOP/s by the operations counted below, the share of --peak, and its speed relative to
the named variant. `embed_transformers` uses the vision tower of the library.
"""

import argparse
import dataclasses
import gc
import json
import time
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import torch

import gve_ray
from gve_ray.config import resolve_model
from gve_ray.embedder import Embedder, EmbedderSettings, GveModel, load_processor, merge
from gve_ray.embedder.operations import language_operations, vision_operations
from gve_ray.embedder.torch_engine import TorchEngine
from gve_ray.embedder.vision import PatchSpec
from gve_ray.embedder.vision_attention import use_fast_attention
from gve_ray.schema import Frames, Item
from gve_ray.training.config import LossConfig, OptimiserConfig
from gve_ray.training.encoder import Encoder, GveCollate, with_lora
from gve_ray.training.feed import StepItems, ahead
from gve_ray.training.optimiser import make_optimiser
from gve_ray.training.schedule import Step
from gve_ray.training.step import backward

PROCESSOR = "package://demo/tiny_vl/model"  # provides the tokenizer and processor; the rest is replaced
WORDS = "a red circle moves slowly to the right and then a blue square appears behind it in the picture"
HEIGHT, WIDTH, FRAMES = 280, 560, 8
SHAPES: dict[str, dict[str, dict[str, Any]]] = {
    "3b": {
        "text": {"hidden_size": 2048, "intermediate_size": 11008, "num_hidden_layers": 36, "heads": (16, 2)},
        "vision": {"hidden_size": 1280, "intermediate_size": 3420, "depth": 32, "full": (7, 15, 23, 31)},
    },
    "7b": {
        "text": {"hidden_size": 3584, "intermediate_size": 18944, "num_hidden_layers": 28, "heads": (28, 4)},
        "vision": {"hidden_size": 1280, "intermediate_size": 3420, "depth": 32, "full": (7, 15, 23, 31)},
    },
    "tiny": {
        "text": {"hidden_size": 256, "intermediate_size": 512, "num_hidden_layers": 2, "heads": (2, 1)},
        "vision": {"hidden_size": 320, "intermediate_size": 512, "depth": 2, "full": (1,)},
    },
}


def config_of(shape: str) -> Any:
    """Return the Hugging Face config of a shape, with the demo's token ids."""
    from transformers import AutoConfig

    config = AutoConfig.from_pretrained(resolve_model(PROCESSOR))
    text, vision = SHAPES[shape]["text"], SHAPES[shape]["vision"]
    heads, kv_heads = text["heads"]
    config.text_config.update(
        {
            **{name: text[name] for name in ("hidden_size", "intermediate_size", "num_hidden_layers")},
            "num_attention_heads": heads,
            "num_key_value_heads": kv_heads,
            "layer_types": ["full_attention"] * text["num_hidden_layers"],
            "vocab_size": 151_936,
            "rope_parameters": {"rope_type": "default", "mrope_section": [16, 24, 24], "rope_theta": 1e6},
        }
    )
    config.vision_config.update(
        {
            **{name: vision[name] for name in ("hidden_size", "intermediate_size", "depth")},
            "num_heads": vision["hidden_size"] // 80,
            "fullatt_block_indexes": list(vision["full"]),
            "out_hidden_size": text["hidden_size"],
        }
    )
    return config


def make_model(shape: str, device: str, processor: Any) -> GveModel:
    """Create the model on the device, with random weights in bfloat16."""
    from transformers import AutoModelForImageTextToText

    torch.manual_seed(0)
    with torch.device(device):
        model = AutoModelForImageTextToText.from_config(config_of(shape), dtype=torch.bfloat16)
    return GveModel(model, PatchSpec.from_processor(processor.image_processor)).eval()


@dataclasses.dataclass(frozen=True, kw_only=True)
class Work:
    """Operations in TFLOP: of the vision tower and the language model for a video, and for a text."""

    tower: float
    language: float
    text: float

    @property
    def embed(self) -> float:
        """Operations for embedding a video."""
        return self.tower + self.language

    def pair(self, *, recompute: bool) -> float:
        """Operations for a text-video pair: forward, backward through the language model, optional
        recomputation.
        """
        passes = 3 if recompute else 2
        return self.tower + passes * (self.language + self.text)


def work_of(shape: str, *, tokens: int, text_tokens: int) -> Work:
    """Count the operations of a shape (gve_ray.embedder.operations)."""
    config = config_of(shape).to_dict()
    per_frame = (HEIGHT // 14) * (WIDTH // 14)
    tower = vision_operations(
        config["vision_config"], patches=FRAMES // 2 * per_frame, patches_per_frame=per_frame
    )
    language, text = (
        language_operations(config["text_config"], tokens=length) for length in (tokens, text_tokens)
    )
    return Work(tower=tower / 1e12, language=language / 1e12, text=text / 1e12)


def videos(count: int) -> list[Item]:
    """Return noise frames at the default pixel budget."""
    rng = np.random.default_rng(0)
    return [
        Item(
            video=Frames(
                pixels=rng.integers(0, 256, (FRAMES, HEIGHT, WIDTH, 3), dtype=np.uint8),
                timestamps=np.arange(FRAMES) * 1.0,
                indices=np.arange(FRAMES) * 30,
                fps=30.0,
                duration=8.0,
                total_frames=240,
            )
        )
        for _ in range(count)
    ]


def steps_of(
    pairs: int, pool: list[Item], collate: GveCollate
) -> Callable[[int], tuple[StepItems, list[Any]]]:
    """Return the items and chunks of a step by its number, as the training feed makes them."""

    def make(number: int) -> tuple[StepItems, list[Any]]:
        chosen = [pool[(number * pairs + i) % len(pool)] for i in range(pairs)]
        items = StepItems(
            step=Step(index=number, dataset="T2V", rows=np.arange(pairs), world_size=1),
            items=[Item(text=f"{WORDS} {i}") for i in range(pairs)] + chosen,
            pair_ids=np.arange(pairs),
            sources=np.arange(pairs),
            query_sources=np.arange(pairs),
            negative_sources=np.zeros((pairs, 0), dtype=np.int64),
        )
        return items, collate(items.items)

    return make


class Clock:
    """Measures wall-clock seconds and peak memory of a block, with the device synchronised at both
    ends.
    """

    def __enter__(self) -> "Clock":
        gc.collect()
        if torch.cuda.is_available():
            torch.cuda.reset_peak_memory_stats()
            torch.cuda.synchronize()
        self.begun = time.perf_counter()
        return self

    def __exit__(self, *_: object) -> None:
        if torch.cuda.is_available():
            torch.cuda.synchronize()
        self.seconds = time.perf_counter() - self.begun
        self.bytes = torch.cuda.max_memory_allocated() if torch.cuda.is_available() else 0


def measure_embedding(
    embedder: Embedder, count: int, pool: list[Item], work: Work, repeats: int
) -> dict[str, float]:
    """Measure videos per second from frames in memory to vectors, and of the model alone on a
    prepared batch.
    """
    items = [pool[i % len(pool)] for i in range(count)]
    with Clock() as first:
        embedder.embed(pool)
    with Clock() as whole:
        embedder.embed(items)
    engine = embedder.engine
    assert isinstance(engine, TorchEngine)
    model = engine.model
    batch = embedder.engine.collator(pool).to(model.device)
    with torch.inference_mode(), Clock() as alone:
        for _ in range(repeats):
            model(batch)
    return {
        "first_batch_seconds": first.seconds,
        "videos_per_second": count / whole.seconds,
        "tflops": count * work.embed / whole.seconds,
        "model_alone_videos_per_second": repeats * len(batch) / alone.seconds,
        "model_alone_tflops": repeats * len(batch) * work.embed / alone.seconds,
        "peak_bytes": whole.bytes,
    }


def measure_training(
    encoder: Encoder, collate: GveCollate, pairs: int, steps: int, pool: list[Item], work: float
) -> dict[str, float]:
    """Measure pairs per second of training steps, after two warm-up steps."""
    encoder.train()
    optimiser = make_optimiser(encoder, OptimiserConfig())
    trained = [weight for weight in encoder.parameters() if weight.requires_grad]
    waits: list[float] = []

    def run(numbers: Iterator[int]) -> None:
        for (items, chunks), waited in ahead(steps_of(pairs, pool, collate), numbers):
            optimiser.zero_grad(set_to_none=True)
            loss = backward(encoder, chunks, items, LossConfig(), gradcache=False)
            torch.nn.utils.clip_grad_norm_(trained, 1.0)
            optimiser.step()
            assert bool(torch.isfinite(loss.value))
            waits.append(waited)

    with Clock() as first:
        run(iter(range(2)))
    waits.clear()
    with Clock() as clock:
        run(iter(range(2, steps + 2)))
    return {
        "pairs": pairs,
        "first_two_steps_seconds": first.seconds,
        "pairs_per_second": pairs * steps / clock.seconds,
        "tflops": pairs * steps * work / clock.seconds,
        "data_wait": sum(waits) / clock.seconds,
        "peak_bytes": clock.bytes,
    }


def kernels(run: Callable[[], Any]) -> dict[str, float]:
    """Return the share of device time by kind of kernel."""
    from torch.profiler import ProfilerActivity, profile

    with profile(activities=[ProfilerActivity.CUDA, ProfilerActivity.CPU]) as profiler:
        run()
        torch.cuda.synchronize()
    kinds = {"products": ("gemm", "nvjet", "cutlass", "xmma"), "attention": ("flash", "fmha", "attention")}
    spent: dict[str, float] = {}
    for event in profiler.key_averages():
        if event.device_type != torch.autograd.DeviceType.CUDA:
            continue
        name = event.key.lower()
        kind = next(
            (k for k, words in kinds.items() if any(w in name for w in words)), "other: " + event.key[:60]
        )
        spent[kind] = spent.get(kind, 0.0) + event.self_device_time_total
    total = sum(spent.values()) or 1.0
    return {k: v / total for k, v in sorted(spent.items(), key=lambda item: -item[1])[:14]}


def measure(args: argparse.Namespace) -> Iterator[dict[str, Any]]:
    """Run the variants in order; the changes of each variant stay in effect for the next."""
    device = "cuda" if torch.cuda.is_available() else "cpu"
    processor = load_processor(resolve_model(PROCESSOR))
    settings = EmbedderSettings()
    model = make_model(args.shape, device, processor)
    embedder = Embedder.from_model(model, processor, settings)
    collator = embedder.engine.collator
    pool = videos(args.pool)
    row, text = collator.encode([pool[0], Item(text=f"{WORDS} 0")])
    work = work_of(args.shape, tokens=len(row), text_tokens=len(text))
    yield {
        "device": torch.cuda.get_device_name() if device == "cuda" else "CPU",
        "versions": {"torch": torch.__version__, "gve_ray": gve_ray.__version__},
        "shape": args.shape,
        "tokens": [len(row), len(text)],
        "tflop": {
            "embed": work.embed,
            "pair": work.pair(recompute=False),
            "recomputed": work.pair(recompute=True),
        },
    }
    variants: dict[str, dict[str, float]] = {}

    def report(name: str, figures: dict[str, float], baseline: str) -> dict[str, Any]:
        figures["share_of_peak"] = figures["tflops"] / args.peak
        variants[name] = figures
        rate = "videos_per_second" if "videos_per_second" in figures else "pairs_per_second"
        figures[f"speed_of_{baseline}"] = figures[rate] / variants[baseline][rate]
        return {name: figures}

    before = embedder.embed(pool)
    batch_size = len(pool)
    yield report(
        "embed_transformers", measure_embedding(embedder, batch_size, pool, work, 1), "embed_transformers"
    )
    if device == "cuda":
        use_fast_attention(model.plain.model.visual)
    parity = float((embedder.embed(pool) * before).sum(axis=1).min())
    yield {"least_cosine_to_transformers": parity}
    yield report("embed", measure_embedding(embedder, args.videos, pool, work, 2), "embed_transformers")
    encoder = with_lora(model)
    collate = GveCollate(collator)
    few, many = args.pairs, args.pairs * args.more
    once, twice = (work.pair(recompute=recompute) for recompute in (False, True))
    yield report("train", measure_training(encoder, collate, few, args.steps, pool, once), "train")
    model.compile_layers()
    yield report("train_compiled", measure_training(encoder, collate, few, args.steps, pool, once), "train")
    model.checkpoint_layers()
    yield report(
        "train_compiled_recomputed",
        measure_training(encoder, collate, many, args.steps, pool, twice),
        "train",
    )
    merge(model).eval()
    yield report(
        "embed_compiled", measure_embedding(embedder, args.videos, pool, work, 4), "embed_transformers"
    )
    if args.profile:
        batch = collator(pool).to(model.device)
        with torch.inference_mode():
            yield {"kernels": kernels(lambda: model(batch))}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--shape", choices=sorted(SHAPES), default="3b")
    parser.add_argument(
        "--peak", type=float, default=989.0, help="peak TFLOP/s; the default is dense bfloat16 on an H100"
    )
    parser.add_argument("--videos", type=int, default=512)
    parser.add_argument(
        "--pool", type=int, default=64, help="number of distinct videos, and batch size of embedding"
    )
    parser.add_argument(
        "--pairs", type=int, default=12, help="pairs per step with activations kept (68 GB with 3b)"
    )
    parser.add_argument(
        "--more", type=int, default=4, help="factor by which --pairs grows when activations are recomputed"
    )
    parser.add_argument("--steps", type=int, default=6)
    parser.add_argument("--profile", action="store_true", help="also print device time by kind of kernel")
    args = parser.parse_args()
    for line in measure(args):
        print(json.dumps(line), flush=True)


if __name__ == "__main__":
    main()
