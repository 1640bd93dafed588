"""Write the text queries of the miniature benchmark, each with the set of claims it makes.

    query = spatial(chapter)
    relevant = [scene for scene in scenes if query.claims <= truths(scene)]

A claim is a single statement of a text, as a tuple; `truths` returns all claims that are true of a
scene. A video is relevant to a query if all claims of the query are true of it, so the positives
are computed from the scenes.
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
    """The words of a query and the claims they make."""

    words: str
    claims: Claims


def path(thing: Thing) -> list[Cell]:
    """Return the cells (column, row) of an object before its first motion and after each motion."""
    cells = [(thing.column, thing.row)]
    for motion in thing.motions:
        dx, dy = SHIFTS.get(motion, (0, 0))
        cells.append((cells[-1][0] + dx, cells[-1][1] + dy))
    return cells


def lasting_relation(a: Thing, b: Thing) -> str | None:
    """Return the position of `a` relative to `b` if it is the same at every moment, else None.

    The position is "to the left of", "to the right of", "above" or "below".
    """
    for axis, before, after in ((0, "to the left of", "to the right of"), (1, "above", "below")):
        mine, other = ([cell[axis] for cell in path(thing)] for thing in (a, b))
        if max(mine) < min(other):
            return before
        if min(mine) > max(other):
            return after
    return None


# What is true of a scene.


def order_free_content(scene: Scene) -> Claims:
    """Return what the frames of a scene show regardless of their order: a claim for each distinct
    chapter, with its count.

    Scenes with equal results show the same frames, in different orders.
    """
    counts: Counter[Claim] = Counter()
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
        counts["on screen", chapter.background, chapter.camera.split()[0], frozenset(things)] += 1
    return frozenset((*claim, count) for claim, count in counts.items())


def truths(scene: Scene) -> Claims:
    """Return all claims that are true of a scene. A claim about chapter i is ("part", i, claim)."""
    claims: set[Claim] = {("cameras", tuple(chapter.camera for chapter in scene.chapters))}
    for i, chapter in enumerate(scene.chapters):
        chapter_claims = chapter_truths(chapter)
        claims |= chapter_claims | {("part", i, claim) for claim in chapter_claims}
    return frozenset(claims)


def chapter_truths(chapter: Chapter) -> Claims:
    """Return all claims that are true of one chapter."""
    claims: set[Claim] = {("background", chapter.background), ("camera", chapter.camera)}
    claims.add(("count", len(chapter.things)))
    for thing in chapter.things:
        name, cells = (thing.colour, thing.shape), path(thing)
        claims |= {("seen", name), ("size", name, thing.size)}
        claims |= {("starts", name, cells[0]), ("ends", name, cells[-1])}
        if len(set(cells)) == 1:
            claims.add(("stays", name, cells[0]))
        claims |= {("motions", name, thing.motions), ("form", thing.shape, thing.motions)}
        claims.add(("does", thing.motions))
        claims |= {("motion", name, motion) for motion in thing.motions}
        claims.add(("first motion", name, thing.motions[0]))
    for a, b in permutations(chapter.things, 2):
        if relation := lasting_relation(a, b):
            claims.add(("relation", (a.colour, a.shape), relation, (b.colour, b.shape)))
    return frozenset(claims)


def _of(chapter: Chapter, *kinds: str, thing: Thing | None = None) -> Claims:
    """Return the true claims of the given kinds about a chapter, or about `thing` only if it is
    given.
    """
    claims = (claim for claim in chapter_truths(chapter) if claim[0] in kinds)
    return frozenset(claim for claim in claims if thing is None or claim[1] == (thing.colour, thing.shape))


# Texts. `level` is a readability level of `Writer`.


def _name(thing: Thing) -> str:
    return f"{thing.colour} {thing.shape}"


def _acts(thing: Thing, level: str) -> str:
    return " and then ".join(VERBS[level][motion] for motion in thing.motions)


def short(scene: Scene) -> Text:
    """Return a caption of at most 25 words: up to two objects with their motions, and the
    background.
    """
    chapter = scene.chapters[0]
    limit = 2 if len(chapter.things) == 1 else 1  # motions of each object that `Writer` mentions
    claims = set(_of(chapter, "background"))
    for thing in chapter.things[:2]:
        claims |= _of(chapter, "seen", "size", thing=thing)
        claims |= {("motion", (thing.colour, thing.shape), motion) for motion in thing.motions[:limit]}
    return Text(Writer().captions(scene)["1"], frozenset(claims))


def paragraph(scene: Scene) -> Text:
    """Return a text about consecutive events: for each chapter, an object and its first motion."""
    claims: set[Claim] = set()
    for i, chapter in enumerate(scene.chapters):
        chapter_claims = _of(chapter, "seen", "first motion", thing=chapter.things[0])
        claims |= {("part", i, claim) for claim in chapter_claims}
    return Text(Writer().captions(scene)["1"], frozenset(claims))


def full(scene: Scene) -> Text:
    """Return a complete description of a scene with one chapter."""
    chapter = scene.chapters[0]
    kinds = ("background", "camera", "count", "seen", "size", "starts", "ends", "motions")
    return Text(Writer().captions(scene)["2"], _of(chapter, *kinds))


def detailed(scene: Scene) -> Text:
    """Return a complete description of every chapter of a scene."""
    parts, claims = [], set()
    for i in range(len(scene.chapters)):
        text = full(_single_chapter(scene, i))
        parts.append(f"Part {i + 1} of {len(scene.chapters)}. {text.words}")
        claims |= {("part", i, claim) for claim in text.claims}
    return Text(" ".join(parts), frozenset(claims))


def _single_chapter(scene: Scene, i: int) -> Scene:
    return Scene(**{**vars(scene), "chapters": (scene.chapters[i],)})


def spatial(chapter: Chapter, level: str = "standard") -> Text:
    """Return a text about the looks, places and relations that do not change over time.

    It gives the place of an object only if the object stays in its cell, and a relation only if it
    lasts.
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
        # Each pair is mentioned once, from the object that stays, whose place the text has already
        # given.
        if (relation := lasting_relation(a, b)) and len(set(path(a))) == 1:
            parts.append(f"The {_name(a)} is {relation} the {_name(b)}.")
            claims.add(("relation", (a.colour, a.shape), relation, (b.colour, b.shape)))
    return Text(" ".join(parts), frozenset(claims))


def spatial_parts(scene: Scene) -> Text:
    """Return the `spatial` texts of all chapters as one text."""
    texts = [spatial(chapter) for chapter in scene.chapters]
    words = (f"{word}: {text.words}" for word, text in zip(CHAPTER_WORDS, texts, strict=False))
    return Text(" ".join(words), frozenset(("part", i, c) for i, t in enumerate(texts) for c in t.claims))


def temporal(chapter: Chapter, level: str = "standard") -> Text:
    """Return a text about the motions in their order and the camera, without any place."""
    acts = [f"the {_name(thing)} {_acts(thing, level)}" for thing in chapter.things]
    words = f"In front of {ARTICLES[chapter.background]}, {', and '.join(acts)}. "
    words += f"All the while the camera {CAMERA[chapter.camera]}."
    return Text(words, _of(chapter, "background", "camera", "seen", "motions"))


def camera_steps(scene: Scene) -> Text:
    """Return a text about the camera movements, step by step."""
    steps = [CAMERA[chapter.camera] for chapter in scene.chapters]
    words = f"The camera {' and then '.join(steps)}."
    return Text(words, frozenset({("cameras", tuple(chapter.camera for chapter in scene.chapters))}))


def event(thing: Thing, motion: str, level: str = "standard") -> Text:
    """Return a text about one motion of one object."""
    name = (thing.colour, thing.shape)
    words = f"The {_name(thing)} {VERBS[level][motion]}."
    return Text(words, frozenset({("seen", name), ("motion", name, motion)}))


def theme(scene: Scene) -> Text:
    """Return a text about the mood and idea of a scene with one object, which it names by its shape
    only.
    """
    chapter = scene.chapters[0]
    claims = _of(chapter, "background", "camera", "count", "form")
    return Text(Writer().captions(scene)["3"], claims)


def keywords(chapter: Chapter, thing: Thing) -> Text:
    """Return keywords about one object and the background."""
    verbs = [VERBS["standard"][motion] for motion in thing.motions]
    words = ", ".join([_name(thing), *verbs, chapter.background])
    return Text(words, _of(chapter, "background") | _of(chapter, "seen", "motion", thing=thing))


def change(motions: tuple[str, ...], reference: str) -> Text:
    """Return the text of a composed query: the motions of an object that only the query's image or
    clip shows.

    reference: "image" or "clip".
    """
    acts = " and then ".join(VERBS["standard"][motion] for motion in motions)
    words = f"The same object as in this {reference}, in the video where it {acts}."
    return Text(words, frozenset({("does", motions)}))
