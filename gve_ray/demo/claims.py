"""Queries of the miniature benchmark, in words and as what they claim.

    query = spatial(chapter)
    relevant = [scene for scene in scenes if query.claims <= truths(scene)]

A claim is one thing a text says, as a plain tuple; `truths` are all that hold of a scene. A text finds the
videos of which everything it claims is true, so positives follow from scenes and are never assumed.
"""

from collections import Counter
from dataclasses import dataclass
from itertools import permutations
from typing import Any

from gve_ray.demo.language import ARTICLES, CAMERA, CHAPTER_WORDS, PLACES, SIZE_WORDS, VERBS, Writer
from gve_ray.demo.scenes import SHIFTS, Chapter, Scene, Thing

Claim = tuple[Any, ...]
Claims = frozenset[Claim]
Cell = tuple[int, int]


@dataclass(frozen=True)
class Text:
    """A query's words and everything they claim."""

    words: str
    claims: Claims


def path(thing: Thing) -> list[Cell]:
    """The cells (column, row) an object is at before, between and after its motions."""
    cells = [(thing.column, thing.row)]
    for motion in thing.motions:
        dx, dy = SHIFTS.get(motion, (0, 0))
        cells.append((cells[-1][0] + dx, cells[-1][1] + dy))
    return cells


def lasting_relation(a: Thing, b: Thing) -> str | None:
    """How `a` lies to `b` at every moment; None if that changes or is neither beside nor above nor below."""
    for axis, before, after in ((0, "to the left of", "to the right of"), (1, "above", "below")):
        mine, other = ([cell[axis] for cell in path(thing)] for thing in (a, b))
        if max(mine) < min(other):
            return before
        if min(mine) > max(other):
            return after
    return None


# What holds.


def timeless(scene: Scene) -> Claims:
    """What is on a scene's frames whatever their order: a claim for each chapter, and how often it is there.

    Scenes for which it is equal show the same frames; only their order tells them apart.
    """
    found: Counter[Claim] = Counter()
    for chapter in scene.chapters:
        things = (
            (
                thing.colour,
                thing.shape,
                thing.size,
                frozenset(path(thing)),
                frozenset(thing.motions) - set(SHIFTS),
            )
            for thing in chapter.things
        )
        found["on screen", chapter.background, chapter.camera.split()[0], frozenset(things)] += 1
    return frozenset((*claim, count) for claim, count in found.items())


def truths(scene: Scene) -> Claims:
    """Everything that is true of a scene. A claim about part i of several is ("part", i, claim)."""
    found: set[Claim] = {("cameras", tuple(chapter.camera for chapter in scene.chapters))}
    for i, chapter in enumerate(scene.chapters):
        here = chapter_truths(chapter)
        found |= here | {("part", i, claim) for claim in here}
    return frozenset(found)


def chapter_truths(chapter: Chapter) -> Claims:
    """Everything that is true of one chapter."""
    found: set[Claim] = {("background", chapter.background), ("camera", chapter.camera)}
    found.add(("count", len(chapter.things)))
    for thing in chapter.things:
        name, cells = (thing.colour, thing.shape), path(thing)
        found |= {("seen", name), ("size", name, thing.size)}
        found |= {("starts", name, cells[0]), ("ends", name, cells[-1])}
        if len(set(cells)) == 1:
            found.add(("stays", name, cells[0]))
        found |= {("motions", name, thing.motions), ("form", thing.shape, thing.motions)}
        found.add(("does", thing.motions))
        found |= {("motion", name, motion) for motion in thing.motions}
        found.add(("first motion", name, thing.motions[0]))
    for a, b in permutations(chapter.things, 2):
        if relation := lasting_relation(a, b):
            found.add(("relation", (a.colour, a.shape), relation, (b.colour, b.shape)))
    return frozenset(found)


def _of(chapter: Chapter, *kinds: str, thing: Thing | None = None) -> Claims:
    """The chapter's truths of these kinds; with `thing`, only those of that object."""
    found = (claim for claim in chapter_truths(chapter) if claim[0] in kinds)
    return frozenset(claim for claim in found if thing is None or claim[1] == (thing.colour, thing.shape))


# What is said. Levels are readability levels of `Writer`.


def _name(thing: Thing) -> str:
    return f"{thing.colour} {thing.shape}"


def _acts(thing: Thing, level: str) -> str:
    return " and then ".join(VERBS[level][motion] for motion in thing.motions)


def short(scene: Scene) -> Text:
    """A caption of at most 25 words: looks and motions of up to two objects before their background."""
    chapter = scene.chapters[0]
    said = 2 if len(chapter.things) == 1 else 1  # the motions an object that `Writer` has room for
    claims = set(_of(chapter, "background"))
    for thing in chapter.things[:2]:
        claims |= _of(chapter, "seen", "size", thing=thing)
        claims |= {("motion", (thing.colour, thing.shape), motion) for motion in thing.motions[:said]}
    return Text(Writer().captions(scene)["1"], frozenset(claims))


def paragraph(scene: Scene) -> Text:
    """One event after the other: an object and its first motion for each chapter."""
    claims: set[Claim] = set()
    for i, chapter in enumerate(scene.chapters):
        here = _of(chapter, "seen", "first motion", thing=chapter.things[0])
        claims |= {("part", i, claim) for claim in here}
    return Text(Writer().captions(scene)["1"], frozenset(claims))


def full(scene: Scene) -> Text:
    """Everything about a scene of one chapter."""
    chapter = scene.chapters[0]
    kinds = ("background", "camera", "count", "seen", "size", "starts", "ends", "motions")
    return Text(Writer().captions(scene)["2"], _of(chapter, *kinds))


def detailed(scene: Scene) -> Text:
    """Everything about every chapter, in as many long paragraphs."""
    parts, claims = [], set()
    for i in range(len(scene.chapters)):
        text = full(_alone(scene, i))
        parts.append(f"Part {i + 1} of {len(scene.chapters)}. {text.words}")
        claims |= {("part", i, claim) for claim in text.claims}
    return Text(" ".join(parts), frozenset(claims))


def _alone(scene: Scene, i: int) -> Scene:
    return Scene(**{**vars(scene), "chapters": (scene.chapters[i],)})


def spatial(chapter: Chapter, level: str = "standard") -> Text:
    """Looks, places and relations of what holds all the time, so no word of it is about time.

    Places are said of objects that stay in their cell, relations of all that keep theirs.
    """
    things = chapter.things
    looks = [f"{SIZE_WORDS[level][thing.size]} {_name(thing)}" for thing in things]
    parts = [f"There is a {' and a '.join(looks)} against {ARTICLES[chapter.background]}."]
    claims = set(_of(chapter, "background", "seen", "size", "stays"))
    parts += [
        f"The {_name(thing)} is {PLACES[thing.column][thing.row]} of the frame."
        for thing in things
        if len(set(path(thing))) == 1
    ]
    for a, b in permutations(things, 2):
        # Said once for each two, of the one that stays: its place is what the sentence before gave.
        if (relation := lasting_relation(a, b)) and len(set(path(a))) == 1:
            parts.append(f"The {_name(a)} is {relation} the {_name(b)}.")
            claims.add(("relation", (a.colour, a.shape), relation, (b.colour, b.shape)))
    return Text(" ".join(parts), frozenset(claims))


def spatial_parts(scene: Scene) -> Text:
    """`spatial` of every chapter."""
    texts = [spatial(chapter) for chapter in scene.chapters]
    words = (f"{word}: {text.words}" for word, text in zip(CHAPTER_WORDS, texts, strict=False))
    return Text(" ".join(words), frozenset(("part", i, c) for i, t in enumerate(texts) for c in t.claims))


def temporal(chapter: Chapter, level: str = "standard") -> Text:
    """Motions in their order and what the camera does, without any place."""
    acts = [f"the {_name(thing)} {_acts(thing, level)}" for thing in chapter.things]
    words = f"In front of {ARTICLES[chapter.background]}, {', and '.join(acts)}. "
    words += f"All the while the camera {CAMERA[chapter.camera]}."
    return Text(words, _of(chapter, "background", "camera", "seen", "motions"))


def camera_steps(scene: Scene) -> Text:
    """What the camera does, step by step, and nothing else."""
    steps = [CAMERA[chapter.camera] for chapter in scene.chapters]
    words = f"The camera {' and then '.join(steps)}."
    return Text(words, frozenset({("cameras", tuple(chapter.camera for chapter in scene.chapters))}))


def event(thing: Thing, motion: str, level: str = "standard") -> Text:
    """One motion of one object."""
    name = (thing.colour, thing.shape)
    words = f"The {_name(thing)} {VERBS[level][motion]}."
    return Text(words, frozenset({("seen", name), ("motion", name, motion)}))


def theme(scene: Scene) -> Text:
    """Mood and idea of a scene of one object, which is named by its form alone."""
    chapter = scene.chapters[0]
    claims = _of(chapter, "background", "camera", "count", "form")
    return Text(Writer().captions(scene)["3"], claims)


def keywords(chapter: Chapter, thing: Thing) -> Text:
    """Keywords about one object and what is behind it."""
    verbs = [VERBS["standard"][motion] for motion in thing.motions]
    words = ", ".join([_name(thing), *verbs, chapter.background])
    return Text(words, _of(chapter, "background") | _of(chapter, "seen", "motion", thing=thing))


def change(motions: tuple[str, ...], reference: str) -> Text:
    """What is done by an object that only the picture or clip beside this text shows."""
    acts = " and then ".join(VERBS["standard"][motion] for motion in motions)
    words = f"The same object as in this {reference}, in the video where it {acts}."
    return Text(words, frozenset({("does", motions)}))
