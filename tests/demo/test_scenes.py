"""Scenes: splits share no combination, motions stay on the grid, and scenes survive JSON."""

import json
from itertools import combinations

import pytest

from gve_ray.demo.scenes import (
    BACKGROUNDS,
    COLOURS,
    GRID,
    SHAPES,
    SPLIT_OF,
    SPLIT_SHARES,
    Chapter,
    Scene,
    Thing,
    draw_scene,
)

SEEDS = range(150)


def combos(scene: Scene) -> set[tuple[str, str, str, str, int, int]]:
    return {
        (t.colour, t.shape, t.size, c.background, t.column, t.row) for c in scene.chapters for t in c.things
    }


def test_a_scene_is_a_function_of_seed_and_split() -> None:
    assert draw_scene(7, "corpus") == draw_scene(7, "corpus")
    assert draw_scene(7, "corpus") != draw_scene(8, "corpus")
    assert draw_scene(7, "corpus") != draw_scene(7, "heldout")


def test_no_combination_is_in_two_splits() -> None:
    shown = {s: set().union(*(combos(draw_scene(i, s)) for i in SEEDS)) for s in SPLIT_SHARES}  # type: ignore[arg-type]
    for a, b in combinations(shown, 2):
        assert not shown[a] & shown[b]
    # Each split has every colour, shape and background, so captions of held-out scenes have no
    # unknown word.
    for combinations_shown in shown.values():
        assert {combo[0] for combo in combinations_shown} == set(COLOURS)
        assert {combo[1] for combo in combinations_shown} == set(SHAPES)
        assert {combo[3] for combo in combinations_shown} == set(BACKGROUNDS)


def test_the_splits_divide_all_combinations_by_their_shares() -> None:
    assert len(SPLIT_OF) == 8 * 6 * 2 * 6 * 9
    sizes = {name: sum(split == name for split in SPLIT_OF.values()) for name in SPLIT_SHARES}
    assert sizes == {"tiny": 2592, "corpus": 1296, "heldout": 1296}


def test_an_unknown_split_is_refused() -> None:
    with pytest.raises(ValueError, match="split='train'"):
        draw_scene(0, "train")  # type: ignore[arg-type]


def test_motions_take_equal_shares_of_the_time() -> None:
    thing = Thing(colour="red", shape="star", size="small", column=0, row=2, motions=("right", "grow", "up"))
    start, first, second, end = (thing.at(i / 3) for i in range(4))
    assert (start.x, start.y, start.scale) == pytest.approx((0.5 - GRID, 0.5 + GRID, 1.0))
    assert (first.x, first.y, first.scale) == pytest.approx((0.5, 0.5 + GRID, 1.0))
    assert (second.x, second.y, second.scale) == pytest.approx((0.5, 0.5 + GRID, 1.45))
    assert (end.x, end.y, end.scale) == pytest.approx((0.5, 0.5, 1.45))
    assert [s.cell for s in (start, first, second, end)] == [(0, 2), (1, 2), (1, 2), (1, 1)]
    assert thing.radius(1.0) == pytest.approx(0.11 * 1.45)


def test_objects_stay_in_the_frame() -> None:
    farthest = GRID + 0.03  # distance of an outer cell with the largest jitter from the centre
    for seed in SEEDS:
        for chapter in draw_scene(seed, "corpus").chapters:
            zoom = 1.35 if chapter.camera.startswith("zoom") else 1.0
            for thing in chapter.things:
                for step in range(13):
                    state = thing.at(step / 12)
                    assert max(abs(state.x - 0.5), abs(state.y - 0.5)) <= farthest + 1e-9
                    assert zoom * max(abs(state.x - 0.5), abs(state.y - 0.5)) < 0.5  # the centre is visible


def test_objects_of_a_chapter_differ_keep_apart_and_are_ordered() -> None:
    for seed in SEEDS:
        for chapter in draw_scene(seed, "heldout").chapters:
            things = chapter.things
            assert 1 <= len(things) <= 3
            assert len({t.colour for t in things}) == len({t.shape for t in things}) == len(things)
            assert [(t.column, t.row) for t in things] == sorted((t.column, t.row) for t in things)
            for a, b in combinations(things, 2):
                for step in range(13):
                    p, q = a.at(step / 12), b.at(step / 12)
                    assert max(abs(p.x - q.x), abs(p.y - q.y)) >= 0.2


def test_every_drawn_scene_moves_and_round_shapes_never_spin() -> None:
    for seed in SEEDS:
        for chapter in draw_scene(seed, "tiny").chapters:
            assert any(m != "rest" for t in chapter.things for m in t.motions)
            assert not any(t.shape in ("circle", "ring") and "spin" in t.motions for t in chapter.things)


def test_only_a_moving_camera_or_object_makes_a_chapter_dynamic() -> None:
    still = Thing(colour="red", shape="star", size="small", column=0, row=0, motions=("rest",))
    assert not Chapter(background="desert", camera="still", things=(still,)).dynamic
    assert Chapter(background="desert", camera="zoom in", things=(still,)).dynamic


def test_one_scene_in_ten_is_long_and_has_several_chapters() -> None:
    long = draw_scene(3, "corpus", long=True)
    assert len(long.chapters) in (2, 3)
    assert 20 <= long.duration <= 60
    assert len(draw_scene(3, "corpus", long=False).chapters) == 1
    share = sum(len(draw_scene(i, "corpus").chapters) > 1 for i in range(600)) / 600
    assert 0.06 < share < 0.14  # 0.1 within 3.3 standard deviations


def test_locate_returns_the_chapter_of_a_moment() -> None:
    scene = draw_scene(1, "corpus", long=True)
    n = len(scene.chapters)
    assert scene.locate(0.0) == (scene.chapters[0], 0.0)
    assert scene.locate(1.0) == (scene.chapters[-1], 1.0)
    chapter, local = scene.locate(1.25 / n)
    assert chapter == scene.chapters[1]
    assert local == pytest.approx(0.25)


@pytest.mark.parametrize("long", [False, True])
def test_a_scene_survives_json(long: bool) -> None:
    scene = draw_scene(5, "corpus", long=long)
    assert Scene.from_dict(json.loads(json.dumps(scene.to_dict()))) == scene
