"""Write what a perfect captioner that follows our four prompts would say about a scene.

The wording depends on the slots of the prompt, so that a model trained on it learns to follow them:
the readability determines the verbs and size words, the education the openings, and the information
profile the content of the partial caption. Objects are named in canonical order. Every statement is
true and visible in the video.
"""

import json
import random
from collections.abc import Sequence
from dataclasses import dataclass

from gve_ray.demo.scenes import SIZES, Chapter, Scene, Thing

PLACES = (
    ("in the upper left", "on the left", "in the lower left"),
    ("at the top", "in the center", "at the bottom"),
    ("in the upper right", "on the right", "in the lower right"),
)  # [column][row]
VERBS = {
    "easy": {
        "left": "goes left", "right": "goes right", "up": "goes up", "down": "goes down",
        "grow": "gets bigger", "shrink": "gets smaller", "spin": "turns around", "rest": "stays still",
    },
    "standard": {
        "left": "moves left", "right": "moves right", "up": "moves up", "down": "moves down",
        "grow": "grows", "shrink": "shrinks", "spin": "spins", "rest": "stays still",
    },
    "advanced": {
        "left": "travels left", "right": "travels right", "up": "travels up", "down": "travels down",
        "grow": "expands", "shrink": "contracts", "spin": "rotates", "rest": "remains still",
    },
}  # fmt: skip
SIZE_WORDS = {
    "easy": {"small": "small", "large": "big"},
    "standard": {"small": "small", "large": "large"},
    "advanced": {"small": "small", "large": "large"},
}
OPENINGS = {"primary school": "Look", "high school": "Here", "university": "In this recording"}
ARTICLES = {"night sky": "a night sky", "desert": "a desert", "meadow": "a meadow", "ocean": "an ocean",
            "snow field": "a snow field", "brick wall": "a brick wall"}  # fmt: skip
MOODS = {"night sky": "quiet and nocturnal", "desert": "warm and dry", "meadow": "fresh and rural",
         "ocean": "cool and watery", "snow field": "cold and bright", "brick wall": "plain and urban"}  # fmt: skip
CAMERA = {"still": "holds still", "pan left": "pans left", "pan right": "pans right",
          "zoom in": "zooms in", "zoom out": "zooms out"}  # fmt: skip
NUMBERS = ("no", "one object", "two objects", "three objects")
CHAPTER_WORDS = ("First", "Then", "Finally")


def _sequence(steps: Sequence[str]) -> str:
    """Join up to three steps: 'a', 'a and then b', or 'a, then b and finally c'."""
    if len(steps) == 1:
        return steps[0]
    if len(steps) == 2:
        return f"{steps[0]} and then {steps[1]}"
    return f"{steps[0]}, then {steps[1]} and finally {steps[2]}"


def relation(a: Thing, b: Thing) -> str:
    """Return the position of `a` relative to `b` at the start of the chapter, from their cells."""
    if a.column != b.column:
        return "to the left of" if a.column < b.column else "to the right of"
    return "above" if a.row < b.row else "below"


@dataclass(frozen=True)
class Writer:
    """Writes captions and queries at one readability and education level."""

    readability: str = "standard"
    education: str = "high school"
    profile: str = "temporal"

    def _verbs(self, thing: Thing) -> list[str]:
        return [VERBS[self.readability][m] for m in thing.motions]

    def _looks(self, thing: Thing, size: str | None = None) -> str:
        return f"{SIZE_WORDS[self.readability][size or thing.size]} {thing.colour} {thing.shape}"

    @staticmethod
    def _place(thing: Thing, time: float = 0.0) -> str:
        column, row = thing.at(time).cell
        return PLACES[column][row]

    # The five captions of a video (prompt 1).

    def captions(self, scene: Scene) -> dict[str, str]:
        """Return the captions "1" to "5" of the video, each in its style and range of words."""
        if len(scene.chapters) > 1:
            return self._long_captions(scene)
        chapter = scene.chapters[0]
        return {
            "1": self._short(chapter),
            "2": self._rich(chapter),
            "3": self._abstract(chapter),
            "4": self._keywords(chapter),
            "5": self._partial(chapter),
        }

    def _short(self, chapter: Chapter) -> str:
        limit = 2 if len(chapter.things) == 1 else 1  # motions per object, to stay within 25 words
        acts = [f"a {self._looks(t)} {' and then '.join(self._verbs(t)[:limit])}" for t in chapter.things[:2]]
        return f"{OPENINGS[self.education]}, {' and '.join(acts)} in front of {ARTICLES[chapter.background]}."

    def _rich(self, chapter: Chapter) -> str:
        things = chapter.things
        parts = [
            f"{OPENINGS[self.education]}, {NUMBERS[len(things)]} can be seen against {ARTICLES[chapter.background]}."
        ]
        for thing in things:
            name = f"{thing.colour} {thing.shape}"
            parts.append(
                f"At the start the {self._looks(thing)} is {self._place(thing)} of the frame. "
                f"The {name} {_sequence(self._verbs(thing))}. "
                f"At the end the {name} is {self._place(thing, 1.0)} of the frame."
            )
        if len(things) > 1:
            a, b = things[:2]
            parts.append(f"The {a.colour} {a.shape} begins {relation(a, b)} the {b.colour} {b.shape}.")
        parts.append(f"The camera {CAMERA[chapter.camera]}.")
        parts.append(f"The whole picture has a {MOODS[chapter.background]} mood.")
        if len(things) == 1:
            parts.append(
                "There is only this one object, so the eye can follow it from the first frame to the last frame, "
                "and its outline is dark and clear all the time."
            )
        if len(things) < 3:
            parts.append(
                f"The {chapter.background} fills the picture behind from edge to edge, and everything happens "
                "at an even pace, one step after the other."
            )
        return " ".join(parts)

    def _abstract(self, chapter: Chapter) -> str:
        lead = max(chapter.things, key=lambda t: (t.motions != ("rest",), len(t.motions)))
        return (
            f"A study of simple forms with a {MOODS[chapter.background]} mood. The idea is a {lead.shape} that "
            f"{_sequence(self._verbs(lead))}, while the camera {CAMERA[chapter.camera]}. "
            f"The structure is plain: {NUMBERS[len(chapter.things)]}, one scene, one even rhythm."
        )

    def _keywords(self, chapter: Chapter) -> str:
        words = []
        for thing in chapter.things:
            words += [f"{thing.colour} {thing.shape}", *self._verbs(thing)]
        return ", ".join([*words, chapter.background, f"camera {CAMERA[chapter.camera]}"])

    def _partial(self, chapter: Chapter) -> str:
        thing = chapter.things[-1]
        if self.profile == "spatial":
            return (
                f"At the start a {self._looks(thing)} is {self._place(thing)} of the frame, "
                f"against {ARTICLES[chapter.background]}."
            )
        if self.profile == "temporal":
            return f"One part of what happens is that the {thing.colour} {thing.shape} {_sequence(self._verbs(thing))}."
        return (
            f"The scene is {ARTICLES[chapter.background]} with a {MOODS[chapter.background]} mood, "
            f"and the camera {CAMERA[chapter.camera]}."
        )

    def _long_captions(self, scene: Scene) -> dict[str, str]:
        chapters = scene.chapters
        leads = [(c, c.things[0]) for c in chapters]
        short = " and then ".join(f"a {t.colour} {t.shape} {self._verbs(t)[0]}" for _, t in leads)
        rich = [f"{OPENINGS[self.education]}, {len(chapters)} scenes follow one another."]
        for word, (chapter, thing) in zip(CHAPTER_WORDS, leads, strict=False):
            name = f"{thing.colour} {thing.shape}"
            rich.append(
                f"{word}, against {ARTICLES[chapter.background]}, the {self._looks(thing)} is "
                f"{self._place(thing)} of the frame. The {name} {_sequence(self._verbs(thing))}. "
                f"The {name} ends {self._place(thing, 1.0)} of the frame."
            )
        rich.append("The camera holds still.")
        rich.append(
            "Each scene shows a single object with a dark and clear outline, and the cut to the next scene "
            "changes both the object and what lies behind it, so the parts are easy to tell from one another."
        )
        if len(chapters) == 2:
            rich.append(
                "Everything happens at an even pace, one step after the other, from the first frame to the last."
            )
        moods = " and then ".join(MOODS[c.background] for c in chapters)
        first = chapters[0].things[0]
        keywords = [w for c, t in leads for w in (f"{t.colour} {t.shape}", *self._verbs(t), c.background)]
        last_chapter, last = leads[-1]
        return {
            "1": f"{OPENINGS[self.education]}, {short}.",
            "2": " ".join(rich),
            "3": (
                f"A sequence of {len(chapters)} scenes with a mood that is {moods}. The idea is change from scene to "
                f"scene, and it begins with a {first.shape} that {_sequence(self._verbs(first))}. "
                "The structure is plain: one object a scene, one even rhythm."
            ),
            "4": ", ".join(keywords),
            "5": (
                f"One part of what happens is that the {last.colour} {last.shape} {_sequence(self._verbs(last))} "
                f"against {ARTICLES[last_chapter.background]}."
            ),
        }

    # The five captions of a frame (prompt 4).

    def frame_captions(self, scene: Scene, time: float) -> dict[str, str]:
        """Return the captions "1" to "5" of the frame at `time`, in [0, 1] of the scene."""
        chapter, local = scene.locate(time)
        things = sorted(chapter.things, key=lambda t: (t.at(local).cell, t.colour))
        mean = sum(SIZES.values()) / 2

        def looks(thing: Thing) -> str:
            return self._looks(thing, "small" if thing.radius(local) < mean else "large")

        seen = [f"a {looks(t)} {self._place(t, local)}" for t in things]
        background = ARTICLES[chapter.background]
        rich = [f"{OPENINGS[self.education]}, {NUMBERS[len(things)]} can be seen against {background}."]
        rich += [
            f"The {looks(t)} is {self._place(t, local)} of the frame, with a dark and clear outline."
            for t in things
        ]
        rich.append(f"The whole picture has a {MOODS[chapter.background]} mood.")
        rich.append(
            f"The {chapter.background} fills the picture behind from edge to edge, as in a simple drawing."
        )
        forms = " and a ".join(t.shape for t in things)
        last = things[-1]
        if self.profile == "other":
            partial = f"The scene is {background} with a {MOODS[chapter.background]} mood."
        else:
            partial = f"One part of the picture is a {looks(last)} {self._place(last, local)} of the frame."
        return {
            "1": f"{OPENINGS[self.education]}, {' and '.join(seen[:2])} against {background}.",
            "2": " ".join(rich),
            "3": (
                f"A composition of simple forms with a {MOODS[chapter.background]} mood. The idea is a {forms} held in "
                f"balance. The structure is plain: {NUMBERS[len(things)]}, one scene, clear outlines and flat colours."
            ),
            "4": ", ".join(
                [*(f"{t.colour} {t.shape}, {self._place(t, local)}" for t in things), chapter.background]
            ),
            "5": partial,
        }

    # Composed queries (prompts 2 and 3).

    def image_query(self, scene: Scene, time: float, strategy: str) -> str:
        """Return a query that, with the frame at `time` in [0, 1], asks for the video (prompt 2)."""
        chapter, _ = scene.locate(time)
        lead = chapter.things[0]
        same = f"The same {lead.colour} {lead.shape} as in this image"
        acts = _sequence(self._verbs(lead))
        if strategy == "scene change":
            return f"{same}, in the video with {ARTICLES[chapter.background]} where it {acts}."
        if strategy == "negative constraint":
            never = next(m for m in ("spin", "grow", "up", "left") if m not in lead.motions)
            return f"{same}, in the video where it {acts} but never {VERBS[self.readability][never]}."
        if strategy == "relation transfer" and len(chapter.things) > 1:
            other = chapter.things[1]
            return f"{same}, {relation(lead, other)} the {other.shape}, in the video where it {acts}."
        return f"{same}, in the video where it {acts}."

    def clip_query(self, scene: Scene, start: float, kind: str) -> str:
        """Return a query that, with the clip from `start` in [0, 1], asks for the video (prompt 3)."""
        chapter, _ = scene.locate(start)
        lead = chapter.things[0]
        name = f"the {lead.colour} {lead.shape}"
        verb = self._verbs(lead)[-1]
        if kind == "temporal continuation":
            return f"What comes around this clip, where {name} {verb} in the end."
        if kind == "perspective variation":
            return f"The same {lead.colour} {lead.shape} as in this clip while the camera {CAMERA[chapter.camera]}."
        if kind == "quality variation":
            return f"A full recording of this clip with {name} that {verb}."
        return f"The same {lead.colour} {lead.shape} as in this clip, but it {verb}."


def to_json(captions: dict[str, str]) -> str:
    """Return the reply that the prompts ask for, with exactly the whitespace that the captioner's
    grammar allows.
    """
    return json.dumps(captions, ensure_ascii=False)


def terse_caption(scene: Scene, rng: random.Random) -> str:
    """Return a caption as an uploader might type it: true, short and informal."""
    chapter = scene.chapters[0]
    lead = rng.choice([t for t in chapter.things if t.motions != ("rest",)] or list(chapter.things))
    verbs = VERBS[rng.choice(tuple(VERBS))]
    acts = " then ".join(verbs[m] for m in lead.motions[: rng.choice((1, 2, 3))])
    name = f"{lead.colour} {lead.shape}"
    return rng.choice(
        (
            f"{name} {acts}",
            f"a {name} {acts} on {ARTICLES[chapter.background]}",
            f"{chapter.background}, {lead.size} {name} {acts}",
            f"{name} and {chapter.background}",
        )
    )
