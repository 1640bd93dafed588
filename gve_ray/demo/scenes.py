"""Draw random scenes: the content of miniature videos.

A scene has one chapter, or two or three if the video is long. A chapter has a background, a camera
movement and one to three objects. Each object performs one to three motions in turn, which share
the time of the chapter equally. Places are the nine cells of a 3x3 grid. `render.py` turns scenes
into pixels.

There are three splits: `tiny` for training the shipped model, `corpus` for synthesis and for
training on its pairs, and `heldout` for scoring. Different splits have no combination of colour,
shape, size, background and start place in common.
"""

import random
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from itertools import pairwise, product
from typing import Any, Literal, get_args

COLOURS = ("red", "orange", "yellow", "green", "blue", "purple", "pink", "white")
SHAPES = ("circle", "bar", "triangle", "star", "cross", "ring")
BACKGROUNDS = ("night sky", "desert", "meadow", "ocean", "snow field", "brick wall")
CAMERAS = ("still", "pan left", "pan right", "zoom in", "zoom out")
MOTIONS = ("left", "right", "up", "down", "grow", "shrink", "spin", "rest")
SIZES = {"small": 0.11, "large": 0.165}  # radius as a share of the frame's shorter side
GRID = 0.28  # distance between neighbouring cells as a share of the frame's width or height
GROWTH = 1.45
SHRINKAGE = 0.62
SPIN_DEGREES = 130.0  # sampled in eight frames, a spin by this angle never looks like a symmetry of a shape
SHIFTS = {"left": (-1, 0), "right": (1, 0), "up": (0, -1), "down": (0, 1)}
SIZES_PX = ((112, 112), (128, 128), (160, 120), (176, 144), (192, 108), (224, 224), (240, 320), (320, 240))
WIDE_PX = ((426, 240), (448, 252), (252, 448), (336, 336))
FRAME_RATES = (8.0, 10.0, 12.0, 15.0, 24.0, 25.0, 30.0)

Split = Literal["tiny", "corpus", "heldout"]
SPLIT_SHARES: dict[str, float] = {"tiny": 0.5, "corpus": 0.25, "heldout": 0.25}


@dataclass(frozen=True)
class State:
    """The state of an object at one moment: centre in frame widths and heights, radius scale, angle
    in degrees.
    """

    x: float
    y: float
    scale: float
    angle: float

    @property
    def cell(self) -> tuple[int, int]:
        """The nearest grid cell as (column, row), each from 0 to 2."""
        column, row = (min(2, max(0, round((v - 0.5) / GRID) + 1)) for v in (self.x, self.y))
        return column, row


@dataclass(frozen=True, kw_only=True)
class Thing:
    """One object: its looks, its start cell (column, row) and the sequence of its motions."""

    colour: str
    shape: str
    size: str
    column: int
    row: int
    motions: tuple[str, ...]
    jitter: tuple[float, float] = (0.0, 0.0)

    def at(self, time: float) -> State:
        """Return the state at `time` in [0, 1] of the chapter."""
        x, y, scale, angle = float(self.column), float(self.row), 1.0, 0.0
        for i, motion in enumerate(self.motions):
            done = min(1.0, max(0.0, time * len(self.motions) - i))
            dx, dy = SHIFTS.get(motion, (0, 0))
            x, y = x + dx * done, y + dy * done
            if motion in ("grow", "shrink"):
                scale *= (GROWTH if motion == "grow" else SHRINKAGE) ** done
            elif motion == "spin":
                angle += SPIN_DEGREES * done
        return State(
            0.5 + GRID * (x - 1) + self.jitter[0], 0.5 + GRID * (y - 1) + self.jitter[1], scale, angle
        )

    def radius(self, time: float) -> float:
        """Return the radius at `time` as a share of the frame's shorter side."""
        return SIZES[self.size] * self.at(time).scale


@dataclass(frozen=True, kw_only=True)
class Chapter:
    """Objects before a background, with one camera movement. Objects are ordered by start column,
    then row.
    """

    background: str
    camera: str
    things: tuple[Thing, ...]

    @property
    def dynamic(self) -> bool:
        """Whether anything changes over time."""
        return self.camera != "still" or any(m != "rest" for t in self.things for m in t.motions)


@dataclass(frozen=True, kw_only=True)
class Scene:
    """The content of a video: chapters of equal length, size in pixels, frame rate, and duration in
    seconds.
    """

    seed: int
    chapters: tuple[Chapter, ...]
    width: int
    height: int
    fps: float
    duration: float

    @property
    def total_frames(self) -> int:
        return max(2, round(self.fps * self.duration))

    def locate(self, time: float) -> tuple[Chapter, float]:
        """Return the chapter at `time` in [0, 1] of the scene, and the time in [0, 1] within that
        chapter.
        """
        i = min(len(self.chapters) - 1, int(time * len(self.chapters)))
        return self.chapters[i], min(1.0, time * len(self.chapters) - i)

    def to_dict(self) -> dict[str, Any]:
        """Return the scene as plain data for JSON."""
        return asdict(self)

    @classmethod
    def from_dict(cls, data: dict[str, Any]) -> "Scene":
        """Return the scene of a `to_dict` that was written as JSON and read back."""
        chapters = tuple(
            Chapter(
                background=c["background"],
                camera=c["camera"],
                things=tuple(
                    Thing(**{**t, "motions": tuple(t["motions"]), "jitter": tuple(t["jitter"])})
                    for t in c["things"]
                ),
            )
            for c in data["chapters"]
        )
        return cls(**{**data, "chapters": chapters})


Combination = tuple[str, str, str, str, int, int]  # colour, shape, size, background, column, row


def _split_table() -> dict[Combination, str]:
    combos = list(product(COLOURS, SHAPES, SIZES, BACKGROUNDS, range(3), range(3)))
    random.Random("gve_ray splits 1").shuffle(combos)
    table: dict[Combination, str] = {}
    start = 0
    for name, share in SPLIT_SHARES.items():
        end = start + round(share * len(combos))
        table |= dict.fromkeys(combos[start:end], name)
        start = end
    return table


SPLIT_OF = _split_table()


def _motions(rng: random.Random, shape: str, column: int, row: int, length: int) -> tuple[str, ...]:
    """Draw `length` motions that stay on the grid. Consecutive motions differ, and only shapes with
    corners spin.
    """
    motions: list[str] = []
    while len(motions) < length:
        motion = rng.choice(MOTIONS[:-1])
        dx, dy = SHIFTS.get(motion, (0, 0))
        if motions and motion == motions[-1]:
            continue
        if motion == "spin" and shape in ("circle", "ring"):
            continue
        if not (0 <= column + dx <= 2 and 0 <= row + dy <= 2) or motions.count(motion) > 1:
            continue
        column, row = column + dx, row + dy
        motions.append(motion)
    return tuple(motions)


def _apart(things: Iterable[Thing]) -> bool:
    """Return whether any two objects are at least most of a cell apart at every moment."""
    things = tuple(things)
    for step in range(13):
        states = [thing.at(step / 12) for thing in things]
        for i, a in enumerate(states):
            if any(abs(a.x - b.x) < 0.22 and abs(a.y - b.y) < 0.22 for b in states[:i]):
                return False
    return True


def _things(rng: random.Random, background: str, split: Split, count: int, lengths: list[int]) -> list[Thing]:
    cells = list(product(range(3), range(3)))
    while True:
        looks = zip(
            rng.sample(COLOURS, count), rng.sample(SHAPES, count), rng.sample(cells, count), strict=True
        )
        drawn = [(colour, shape, rng.choice(tuple(SIZES)), *cell) for colour, shape, cell in looks]
        if any(SPLIT_OF[c, s, z, background, column, row] != split for c, s, z, column, row in drawn):
            continue
        things = [
            Thing(
                colour=colour,
                shape=shape,
                size=size,
                column=column,
                row=row,
                motions=_motions(rng, shape, column, row, length) if length else ("rest",),
                jitter=(rng.uniform(-0.03, 0.03), rng.uniform(-0.03, 0.03)),
            )
            for (colour, shape, size, column, row), length in zip(drawn, lengths, strict=True)
        ]
        if _apart(things):
            return sorted(things, key=lambda t: (t.column, t.row))


def _chapter(rng: random.Random, split: Split, background: str) -> Chapter:
    count = rng.choices((1, 2, 3), weights=(0.4, 0.35, 0.25))[0]
    camera = rng.choices(CAMERAS, weights=(0.6, 0.1, 0.1, 0.1, 0.1))[0]
    if count == 1:
        lengths = [rng.choices((1, 2, 3), weights=(0.35, 0.4, 0.25))[0]]
    elif count == 2:
        lengths = [rng.choice((1, 2)), rng.choice((0, 1, 2))]
    else:
        lengths = [1, rng.choice((0, 1)), 0]
    rng.shuffle(lengths)
    return Chapter(
        background=background,
        camera=camera,
        things=tuple(_things(rng, background, split, count, lengths)),
    )


def draw_scene(seed: int, split: Split, *, long: bool | None = None) -> Scene:
    """Draw a scene of the split. The same arguments give the same scene.

    long: True for several chapters, False for one; if None, one scene in ten is long. Raises
    ValueError if the split is unknown.
    """
    if split not in get_args(Split):
        raise ValueError(f"split={split!r}: expected one of {', '.join(get_args(Split))}")
    rng = random.Random(f"{split}/{seed}")
    is_long = rng.random() < 0.1
    if long is not None:
        is_long = long
    if is_long:
        backgrounds = rng.sample(BACKGROUNDS, rng.choice((2, 3)))
        chapters = tuple(
            Chapter(background=b, camera="still", things=tuple(_things(rng, b, split, 1, [1])))
            for b in backgrounds
        )
        assert all(a.background != b.background for a, b in pairwise(chapters))
        width, height = rng.choice(SIZES_PX[:5])
        return Scene(
            seed=seed, chapters=chapters, width=width, height=height,
            fps=rng.choice(FRAME_RATES[:2]), duration=float(rng.randint(20, 60)),
        )  # fmt: skip
    width, height = rng.choice(SIZES_PX if rng.random() < 0.85 else WIDE_PX)
    return Scene(
        seed=seed,
        chapters=(_chapter(rng, split, rng.choice(BACKGROUNDS)),),
        width=width,
        height=height,
        fps=rng.choices(FRAME_RATES, weights=(4, 4, 4, 3, 1, 1, 1))[0],
        duration=round(rng.uniform(1.0, 10.0), 1),
    )
