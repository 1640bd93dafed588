"""Families of held-out scenes whose members differ in one respect and are equal in all others.

    places_and_times(rng)  # 12 scenes: one object at 3 places x the same frames in 4 orders in time

What differs in time differs in nothing else: an object that goes one way, the other, or there and back, and a
camera that takes the same steps in another order and direction, show the same frames in another order, so no
single frame tells them apart, nor do all of them shuffled. Nothing else moves, for whoever sees how far a camera
has come knows the order of the frames. Scenes of a family share their seed, and with it the texture behind.
"""

import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise, permutations, product

from gve_ray.demo.claims import Cell, lasting_relation, path
from gve_ray.demo.scenes import (
    BACKGROUNDS,
    CAMERAS,
    COLOURS,
    SHAPES,
    SHIFTS,
    SIZES,
    SIZES_PX,
    SPLIT_OF,
    Chapter,
    Scene,
    Thing,
    draw_scene,
)

BACK = {"left": "right", "right": "left", "up": "down", "down": "up"}
CAMERA_BACK = {"pan left": "pan right", "pan right": "pan left", "zoom in": "zoom out",
               "zoom out": "zoom in", "still": "still"}  # fmt: skip
SMALL_PX = SIZES_PX[:4]
SHORT_SECONDS = (2.0, 6.0)
LONG_FPS = 8.0
OBJECTS, ACTIONS = 7, 4  # of a composed grid: a row and a column of it are the 10 candidates of a query
_CELLS = tuple(product(range(3), range(3)))
_JITTER = 0.02  # of the frame: objects in neighbouring cells stay apart


@dataclass(frozen=True, kw_only=True)
class Stage:
    """One object that moves and comes by no cell twice, and one that rests, at any of several places.

    Each of `resting` lies to one side of the mover's whole way, so that their relation lasts.
    """

    background: str
    mover: Thing
    resting: tuple[Thing, ...]

    def chapter(self, place: int, mover: Thing | None = None) -> Chapter:
        """The stage with the resting object at one of its places; `mover`: its own on another way."""
        return _chapter(self.background, "still", (mover or self.mover, self.resting[place]))


def is_heldout(thing: Thing, background: str) -> bool:
    """Whether an object before this background belongs to split `heldout`."""
    look = (thing.colour, thing.shape, thing.size, background, thing.column, thing.row)
    return SPLIT_OF[look] == "heldout"


def turned_back(thing: Thing) -> Thing:
    """The object on its way back. Only shifts can be turned back: KeyError for other motions."""
    column, row = path(thing)[-1]
    motions = tuple(BACK[motion] for motion in reversed(thing.motions))
    return replace(thing, column=column, row=row, motions=motions)


def there_and_back(thing: Thing) -> Thing:
    """The object on its way and then on its way back, where it has been before all the time."""
    return replace(thing, motions=(*thing.motions, *turned_back(thing).motions))


def _chapter(background: str, camera: str, things: Sequence[Thing]) -> Chapter:
    ordered = tuple(sorted(things, key=lambda t: (t.column, t.row)))
    return Chapter(background=background, camera=camera, things=ordered)


def _on_grid(thing: Thing) -> bool:
    return all(0 <= column <= 2 and 0 <= row <= 2 for column, row in path(thing))


def _apart(things: Sequence[Thing]) -> bool:
    """Whether no two objects ever use the same cell."""
    used = [cell for thing in things for cell in set(path(thing))]
    return len(used) == len(set(used))


def short_scene(rng: random.Random, chapters: Sequence[Chapter]) -> Scene:
    """Chapters as a small video of a few seconds."""
    width, height = rng.choice(SMALL_PX)
    return Scene(
        seed=rng.getrandbits(32), chapters=tuple(chapters), width=width, height=height,
        fps=rng.choice((8.0, 10.0, 12.0)), duration=round(rng.uniform(*SHORT_SECONDS), 1),
    )  # fmt: skip


def long_scene(rng: random.Random, chapters: Sequence[Chapter]) -> Scene:
    """Chapters as a small video of 20 to 24 seconds."""
    return replace(short_scene(rng, chapters), fps=LONG_FPS, duration=rng.choice((20.0, 22.0, 24.0)))


# Place against time.


def draw_stage(
    rng: random.Random, *, places: int, background: str | None = None, lengths: Sequence[int] = (1, 2, 2, 3)
) -> Stage:
    """A stage whose resting object has `places` places, every object of it held out wherever it starts.

    lengths: of the mover's way, in motions, one of which is drawn.
    """
    while True:
        behind = background or rng.choice(BACKGROUNDS)
        (colour, other), (shape, form) = rng.sample(COLOURS, 2), rng.sample(SHAPES, 2)
        column, row = rng.choice(_CELLS)
        length = rng.choice(lengths)
        mover = Thing(
            colour=colour, shape=shape, size=rng.choice(tuple(SIZES)), column=column, row=row,
            motions=tuple(rng.choices(tuple(SHIFTS), k=length)), jitter=_jitter(rng),
        )  # fmt: skip
        once = len(set(path(mover))) == length + 1 and len(set(mover.motions)) == length
        if not (once and _on_grid(mover)):
            continue
        if not (is_heldout(mover, behind) and is_heldout(turned_back(mover), behind)):
            continue
        rest = Thing(
            colour=other, shape=form, size=rng.choice(tuple(SIZES)), column=0, row=0,
            motions=("rest",), jitter=_jitter(rng),
        )  # fmt: skip
        found = [replace(rest, column=c, row=r) for c, r in _CELLS]
        found = [one for one in found if is_heldout(one, behind) and lasting_relation(one, mover)]
        if len(found) >= places:
            return Stage(background=behind, mover=mover, resting=tuple(rng.sample(found, places)))


def _jitter(rng: random.Random) -> tuple[float, float]:
    return rng.uniform(-_JITTER, _JITTER), rng.uniform(-_JITTER, _JITTER)


def places_and_times(rng: random.Random) -> list[Scene]:
    """3 places of a resting object, and for each of them 4 scenes of the same frames in a row: the mover goes
    one way or the other, or starts at either end and comes back to it."""
    stage = draw_stage(rng, places=3, lengths=(1,))
    forth, back = stage.mover, turned_back(stage.mover)
    first = short_scene(rng, [stage.chapter(0)])
    return [
        replace(first, chapters=(stage.chapter(place, mover),))
        for place, mover in product(range(3), (forth, back, there_and_back(forth), there_and_back(back)))
    ]


def long_places(rng: random.Random) -> list[Scene]:
    """Four long scenes of two stages each, equal but for where the resting object of either is."""
    stages = [draw_stage(rng, places=2, background=b) for b in rng.sample(BACKGROUNDS, 2)]
    first = long_scene(rng, [stage.chapter(0) for stage in stages])
    return [
        replace(first, chapters=tuple(s.chapter(place) for s, place in zip(stages, places, strict=True)))
        for places in product(range(2), repeat=2)
    ]


def camera_scenes(rng: random.Random, n: int) -> list[Scene]:
    """Scenes of one resting object, equal but for the order and direction of four camera steps.

    All have two pans, a zoom and a rest. So what is on their frames is the same, and whoever does not see in
    what order knows nothing. Each comes with the one turned back in time. Raises ValueError if n > 72.
    """
    kinds = permutations(("pan", "pan", "zoom", "still"))
    steps = {
        sequence: None
        for order in kinds
        for sequence in product(*([one for one in CAMERAS if one.startswith(kind)] for kind in order))
        if all(a != b for a, b in pairwise(sequence))  # two alike would be one long step
    }
    chosen: dict[tuple[str, ...], None] = {}
    for sequence in rng.sample(list(steps), len(steps)):
        back = tuple(CAMERA_BACK[camera] for camera in reversed(sequence))
        chosen |= dict.fromkeys((sequence, back))
    if n > len(chosen):
        raise ValueError(f"n={n}: there are {len(chosen)} sequences of camera steps; lower the scale")
    chapter = draw_stage(rng, places=1).chapter(0)
    alone = replace(chapter, things=tuple(t for t in chapter.things if t.motions == ("rest",)))
    # 48 frames: none falls on a cut after a quarter, so turning back is exact there, too.
    first = replace(short_scene(rng, [alone]), fps=8.0, duration=6.0)
    return [
        replace(first, chapters=tuple(replace(alone, camera=camera) for camera in sequence))
        for sequence in list(chosen)[:n]
    ]


# Pairs that share much.


def _drawn(rng: random.Random, *, long: bool = False) -> Iterator[Scene]:
    """Held-out scenes of the demo's usual kind."""
    while True:
        yield draw_scene(rng.getrandbits(48), "heldout", long=long)


def same_background(rng: random.Random) -> list[Scene]:
    """Two short scenes that share background and texture and nothing else."""
    scenes = _drawn(rng)
    chapter = next(scenes).chapters[0]
    looks = {(t.colour, t.shape) for t in chapter.things}
    for scene in scenes:
        other = scene.chapters[0]
        if other.background == chapter.background and not looks & {(t.colour, t.shape) for t in other.things}:
            first = short_scene(rng, [chapter])
            return [first, replace(first, chapters=(other,))]
    raise AssertionError("scenes never end")


def two_events(rng: random.Random) -> list[Scene]:
    """A short scene of two chapters; alone in its family."""
    chapters = next(_drawn(rng, long=True)).chapters[:2]
    return [replace(short_scene(rng, chapters), duration=6.0)]


def swapped_events(rng: random.Random) -> list[Scene]:
    """Two scenes of the same two objects; what one does in the first, the other does in the second."""
    for scene in _drawn(rng):
        chapter = scene.chapters[0]
        if len(chapter.things) < 2:
            continue
        a, b = chapter.things[:2]
        motions = rng.sample((*SHIFTS, "grow", "shrink"), 2)
        pairs = [
            (replace(a, motions=(x,)), replace(b, motions=(y,))) for x, y in (motions, reversed(motions))
        ]
        if all(_apart(pair) and all(map(_on_grid, pair)) for pair in pairs):
            first = short_scene(rng, [chapter])
            return [
                replace(first, chapters=(_chapter(chapter.background, chapter.camera, pair),))
                for pair in pairs
            ]
    raise AssertionError("scenes never end")


def other_action(rng: random.Random) -> list[Scene]:
    """Two scenes equal but for what their first object does."""
    for scene in _drawn(rng):
        chapter = scene.chapters[0]
        lead, rest = chapter.things[0], chapter.things[1:]
        found = [
            t for m in actions((lead.column, lead.row)) if _apart([t := replace(lead, motions=m), *rest])
        ]
        chosen = _incomparable(rng, [thing.motions for thing in found], 2)
        if rest and len(chosen) == 2:
            first = short_scene(rng, [chapter])
            return [
                replace(first, chapters=(replace(chapter, things=(replace(lead, motions=m), *rest)),))
                for m in chosen
            ]
    raise AssertionError("scenes never end")


def other_chapter(rng: random.Random) -> tuple[list[Scene], int]:
    """Two long scenes equal but for the object of one of their three chapters, and that chapter's number."""
    scenes = _drawn(rng, long=True)
    chapters = next(s.chapters for s in scenes if len(s.chapters) == 3)
    i = rng.randrange(3)
    looks = {(t.colour, t.shape) for c in chapters for t in c.things}
    for scene in scenes:
        for chapter in scene.chapters:
            thing = chapter.things[0]
            if chapter.background == chapters[i].background and (thing.colour, thing.shape) not in looks:
                first = long_scene(rng, chapters)
                return [first, replace(first, chapters=(*chapters[:i], chapter, *chapters[i + 1 :]))], i
    raise AssertionError("scenes never end")


# Composed queries.


@dataclass(frozen=True, kw_only=True)
class Grid:
    """scenes: [object][action]. references: each object in an action that is none of the grid's."""

    scenes: list[list[Scene]]
    references: list[Scene]


def actions(cell: Cell) -> list[tuple[str, ...]]:
    """Programmes of one or two motions that any shape can show and that stay on the grid from `cell`."""
    motions = (*SHIFTS, "grow", "shrink")
    probe = Thing(colour="", shape="", size="", column=cell[0], row=cell[1], motions=())
    found: list[tuple[str, ...]] = [*((m,) for m in motions), *permutations(motions, 2)]
    return [programme for programme in found if _on_grid(replace(probe, motions=programme))]


def _incomparable(rng: random.Random, programmes: Sequence[tuple[str, ...]], n: int) -> list[tuple[str, ...]]:
    """Up to n programmes of which none does all that another does."""
    chosen: list[tuple[str, ...]] = []
    for programme in rng.sample(programmes, len(programmes)):
        mine = set(programme)
        if len(chosen) < n and not any(mine <= set(one) or mine >= set(one) for one in chosen):
            chosen.append(programme)
    return chosen


def composed_grid(rng: random.Random) -> Grid:
    """Objects that start in one cell before one background, each in each of the same actions."""
    while True:
        background, (column, row) = rng.choice(BACKGROUNDS), rng.choice(_CELLS)
        looks = [
            Thing(colour=c, shape=s, size=z, column=column, row=row, motions=("rest",))
            for c, s, z in product(COLOURS, SHAPES, SIZES)
        ]
        heldout = [thing for thing in looks if is_heldout(thing, background)]
        by_colour = {thing.colour: thing for thing in rng.sample(heldout, len(heldout))}
        programmes = _incomparable(rng, actions((column, row)), ACTIONS + 1)
        if len(by_colour) < OBJECTS or len(programmes) <= ACTIONS:
            continue
        first = short_scene(rng, [])
        rows = [
            [
                replace(first, chapters=(_chapter(background, "still", [replace(thing, motions=m)]),))
                for m in programmes
            ]
            for thing in rng.sample(sorted(by_colour.values(), key=lambda t: t.colour), OBJECTS)
        ]
        return Grid(scenes=[one[:ACTIONS] for one in rows], references=[one[ACTIONS] for one in rows])
