"""Training data of the tiny captioner: rendered scenes, with questions from our prompts.

Rendering a scene costs more than a training step on it, so scenes are rendered once, into a pool of
JPEG frames (the format in which the synthesis stores frames as well). Each time a scene is drawn,
it gets a new question.
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
from gve_ray.embedder.collate import Batch as ItemBatch
from gve_ray.embedder.model_families import Span, positions
from gve_ray.embedder.settings import EmbedderSettings
from gve_ray.embedder.vision import PatchSpec, normalise, to_patches
from gve_ray.media import fit_pixels
from gve_ray.schema import Frames, Item
from gve_ray.synthesis import prompts

FRAMES = 8
STILLS = 2
CELL = 28  # side of the square that one visual token covers, in pixels
BUDGET = EmbedderSettings(frames=FRAMES, max_pixels=MAX_PIXELS, min_pixels=MIN_PIXELS)
PROMPT_SHARES = {"video_captions": 0.5, "frame_captions": 0.2, "composed_image": 0.15, "composed_clip": 0.15}
ANSWER_LIMITS = (100, 190, 190, None)  # tokens; 190 are enough for the short and the rich caption
FRESH_SIZES = ((112, 112), (112, 112), (84, 112), (112, 84), (84, 140))  # height, width
CHUNK = 250
# The facts of a scene that the embedding position is trained to predict, with their indices: pairs
# of an object's attributes (look, start place, motion), the backgrounds, and the camera movements.
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
    """One rendered scene: frames of the video, single frames at random times, and a clip of the
    video.

    Times are shares of the scene's duration, in [0, 1].
    """

    scene: Scene
    size: tuple[int, int]  # height, width
    frames: np.ndarray  # uint8 [FRAMES, h, w, 3]
    still_times: list[float]
    stills: np.ndarray  # uint8 [STILLS, h, w, 3]
    clip_span: tuple[float, float]
    clip: np.ndarray  # uint8 [FRAMES, h, w, 3]


def keep_memory() -> None:
    """Tell glibc to keep freed memory: returning it and faulting it in again takes ten times as
    long as the maths.
    """
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
    """Render one scene at the pixel budget, directly or resized from up to twice that size, as
    after decoding.
    """
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
    """Return `count` rendered scenes (rounded up to whole chunks), rendering those that `folder`
    does not hold.
    """
    folder.mkdir(parents=True, exist_ok=True)
    starts = range(start, start + count, CHUNK)
    with ProcessPoolExecutor(workers) as pool:
        paths = list(pool.map(_write_chunk, [folder] * len(starts), [split] * len(starts), starts))
    return [_example(row) for path in paths for row in pq.read_table(path).to_pylist()]


def frames_of(pixels: np.ndarray, duration: float, *, fps: float = 8.0) -> Frames:
    """Wrap pixels (uint8 [T, H, W, 3]) as frames sampled uniformly over `duration` seconds."""
    total = max(len(pixels), round(duration * fps))
    indices = np.linspace(0, total - 1, len(pixels)).round().astype(np.int64)
    return Frames(
        pixels=pixels, timestamps=indices / fps, indices=indices, fps=fps if len(pixels) > 1 else 0.0,
        duration=duration, total_frames=total,
    )  # fmt: skip


@dataclass(frozen=True)
class Question:
    """One prompt about one example: the media in placeholder order, the chat text and the correct
    answer.
    """

    media: list[Frames]
    text: str
    answer: str


class QuestionWriter:
    """Writes questions about examples, using our prompts and the tokenizer's chat template."""

    def __init__(self, tokenizer: "object") -> None:
        self.tokenizer = tokenizer

    def write(
        self, example: Example, prompt_id: str, rng: random.Random, others: Sequence[Example]
    ) -> Question:
        """Return a question with randomly filled slots. Its web caption is absent, correct, or of
        another scene.
        """
        scene = example.scene
        writer = Writer(
            rng.choice(prompts.READABILITY),
            rng.choice(prompts.EDUCATION),
            rng.choices(list(prompts.PROFILES), weights=list(prompts.PROFILES.values()))[0],
        )
        slots: dict[str, Any] = {"readability": writer.readability, "education": writer.education}
        media = [frames_of(example.frames, scene.duration)]
        if prompt_id.endswith("_captions"):
            captioned = rng.choice((None, None, scene, rng.choice(others).scene))
            caption = terse_caption(captioned, rng) if captioned else prompts.NO_CAPTION
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
    """Questions with the same prompt and frame size, as right-padded tensors.

    prefix: int64 [P], the system turn that all share. ids: int64 [B, L], the tokens after it.
    positions: int64 [3, B, P+L]. labels: int64 [B, L], -100 where there is no loss. patches:
    float32 [N, 1176], in the order of the placeholders. grids: int64 [M, 3]. lengths: int64 [B].
    items: the embedder's input for the B videos, then for B texts about them, right-padded; None if
    the questions are not about the videos.
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
    items: ItemBatch | None = None


class Batcher:
    """Turns questions into tensors."""

    def __init__(self, processor: "object", tokens_per_second: int, collator: Collator) -> None:
        self.collator = collator
        self.tokenizer = processor.tokenizer  # type: ignore[attr-defined]
        self.spec = PatchSpec.from_processor(processor.image_processor)  # type: ignore[attr-defined]
        self.ids = {t: self.tokenizer.convert_tokens_to_ids(t) for t in ("<|image_pad|>", "<|video_pad|>")}
        self.tokens_per_second = tokens_per_second
        self.questions = QuestionWriter(self.tokenizer)
        self.systems: dict[str, list[int]] = {}

    def patches(self, pixels: np.ndarray) -> tuple[torch.Tensor, torch.Tensor]:
        """Turn videos (uint8 [B, T, H, W, 3]) into patches (float32 [N, 1176]) and grids (int64 [B,
        3]).
        """
        patched = [to_patches(frames_of(video, 1.0), BUDGET, self.spec) for video in pixels]
        normalised = normalise(torch.cat([video.pixels for video in patched]), self.spec)
        return normalised, torch.tensor([video.grid for video in patched])

    def _tokens(self, text: str) -> list[int]:
        """Return the token ids of a chat text, tokenizing each system turn only once.

        The turns can be tokenized separately, because special tokens separate them.
        """
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
        """Return a batch of questions that share prompt and frame size, with answers truncated to
        `limit` tokens.
        """
        pad = self.tokenizer.pad_token_id
        prefix = self.tokenizer(questions[0].text.split("<|im_start|>user")[0]).input_ids
        rows, row_positions, answers, patches, grids = [], [], [], [], []
        for question in questions:
            patched = [to_patches(frames, BUDGET, self.spec) for frames in question.media]
            patches += [media.pixels for media in patched]
            grids += [media.grid for media in patched]
            spans = self._spans(question.text, question.media, [media.grid for media in patched])
            answer = self.tokenizer(question.answer + "<|im_end|>").input_ids[:limit]
            row_positions.append(torch.from_numpy(positions([*spans, Span(ids=answer)])))
            row = [i for span in spans for i in span.ids]
            rows.append(row[len(prefix) :] + answer)
            answers.append(len(answer))
        length = max(map(len, rows))
        ids = torch.full((len(rows), length), pad)
        labels = torch.full((len(rows), length), -100)
        padded_positions = torch.zeros(3, len(rows), len(prefix) + length, dtype=torch.int64)
        for i, (row, own, n) in enumerate(zip(rows, row_positions, answers, strict=True)):
            ids[i, : len(row)] = torch.tensor(row)
            labels[i, len(row) - n : len(row)] = ids[i, len(row) - n : len(row)]
            padded_positions[:, i, : own.shape[1]] = own
        return Batch(
            prefix=torch.tensor(prefix), ids=ids, positions=padded_positions, labels=labels,
            patches=normalise(torch.cat(patches), self.spec), grids=torch.tensor(grids),
            lengths=torch.tensor([len(r) for r in rows]), examples=examples, prompt_id=prompt_id,
        )  # fmt: skip

    def items(self, examples: Sequence[Example], rng: random.Random) -> ItemBatch:
        """Return the embedder's input for the videos, followed by a text about each."""
        videos = [Item(video=frames_of(e.frames, e.scene.duration)) for e in examples]
        return self.collator([*videos, *(Item(text=description(e.scene, rng)) for e in examples)])


def description(scene: Scene, rng: random.Random) -> str:
    """Return a text about a scene in a random style, most often the rich caption."""
    writer = Writer(
        rng.choice(prompts.READABILITY), rng.choice(prompts.EDUCATION), rng.choice(list(prompts.PROFILES))
    )
    style = rng.choice(("terse", "1", "2", "2", "2", "3", "4", "5"))
    return terse_caption(scene, rng) if style == "terse" else writer.captions(scene)[style]


def facts_of(scene: Scene) -> set[int]:
    """Return the indices in `FACTS` of the facts that are true of the scene."""
    facts: set[tuple[Hashable, ...]] = set()
    for chapter in scene.chapters:
        facts |= {(chapter.background,), (chapter.camera,)}
        for thing in chapter.things:
            facts.add((thing.colour, thing.shape))
            for name in (thing.colour, thing.shape):
                facts |= {(name, thing.size), (name, "column", thing.column), (name, "row", thing.row)}
                facts |= {(name, motion) for motion in thing.motions}
    return {FACTS[fact] for fact in facts}


def fact_targets(examples: Sequence[Example]) -> torch.Tensor:
    """Return float32 [B, len(FACTS)]: 1 where a fact is true of an example, else 0."""
    targets = torch.zeros(len(examples), len(FACTS))
    for row, example in zip(targets, examples, strict=True):
        row[list(facts_of(example.scene))] = 1.0
    return targets


def mirrored(example: Example, axis: str) -> Example:
    """Return the example with pictures and scene mirrored left to right ("x") or top to bottom
    ("y").
    """
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
    flipped = np.s_[:, :, ::-1] if axis == "x" else np.s_[:, ::-1]
    pictures = {name: getattr(example, name)[flipped] for name in ("frames", "stills", "clip")}
    return replace(example, scene=replace(example.scene, chapters=chapters), **pictures)


def varied(example: Example, rng: random.Random) -> Example:
    """Return the example with random brightness, mirrored at random where the result stays in the
    split `tiny`.

    Without this augmentation the model memorises the few thousand scenes, each of which it sees
    dozens of times.
    """
    for axis in ("x", "y"):
        if rng.random() < 0.5:
            mirror_image = mirrored(example, axis)
            looks = (
                (t.colour, t.shape, t.size, c.background, t.column, t.row)
                for c in mirror_image.scene.chapters
                for t in c.things
            )
            if all(SPLIT_OF[look] == "tiny" for look in looks):
                example = mirror_image
    table = (np.arange(256) * rng.uniform(0.85, 1.1) + rng.uniform(-10, 10)).clip(0, 255).astype(np.uint8)
    pictures = {name: table[getattr(example, name)] for name in ("frames", "stills", "clip")}
    return replace(example, **pictures)


def by_size(pool: Sequence[Example]) -> list[list[Example]]:
    """Group the examples by frame size, since all examples of a batch have the same size."""
    groups = defaultdict(list)
    for example in pool:
        groups[example.size].append(example)
    return [groups[size] for size in sorted(groups)]


def batches(
    batcher: Batcher, pool: Sequence[Example], *, size: int, seed: int, first: int, steps: int
) -> Iterator[Batch]:
    """Yield the batches with numbers `first` to `steps` - 1.

    A batch depends only on the seed and its number, so that a resumed run continues with the same
    batches.
    """
    groups = by_size(pool)
    for step in range(first, steps):
        rng = random.Random(f"{seed}/{step}")
        prompt_id = rng.choices(list(PROMPT_SHARES), weights=list(PROMPT_SHARES.values()))[0]
        examples = rng.choices(rng.choices(groups, weights=[len(g) for g in groups])[0], k=size)
        examples = [varied(e, rng) for e in examples]
        questions = [batcher.questions.write(e, prompt_id, rng, pool) for e in examples]
        batch = batcher.collate(questions, examples, prompt_id, rng.choice(ANSWER_LIMITS))
        yield batch if prompt_id == "frame_captions" else replace(batch, items=batcher.items(examples, rng))


def token_targets(scene: Scene, size: tuple[int, int], early: float, late: float) -> dict[str, np.ndarray]:
    """Return what each visual token of a pair of frames covers: int64 [h, w] for each kind, -100 if
    undefined.

    The kinds colour, shape and motion describe the object whose centre lies in the token's cell;
    their last class means "no object". Every token also has the background, the camera, and
    the column and row (0 to 2) of its place as targets. Without the last two the language model
    has to guess places, because rotary positions are relative.

    size: (height, width) in pixels. early, late: times of the two frames, in [0, 1] of the scene. A
    pair that spans two chapters has no targets.
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
    grid_cells = [
        np.round(((np.arange(n) + 0.5) / n - 0.5) / GRID).clip(-1, 1).astype(np.int64) + 1 for n in shape
    ]
    out["row"], out["column"] = np.meshgrid(*grid_cells, indexing="ij")
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
    """Return the times of the two frames of temporal patch number `pair`, in [0, 1] of the scene."""
    return 2 * pair / (FRAMES - 1), (2 * pair + 1) / (FRAMES - 1)


def cell_targets(examples: Sequence[Example]) -> dict[str, torch.Tensor]:
    """Return `token_targets` of the examples' videos: int64 [B, T/2, h, w] for each kind."""
    pairs = range(FRAMES // 2)
    rows = [[token_targets(e.scene, e.size, *pair_times(pair)) for pair in pairs] for e in examples]
    return {
        kind: torch.from_numpy(np.stack([np.stack([c[kind] for c in row]) for row in rows]))
        for kind in rows[0][0]
    }


def _crowd(rng: random.Random, split: Split, times: tuple[float, float], scenes: int = 6) -> Scene:
    """Return a scene with the objects of several scenes, so that a frame has more to learn from.

    An object is left out if it belongs to another split or comes too close to the others at one of
    the two times.
    """
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
    """Render `count` new scenes, one pair of frames each.

    Returns pixels (uint8 [B, 2, H, W, 3]) and `token_targets` (int64 [B, h, w] for each kind).

    The vision tower needs new scenes, since it memorises those it sees again: trained on 3,500
    scenes, it recognised 98 % of their shapes but 60 % of those in held-out scenes. All pairs share
    two textures for each background, because most of the time is spent on drawing textures.
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
        targets.append(token_targets(scene, size, *times))
    return np.array(pixels), {kind: np.stack([t[kind] for t in targets]) for kind in targets[0]}
