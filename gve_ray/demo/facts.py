"""Extract the facts that a caption states, and compare them with the scene it describes.

A caption is read from left to right. After an object is mentioned ("small red circle", "red
circle", or only a shape), the places and motions that follow are attributed to it. Each stated
colour, shape, place, motion and background is one fact, which is true or false of the scene. The
facts of a scene are the colours, shapes, start places and motions of its objects, and its
backgrounds.
"""

import re
from dataclasses import dataclass

from gve_ray.demo.language import PLACES, VERBS
from gve_ray.demo.scenes import BACKGROUNDS, COLOURS, SHAPES, Scene, Thing

PLACE_OF = {PLACES[c][r]: (c, r) for c in range(3) for r in range(3)}
MOTION_OF = {verb: motion for words in VERBS.values() for motion, verb in words.items()}
KINDS = ("colour", "shape", "place", "motion", "background")
_TOKEN = re.compile(
    r"\b(?:"
    rf"(?:(?P<colour>{'|'.join(COLOURS)}) )?(?P<shape>{'|'.join(SHAPES)})"
    rf"|(?P<background>{'|'.join(BACKGROUNDS)})"
    rf"|(?P<place>{'|'.join(PLACE_OF)})"
    rf"|(?P<negation>never) (?:{'|'.join(MOTION_OF)})"
    rf"|(?P<motion>{'|'.join(MOTION_OF)})"
    r")\b",
    re.IGNORECASE,
)


@dataclass(frozen=True)
class Fact:
    """One stated fact: its kind, the object it is about as (colour or None, shape or None), and the
    value.
    """

    kind: str
    of: tuple[str | None, str | None]
    value: str


@dataclass(frozen=True)
class Judgement:
    """Counts of facts in a caption and its scene.

    stated: facts that the caption states. true: those that are true of the scene. covered: facts of
    the scene that the caption states. total: all facts of the scene.
    """

    stated: int
    true: int
    covered: int
    total: int


def stated_facts(text: str) -> list[Fact]:
    """Return all facts stated in a caption, in order, repetitions included."""
    facts: list[Fact] = []
    of: tuple[str | None, str | None] = (None, None)
    for match in _TOKEN.finditer(text):
        groups = {k: v.lower() for k, v in match.groupdict().items() if v}
        if "shape" in groups:
            of = (groups.get("colour"), groups["shape"])
            if of[0]:
                facts.append(Fact("colour", of, of[0]))
            facts.append(Fact("shape", of, groups["shape"]))
        elif "background" in groups:
            facts.append(Fact("background", (None, None), groups["background"]))
        elif "place" in groups:
            facts.append(Fact("place", of, groups["place"]))
        elif "motion" in groups:
            facts.append(Fact("motion", of, MOTION_OF[groups["motion"]]))
    return facts


def _candidates(of: tuple[str | None, str | None], things: list[Thing]) -> list[Thing]:
    """Return the objects a mention may refer to: those with its colour and shape, else its shape,
    else its colour.
    """
    colour, shape = of
    ranks = [2 * (t.shape == shape) + (t.colour == colour) for t in things]
    best = max(ranks, default=0)
    return [t for t, rank in zip(things, ranks, strict=True) if rank == best > 0]


def _holds(fact: Fact, thing: Thing) -> bool:
    match fact.kind:
        case "colour":
            return thing.colour == fact.value
        case "shape":
            return thing.shape == fact.value
        case "place":
            return PLACE_OF[fact.value] in (thing.at(0.0).cell, thing.at(1.0).cell)
    return fact.value in thing.motions


def scene_facts(scene: Scene) -> set[tuple[str, Thing | None, str]]:
    """Return every fact of the scene as (kind, object, value)."""
    facts: set[tuple[str, Thing | None, str]] = set()
    for chapter in scene.chapters:
        facts.add(("background", None, chapter.background))
        for thing in chapter.things:
            column, row = thing.at(0.0).cell
            facts |= {("colour", thing, thing.colour), ("shape", thing, thing.shape)}
            facts.add(("place", thing, PLACES[column][row]))
            facts |= {("motion", thing, motion) for motion in thing.motions}
    return facts


def judge(text: str, scene: Scene) -> Judgement:
    """Compare every fact stated in `text`, a caption of the whole scene, with the scene."""
    things = [t for c in scene.chapters for t in c.things]
    stated = stated_facts(text)
    truths = scene_facts(scene)
    covered: set[tuple[str, Thing | None, str]] = set()
    true = 0
    for fact in stated:
        if fact.kind == "background":
            holding: list[Thing | None] = [None] * any(c.background == fact.value for c in scene.chapters)
        else:
            holding = [t for t in _candidates(fact.of, things) if _holds(fact, t)]
        true += bool(holding)
        covered |= {(fact.kind, thing, fact.value) for thing in holding}
    return Judgement(len(stated), true, len(covered & truths), len(truths))
