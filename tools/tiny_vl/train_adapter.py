"""Train the LoRA adapter that turns the tiny captioner into an embedder.

    python -m tools.tiny_vl.train_adapter --work FOLDER [--steps 100] [--batch 48]

Reads the pool and the model that `train.py` wrote to the work folder. The conversation and the
last-token pooling are those of `gve_ray.embedder`; the loss is symmetric InfoNCE
(arXiv:2510.27571). The demo uses the adapter to check captions against their videos and to mine the
first hard negatives.
"""

import argparse
import json
import random
import time
from collections.abc import Sequence
from pathlib import Path

import torch
import torch.nn.functional as F

from gve_ray.demo.language import Writer, terse_caption
from gve_ray.demo.noise import untidy
from gve_ray.demo.tiny_vl import ADAPTER
from gve_ray.embedder import Collator, Embedder, add_lora, load_processor, load_torch_model, save_adapter
from gve_ray.schema import Item
from gve_ray.synthesis import prompts
from tools.tiny_vl.data import BUDGET, Example, description, frames_of, keep_memory, load_pool

# The paper uses 0.03. In a run of a few hundred steps from scratch, a lower temperature does not
# learn faster.
TEMPERATURE = 0.05
WEB_CAPTION_SHARE = 0.4  # of text queries: short, untidy captions, as the web has them


def draw_pair(example: Example, rng: random.Random, kind: str) -> tuple[Item, Item]:
    """Return a query of the given kind (text, image, clip or composed) and the video it belongs to."""
    scene = example.scene
    video = Item(video=frames_of(example.frames, scene.duration))
    start, end = example.clip_span
    match kind:
        case "text":
            # The adapter is first used to check raw captions, so it has to see their style in
            # training.
            is_web_caption = rng.random() < WEB_CAPTION_SHARE
            text = untidy(terse_caption(scene, rng), rng) if is_web_caption else description(scene, rng)
            return Item(text=text), video
        case "image":
            return Item(image=frames_of(example.stills[rng.randrange(len(example.stills)), None], 0.0)), video
        case "clip":
            return Item(video=frames_of(example.clip, (end - start) * scene.duration)), video
    i = rng.randrange(len(example.stills))
    query = Writer().image_query(scene, example.still_times[i], rng.choice(prompts.STRATEGIES))
    return Item(text=query, image=frames_of(example.stills[i, None], 0.0)), video


def hit_at_1(embedder: Embedder, pool: Sequence[Example]) -> float:
    """Return the share of short captions whose own video ranks first among the videos of the pool."""
    rng = random.Random(1)
    texts = embedder.embed([Item(text=Writer().captions(e.scene)["1"]) for e in pool])
    videos = embedder.embed([draw_pair(e, rng, "text")[1] for e in pool])
    return float(((texts @ videos.T).argmax(1) == range(len(pool))).mean())


def train(work: Path, *, steps: int, batch: int, seed: int, rate: float, pool: int) -> None:
    """Train for `steps` steps, and write `adapter/` and `adapter_log.jsonl` to the work folder."""
    keep_memory()
    processor = load_processor(work / "model")
    model = load_torch_model(work / "model", None, processor=processor, dtype="float32")
    examples = load_pool(work / "pool", "tiny", pool)
    heldout = load_pool(work / "pool", "heldout", 500)[100:500]
    embedder = Embedder.from_model(model, processor, BUDGET)
    log = (work / "adapter_log.jsonl").open("w")
    log.write(json.dumps({"step": 0, "r1": hit_at_1(embedder, heldout), "n": len(heldout)}) + "\n")
    add_lora(model, r=16, alpha=32, dropout=0.0, seed=seed)
    model.train()
    trainable = [p for p in model.parameters() if p.requires_grad]
    optimiser = torch.optim.AdamW(trainable, lr=rate, weight_decay=0.01)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimiser, rate, total_steps=steps + 1, pct_start=0.1)
    collate = Collator(BUDGET, processor, family=model.family, config=model.config)
    began, total = time.monotonic(), 0.0
    for step in range(1, steps + 1):
        rng = random.Random(f"{seed}/{step}")
        kind = rng.choices(("text", "image", "clip", "composed"), weights=(6, 1, 1, 2))[0]
        pairs = [draw_pair(e, rng, kind) for e in rng.sample(examples, batch)]
        with torch.autocast("cpu", torch.bfloat16):
            queries, targets = (model(collate([pair[side] for pair in pairs])) for side in (0, 1))  # [B, d]
        scores = queries.float() @ targets.float().T / TEMPERATURE  # [B, B]
        truth = torch.arange(batch)
        loss = (F.cross_entropy(scores, truth) + F.cross_entropy(scores.T, truth)) / 2
        loss.backward()
        torch.nn.utils.clip_grad_norm_(trainable, 1.0)
        optimiser.step()
        schedule.step()
        optimiser.zero_grad(set_to_none=True)
        total += loss.item()
        if step % 20 == 0 or step == steps:
            row = {"step": step, "loss": round(total / 20, 4)}
            total = 0.0
            if step % 200 == 0 or step == steps:
                model.eval()
                row |= {"r1": hit_at_1(embedder, heldout), "n": len(heldout)}
                model.train()
            print(row, f"eta {(steps - step) * (time.monotonic() - began) / step / 60:.1f} min", flush=True)
            log.write(json.dumps(row) + "\n")
            log.flush()
    for config in model.language_model.peft_config.values():
        config.base_model_name_or_path = "gve_ray/demo/tiny_vl/model"  # instead of the work folder
    save_adapter(model.eval(), work / "adapter", BUDGET)


def main() -> None:
    """Parse the command line and train."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--work", type=Path, required=True, help="the work folder of train.py")
    parser.add_argument("--steps", type=int, default=100)
    parser.add_argument("--batch", type=int, default=48)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--rate", type=float, default=1e-3)
    parser.add_argument("--pool", type=int, default=4000)
    train(**vars(parser.parse_args()))
    print(f"The adapter is in the work folder. Copy it over {ADAPTER} to ship it.")


if __name__ == "__main__":
    main()
