"""Training data of the tiny model: pictures and targets agree, also after mirroring."""

import random

import numpy as np
import pytest

from gve_ray.demo import render
from gve_ray.demo.facts import judge
from gve_ray.demo.scenes import COLOURS, SHAPES, SPLIT_OF, draw_scene
from tools.tiny_vl.data import (
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

FILLED = ("circle", "bar", "triangle", "star", "cross")  # shapes whose centre shows their colour


def rendered(seed: int) -> Example:
    scene = draw_scene(seed, "tiny", long=False)
    frames = np.stack(list(render.frames(scene, np.linspace(0, 1, FRAMES), 112, 112)))
    return Example(
        scene=scene, size=(112, 112), frames=frames, still_times=[0.0, 1.0], stills=frames[[0, -1]],
        clip_span=(0.0, 1.0), clip=frames,
    )  # fmt: skip


def centre_colour_distance(example: Example) -> float:
    """Return the largest difference between an object's colour and the first frame's pixel at its
    centre.
    """
    chapter = example.scene.chapters[0]
    zoom = {"zoom out": render.ZOOM}.get(chapter.camera, 1.0)
    worst = 0.0
    for thing in chapter.things:
        state = thing.at(0.0)
        x, y = (int(((v - 0.5) * zoom + 0.5) * 112) for v in (state.x, state.y))
        if thing.shape in FILLED and 0 <= x < 112 and 0 <= y < 112:
            pixel = example.frames[0, y, x].astype(int)
            worst = max(worst, float(np.abs(pixel - render.RGB[thing.colour]).max()))
    return worst


@pytest.mark.parametrize("axis", ["x", "y"])
def test_pictures_and_scene_of_a_mirrored_example_agree(axis: str) -> None:
    for seed in range(12):
        mirror_image = mirrored(rendered(seed), axis)
        assert centre_colour_distance(mirror_image) < 30
        cells = [(t.column, t.row) for t in mirror_image.scene.chapters[0].things]
        assert cells == sorted(cells)


def test_mirroring_twice_restores_the_example() -> None:
    original = rendered(3)
    twice = mirrored(mirrored(original, "x"), "x")
    assert twice.scene == original.scene
    assert (twice.frames == original.frames).all()


def test_varied_examples_stay_in_their_split() -> None:
    rng = random.Random(0)
    changed = 0
    for seed in range(12):
        original = rendered(seed)
        variant = varied(original, rng)
        changed += variant.scene != original.scene
        for chapter in variant.scene.chapters:
            for t in chapter.things:
                assert SPLIT_OF[t.colour, t.shape, t.size, chapter.background, t.column, t.row] == "tiny"
    assert changed


def test_targets_of_a_token_describe_the_object_in_its_cell() -> None:
    example = next(e for e in map(rendered, range(50)) if e.scene.chapters[0].camera == "still")
    things = example.scene.chapters[0].things
    thing = things[0]
    state = thing.at(0.5 / (FRAMES - 1))  # the middle of the first pair of frames
    row, column = int(state.y * 112) // CELL, int(state.x * 112) // CELL
    targets = cell_targets([example])
    assert targets["colour"].shape == (1, FRAMES // 2, 4, 4)
    assert targets["colour"][0, 0, row, column] == COLOURS.index(thing.colour)
    assert targets["shape"][0, 0, row, column] == SHAPES.index(thing.shape)
    assert (targets["colour"][0, 0] < len(COLOURS)).sum() == len(things)


def test_fresh_pairs_show_objects_at_the_cells_of_their_targets() -> None:
    pixels, targets = fresh_pairs("tiny", 0, 12)
    assert pixels.shape == (12, 2, *(CELL * n for n in targets["colour"].shape[1:]), 3)
    blocks = pixels.reshape(12, 2, targets["colour"].shape[1], CELL, -1, CELL, 3).astype(int)
    for name in COLOURS:
        for b, row, column in np.argwhere(targets["colour"] == COLOURS.index(name)):
            distance = np.abs(blocks[b, :, row, :, column] - np.array(render.RGB[name])).max(-1)
            assert (distance < 60).any(), (name, b, row, column)


def test_fresh_pairs_are_reproducible_and_show_many_objects() -> None:
    pixels, targets = fresh_pairs("heldout", 5, 24)
    assert pixels.shape[:2] == (24, 2)
    again, _ = fresh_pairs("heldout", 5, 24)
    assert np.array_equal(pixels, again)
    objects = (targets["shape"] >= 0) & (targets["shape"] < len(SHAPES))
    assert 2.5 < objects.sum() / 24 < 9  # a scene has 1.85 on average
    assert (objects == (targets["colour"] < len(COLOURS))).all()


def test_fact_targets_are_exactly_the_facts_of_the_scene() -> None:
    example = rendered(3)
    chapter = example.scene.chapters[0]
    expected = {(chapter.background,), (chapter.camera,)}
    for t in chapter.things:
        expected |= {(t.colour, t.shape), (t.colour, t.size), (t.shape, t.size)}
        expected |= {(t.colour, "column", t.column), (t.shape, "row", t.row)}
        expected |= {(t.colour, "row", t.row), (t.shape, "column", t.column)}
        expected |= {(name, motion) for name in (t.colour, t.shape) for motion in t.motions}
    (targets,) = fact_targets([example]).numpy()
    names = list(FACTS)
    assert {names[i] for i in np.flatnonzero(targets)} == expected
    assert (fact_targets([mirrored(example, "x")]).numpy() != targets).any()


def test_descriptions_are_true_and_vary_in_style() -> None:
    scene, rng = rendered(3).scene, random.Random(1)
    texts = [description(scene, rng) for _ in range(60)]
    judgements = [judge(text, scene) for text in texts]
    assert all(judgement.stated == judgement.true for judgement in judgements)
    assert len({len(text.split()) for text in texts}) > 5
    assert any(judgement.covered == judgement.total for judgement in judgements)
