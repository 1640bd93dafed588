"""Draw families of held-out scenes whose members differ in one respect and are equal in all others.

    places_and_times(rng)  # 12 scenes: an object at 3 places x the same frames in 4 orders

Scenes that differ in time show the same frames in different orders: an object moves one way, the
other way, or there and back, and a camera makes the same movements in another order and direction.
Neither a single frame nor all frames in random order can tell them apart. Nothing else moves in
such a scene, because the position of a moving camera would reveal the order of the frames. All
scenes of a family share their seed, and with it the background texture.
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
OBJECTS, ACTIONS = 7, 4  # size of a composed grid; a row and a column of it are the 10 candidates of a query
_CELLS = tuple(product(range(3), range(3)))
_JITTER = 0.02  # share of the frame; small enough that objects in neighbouring cells do not touch


@dataclass(frozen=True, kw_only=True)
class Stage:
    """A background, an object that moves without visiting a cell twice, and an object that rests.

    resting: the resting object at each of its alternative places. Each place lies to one side of
    the mover's whole path, so that the relation of the two objects lasts.
    """

    background: str
    mover: Thing
    resting: tuple[Thing, ...]

    def chapter(self, place: int, mover: Thing | None = None) -> Chapter:
        """Return a chapter with the resting object at place number `place`, and optionally another
        `mover`.
        """
        return _chapter(self.background, "still", (mover or self.mover, self.resting[place]))


def is_heldout(thing: Thing, background: str) -> bool:
    """Return whether an object before this background belongs to the split `heldout`."""
    look = (thing.colour, thing.shape, thing.size, background, thing.column, thing.row)
    return SPLIT_OF[look] == "heldout"


def turned_back(thing: Thing) -> Thing:
    """Return the object on its way back to its start. Raises KeyError for motions other than
    shifts.
    """
    column, row = path(thing)[-1]
    motions = tuple(BACK[motion] for motion in reversed(thing.motions))
    return replace(thing, column=column, row=row, motions=motions)


def there_and_back(thing: Thing) -> Thing:
    """Return the object moving along its path and then back to its start."""
    return replace(thing, motions=(*thing.motions, *turned_back(thing).motions))


def _chapter(background: str, camera: str, things: Sequence[Thing]) -> Chapter:
    ordered = tuple(sorted(things, key=lambda t: (t.column, t.row)))
    return Chapter(background=background, camera=camera, things=ordered)


def _on_grid(thing: Thing) -> bool:
    return all(0 <= column <= 2 and 0 <= row <= 2 for column, row in path(thing))


def _apart(things: Sequence[Thing]) -> bool:
    """Return whether no two objects ever use the same cell."""
    used = [cell for thing in things for cell in set(path(thing))]
    return len(used) == len(set(used))


def short_scene(rng: random.Random, chapters: Sequence[Chapter]) -> Scene:
    """Return a scene of these chapters, as a small video of a few seconds."""
    width, height = rng.choice(SMALL_PX)
    return Scene(
        seed=rng.getrandbits(32), chapters=tuple(chapters), width=width, height=height,
        fps=rng.choice((8.0, 10.0, 12.0)), duration=round(rng.uniform(*SHORT_SECONDS), 1),
    )  # fmt: skip


def long_scene(rng: random.Random, chapters: Sequence[Chapter]) -> Scene:
    """Return a scene of these chapters, as a small video of 20 to 24 seconds."""
    return replace(short_scene(rng, chapters), fps=LONG_FPS, duration=rng.choice((20.0, 22.0, 24.0)))


# Families that differ in place or in time.


def draw_stage(
    rng: random.Random, *, places: int, background: str | None = None, lengths: Sequence[int] = (1, 2, 2, 3)
) -> Stage:
    """Draw a stage whose resting object has `places` alternative places; all its objects are held
    out.

    lengths: possible numbers of motions of the mover, one of which is drawn.
    """
    while True:
        setting = background or rng.choice(BACKGROUNDS)
        (colour, other), (shape, form) = rng.sample(COLOURS, 2), rng.sample(SHAPES, 2)
        column, row = rng.choice(_CELLS)
        length = rng.choice(lengths)
        mover = Thing(
            colour=colour, shape=shape, size=rng.choice(tuple(SIZES)), column=column, row=row,
            motions=tuple(rng.choices(tuple(SHIFTS), k=length)), jitter=_jitter(rng),
        )  # fmt: skip
        repeats_nothing = len(set(path(mover))) == length + 1 and len(set(mover.motions)) == length
        if not (repeats_nothing and _on_grid(mover)):
            continue
        if not (is_heldout(mover, setting) and is_heldout(turned_back(mover), setting)):
            continue
        rest = Thing(
            colour=other, shape=form, size=rng.choice(tuple(SIZES)), column=0, row=0,
            motions=("rest",), jitter=_jitter(rng),
        )  # fmt: skip
        placed = [replace(rest, column=c, row=r) for c, r in _CELLS]
        usable = [thing for thing in placed if is_heldout(thing, setting) and lasting_relation(thing, mover)]
        if len(usable) >= places:
            return Stage(background=setting, mover=mover, resting=tuple(rng.sample(usable, places)))


def _jitter(rng: random.Random) -> tuple[float, float]:
    return rng.uniform(-_JITTER, _JITTER), rng.uniform(-_JITTER, _JITTER)


def places_and_times(rng: random.Random) -> list[Scene]:
    """Return 12 scenes: 3 places of a resting object, and for each 4 scenes that show the same
    frames in other orders.

    In the four, the mover goes one way, goes the other way, or starts at either end and comes back
    to it.
    """
    stage = draw_stage(rng, places=3, lengths=(1,))
    forth, back = stage.mover, turned_back(stage.mover)
    first = short_scene(rng, [stage.chapter(0)])
    return [
        replace(first, chapters=(stage.chapter(place, mover),))
        for place, mover in product(range(3), (forth, back, there_and_back(forth), there_and_back(back)))
    ]


def long_places(rng: random.Random) -> list[Scene]:
    """Return four long scenes of two stages each, which differ in the places of the two resting
    objects.
    """
    stages = [draw_stage(rng, places=2, background=b) for b in rng.sample(BACKGROUNDS, 2)]
    first = long_scene(rng, [stage.chapter(0) for stage in stages])
    return [
        replace(first, chapters=tuple(s.chapter(place) for s, place in zip(stages, places, strict=True)))
        for places in product(range(2), repeat=2)
    ]


def camera_scenes(rng: random.Random, n: int) -> list[Scene]:
    """Return n scenes of one resting object that differ in the order and direction of four camera
    movements.

    Each has two pans, a zoom and a still camera, so all show the same frames and can be told apart
    by their order only. Each scene is followed by its reverse in time. Raises ValueError if n > 72.
    """
    kinds = permutations(("pan", "pan", "zoom", "still"))
    steps = {
        sequence: None
        for order in kinds
        for sequence in product(
            *([camera for camera in CAMERAS if camera.startswith(kind)] for kind in order)
        )
        if all(a != b for a, b in pairwise(sequence))  # two equal movements in a row would look like one
    }
    chosen: dict[tuple[str, ...], None] = {}
    for sequence in rng.sample(list(steps), len(steps)):
        back = tuple(CAMERA_BACK[camera] for camera in reversed(sequence))
        chosen |= dict.fromkeys((sequence, back))
    if n > len(chosen):
        raise ValueError(f"n={n}: there are only {len(chosen)} sequences of camera steps; lower the scale")
    chapter = draw_stage(rng, places=1).chapter(0)
    alone = replace(chapter, things=tuple(t for t in chapter.things if t.motions == ("rest",)))
    # With 48 frames, no frame falls on a cut between two chapters, so the reverse shows exactly the
    # same frames.
    first = replace(short_scene(rng, [alone]), fps=8.0, duration=6.0)
    return [
        replace(first, chapters=tuple(replace(alone, camera=camera) for camera in sequence))
        for sequence in list(chosen)[:n]
    ]


# Pairs of similar scenes.


def _drawn(rng: random.Random, *, long: bool = False) -> Iterator[Scene]:
    """Yield held-out scenes, as the demo's corpus has them."""
    while True:
        yield draw_scene(rng.getrandbits(48), "heldout", long=long)


def same_background(rng: random.Random) -> list[Scene]:
    """Return two short scenes that share nothing but the background and its texture."""
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
    """Return a family of one short scene with two chapters."""
    chapters = next(_drawn(rng, long=True)).chapters[:2]
    return [replace(short_scene(rng, chapters), duration=6.0)]


def swapped_events(rng: random.Random) -> list[Scene]:
    """Return two scenes of the same two objects, which swap their motions from one scene to the
    other.
    """
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
    """Return two scenes that differ only in the motions of their first object."""
    for scene in _drawn(rng):
        chapter = scene.chapters[0]
        lead, rest = chapter.things[0], chapter.things[1:]
        moving = [
            t for m in actions((lead.column, lead.row)) if _apart([t := replace(lead, motions=m), *rest])
        ]
        chosen = _incomparable(rng, [thing.motions for thing in moving], 2)
        if rest and len(chosen) == 2:
            first = short_scene(rng, [chapter])
            return [
                replace(first, chapters=(replace(chapter, things=(replace(lead, motions=m), *rest)),))
                for m in chosen
            ]
    raise AssertionError("scenes never end")


def other_chapter(rng: random.Random) -> tuple[list[Scene], int]:
    """Return two long scenes of three chapters that differ in the object of one, and the index of
    that chapter.
    """
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
    """Scenes of several objects that perform the same actions.

    scenes: indexed as [object][action]. references: for each object, a scene with an action that is
    not in the grid.
    """

    scenes: list[list[Scene]]
    references: list[Scene]


def actions(cell: Cell) -> list[tuple[str, ...]]:
    """Return all sequences of one or two motions that every shape can show and that stay on the
    grid from `cell`.
    """
    motions = (*SHIFTS, "grow", "shrink")
    start = Thing(colour="", shape="", size="", column=cell[0], row=cell[1], motions=())
    sequences: list[tuple[str, ...]] = [*((m,) for m in motions), *permutations(motions, 2)]
    return [sequence for sequence in sequences if _on_grid(replace(start, motions=sequence))]


def _incomparable(rng: random.Random, sequences: Sequence[tuple[str, ...]], n: int) -> list[tuple[str, ...]]:
    """Choose up to n sequences of motions, none of which contains all motions of another."""
    chosen: list[tuple[str, ...]] = []
    for sequence in rng.sample(sequences, len(sequences)):
        motions = set(sequence)
        if len(chosen) < n and not any(motions <= set(other) or motions >= set(other) for other in chosen):
            chosen.append(sequence)
    return chosen


def composed_grid(rng: random.Random) -> Grid:
    """Draw a grid of objects that start in the same cell before the same background and perform the
    same actions.
    """
    while True:
        background, (column, row) = rng.choice(BACKGROUNDS), rng.choice(_CELLS)
        looks = [
            Thing(colour=c, shape=s, size=z, column=column, row=row, motions=("rest",))
            for c, s, z in product(COLOURS, SHAPES, SIZES)
        ]
        heldout = [thing for thing in looks if is_heldout(thing, background)]
        by_colour = {thing.colour: thing for thing in rng.sample(heldout, len(heldout))}
        sequences = _incomparable(rng, actions((column, row)), ACTIONS + 1)
        if len(by_colour) < OBJECTS or len(sequences) <= ACTIONS:
            continue
        first = short_scene(rng, [])
        rows = [
            [
                replace(first, chapters=(_chapter(background, "still", [replace(thing, motions=m)]),))
                for m in sequences
            ]
            for thing in rng.sample(sorted(by_colour.values(), key=lambda t: t.colour), OBJECTS)
        ]
        return Grid(scenes=[row[:ACTIONS] for row in rows], references=[row[ACTIONS] for row in rows])
