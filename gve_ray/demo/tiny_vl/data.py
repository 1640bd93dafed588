"""What the tiny model learns from: rendered scenes of the `tiny` split, asked our four prompts.

For words, rendering costs more than a training step, so scenes are rendered once into a pool of JPEG frames (which
is also how the product stores frames) and asked anew with other slots each time they are drawn.
"""

import ctypes
import io
import json
import random
from collections import defaultdict
from collections.abc import Hashable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, replace
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch
from PIL import Image

from gve_ray.demo import render
from gve_ray.demo.language import Writer, terse_caption, to_json
from gve_ray.demo.scenes import (
    BACKGROUNDS,
    CAMERAS,
    COLOURS,
    GRID,
    MOTIONS,
    SHAPES,
    SIZES,
    SPLIT_OF,
    Scene,
    Split,
    Thing,
    draw_scene,
)
from gve_ray.demo.tiny_vl import MAX_PIXELS, MIN_PIXELS
from gve_ray.embedder import Collator
from gve_ray.embedder.collate import Batch as Items
from gve_ray.embedder.model_families import Span, positions
from gve_ray.embedder.settings import EmbedderSettings
from gve_ray.embedder.vision import PatchSpec, normalise, to_patches
from gve_ray.media import fit_pixels
from gve_ray.schema import Frames, Item
from gve_ray.synthesis import prompts

FRAMES = 8
STILLS = 2
CELL = 28  # pixels a side of a visual token
BUDGET = EmbedderSettings(frames=FRAMES, max_pixels=MAX_PIXELS, min_pixels=MIN_PIXELS)
PROMPT_SHARES = {"video_captions": 0.5, "frame_captions": 0.2, "composed_image": 0.15, "composed_clip": 0.15}
ANSWER_LIMITS = (100, 190, 190, None)  # tokens; 190 holds the short and the rich caption
FRESH_SIZES = ((112, 112), (112, 112), (84, 112), (112, 84), (84, 140))  # height, width
CHUNK = 250
# What the embedding position is taught to know of a scene: each pair of what an object is, where it starts, what
# it does; the backgrounds and the cameras.
FACTS: dict[tuple[Hashable, ...], int] = {
    fact: number
    for number, fact in enumerate(
        [
            *product(COLOURS, SHAPES),
            *product((*COLOURS, *SHAPES), SIZES),
            *product((*COLOURS, *SHAPES), ("column", "row"), range(3)),
            *product((*COLOURS, *SHAPES), MOTIONS),
            *product(BACKGROUNDS),
            *product(CAMERAS),
        ]
    )
}


@dataclass(frozen=True, kw_only=True)
class Example:
    """One rendered scene: frames of the video, stills off the grid, a clip; times are shares of the duration."""

    scene: Scene
    size: tuple[int, int]  # height, width
    frames: np.ndarray  # uint8 [FRAMES, h, w, 3]
    still_times: list[float]
    stills: np.ndarray  # uint8 [STILLS, h, w, 3]
    clip_span: tuple[float, float]
    clip: np.ndarray  # uint8 [FRAMES, h, w, 3]


def keep_memory() -> None:
    """Tell glibc to keep freed memory: giving it back and faulting it in again costs ten times the arithmetic."""
    libc = ctypes.CDLL(None)
    if hasattr(libc, "mallopt"):
        m_mmap_max, m_trim_threshold = -4, -1
        libc.mallopt(m_mmap_max, 0)
        libc.mallopt(m_trim_threshold, 2**31 - 1)


def _jpeg(picture: np.ndarray, size: tuple[int, int], rng: random.Random) -> bytes:
    image = Image.fromarray(picture)
    if image.size != (size[1], size[0]):
        image = image.resize((size[1], size[0]), Image.Resampling.BICUBIC)
    buffer = io.BytesIO()
    image.save(buffer, "JPEG", quality=rng.randint(75, 95))
    return buffer.getvalue()


def _render_row(seed: int, split: Split) -> dict[str, Any]:
    """Render one scene at the pixel budget, at once or from up to twice its size as a decoder would."""
    scene = draw_scene(seed, split)
    rng = random.Random(seed)
    size = fit_pixels(scene.height, scene.width, max_pixels=MAX_PIXELS, min_pixels=MIN_PIXELS)
    scale = rng.choice((1.0, 1.3, 2.0))
    still_times = [rng.random() for _ in range(STILLS)]
    seconds = min(scene.duration, rng.uniform(2, 10))
    start = rng.uniform(0, 1 - seconds / scene.duration)
    span = (start, start + seconds / scene.duration)
    times = [*np.linspace(0, 1, FRAMES), *still_times, *np.linspace(*span, FRAMES)]
    pictures = [
        _jpeg(p, size, rng)
        for p in render.frames(scene, times, round(size[1] * scale), round(size[0] * scale))
    ]
    return {
        "scene": json.dumps(scene.to_dict()), "size": size, "still_times": still_times, "clip_span": span,
        "pictures": pictures,
    }  # fmt: skip


def _example(row: dict[str, Any]) -> Example:
    pixels = np.stack([np.asarray(Image.open(io.BytesIO(p))) for p in row["pictures"]])
    return Example(
        scene=Scene.from_dict(json.loads(row["scene"])), size=tuple(row["size"]), frames=pixels[:FRAMES],
        still_times=row["still_times"], stills=pixels[FRAMES : FRAMES + STILLS],
        clip_span=tuple(row["clip_span"]), clip=pixels[FRAMES + STILLS :],
    )  # fmt: skip


def _write_chunk(folder: Path, split: Split, start: int) -> Path:
    path = folder / f"{split}-{start:06d}.parquet"
    if not path.exists():
        rows = [_render_row(seed, split) for seed in range(start, start + CHUNK)]
        pq.write_table(pa.Table.from_pylist(rows), path.with_suffix(".tmp"))
        path.with_suffix(".tmp").replace(path)
    return path


def load_pool(folder: Path, split: Split, count: int, *, start: int = 0, workers: int = 2) -> list[Example]:
    """`count` rendered scenes (rounded up to whole chunks), rendered into `folder` where not there yet."""
    folder.mkdir(parents=True, exist_ok=True)
    starts = range(start, start + count, CHUNK)
    with ProcessPoolExecutor(workers) as pool:
        paths = list(pool.map(_write_chunk, [folder] * len(starts), [split] * len(starts), starts))
    return [_example(row) for path in paths for row in pq.read_table(path).to_pylist()]


def frames_of(pixels: np.ndarray, duration: float, *, fps: float = 8.0) -> Frames:
    """uint8 [T, H, W, 3] as if sampled uniformly over `duration` seconds."""
    total = max(len(pixels), round(duration * fps))
    indices = np.linspace(0, total - 1, len(pixels)).round().astype(np.int64)
    return Frames(
        pixels=pixels, timestamps=indices / fps, indices=indices, fps=fps if len(pixels) > 1 else 0.0,
        duration=duration, total_frames=total,
    )  # fmt: skip


@dataclass(frozen=True)
class Question:
    """One prompt about one example: media in placeholder order, the chat text and the right answer."""

    media: list[Frames]
    text: str
    answer: str


class Asker:
    """Puts our prompts to examples; holds the tokenizer's chat template."""

    def __init__(self, tokenizer: "object") -> None:
        self.tokenizer = tokenizer

    def ask(
        self, example: Example, prompt_id: str, rng: random.Random, others: Sequence[Example]
    ) -> Question:
        """A question with random slots; the web caption is absent, true, or of another scene."""
        scene = example.scene
        writer = Writer(
            rng.choice(prompts.READABILITY),
            rng.choice(prompts.EDUCATION),
            rng.choices(list(prompts.PROFILES), weights=list(prompts.PROFILES.values()))[0],
        )
        slots = {"readability": writer.readability, "education": writer.education}
        media = [frames_of(example.frames, scene.duration)]
        if prompt_id.endswith("_captions"):
            told = rng.choice((None, None, scene, rng.choice(others).scene))
            caption = terse_caption(told, rng) if told else prompts.NO_CAPTION
            slots |= {"profile": writer.profile, "caption": caption}
        if prompt_id == "video_captions":
            answer = writer.captions(scene)
        elif prompt_id == "composed_clip":
            slots["relation"] = rng.choice(prompts.RELATIONS)
            start, end = example.clip_span
            media.append(frames_of(example.clip, (end - start) * scene.duration))
            answer = {"query": writer.clip_query(scene, start, slots["relation"])}
        else:
            i = rng.randrange(STILLS)
            still, time = frames_of(example.stills[i : i + 1], 0.0), example.still_times[i]
            if prompt_id == "frame_captions":
                media, answer = [still], writer.frame_captions(scene, time)
            else:
                media.append(still)
                slots["strategy"] = rng.choice(prompts.STRATEGIES)
                answer = {"query": writer.image_query(scene, time, slots["strategy"])}
        text = self.tokenizer.apply_chat_template(  # type: ignore[attr-defined]
            prompts.messages(prompt_id, **slots), tokenize=False, add_generation_prompt=True
        )
        return Question(media, text, to_json(answer))


@dataclass(frozen=True, kw_only=True)
class Batch:
    """Questions of one prompt and one frame size, right-padded.

    prefix: int64 [P], the system turn they share. ids: int64 [B, L], what follows. positions: int64
    [3, B, P+L]. labels: int64 [B, L], -100 where nothing is learnt. patches: float32 [N, 1176] in order of
    the placeholders; grids: int64 [M, 3]. lengths: int64 [B]. items: the B videos and B texts about them as the
    embedder is given them, right-padded; None where the media are not the videos.
    """

    prefix: torch.Tensor
    ids: torch.Tensor
    positions: torch.Tensor
    labels: torch.Tensor
    patches: torch.Tensor
    grids: torch.Tensor
    lengths: torch.Tensor
    examples: list[Example]
    prompt_id: str
    items: Items | None = None


class Batcher:
    """Questions to tensors."""

    def __init__(self, processor: "object", tokens_per_second: int, collator: Collator) -> None:
        self.collator = collator
        self.tokenizer = processor.tokenizer  # type: ignore[attr-defined]
        self.spec = PatchSpec.from_processor(processor.image_processor)  # type: ignore[attr-defined]
        self.ids = {t: self.tokenizer.convert_tokens_to_ids(t) for t in ("<|image_pad|>", "<|video_pad|>")}
        self.tokens_per_second = tokens_per_second
        self.asker = Asker(self.tokenizer)
        self.systems: dict[str, list[int]] = {}

    def patches(self, pixels: np.ndarray) -> tuple[torch.Tensor, torch.Tensor]:
        """uint8 [B, T, H, W, 3] -> patches float32 [N, 1176] and grids int64 [B, 3]."""
        cut = [to_patches(frames_of(one, 1.0), BUDGET, self.spec) for one in pixels]
        return normalise(torch.cat([c.pixels for c in cut]), self.spec), torch.tensor([c.grid for c in cut])

    def _tokens(self, text: str) -> list[int]:
        """Token ids; the long system turn is tokenized once. Special tokens split cleanly between turns."""
        system, user = text.split("<|im_start|>user", 1)
        if system not in self.systems:
            self.systems[system] = self.tokenizer(system).input_ids
        return [*self.systems[system], *self.tokenizer("<|im_start|>user" + user).input_ids]

    def _spans(self, text: str, media: Sequence[Frames], grids: Sequence[tuple[int, int, int]]) -> list[Span]:
        spans, run = [], []
        stack = list(zip(media, grids, strict=True))[::-1]
        for token in self._tokens(text):
            if token not in self.ids.values():
                run.append(token)
                continue
            frames, (t, h, w) = stack.pop()
            spans.append(Span(ids=run))
            run = []
            grid = (t, h // 2, w // 2)
            interval = frames.duration / t * self.tokens_per_second if t > 1 else 1.0
            spans.append(Span(ids=[token] * int(np.prod(grid)), grid=grid, interval=interval))
        return [*spans, Span(ids=run)]

    def collate(
        self, questions: Sequence[Question], examples: list[Example], prompt_id: str, limit: int | None = None
    ) -> Batch:
        """Tensors of questions that share a prompt and a frame size; answers cut to `limit` tokens."""
        pad = self.tokenizer.pad_token_id
        prefix = self.tokenizer(questions[0].text.split("<|im_start|>user")[0]).input_ids
        rows, places, answers, patches, grids = [], [], [], [], []
        for question in questions:
            cut = [to_patches(frames, BUDGET, self.spec) for frames in question.media]
            patches += [c.pixels for c in cut]
            grids += [c.grid for c in cut]
            asked = self._spans(question.text, question.media, [c.grid for c in cut])
            answer = self.tokenizer(question.answer + "<|im_end|>").input_ids[:limit]
            places.append(torch.from_numpy(positions([*asked, Span(ids=answer)])))
            row = [i for span in asked for i in span.ids]
            rows.append(row[len(prefix) :] + answer)
            answers.append(len(answer))
        length = max(map(len, rows))
        ids = torch.full((len(rows), length), pad)
        labels = torch.full((len(rows), length), -100)
        where = torch.zeros(3, len(rows), len(prefix) + length, dtype=torch.int64)
        for i, (row, place, n) in enumerate(zip(rows, places, answers, strict=True)):
            ids[i, : len(row)] = torch.tensor(row)
            labels[i, len(row) - n : len(row)] = ids[i, len(row) - n : len(row)]
            where[:, i, : place.shape[1]] = place
        return Batch(
            prefix=torch.tensor(prefix), ids=ids, positions=where, labels=labels,
            patches=normalise(torch.cat(patches), self.spec), grids=torch.tensor(grids),
            lengths=torch.tensor([len(r) for r in rows]), examples=examples, prompt_id=prompt_id,
        )  # fmt: skip

    def items(self, examples: Sequence[Example], rng: random.Random) -> Items:
        """The videos, then a text about each, in the embedder's conversation."""
        videos = [Item(video=frames_of(e.frames, e.scene.duration)) for e in examples]
        return self.collator([*videos, *(Item(text=description(e.scene, rng)) for e in examples)])


def description(scene: Scene, rng: random.Random) -> str:
    """A text about a scene, in one of many styles; the full one most often."""
    writer = Writer(
        rng.choice(prompts.READABILITY), rng.choice(prompts.EDUCATION), rng.choice(list(prompts.PROFILES))
    )
    style = rng.choice(("terse", "1", "2", "2", "2", "3", "4", "5"))
    return terse_caption(scene, rng) if style == "terse" else writer.captions(scene)[style]


def facts_of(scene: Scene) -> set[int]:
    """The scene's `FACTS`."""
    found: set[tuple[Hashable, ...]] = set()
    for chapter in scene.chapters:
        found |= {(chapter.background,), (chapter.camera,)}
        for thing in chapter.things:
            found.add((thing.colour, thing.shape))
            for name in (thing.colour, thing.shape):
                found |= {(name, thing.size), (name, "column", thing.column), (name, "row", thing.row)}
                found |= {(name, motion) for motion in thing.motions}
    return {FACTS[fact] for fact in found}


def fact_targets(examples: Sequence[Example]) -> torch.Tensor:
    """1 where a fact holds, else 0: float32 [B, len(FACTS)]."""
    targets = torch.zeros(len(examples), len(FACTS))
    for row, example in zip(targets, examples, strict=True):
        row[list(facts_of(example.scene))] = 1.0
    return targets


def mirrored(example: Example, axis: str) -> Example:
    """The same scene in a mirror, left-right ("x") or upside down ("y"): pictures and truth."""
    swap = {"left": "right", "right": "left"} if axis == "x" else {"up": "down", "down": "up"}
    pans = {"pan left": "pan right", "pan right": "pan left"} if axis == "x" else {}

    def flip(thing: Thing) -> Thing:
        column, row = (2 - thing.column, thing.row) if axis == "x" else (thing.column, 2 - thing.row)
        jitter = (-thing.jitter[0], thing.jitter[1]) if axis == "x" else (thing.jitter[0], -thing.jitter[1])
        motions = tuple(swap.get(m, m) for m in thing.motions)
        return replace(thing, column=column, row=row, jitter=jitter, motions=motions)

    chapters = tuple(
        replace(
            chapter,
            camera=pans.get(chapter.camera, chapter.camera),
            things=tuple(sorted(map(flip, chapter.things), key=lambda t: (t.column, t.row))),
        )
        for chapter in example.scene.chapters
    )
    where = np.s_[:, :, ::-1] if axis == "x" else np.s_[:, ::-1]
    pictures = {name: getattr(example, name)[where] for name in ("frames", "stills", "clip")}
    return replace(example, scene=replace(example.scene, chapters=chapters), **pictures)


def varied(example: Example, rng: random.Random) -> Example:
    """The example, or a mirror image of it where that is still of the split `tiny`; brightness varies a little.

    A few thousand scenes seen dozens of times are learnt by heart otherwise.
    """
    for axis in ("x", "y"):
        if rng.random() < 0.5:
            other = mirrored(example, axis)
            looks = (
                (t.colour, t.shape, t.size, c.background, t.column, t.row)
                for c in other.scene.chapters
                for t in c.things
            )
            if all(SPLIT_OF[look] == "tiny" for look in looks):
                example = other
    table = (np.arange(256) * rng.uniform(0.85, 1.1) + rng.uniform(-10, 10)).clip(0, 255).astype(np.uint8)
    pictures = {name: table[getattr(example, name)] for name in ("frames", "stills", "clip")}
    return replace(example, **pictures)


def by_size(pool: Sequence[Example]) -> list[list[Example]]:
    """The examples in groups of one frame size, since a batch has one."""
    groups = defaultdict(list)
    for example in pool:
        groups[example.size].append(example)
    return [groups[size] for size in sorted(groups)]


def batches(
    batcher: Batcher, pool: Sequence[Example], *, size: int, seed: int, first: int, steps: int
) -> Iterator[Batch]:
    """Batches number `first`..`steps`-1, each a function of (seed, number) alone, so a run can resume."""
    groups = by_size(pool)
    for step in range(first, steps):
        rng = random.Random(f"{seed}/{step}")
        prompt_id = rng.choices(list(PROMPT_SHARES), weights=list(PROMPT_SHARES.values()))[0]
        examples = rng.choices(rng.choices(groups, weights=[len(g) for g in groups])[0], k=size)
        examples = [varied(e, rng) for e in examples]
        questions = [batcher.asker.ask(e, prompt_id, rng, pool) for e in examples]
        batch = batcher.collate(questions, examples, prompt_id, rng.choice(ANSWER_LIMITS))
        yield batch if prompt_id == "frame_captions" else replace(batch, items=batcher.items(examples, rng))


def covered(scene: Scene, size: tuple[int, int], early: float, late: float) -> dict[str, np.ndarray]:
    """What each visual token of a pair of frames covers: int64 [h, w] a kind, -100 where undefined.

    colour, shape and motion of the object whose centre lies in the token's cell (the last class: none).
    Background, camera, and the column and row (0..2) of the token's own place are targets of every token:
    rotary positions are relative, and without the last two the language model guesses places. early, late:
    in [0, 1] of the scene; a pair across two chapters has no targets.
    """
    height, width = size
    shape = (height // CELL, width // CELL)
    classes = {"colour": COLOURS, "shape": SHAPES, "motion": MOTIONS}
    (chapter, a), (after, z) = scene.locate(early), scene.locate(late)
    if chapter is not after:
        return {kind: np.full(shape, -100) for kind in (*classes, "background", "camera", "column", "row")}
    out = {kind: np.full(shape, len(names)) for kind, names in classes.items()}
    out["background"] = np.full(shape, BACKGROUNDS.index(chapter.background))
    out["camera"] = np.full(shape, CAMERAS.index(chapter.camera))
    places = [
        np.round(((np.arange(n) + 0.5) / n - 0.5) / GRID).clip(-1, 1).astype(np.int64) + 1 for n in shape
    ]
    out["row"], out["column"] = np.meshgrid(*places, indexing="ij")
    middle = (a + z) / 2
    zoom = {"zoom in": render.ZOOM**middle, "zoom out": render.ZOOM ** (1 - middle)}.get(chapter.camera, 1.0)
    for thing in chapter.things:
        state = thing.at(middle)
        column = int(((state.x - 0.5) * zoom + 0.5) * width // CELL)
        row = int(((state.y - 0.5) * zoom + 0.5) * height // CELL)
        if 0 <= row < shape[0] and 0 <= column < shape[1]:
            motion = thing.motions[min(len(thing.motions) - 1, int(middle * len(thing.motions)))]
            for kind, value in (("colour", thing.colour), ("shape", thing.shape), ("motion", motion)):
                out[kind][row, column] = classes[kind].index(value)
    return out


def pair_times(pair: int) -> tuple[float, float]:
    """When the two frames of temporal patch `pair` are, in [0, 1] of the scene."""
    return 2 * pair / (FRAMES - 1), (2 * pair + 1) / (FRAMES - 1)


def cell_targets(examples: Sequence[Example]) -> dict[str, torch.Tensor]:
    """`covered` for every visual token of the videos: int64 [B, T/2, h, w] a kind."""
    rows = [[covered(e.scene, e.size, *pair_times(pair)) for pair in range(FRAMES // 2)] for e in examples]
    return {
        kind: torch.from_numpy(np.stack([np.stack([c[kind] for c in row]) for row in rows]))
        for kind in rows[0][0]
    }


def _crowd(rng: random.Random, split: Split, times: tuple[float, float], scenes: int = 6) -> Scene:
    """A scene with the objects of several, as far as they keep apart at two moments: more to learn a frame."""
    scene, *others = (draw_scene(rng.randrange(2**32, 2**48), split, long=False) for _ in range(scenes))
    chapter = scene.chapters[0]
    things = list(chapter.things)
    for thing in (thing for other in others for thing in other.chapters[0].things):
        looks = (thing.colour, thing.shape, thing.size, chapter.background, thing.column, thing.row)
        states = [(thing.at(time), other.at(time)) for time in times for other in things]
        if SPLIT_OF[looks] == split and all(
            abs(a.x - b.x) > 0.25 or abs(a.y - b.y) > 0.25 for a, b in states
        ):
            things.append(thing)
    return replace(scene, chapters=(replace(chapter, things=tuple(things)),))


def fresh_pairs(split: Split, seed: int, count: int) -> tuple[np.ndarray, dict[str, np.ndarray]]:
    """New scenes, one pair of frames each: pixels uint8 [B, 2, H, W, 3] and `covered` int64 [B, h, w] a kind.

    For the vision tower, which learns by heart what it sees twice: trained on 3,500 scenes it told 98 % of
    their shapes, and 60 % of those of held-out scenes. Two textures a background are shared by all pairs,
    for drawing them is most of the work.
    """
    rng = random.Random(f"{split}/fresh/{seed}")
    size = rng.choice(FRESH_SIZES)
    pixels: list[list[np.ndarray]] = []
    targets: list[dict[str, np.ndarray]] = []
    while len(pixels) < count:
        times = pair_times(rng.randrange(FRAMES // 2))
        scene = replace(_crowd(rng, split, times), seed=2 * seed + rng.randrange(2))
        scale = rng.choice((1.0, 1.0, 1.3))
        pictures = render.frames(scene, times, round(size[1] * scale), round(size[0] * scale))
        pixels.append([np.asarray(Image.open(io.BytesIO(_jpeg(p, size, rng)))) for p in pictures])
        targets.append(covered(scene, size, *times))
    return np.array(pixels), {kind: np.stack([t[kind] for t in targets]) for kind in targets[0]}
