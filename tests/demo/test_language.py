"""Captions and queries are true and keep the word ranges of the prompts."""

import random

import pytest

from gve_ray.demo.facts import judge
from gve_ray.demo.language import Writer, relation, terse_caption
from gve_ray.demo.scenes import Chapter, Scene, Thing, draw_scene
from gve_ray.synthesis.prompts import (
    COMPOSED_CLIP_WORDS,
    COMPOSED_IMAGE_WORDS,
    EDUCATION,
    FRAME_STYLES,
    PROFILES,
    READABILITY,
    RELATIONS,
    STRATEGIES,
    VIDEO_STYLES,
)

SCENES = [draw_scene(seed, split, long=seed % 5 == 0) for split in ("tiny", "heldout") for seed in range(60)]
WRITERS = [Writer(r, e, p) for r in READABILITY for e in EDUCATION for p in PROFILES]


def ball(**changes: object) -> Thing:
    looks = {
        "colour": "red",
        "shape": "circle",
        "size": "small",
        "column": 0,
        "row": 0,
        "motions": ("right",),
    }
    return Thing(**{**looks, **changes})  # type: ignore[arg-type]


def scene_of(*things: Thing, background: str = "desert", camera: str = "still") -> Scene:
    chapter = Chapter(background=background, camera=camera, things=things)
    return Scene(seed=0, chapters=(chapter,), width=112, height=112, fps=8.0, duration=2.0)


def test_short_caption() -> None:
    scene = scene_of(ball())
    assert Writer("easy", "primary school").captions(scene)["1"] == (
        "Look, a small red circle goes right in front of a desert."
    )


def test_rich_caption_names_start_motion_and_end() -> None:
    rich = Writer("advanced", "university").captions(scene_of(ball(motions=("right", "down"))))["2"]
    assert "At the start the small red circle is in the upper left of the frame." in rich
    assert "The red circle travels right and then travels down." in rich
    assert "At the end the red circle is in the center of the frame." in rich


@pytest.mark.parametrize("writer", WRITERS[::4], ids=str)
def test_captions_keep_the_prompts_word_ranges(writer: Writer) -> None:
    for scene in SCENES:
        for styles, captions in (
            (VIDEO_STYLES, writer.captions(scene)),
            (FRAME_STYLES, writer.frame_captions(scene, 0.4)),
        ):
            for key, text in captions.items():
                words = len(text.split())
                assert styles[key].min_words <= words <= styles[key].max_words, (key, text)
        lengths = [len(text.split()) for text in writer.captions(scene).values()]
        assert min(lengths) < 20
        assert max(lengths) > 100


def test_captions_are_true_and_the_rich_caption_is_complete() -> None:
    for scene, writer in zip(SCENES, WRITERS * 5, strict=False):
        for key, text in writer.captions(scene).items():
            judgement = judge(text, scene)
            assert judgement.true == judgement.stated > 0 or key == "5", text
            if key == "2":
                assert judgement.covered == judgement.total


def test_queries_keep_their_word_ranges_and_mention_the_reference() -> None:
    rng = random.Random(0)
    for scene in SCENES:
        writer = rng.choice(WRITERS)
        for strategy in STRATEGIES:
            query = writer.image_query(scene, 0.5, strategy)
            assert COMPOSED_IMAGE_WORDS[0] <= len(query.split()) <= COMPOSED_IMAGE_WORDS[1]
            assert "this image" in query
        for kind in RELATIONS:
            query = writer.clip_query(scene, 0.5, kind)
            assert COMPOSED_CLIP_WORDS[0] <= len(query.split()) <= COMPOSED_CLIP_WORDS[1]
            assert "this clip" in query


def test_relation_of_two_objects() -> None:
    left, right, below = ball(), ball(column=2), ball(row=2)
    assert relation(left, right) == "to the left of"
    assert relation(right, left) == "to the right of"
    assert relation(left, below) == "above"
    assert relation(below, left) == "below"


def test_terse_captions_are_true() -> None:
    for seed, scene in enumerate(SCENES):
        judgement = judge(terse_caption(scene, random.Random(seed)), scene)
        assert judgement.true == judgement.stated > 0
