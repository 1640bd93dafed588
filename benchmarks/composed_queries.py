"""Measure queries of several parts: found segments, mixed with a text, and what is not wanted.

    python benchmarks/composed_queries.py [--seed 9] [--films 320]

Renders scenes of the held-out split, embeds them with the packaged tiny model as whole films, and composes
queries as the service does (`gve_ray.search.composed`). Prints one JSON object:

without: for queries "a red circle" without "a blue object" (and without a background), and for segments
without one of the colours (and without the background) that they have: of the five best hits, the share with
what is wanted and the share with what is not, by the weight of what is subtracted. Weight 0 is the query
without the unwanted part. The wanted part of a segment is the colour of another object in it.
like: of the ten best hits for 1, 2, 3 and 5 segments that share a colour, a shape or a background, the share
that has it, too; `chance` is the share in the index.
mixed: of the five best hits for one and three segments that share a colour, without and with a text that
names another background: the share with the colour, and the share with that background.
false_alarms: for queries without an answer, the share with a hit of a confidence of 0.9, if the confidence
of a single vector were used. The index is the second half of the films, and the queries are made of the
first half.
"""

import argparse
import itertools
import json
import sys
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from search_quality import AT_ONCE, drawn

from gve_ray.demo.language import ARTICLES, Writer
from gve_ray.demo.scenes import BACKGROUNDS, COLOURS, SHAPES, Scene, Thing, draw_scene
from gve_ray.embedder import Embedder
from gve_ray.schema import Item
from gve_ray.search import composed
from gve_ray.search.composition import WITHOUT
from gve_ray.search.confidence import background_of
from gve_ray.serving.hits import MIN_CONFIDENCE

WEIGHTS = (0.0, 0.25, WITHOUT, 0.75, 1.0)
COUNTS = (1, 2, 3, 5)
TRIALS = 400
Has = Callable[[int], bool]  # whether a film has an attribute


class World:
    """Films with their vectors, and texts. Vectors of texts are cached."""

    def __init__(self, scenes: Sequence[Scene], embedder: Embedder) -> None:
        self.scenes, self._embedder = scenes, embedder
        self._texts: dict[str, np.ndarray] = {}
        parts = []
        for at in range(0, len(scenes), AT_ONCE):
            some = scenes[at : at + AT_ONCE]
            parts.append(embedder.embed([Item(video=drawn(scene, 0.0, scene.duration)) for scene in some]))
            print(f"{at + len(some)} films", file=sys.stderr)
        self.vectors = np.concatenate(parts)

    def text(self, text: str) -> np.ndarray:
        if text not in self._texts:
            self._texts[text] = self._embedder.embed([Item(text=text)])[0]
        return self._texts[text]

    def best(self, query: np.ndarray, k: int, excluded: Sequence[int] = ()) -> list[int]:
        scores = self.vectors @ query
        scores[list(excluded)] = -np.inf
        return [int(film) for film in np.argsort(-scores)[:k]]

    def things(self, film: int) -> list[Thing]:
        return [thing for chapter in self.scenes[film].chapters for thing in chapter.things]

    def has(self, **looks: str) -> Has:
        """Return a test for an object with these looks."""
        return lambda film: any(
            all(getattr(thing, name) == value for name, value in looks.items()) for thing in self.things(film)
        )

    def shows(self, background: str) -> Has:
        return lambda film: any(chapter.background == background for chapter in self.scenes[film].chapters)


def subtracted(wanted: np.ndarray, unwanted: np.ndarray, weight: float) -> np.ndarray:
    """Return what `composed` returns, with another weight of what is not wanted."""
    query = wanted - weight * unwanted
    return query / np.linalg.norm(query)


def measure_without(world: World) -> dict[str, Any]:
    cases: dict[str, list[tuple[np.ndarray, np.ndarray, Has, Has, Sequence[int]]]] = {
        "text_without_colour": [
            (
                world.text(f"a {colour} {shape}"),
                world.text(f"a {other} object"),
                world.has(colour=colour, shape=shape),
                world.has(colour=other),
                (),
            )
            for colour, shape, other in itertools.product(COLOURS, SHAPES, COLOURS)
            if colour != other
        ],
        "text_without_background": [
            (
                world.text(f"a {colour} {shape}"),
                world.text(f"in front of {ARTICLES[background]}"),
                world.has(colour=colour, shape=shape),
                world.shows(background),
                (),
            )
            for colour, shape, background in itertools.product(COLOURS, SHAPES, BACKGROUNDS)
        ],
        "segment_without_colour": [],
        "segment_without_background": [],
    }
    for film, scene in enumerate(world.scenes):
        if len(scene.chapters) > 1 or len(scene.chapters[0].things) < 2:
            continue
        kept, dropped = scene.chapters[0].things[:2]
        background = scene.chapters[0].background
        for name, text, unwanted in (
            ("colour", f"a {dropped.colour} {dropped.shape}", world.has(colour=dropped.colour)),
            ("background", f"in front of {ARTICLES[background]}", world.shows(background)),
        ):
            wanted = world.has(colour=kept.colour)
            cases[f"segment_without_{name}"].append(
                (world.vectors[film], world.text(text), wanted, unwanted, [film])
            )
    return {
        name: {
            str(weight): shares(
                [
                    (wanted, unwanted, world.best(subtracted(query, other, weight), 5, excluded))
                    for query, other, wanted, unwanted, excluded in rows
                ]
            )
            for weight in WEIGHTS
        }
        for name, rows in cases.items()
    }


def shares(results: Sequence[tuple[Has, Has, Sequence[int]]]) -> dict[str, float]:
    return {
        "wanted": mean([wanted(film) for wanted, _, films in results for film in films]),
        "unwanted": mean([unwanted(film) for _, unwanted, films in results for film in films]),
    }


def measure_like(world: World, rng: np.random.Generator) -> dict[str, Any]:
    attributes: dict[str, list[Has]] = {
        "colour": [world.has(colour=colour) for colour in COLOURS],
        "shape": [world.has(shape=shape) for shape in SHAPES],
        "background": [world.shows(background) for background in BACKGROUNDS],
    }
    films = range(len(world.scenes))
    measured: dict[str, Any] = {}
    for name, values in attributes.items():
        found: dict[int, list[bool]] = {count: [] for count in COUNTS}
        for _ in range(TRIALS):
            has = values[rng.integers(len(values))]
            examples = rng.choice([film for film in films if has(film)], max(COUNTS), replace=False).tolist()
            for count in COUNTS:
                query = composed(like=world.vectors[examples[:count]])
                found[count] += [has(film) for film in world.best(query, 10, examples[:count])]
        chance = mean([has(film) for has in values for film in films])
        measured[name] = {**{str(count): mean(shown) for count, shown in found.items()}, "chance": chance}
    return measured


def measure_mixed(world: World, rng: np.random.Generator) -> dict[str, Any]:
    results: dict[str, list[tuple[Has, Has, Sequence[int]]]] = {}
    for _ in range(TRIALS):
        has = world.has(colour=COLOURS[rng.integers(len(COLOURS))])
        background = BACKGROUNDS[rng.integers(len(BACKGROUNDS))]
        shows = world.shows(background)
        text = world.text(f"in front of {ARTICLES[background]}")
        examples = rng.choice(
            [film for film in range(len(world.scenes)) if has(film) and not shows(film)], 3, replace=False
        ).tolist()
        for count, content in itertools.product((1, 3), (None, text)):
            query = composed(like=world.vectors[examples[:count]], content=content)
            name = f"{count}_segments{'' if content is None else '_and_text'}"
            best = world.best(query, 5, examples[:count])
            results.setdefault(name, []).append((has, shows, best))
    return {
        name: {"colour": both["wanted"], "background": both["unwanted"]}
        for name, both in ((name, shares(rows)) for name, rows in results.items())
    }


def measure_alarms(world: World, rng: np.random.Generator) -> dict[str, float]:
    half = len(world.scenes) // 2
    asked, index = world.vectors[:half], world.vectors[half:]
    background = background_of(index, [str(film) for film in range(len(index))])
    assert background is not None
    texts = np.stack([world.text(Writer().captions(scene)["2"]) for scene in world.scenes[:half]])
    unwanted = np.stack([world.text(f"a {colour} object") for colour in COLOURS])

    def some(vectors: np.ndarray, n: int = 1) -> np.ndarray:
        return vectors[rng.choice(len(vectors), n, replace=False)]

    queries: dict[str, Callable[[], np.ndarray]] = {
        "segment": lambda: some(asked)[0],
        "text": lambda: some(texts)[0],
        "2_segments": lambda: composed(like=some(asked, 2)),
        "5_segments": lambda: composed(like=some(asked, 5)),
        "segment_and_text": lambda: composed(like=some(asked), content=some(texts)[0]),
        "segment_without_text": lambda: composed(like=some(asked), without=some(unwanted)[0]),
        "text_without_text": lambda: composed(content=some(texts)[0], without=some(unwanted)[0]),
        "text_without_long_text": lambda: composed(content=some(texts)[0], without=some(texts)[0]),
    }

    def is_alarm(query: np.ndarray) -> bool:
        return background.judge(query, len(index))(float((index @ query).max())) >= MIN_CONFIDENCE

    return {name: mean([is_alarm(make()) for _ in range(TRIALS)]) for name, make in queries.items()}


def mean(values: Sequence[bool]) -> float:
    return round(float(np.mean(values)), 3)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seed", type=int, default=9)
    parser.add_argument("--films", type=int, default=320)
    args = parser.parse_args()
    embedder = Embedder.from_pretrained("package://demo/tiny_vl/model", "package://demo/tiny_vl/adapter")
    world = World([draw_scene(args.seed * 1_000_000 + i, "heldout") for i in range(args.films)], embedder)
    rng = np.random.default_rng(args.seed)
    measured = {
        "without": measure_without(world),
        "like": measure_like(world, rng),
        "mixed": measure_mixed(world, rng),
        "false_alarms": measure_alarms(world, rng),
    }
    print(json.dumps({**vars(args), **measured}, indent=1))


if __name__ == "__main__":
    main()
