"""Train the tiny captioner: first its vision tower alone, then the whole model.

    python -m tools.tiny_vl.train --work FOLDER [--vision-steps 4000] [--steps 3000] [--pool 10000]

Run it again to resume from the last checkpoint. Losses and held-out scores are appended to
log.jsonl in the work folder.

Three things make training cheap. All questions of a batch share one system turn, so it runs once
and its keys and values are reused. The vision tower is supervised directly by what each visual
token covers (colour, shape, motion, background, camera, place); this takes minutes, where learning
from captions alone would take hours. Long answers, whose captions repeat one another, are often
truncated.

An auxiliary head also trains the position that embeddings are read from, the last token of the
embedder's conversation, to predict the facts of the video or text before it. Videos and texts have
separate heads, so their embeddings are not aligned with each other; that is left to
`jobs/train.py`. The auxiliary heads are discarded after training.
"""

import argparse
import copy
import json
import math
import random
import time
from collections import Counter, defaultdict, deque
from collections.abc import Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from types import MethodType

import numpy as np
import torch
import torch._dynamo
import torch.nn.functional as F
from torch import Tensor, nn
from transformers import AutoProcessor, Qwen2_5_VLForConditionalGeneration
from transformers.models.qwen2_5_vl.modeling_qwen2_5_vl import apply_rotary_pos_emb_vision

from gve_ray.demo.facts import judge
from gve_ray.demo.scenes import BACKGROUNDS, CAMERAS, COLOURS, MOTIONS, SHAPES
from gve_ray.demo.tiny_vl import MODEL
from gve_ray.embedder import Collator
from gve_ray.embedder.model_families import model_family
from tools.tiny_vl import build
from tools.tiny_vl.data import (
    BUDGET,
    FACTS,
    Batch,
    Batcher,
    Example,
    batches,
    cell_targets,
    fact_targets,
    fresh_pairs,
    keep_memory,
    load_pool,
)

CLASSES = {
    "colour": len(COLOURS) + 1,
    "shape": len(SHAPES) + 1,
    "motion": len(MOTIONS) + 1,
    "background": len(BACKGROUNDS),
    "camera": len(CAMERAS),
    "column": 3,
    "row": 3,
}
OBJECT_KINDS = ("colour", "shape", "motion")
AUXILIARY_WEIGHT = 0.5
FACTS_WEIGHT = 2.0
WARMUP = 100  # steps
VISION_BATCH = 96
# Learning rate of the trained vision tower, relative to that of the language model: at 1.0 it
# forgets shapes.
VISION_RATE = 0.2


def _same_size_attention(
    self: nn.Module,
    hidden_states: Tensor,
    cu_seqlens: Tensor,
    position_embeddings: tuple[Tensor, Tensor],
    **_: object,
) -> Tensor:
    """Vision attention for frames of equal size, in one call; the library's version loops over
    frames.
    """
    q, k, v = self.qkv(hidden_states).view(len(hidden_states), 3, self.num_heads, -1).unbind(1)
    q, k = apply_rotary_pos_emb_vision(q, k, *position_embeddings)  # [N, heads, d]
    q, k, v = (x.view(len(cu_seqlens) - 1, -1, *x.shape[1:]).transpose(1, 2) for x in (q, k, v))
    # On CPUs, at 60 tokens a frame, the backward pass of the fused kernel is several times slower
    # than this.
    weights = torch.softmax(q @ k.transpose(2, 3) * self.scaling, dim=-1)  # [frames, heads, n, n]
    return self.proj((weights @ v).transpose(1, 2).reshape(len(hidden_states), -1))


def _embed_patches(self: nn.Module, hidden_states: Tensor) -> Tensor:
    """The patch convolution as a matrix product: its stride equals its kernel size, so both are the
    same.
    """
    return F.linear(hidden_states.to(self.proj.weight.dtype), self.proj.weight.flatten(1))


class Learner(nn.Module):
    """The model together with the auxiliary heads that supervise it during training."""

    def __init__(self, model: Qwen2_5_VLForConditionalGeneration) -> None:
        super().__init__()
        self.model = model
        width = model.config.text_config.hidden_size
        self.heads = nn.ModuleDict({kind: nn.Linear(width, n) for kind, n in CLASSES.items()})
        self.facts = nn.ModuleDict({side: nn.Linear(width, len(FACTS)) for side in ("video", "text")})
        tower = model.model.visual
        tower.patch_embed.forward = MethodType(_embed_patches, tower.patch_embed)
        for block in tower.blocks:
            block.attn.forward = MethodType(_same_size_attention, block.attn)

    def visual_tokens(self, batch: Batch) -> Tensor:
        """Return the visual tokens [N, width] of all media of the batch, in the order of their
        placeholders.
        """
        return self.model.model.visual(batch.patches, grid_thw=batch.grids).pooler_output

    def embed(self, batch: Batch, visual: Tensor) -> Tensor:
        """Return the input embeddings [B, L, width], with visual tokens at their placeholders."""
        config = self.model.config
        embedded = self.model.get_input_embeddings()(batch.ids)
        mask = (batch.ids == config.image_token_id) | (batch.ids == config.video_token_id)
        return embedded.masked_scatter(mask.unsqueeze(-1), visual.to(embedded.dtype))

    def hidden(self, batch: Batch, visual: Tensor) -> Tensor:
        """Return the last hidden states [B, L, width] of the tokens after the shared system turn."""
        language = self.model.model.language_model
        size, start = len(batch.ids), len(batch.prefix)
        prefix = self.model.get_input_embeddings()(batch.prefix).unsqueeze(0)
        cache = language(
            inputs_embeds=prefix, position_ids=batch.positions[:, :1, :start], use_cache=True
        ).past_key_values
        cache.batch_repeat_interleave(size)
        return language(
            inputs_embeds=self.embed(batch, visual), position_ids=batch.positions[:, :, start:],
            past_key_values=cache, use_cache=True,
        ).last_hidden_state  # fmt: skip

    def losses(self, batch: Batch) -> tuple[Tensor, Tensor, Tensor]:
        """Return the three losses of a batch, each a scalar.

        They are the mean cross-entropy of the answer tokens, of what each visual token covers, and
        of the facts that are predicted at the embedding position. The last two are zero if the
        batch has no `items`.
        """
        visual = self.visual_tokens(batch)
        hidden = self.hidden(batch, visual)[:, :-1]
        labels = batch.labels[:, 1:]
        learnt = labels != -100
        words = F.cross_entropy(self.model.lm_head(hidden[learnt]).float(), labels[learnt])
        if batch.items is None:
            return words, torch.zeros(()), torch.zeros(())
        counts = (batch.grids.prod(-1) // 4).tolist()
        per_example = len(counts) // len(batch.examples)
        videos = torch.stack(visual.split(counts)[::per_example]).flatten(0, 1)  # [B * tokens, width]
        return words, self.cell_loss(videos, cell_targets(batch.examples)), self.fact_loss(batch, videos)

    def fact_loss(self, batch: Batch, videos: Tensor) -> Tensor:
        """Return the mean cross-entropy of the facts predicted at the embedding position, over
        videos and texts.

        videos: visual tokens [N, width] of the batch's videos.
        """
        assert batch.items is not None
        items, embed = batch.items, self.model.get_input_embeddings()
        mask = (items.input_ids == self.model.config.video_token_id).unsqueeze(-1)
        embedded = embed(items.input_ids)
        hidden = self.model.model.language_model(
            inputs_embeds=embedded.masked_scatter(mask, videos.to(embedded.dtype)),
            position_ids=items.position_ids,
        ).last_hidden_state  # attention is causal and padding is on the right, so no token sees the padding
        last = items.attention_mask.sum(1) - 1
        pooled = hidden[torch.arange(len(last)), last]  # [2 B, width]
        targets = fact_targets(batch.examples)
        losses = [
            F.binary_cross_entropy_with_logits(self.facts[side](part).float(), targets, 1 + 4 * targets)
            for side, part in zip(("video", "text"), pooled.chunk(2), strict=True)
        ]
        return torch.stack(losses).mean()

    def cell_loss(self, visual: Tensor, targets: dict[str, Tensor]) -> Tensor:
        """Return the mean cross-entropy of what the visual tokens [N, width] cover.

        targets: N class indices for each kind. Nine tokens in ten cover no object, so the class
        "none" is weighted by 1/20.
        """
        losses = []
        for kind, target in targets.items():
            weight = torch.ones(CLASSES[kind])
            if kind in OBJECT_KINDS:
                weight[-1] = 0.05
            losses.append(F.cross_entropy(self.heads[kind](visual).float(), target.flatten(), weight))
        return torch.stack(losses).mean()

    @torch.no_grad()
    def accuracy(self, visual: Tensor, targets: dict[str, Tensor]) -> dict[str, float]:
        """Return the share of tokens classified correctly, by kind.

        Tokens that cover no object are not counted for colour, shape and motion.
        """
        right = {}
        for kind, target in targets.items():
            truth = target.flatten()
            counted = (truth >= 0) & (truth < CLASSES[kind] - (kind in OBJECT_KINDS))
            hit = self.heads[kind](visual).argmax(-1) == truth
            right[kind] = round(hit[counted].float().mean().item(), 3)
        return right


@torch.inference_mode()
def answer(learner: Learner, batcher: Batcher, batch: Batch, limit: int = 400) -> list[str]:
    """Decode an answer to each question of the batch greedily, up to `limit` tokens."""
    end = batcher.tokenizer.eos_token_id
    starts = [int(n - (row != -100).sum()) for n, row in zip(batch.lengths, batch.labels, strict=True)]
    language, embed = learner.model.model.language_model, learner.model.get_input_embeddings()
    visual = learner.visual_tokens(batch)
    embedded = learner.embed(batch, visual)
    replies: list[list[int]] = []
    for row, start in enumerate(
        starts
    ):  # rows differ in length, and a prefill for each is cheap at this size
        prefix = len(batch.prefix)
        whole = torch.cat([embed(batch.prefix), embedded[row, :start]]).unsqueeze(0)
        place = batch.positions[:, row : row + 1, : prefix + start]
        out = language(inputs_embeds=whole, position_ids=place, use_cache=True)
        cache, at = out.past_key_values, int(place.max()) + 1
        tokens: list[int] = []
        hidden = out.last_hidden_state[:, -1]
        while len(tokens) < limit:
            token = int(learner.model.lm_head(hidden).argmax())
            if token == end:
                break
            tokens.append(token)
            step = embed(torch.tensor([[token]]))
            out = language(
                inputs_embeds=step,
                position_ids=torch.full((3, 1, 1), at),
                past_key_values=cache,
                use_cache=True,
            )
            hidden, at = out.last_hidden_state[:, -1], at + 1
        replies.append(tokens)
    return [batcher.tokenizer.decode(tokens) for tokens in replies]


@torch.inference_mode()
def evaluate(learner: Learner, batcher: Batcher, pool: Sequence[Example], count: int) -> dict[str, float]:
    """Caption `count` held-out videos and score the captions.

    valid_json: share of replies that parse. facts_true: share of stated facts that are true.
    facts_stated: share of the scenes' facts that the rich caption states.
    """
    learner.eval()
    rng, tally = random.Random(0), Counter[str]()
    for example in pool[:count]:
        question = batcher.questions.write(example, "video_captions", rng, pool)
        reply = answer(learner, batcher, batcher.collate([question], [example], "video_captions"))[0]
        tally["n"] += 1
        try:
            captions = json.loads(reply)
        except json.JSONDecodeError:
            continue
        tally["valid"] += 1
        for key, text in captions.items():
            judgement = judge(text, example.scene)
            tally["stated"] += judgement.stated
            tally["true"] += judgement.true
            if key == "2":
                tally["covered"] += judgement.covered
                tally["total"] += judgement.total
    return {
        "valid_json": tally["valid"] / tally["n"],
        "facts_true": tally["true"] / max(1, tally["stated"]),
        "facts_stated": tally["covered"] / max(1, tally["total"]),
    }


def train_vision(
    learner: Learner, batcher: Batcher, path: Path, *, steps: int, seed: int, rate: float, workers: int
) -> None:
    """Train the vision tower alone, on new pairs of frames in each step, at a fraction of the cost
    of captions.

    Resumes from the checkpoint at `path`, saves one there every 250 steps, and appends to log.jsonl
    in the same folder.
    """
    optimisers = make_optimisers([(learner.model.model.visual, 1.0), (learner.heads, 1.0)], rate)
    first = _restore(path, learner, optimisers)
    began, total = time.monotonic(), 0.0
    heldout = fresh_pairs("heldout", seed, 2 * VISION_BATCH)
    with ProcessPoolExecutor(workers) as pool:
        ahead = deque(
            pool.submit(fresh_pairs, "tiny", seed + first + i, VISION_BATCH)
            for i in range(1, 2 * workers + 1)
        )
        for step in range(first + 1, steps + 1):
            ahead.append(pool.submit(fresh_pairs, "tiny", seed + step + 2 * workers, VISION_BATCH))
            with torch.autocast("cpu", torch.bfloat16):
                visual, targets = _vision_batch(learner, batcher, *ahead.popleft().result())
                loss = learner.cell_loss(visual, targets)
            _update(optimisers, loss, rate_at(step, steps, rate))
            total += loss.item()
            if step % 50 == 0:
                with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
                    visual, targets = _vision_batch(learner, batcher, *heldout)
                eta = (steps - step) * (time.monotonic() - began) / (step - first) / 60
                row = {"see": step, "loss": round(total / 50, 4), **learner.accuracy(visual.float(), targets)}
                print(row, f"eta {eta:.1f} min", flush=True)
                with path.with_name("log.jsonl").open("a", encoding="utf-8") as file:
                    file.write(json.dumps(row) + "\n")
                total = 0.0
            if step % 250 == 0:
                _save(path, learner, optimisers, step)


def _vision_batch(
    learner: Learner, batcher: Batcher, pixels: np.ndarray, targets: dict[str, np.ndarray]
) -> tuple[Tensor, dict[str, Tensor]]:
    """Return the visual tokens [N, width] of pairs of frames, and their targets as tensors."""
    patches, grids = batcher.patches(pixels)
    visual = learner.model.model.visual(patches, grid_thw=grids).pooler_output
    return visual, {kind: torch.from_numpy(target) for kind, target in targets.items()}


def rate_at(step: int, steps: int, peak: float) -> float:
    """Return the learning rate: a linear warm-up of `WARMUP` steps, then a cosine down to 1 % of
    the peak.
    """
    if step <= WARMUP:
        return peak * step / WARMUP
    done = (step - WARMUP) / max(1, steps - WARMUP)
    return peak * (0.01 + 0.99 * (1 + math.cos(math.pi * done)) / 2)


def make_optimisers(parts: Sequence[tuple[nn.Module, float]], rate: float) -> list[torch.optim.Optimizer]:
    """Return Muon for the weight matrices of the layers and AdamW for all other parameters.

    parts: modules, each with its learning rate relative to `rate`. In 50 steps from the same
    checkpoint, Muon lowered the vision loss from 0.261 to 0.226 (docs/LOG.md).
    """
    matrices, others = [], []
    for module, scale in parts:
        weights = [(name, weight) for name, weight in module.named_parameters() if weight.requires_grad]
        inner = [w for name, w in weights if w.ndim == 2 and ("layers." in name or "blocks." in name)]
        chosen = set(map(id, inner))
        outer = [w for _, w in weights if id(w) not in chosen]
        matrices += [{"params": inner, "scale": scale}] if inner else []
        others += [{"params": outer, "scale": scale}] if outer else []
    return [
        torch.optim.Muon(matrices, lr=rate, weight_decay=0.05, adjust_lr_fn="match_rms_adamw"),
        torch.optim.AdamW(others, lr=rate, weight_decay=0.05, betas=(0.9, 0.98)),
    ]


def _update(optimisers: Sequence[torch.optim.Optimizer], loss: Tensor, rate: float) -> None:
    """Take one optimiser step on `loss`, with gradients clipped to norm 1."""
    loss.backward()
    groups = [group for optimiser in optimisers for group in optimiser.param_groups]
    torch.nn.utils.clip_grad_norm_([p for group in groups for p in group["params"]], 1.0)
    for group in groups:
        group["lr"] = rate * group["scale"]
    for optimiser in optimisers:
        optimiser.step()
        optimiser.zero_grad(set_to_none=True)


def _save(path: Path, learner: Learner, optimisers: Sequence[torch.optim.Optimizer], step: int) -> None:
    states = [optimiser.state_dict() for optimiser in optimisers]
    torch.save(
        {"learner": learner.state_dict(), "optimisers": states, "step": step}, path.with_suffix(".tmp")
    )
    path.with_suffix(".tmp").replace(path)


def _restore(path: Path, learner: Learner, optimisers: Sequence[torch.optim.Optimizer]) -> int:
    """Load the checkpoint at `path` if it exists, and return the number of steps done."""
    if not path.exists():
        return 0
    state = torch.load(path, weights_only=True)
    learner.load_state_dict(state["learner"])
    for optimiser, kept in zip(optimisers, state["optimisers"], strict=True):
        optimiser.load_state_dict(kept)
    return int(state["step"])


def train(
    work: Path,
    *,
    steps: int,
    batch: int,
    pool: int,
    seed: int,
    rate: float,
    every: int,
    threads: int,
    vision_steps: int,
) -> None:
    """Train up to `steps`, resuming from the checkpoint in `work` if there is one, and write the
    model folder.
    """
    keep_memory()
    torch.set_num_threads(threads)
    folder = work / "model"
    if not folder.exists():
        build.build(folder, seed)
    learner = Learner(Qwen2_5_VLForConditionalGeneration.from_pretrained(folder, dtype=torch.float32))
    tokens_per_second = learner.model.config.vision_config.tokens_per_second
    processor = AutoProcessor.from_pretrained(folder)
    family = model_family(learner.model.config.model_type)
    collator = Collator(BUDGET, processor, family=family, config=learner.model.config)
    batcher = Batcher(processor, tokens_per_second, collator)
    inner = learner.model.model
    optimisers = make_optimisers(
        [
            (inner.visual, VISION_RATE),
            (learner.heads, VISION_RATE),
            (inner.language_model, 1.0),
            (learner.facts, 1.0),
        ],
        rate,
    )
    resumed = (work / "checkpoint.pt").exists()
    first = _restore(work / "checkpoint.pt", learner, optimisers)
    if not resumed:
        train_vision(
            learner, batcher, work / "vision.pt", steps=vision_steps, seed=seed, rate=rate, workers=1
        )
        _save(work / "checkpoint.pt", learner, optimisers, 0)
    examples = load_pool(work / "pool", "tiny", pool)
    heldout = load_pool(work / "pool", "heldout", 100)
    evaluated = copy.deepcopy(learner)  # decodes token by token, for which compiling does not pay
    torch._dynamo.config.recompile_limit = (
        64  # all layers share one code object, so their recompilations add up
    )
    for layer in (*learner.model.model.language_model.layers, *learner.model.model.visual.blocks):
        layer.compile(dynamic=True)
    log = Log(work / "log.jsonl", first=first, steps=steps)
    learner.train()
    for step, item in enumerate(
        batches(batcher, examples, size=batch, seed=seed, first=first, steps=steps), first + 1
    ):
        with torch.autocast("cpu", torch.bfloat16):
            words, cells, facts = learner.losses(item)
        loss = words + AUXILIARY_WEIGHT * cells + FACTS_WEIGHT * facts
        _update(optimisers, loss, rate_at(step, steps, rate))
        log.add({item.prompt_id: words.item(), "vision": cells.item(), "about": facts.item()})
        if step % every == 0 or step == steps:
            _save(work / "checkpoint.pt", learner, optimisers, step)
            evaluated.load_state_dict(learner.state_dict())
            log.write(step, evaluate(evaluated, batcher, heldout, 16 if step < steps else 100))
        elif step % 50 == 0:
            log.write(step, {})
    learner.model.to(torch.bfloat16).save_pretrained(folder)


class Log:
    """Averages losses between log lines and writes the lines to the console, with an ETA, and to a
    JSONL file.
    """

    def __init__(self, path: Path, *, first: int, steps: int) -> None:
        self.path, self.first, self.steps = path, first, steps
        self.began = time.monotonic()
        self.sums: dict[str, list[float]] = defaultdict(list)

    def add(self, losses: Mapping[str, float]) -> None:
        """Add the losses of one step. A loss of zero means that the step had no loss of that kind."""
        for name, loss in losses.items():
            if loss:
                self.sums[name].append(loss)

    def write(self, step: int, scores: dict[str, float]) -> None:
        """Write a line with the step, the mean losses since the last line, and `scores`."""
        pace = (time.monotonic() - self.began) / (step - self.first)
        means = {name: round(sum(values) / len(values), 4) for name, values in self.sums.items()}
        row = {"step": step, "seconds_a_step": round(pace, 3), **means, **scores}
        self.sums.clear()
        print(row, f"eta {(self.steps - step) * pace / 60:.0f} min", flush=True)
        with self.path.open("a", encoding="utf-8") as file:
            file.write(json.dumps(row) + "\n")


def main() -> None:
    """Parse the command line and train."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--work", type=Path, required=True, help="folder for pool, checkpoints, log and model"
    )
    parser.add_argument("--steps", type=int, default=3000)
    parser.add_argument(
        "--vision-steps", type=int, default=4000, help="steps of the first phase, the vision tower alone"
    )
    parser.add_argument("--batch", type=int, default=24)
    parser.add_argument("--pool", type=int, default=10000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--rate", type=float, default=1e-3)
    parser.add_argument("--every", type=int, default=500, help="steps between evaluations and checkpoints")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    train(**vars(parser.parse_args()))
    print(f"The model is in the work folder. Copy it over {MODEL} to ship it.")


if __name__ == "__main__":
    main()
