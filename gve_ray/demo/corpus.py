"""A raw corpus like a web crawl: real mp4 files with noisy captions, every kind of dirt, and the truth.

    manifest = write_corpus(Path("runs/demo/corpus"), n=320, seed=42)

A folder holds `videos/<id>.mp4`, the truth of each beside it as `videos/<id>.json`, all of it once more
in `truth.jsonl`, and `manifest.jsonl` (video_id, uri, caption) for jobs/synthesize.py. A file has at most
one kind of file dirt, and a dirty caption only if the file is plain and healthy, so no truth is in doubt.
What is drawn is a pure function of the arguments (`plan_corpus`); rendering is parallel and resumes.
"""

import json
import logging
import multiprocessing
import os
import random
import shutil
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict, dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any, Literal

import numpy as np

from gve_ray.demo import damage
from gve_ray.demo.language import terse_caption
from gve_ray.demo.noise import junk_caption, untidy
from gve_ray.demo.render import encode_mp4, frames
from gve_ray.demo.scenes import Chapter, Scene, Split, draw_scene

log = logging.getLogger(__name__)

Kind = Literal[
    "healthy", "rotated", "odd_size", "static", "near_duplicate", "exact_duplicate",
    "truncated", "empty", "zero_frame", "one_frame", "audio_only", "not_a_video", "corrupt",
]  # fmt: skip
CaptionKind = Literal["true", "junk", "mismatched", "none"]

BROKEN = ("truncated", "empty", "zero_frame", "one_frame", "audio_only", "not_a_video", "corrupt")
COPIES = ("near_duplicate", "exact_duplicate")
ODD_PX = ((127, 97), (97, 127), (143, 111), (211, 113), (130, 98), (226, 94))
NOISES = ("codec", "sensor", "flicker", "sensor and flicker")
_FORMAT = 1  # raise it when the same arguments make other files
_PROGRESS_SECONDS = 5.0


@dataclass(frozen=True, kw_only=True)
class CorpusShares:
    """Share of all files of each kind, the rest being healthy; a kind with a share above 0 has at least one.

    The caption shares are of all files too, and taken from the healthy ones.
    """

    static: float = 0.06
    near_duplicate: float = 0.06
    exact_duplicate: float = 0.01
    truncated: float = 0.02
    empty: float = 0.01
    zero_frame: float = 0.01
    one_frame: float = 0.01
    audio_only: float = 0.01
    not_a_video: float = 0.015
    corrupt: float = 0.02
    rotated: float = 0.025
    odd_size: float = 0.025
    junk_caption: float = 0.08
    mismatched_caption: float = 0.06
    no_caption: float = 0.05

    def __post_init__(self) -> None:
        for name, share in asdict(self).items():
            if not 0 <= share <= 1:
                raise ValueError(f"shares.{name}={share}: a share of all files; use 0 to 1")

    def counts(self, n: int) -> dict[str, int]:
        """Number of files by kind of dirt in a corpus of n. Raises ValueError if too few stay clean."""
        found = {name: max(1, round(share * n)) if share else 0 for name, share in asdict(self).items()}
        copies = sum(found[kind] for kind in COPIES)
        clean = n - sum(found.values())
        if clean < max(2, copies):
            raise ValueError(
                f"n={n}: these shares leave {clean} clean files, and {max(2, copies)} are needed "
                "to copy from; render more videos or lower the shares"
            )
        return found


@dataclass(frozen=True, kw_only=True)
class Entry:
    """The truth about one file. The caption's truth is `caption_kind`; dirt is in `kind`."""

    video_id: str
    kind: str
    scene: Scene  # what the file shows, or was meant to show
    caption: str | None
    caption_kind: str
    caption_of: str | None = None  # the video whose scene a mismatched caption is about
    duplicate_of: str | None = None  # the video this is a copy of
    variant: dict[str, Any] = field(default_factory=dict)  # how the dirt was made

    @property
    def file(self) -> str:
        return f"videos/{self.video_id}.mp4"

    @property
    def broken(self) -> bool:
        return self.kind in BROKEN

    def to_dict(self) -> dict[str, Any]:
        return {**asdict(self), "file": self.file}

    @classmethod
    def from_dict(cls, data: dict[str, Any]) -> "Entry":
        """Inverse of `to_dict` after a round through JSON."""
        fields = {k: v for k, v in data.items() if k != "file"}
        return cls(**{**fields, "scene": Scene.from_dict(data["scene"])})


def plan_corpus(
    n: int, *, seed: int, split: Split = "corpus", shares: CorpusShares | None = None
) -> list[Entry]:
    """The truth of a corpus of n files, without its files: the same for the same arguments."""
    counts = (shares or CorpusShares()).counts(n)
    rng = random.Random(f"gve_ray corpus {_FORMAT}/{split}/{seed}/{n}")
    kinds = [kind for kind, count in counts.items() if not kind.endswith("_caption") for _ in range(count)]
    kinds += ["healthy"] * (n - len(kinds))
    rng.shuffle(kinds)
    scenes = _distinct_scenes(seed, split)
    entries: list[Entry] = []
    for i, kind in enumerate(kinds):
        scene = _dress(next(scenes), kind, rng)
        entries.append(
            Entry(
                video_id=f"v{i:0{len(str(n - 1))}d}", kind=kind, scene=scene, variant=_variant(kind, rng),
                caption=untidy(terse_caption(scene, rng), rng), caption_kind="true",
            )
        )  # fmt: skip
    _spoil_captions(entries, counts, rng)
    _copy_scenes(entries, rng)
    return entries


def _distinct_scenes(seed: int, split: Split) -> Iterator[Scene]:
    """Scenes no two of which show the same objects doing the same before the same background."""
    seen = set()
    number = seed * 1_000_003
    while True:
        scene = draw_scene(number, split)
        number += 1
        content = tuple(
            (c.background, tuple((t.colour, t.shape, t.column, t.row, t.motions) for t in c.things))
            for c in scene.chapters
        )
        if content not in seen:
            seen.add(content)
            yield scene


def _dress(scene: Scene, kind: str, rng: random.Random) -> Scene:
    """The scene as a file of that kind needs it."""
    if kind == "odd_size":
        width, height = rng.choice(ODD_PX)
        return replace(scene, width=width, height=height)
    if kind == "static":
        first = scene.chapters[0]
        things = tuple(replace(t, motions=("rest",)) for t in first.things)
        still = Chapter(background=first.background, camera="still", things=things)
        return replace(scene, chapters=(still,), duration=min(scene.duration, 10.0))
    return scene


def _variant(kind: str, rng: random.Random) -> dict[str, Any]:
    """How the dirt of that kind is made, drawn in advance."""
    match kind:
        case "static":
            return {"noise": rng.choice(NOISES), "crf": rng.randint(18, 32)}
        case "near_duplicate":
            return {
                "crf": rng.randint(23, 34),
                "scale": rng.choice((0.6, 0.75, 0.85, 1.0, 1.25, 1.5)),
                "speed": rng.choice((1.0, 1.0, 0.8, 1.25)),  # frames a second, relative
                "gain": round(rng.uniform(0.95, 1.05), 3),  # brightness
            }
        case "truncated":
            return {"layout": rng.choice(damage.CUT_LAYOUTS), "keep": round(rng.uniform(0.3, 0.9), 3)}
        case "not_a_video":
            return {"what": rng.choice(damage.NOT_A_VIDEO)}
        case "rotated":
            return {"degrees": rng.choice(damage.TURNS)}
        case "audio_only":
            return {"seconds": round(rng.uniform(1, 4), 1), "pitch": rng.randint(200, 900)}
    return {}


def _spoil_captions(entries: list[Entry], counts: dict[str, int], rng: random.Random) -> None:
    """Give plain healthy files, in place, their share of junk, mismatched and missing captions."""
    plain = [i for i, entry in enumerate(entries) if entry.kind == "healthy"]
    rng.shuffle(plain)
    chosen = iter(plain)
    for _ in range(counts["junk_caption"]):
        i = next(chosen)
        entries[i] = replace(entries[i], caption=junk_caption(rng), caption_kind="junk")
    for _ in range(counts["no_caption"]):
        i = next(chosen)
        entries[i] = replace(entries[i], caption=None, caption_kind="none")
    for _ in range(counts["mismatched_caption"]):
        i = next(chosen)
        others = [e for e in entries if e.kind not in COPIES]  # copies have no scene yet
        other = rng.choice([e for e in others if not _share_content(e.scene, entries[i].scene)])
        entries[i] = replace(
            entries[i], caption_kind="mismatched", caption_of=other.video_id,
            caption=untidy(terse_caption(other.scene, rng), rng),
        )  # fmt: skip


def _share_content(a: Scene, b: Scene) -> bool:
    """Whether two scenes have a background, or an object's colour and shape, in common."""

    def content(scene: Scene) -> set[str | tuple[str, str]]:
        looks = {(t.colour, t.shape) for c in scene.chapters for t in c.things}
        return looks | {c.background for c in scene.chapters}

    return bool(content(a) & content(b))


def _copy_scenes(entries: list[Entry], rng: random.Random) -> None:
    """Make each copy, in place, one of a clean video of its own; its caption is in its own words."""
    clean = [e for e in entries if e.kind == "healthy" and e.caption_kind == "true"]
    copies = [i for i, entry in enumerate(entries) if entry.kind in COPIES]
    for i, original in zip(copies, rng.sample(clean, len(copies)), strict=True):
        caption = untidy(terse_caption(original.scene, rng), rng)
        entries[i] = replace(
            entries[i], scene=original.scene, duplicate_of=original.video_id, caption=caption
        )


def write_corpus(
    folder: Path,
    *,
    n: int = 320,
    seed: int,
    split: Split = "corpus",
    shares: CorpusShares | None = None,
    workers: int = 2,
) -> Path:
    """Render a corpus into `folder` and return the path of its manifest; finished files are not made again.

    workers: processes (1: this one). Raises ValueError if the folder holds a corpus of other arguments.
    """
    shares = shares or CorpusShares()
    folder = folder.resolve()
    manifest, state = folder / "manifest.jsonl", folder / "corpus.json"
    arguments = {"format": _FORMAT, "n": n, "seed": seed, "split": split, "shares": asdict(shares)}
    found = json.loads(state.read_text()) if state.exists() else {"arguments": arguments, "complete": False}
    if found["arguments"] != arguments:
        raise ValueError(
            f"{folder}: holds a corpus of other arguments ({found['arguments']}, not {arguments}); "
            "give another folder or delete this one"
        )
    if found["complete"]:
        return manifest
    entries = plan_corpus(n, seed=seed, split=split, shares=shares)
    (folder / "videos").mkdir(parents=True, exist_ok=True)
    _write_atomically(state, json.dumps(found, indent=1))
    _render_all(folder, entries, seed=seed, workers=workers)
    _write_atomically(folder / "truth.jsonl", _lines(entry.to_dict() for entry in entries))
    # URIs are relative to the manifest: the folder can be moved, and is the same bytes wherever it is made.
    rows = ({"video_id": e.video_id, "uri": e.file, "caption": e.caption} for e in entries)
    _write_atomically(manifest, _lines(rows))
    kinds = dict(Counter(entry.kind for entry in entries).most_common())
    _write_atomically(state, json.dumps({"arguments": arguments, "complete": True, "kinds": kinds}, indent=1))
    return manifest


def read_truth(folder: Path) -> list[Entry]:
    """The truth of a finished corpus. Raises FileNotFoundError if it is not finished."""
    path = folder / "truth.jsonl"
    if not path.exists():
        raise FileNotFoundError(f"{path}: no truth there; write_corpus writes it when the corpus is finished")
    with path.open(encoding="utf-8") as lines:
        return [Entry.from_dict(json.loads(line)) for line in lines]


def _lines(rows: Any) -> str:
    return "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)


def _write_atomically(path: Path, text: str) -> None:
    part = path.with_name(path.name + ".part")
    part.write_text(text, encoding="utf-8")
    os.replace(part, path)


def _render_all(folder: Path, entries: Sequence[Entry], *, seed: int, workers: int) -> None:
    """Render what is not there yet, with a line of progress every few seconds."""
    files = (folder / entry.file for entry in entries)
    done_before = [file.exists() and file.with_suffix(".json").exists() for file in files]
    todo = [entry for entry, done in zip(entries, done_before, strict=True) if not done]
    (folder / "partial").mkdir(exist_ok=True)
    render = partial(render_entry, folder=folder, seed=seed)
    start = last = time.monotonic()
    log.info("corpus: %d of %d files to render in %s", len(todo), len(entries), folder)

    def progress(done: int) -> None:
        nonlocal last
        now = time.monotonic()
        if now - last > _PROGRESS_SECONDS or done == len(todo):
            rate = done / (now - start)
            left = (len(todo) - done) / rate
            log.info("corpus: %d/%d files, %.1f files/s, %.0f s left", done, len(todo), rate, left)
            last = now

    if workers == 1:
        for done, entry in enumerate(todo, 1):
            render(entry)
            progress(done)
    else:
        # Spawned: the caller may have threads (Ray, torch) that a fork would freeze.
        context = multiprocessing.get_context("spawn")
        with ProcessPoolExecutor(workers, mp_context=context) as pool:
            for done, _ in enumerate(pool.map(render, todo, chunksize=2), 1):
                progress(done)
    shutil.rmtree(folder / "partial")


def render_entry(entry: Entry, *, folder: Path, seed: int) -> None:
    """Write one file, then its truth; both appear whole or not at all."""
    part = folder / "partial" / f"{entry.video_id}.mp4"
    part.unlink(missing_ok=True)  # of a killed run
    made = _write_file(part, entry, seed)
    os.replace(part, folder / entry.file)
    truth = {**entry.to_dict(), "made": made}
    _write_atomically(
        (folder / entry.file).with_suffix(".json"), json.dumps(truth, ensure_ascii=False, indent=1)
    )


def _write_file(path: Path, entry: Entry, seed: int) -> dict[str, Any]:
    """Write the entry's file; returns what could only be known by making it."""
    scene, variant = entry.scene, entry.variant
    rng = random.Random(f"gve_ray file {_FORMAT}/{seed}/{entry.video_id}")
    noise = np.random.default_rng(rng.getrandbits(64))
    size = {"width": scene.width, "height": scene.height}
    match entry.kind:
        case "empty":
            path.touch()
        case "zero_frame":
            damage.write_no_frames(path, fps=scene.fps, **size)
        case "audio_only":
            damage.write_sound_only(path, **variant)
        case "not_a_video":
            damage.write_not_a_video(path, variant["what"], next(_pictures(scene)), rng)
        case "one_frame":
            encode_mp4(path, [next(_pictures(scene))], fps=scene.fps, **size)
        case "static":
            pictures = _noisy(_pictures(scene), variant["noise"], noise)
            encode_mp4(path, pictures, fps=scene.fps, crf=variant["crf"], **size)
        case "near_duplicate":
            _write_copy(path, scene, **variant)
        case "rotated":
            _write_rotated(path, scene, variant["degrees"])
        case _:
            encode_mp4(path, _pictures(scene), fps=scene.fps, **size)
    if entry.kind == "truncated":
        if variant["layout"] == "moov first":
            damage.move_index_first(path)
        return {"kept": damage.cut(path, variant["keep"], frames=scene.total_frames)}
    if entry.kind == "corrupt":
        return {"bytes_overwritten": damage.overwrite_middle(path, noise, frames=scene.total_frames)}
    return {}


def _pictures(scene: Scene) -> Iterator[np.ndarray]:
    """The scene's frames, uint8 [H, W, 3], at its own size and rate."""
    last = scene.total_frames - 1
    return frames(scene, (i / last for i in range(scene.total_frames)), scene.width, scene.height)


def _noisy(pictures: Iterator[np.ndarray], noise: str, rng: np.random.Generator) -> Iterator[np.ndarray]:
    """Pictures as a real camera on a tripod sees them: sensor grain and mild flicker of the light."""
    grain = rng.uniform(1.5, 3.0) if "sensor" in noise else 0.0  # standard deviation, grey levels
    flicker = 0.025 if "flicker" in noise else 0.0
    for picture in pictures:
        gain = 1 + flicker * rng.uniform(-1, 1)
        seen = picture * np.float32(gain)
        if grain:
            seen = seen + grain * rng.standard_normal(picture.shape, dtype=np.float32)
        yield np.clip(seen, 0, 255).round().astype(np.uint8)


def _write_copy(path: Path, scene: Scene, *, crf: int, scale: float, speed: float, gain: float) -> None:
    """The scene once more, at another size, frame rate, brightness and quality."""
    import av

    width, height = (2 * round(side * scale / 2) for side in (scene.width, scene.height))
    source = list(_pictures(scene))
    count = max(8, round(len(source) * speed))

    def pictures() -> Iterator[np.ndarray]:
        for i in range(count):
            picture = source[round(i * (len(source) - 1) / (count - 1))]
            scaled = av.VideoFrame.from_ndarray(picture, format="rgb24").reformat(width=width, height=height)
            yield np.clip(scaled.to_ndarray() * np.float32(gain), 0, 255).astype(np.uint8)

    encode_mp4(path, pictures(), fps=scene.fps * speed, width=width, height=height, crf=crf)


def _write_rotated(path: Path, scene: Scene, degrees: int) -> None:
    """Stored turned, with a display matrix that tells the player to turn it back by `degrees` clockwise."""
    stored = (np.ascontiguousarray(np.rot90(p, degrees // 90)) for p in _pictures(scene))  # counterclockwise
    width, height = (scene.width, scene.height) if degrees == 180 else (scene.height, scene.width)
    encode_mp4(path, stored, fps=scene.fps, width=width, height=height)
    damage.turn(path, degrees, stored_width=width, stored_height=height)
