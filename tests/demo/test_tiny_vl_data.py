"""What the tiny model is taught: pictures and truth stay together under mirrors and moves."""

import random

import numpy as np
import pytest

from gve_ray.demo import render
from gve_ray.demo.facts import judge
from gve_ray.demo.scenes import COLOURS, SHAPES, draw_scene
from gve_ray.demo.tiny_vl.data import (
    CELL,
    FACTS,
    FRAMES,
    Example,
    cell_targets,
    description,
    fact_targets,
    fresh_pairs,
    mirrored,
    varied,
)

FILLED = ("circle", "bar", "triangle", "star", "cross")  # their centre has their colour


def example(seed: int) -> Example:
    scene = draw_scene(seed, "tiny", long=False)
    frames = np.stack(list(render.frames(scene, np.linspace(0, 1, FRAMES), 112, 112)))
    return Example(
        scene=scene, size=(112, 112), frames=frames, still_times=[0.0, 1.0], stills=frames[[0, -1]],
        clip_span=(0.0, 1.0), clip=frames,
    )  # fmt: skip


def centre_colour_distance(one: Example) -> float:
    """Largest distance between an object's colour and the first frame's pixel at its centre."""
    chapter = one.scene.chapters[0]
    zoom = {"zoom out": render.ZOOM}.get(chapter.camera, 1.0)
    worst = 0.0
    for thing in chapter.things:
        state = thing.at(0.0)
        x, y = (int(((v - 0.5) * zoom + 0.5) * 112) for v in (state.x, state.y))
        if thing.shape in FILLED and 0 <= x < 112 and 0 <= y < 112:
            pixel = one.frames[0, y, x].astype(int)
            worst = max(worst, float(np.abs(pixel - render.RGB[thing.colour]).max()))
    return worst


@pytest.mark.parametrize("axis", ["x", "y"])
def test_a_mirrored_example_shows_what_its_scene_says(axis: str) -> None:
    for seed in range(12):
        other = mirrored(example(seed), axis)
        assert centre_colour_distance(other) < 30
        places = [(t.column, t.row) for t in other.scene.chapters[0].things]
        assert places == sorted(places)


def test_mirroring_twice_gives_the_scene_back() -> None:
    one = example(3)
    twice = mirrored(mirrored(one, "x"), "x")
    assert twice.scene == one.scene
    assert (twice.frames == one.frames).all()


def test_varied_examples_stay_in_their_split() -> None:
    from gve_ray.demo.scenes import SPLIT_OF

    rng = random.Random(0)
    changed = 0
    for seed in range(12):
        one = example(seed)
        other = varied(one, rng)
        changed += other.scene != one.scene
        for chapter in other.scene.chapters:
            for t in chapter.things:
                assert SPLIT_OF[t.colour, t.shape, t.size, chapter.background, t.column, t.row] == "tiny"
    assert changed


def test_a_token_is_taught_the_object_in_its_cell() -> None:
    one = next(e for e in map(example, range(50)) if e.scene.chapters[0].camera == "still")
    thing = one.scene.chapters[0].things[0]
    state = thing.at(0.5 / (FRAMES - 1))  # the middle of the first pair of frames
    row, column = int(state.y * 112) // CELL, int(state.x * 112) // CELL
    targets = cell_targets([one])
    assert targets["colour"].shape == (1, FRAMES // 2, 4, 4)
    assert targets["colour"][0, 0, row, column] == COLOURS.index(thing.colour)
    assert targets["shape"][0, 0, row, column] == SHAPES.index(thing.shape)
    assert (targets["colour"][0, 0] < len(COLOURS)).sum() == len(one.scene.chapters[0].things)


def test_fresh_pairs_show_objects_where_their_targets_say() -> None:
    pixels, targets = fresh_pairs("tiny", 0, 12)
    assert pixels.shape == (12, 2, *(CELL * n for n in targets["colour"].shape[1:]), 3)
    blocks = pixels.reshape(12, 2, targets["colour"].shape[1], CELL, -1, CELL, 3).astype(int)
    for name in COLOURS:
        for b, row, column in np.argwhere(targets["colour"] == COLOURS.index(name)):
            distance = np.abs(blocks[b, :, row, :, column] - np.array(render.RGB[name])).max(-1)
            assert (distance < 60).any(), (name, b, row, column)


def test_fresh_pairs_show_crowds_of_their_split() -> None:
    pixels, targets = fresh_pairs("heldout", 5, 24)
    assert pixels.shape[:2] == (24, 2)
    again, _ = fresh_pairs("heldout", 5, 24)
    assert np.array_equal(pixels, again)
    objects = (targets["shape"] >= 0) & (targets["shape"] < len(SHAPES))
    assert 2.5 < objects.sum() / 24 < 9  # a scene has 1.85 on average
    assert (objects == (targets["colour"] < len(COLOURS))).all()


def test_facts_are_what_the_scene_holds_and_nothing_else() -> None:
    one = example(3)
    chapter = one.scene.chapters[0]
    wanted = {(chapter.background,), (chapter.camera,)}
    for t in chapter.things:
        wanted |= {(t.colour, t.shape), (t.colour, t.size), (t.shape, t.size)}
        wanted |= {(t.colour, "column", t.column), (t.shape, "row", t.row)}
        wanted |= {(t.colour, "row", t.row), (t.shape, "column", t.column)}
        wanted |= {(name, motion) for name in (t.colour, t.shape) for motion in t.motions}
    (targets,) = fact_targets([one]).numpy()
    names = list(FACTS)
    assert {names[i] for i in np.flatnonzero(targets)} == wanted
    assert (fact_targets([mirrored(one, "x")]).numpy() != targets).any()


def test_descriptions_are_true_and_of_many_styles() -> None:
    scene, rng = example(3).scene, random.Random(1)
    texts = [description(scene, rng) for _ in range(60)]
    judged = [judge(text, scene) for text in texts]
    assert all(one.stated == one.true for one in judged)
    assert len({len(text.split()) for text in texts}) > 5
    assert any(one.covered == one.total for one in judged)
