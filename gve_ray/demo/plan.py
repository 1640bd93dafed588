"""Plan a raw corpus: its files, the defect of each, and their captions.

    for entry in plan_corpus(320, seed=42): ...

The plan is a pure function of its arguments. Its entries are the ground truth, which `corpus.py`
renders and `score.py` compares a run with. To keep the ground truth unambiguous, a file has at most
one defect, and only healthy files have junk, mismatched or missing captions.
"""

import random
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field, replace
from typing import Any

from gve_ray.demo import damage
from gve_ray.demo.language import terse_caption
from gve_ray.demo.noise import junk_caption, untidy
from gve_ray.demo.scenes import Chapter, Scene, Split, draw_scene

BROKEN = ("truncated", "empty", "zero_frame", "one_frame", "audio_only", "not_a_video", "corrupt")
COPIES = ("near_duplicate", "exact_duplicate")
ODD_PX = ((127, 97), (97, 127), (143, 111), (211, 113), (130, 98), (226, 94))
NOISES = ("codec", "sensor", "flicker", "sensor and flicker")
FORMAT = 1  # increment when the same arguments produce different files


@dataclass(frozen=True, kw_only=True)
class CorpusShares:
    """Shares of the defects among all files; files without a defect are healthy.

    A defect with a share above 0 occurs at least once. The shares of captions relate to all files
    as well, although only healthy files have such captions.
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
                raise ValueError(f"shares.{name}={share}: not a share of all files; use 0 to 1")

    def counts(self, n: int) -> dict[str, int]:
        """Return the number of files with each defect in a corpus of n files.

        Raises ValueError if too few files remain without a defect.
        """
        counts = {name: max(1, round(share * n)) if share else 0 for name, share in asdict(self).items()}
        copies = sum(counts[kind] for kind in COPIES)
        clean = n - sum(counts.values())
        if clean < max(2, copies):
            raise ValueError(
                f"n={n}: these shares leave {clean} clean files, but {max(2, copies)} are needed as "
                "originals of the duplicates; render more videos or lower the shares"
            )
        return counts


@dataclass(frozen=True, kw_only=True)
class Entry:
    """The ground truth about one file.

    kind: healthy, rotated or odd_size (which synthesis should keep), static, one of COPIES or one
    of BROKEN. caption_kind: true, junk, mismatched or none.
    """

    video_id: str
    kind: str
    scene: Scene  # the content of the file, or what a broken file should have shown
    caption: str | None
    caption_kind: str
    caption_of: str | None = None  # the video that a mismatched caption describes
    duplicate_of: str | None = None  # the video that this is a copy of
    variant: dict[str, Any] = field(default_factory=dict)  # parameters of the defect

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
        """Return the entry of a `to_dict` that was written as JSON and read back."""
        fields = {k: v for k, v in data.items() if k != "file"}
        return cls(**{**fields, "scene": Scene.from_dict(data["scene"])})


def plan_corpus(
    n: int, *, seed: int, split: Split = "corpus", shares: CorpusShares | None = None
) -> list[Entry]:
    """Plan a corpus of n files. The same arguments give the same entries."""
    counts = (shares or CorpusShares()).counts(n)
    rng = random.Random(f"gve_ray corpus {FORMAT}/{split}/{seed}/{n}")
    kinds = [kind for kind, count in counts.items() if not kind.endswith("_caption") for _ in range(count)]
    kinds += ["healthy"] * (n - len(kinds))
    rng.shuffle(kinds)
    scenes = _distinct_scenes(seed, split)
    entries: list[Entry] = []
    for i, kind in enumerate(kinds):
        scene = _scene_for(next(scenes), kind, rng)
        entries.append(
            Entry(
                video_id=f"v{i:0{len(str(n - 1))}d}", kind=kind, scene=scene, variant=_variant(kind, rng),
                caption=untidy(terse_caption(scene, rng), rng), caption_kind="true",
            )
        )  # fmt: skip
    _replace_captions(entries, counts, rng)
    _copy_scenes(entries, rng)
    return entries


def _distinct_scenes(seed: int, split: Split) -> Iterator[Scene]:
    """Yield scenes that differ from one another in their objects, motions or background."""
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


def _scene_for(scene: Scene, kind: str, rng: random.Random) -> Scene:
    """Return the scene as a file of that kind shows it."""
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
    """Draw the parameters of a defect of that kind."""
    match kind:
        case "static":
            return {"noise": rng.choice(NOISES), "crf": rng.randint(18, 32)}
        case "near_duplicate":
            return {
                "crf": rng.randint(23, 34),
                "scale": rng.choice((0.6, 0.75, 0.85, 1.0, 1.25, 1.5)),
                "speed": rng.choice((1.0, 1.0, 0.8, 1.25)),  # relative frame rate
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


def _replace_captions(entries: list[Entry], counts: dict[str, int], rng: random.Random) -> None:
    """Replace captions of healthy files in place, by junk, mismatched or no captions."""
    healthy = [i for i, entry in enumerate(entries) if entry.kind == "healthy"]
    rng.shuffle(healthy)
    chosen = iter(healthy)
    for _ in range(counts["junk_caption"]):
        i = next(chosen)
        entries[i] = replace(entries[i], caption=junk_caption(rng), caption_kind="junk")
    for _ in range(counts["no_caption"]):
        i = next(chosen)
        entries[i] = replace(entries[i], caption=None, caption_kind="none")
    for _ in range(counts["mismatched_caption"]):
        i = next(chosen)
        others = [e for e in entries if e.kind not in COPIES]  # the scenes of copies are assigned later
        other = rng.choice([e for e in others if not _share_content(e.scene, entries[i].scene)])
        entries[i] = replace(
            entries[i], caption_kind="mismatched", caption_of=other.video_id,
            caption=untidy(terse_caption(other.scene, rng), rng),
        )  # fmt: skip


def _share_content(a: Scene, b: Scene) -> bool:
    """Return whether two scenes have a background, or the colour and shape of an object, in common."""

    def content(scene: Scene) -> set[str | tuple[str, str]]:
        looks = {(t.colour, t.shape) for c in scene.chapters for t in c.things}
        return looks | {c.background for c in scene.chapters}

    return bool(content(a) & content(b))


def _copy_scenes(entries: list[Entry], rng: random.Random) -> None:
    """Give each copy, in place, the scene of a different clean video and a new caption of it."""
    clean = [e for e in entries if e.kind == "healthy" and e.caption_kind == "true"]
    copies = [i for i, entry in enumerate(entries) if entry.kind in COPIES]
    for i, original in zip(copies, rng.sample(clean, len(copies)), strict=True):
        caption = untidy(terse_caption(original.scene, rng), rng)
        entries[i] = replace(
            entries[i], scene=original.scene, duplicate_of=original.video_id, caption=caption
        )
