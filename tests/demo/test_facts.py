"""Facts extracted from sentences and compared with a scene; expected counts are worked out by hand."""

import pytest

from gve_ray.demo.facts import Fact, Judgement, judge, stated_facts
from gve_ray.demo.scenes import Chapter, Scene, Thing

CIRCLE = Thing(colour="red", shape="circle", size="small", column=0, row=0, motions=("right", "grow"))
STAR = Thing(colour="blue", shape="star", size="large", column=2, row=2, motions=("rest",))
SCENE = Scene(
    seed=0,
    chapters=(Chapter(background="desert", camera="still", things=(CIRCLE, STAR)),),
    width=112,
    height=112,
    fps=8.0,
    duration=2.0,
)
# Facts of the scene: 1 background + circle (colour, shape, place, 2 motions) + star (colour, shape,
# place, motion).
TOTAL = 10


def test_stated_facts_are_in_order() -> None:
    of = ("red", "circle")
    assert stated_facts("A small red circle in the upper left moves right, near a desert.") == [
        Fact("colour", of, "red"),
        Fact("shape", of, "circle"),
        Fact("place", of, "in the upper left"),
        Fact("motion", of, "right"),
        Fact("background", (None, None), "desert"),
    ]


@pytest.mark.parametrize(
    ("text", "stated", "true", "covered"),
    [
        ("The red circle moves right and then grows against a desert.", 5, 5, 5),
        ("The red circle moves left.", 3, 2, 2),  # wrong motion
        ("The green circle moves right.", 3, 2, 2),  # wrong colour; the shape identifies the object
        ("The red star stays still.", 3, 2, 2),  # taken as the star, with a wrong colour
        ("The pink bar spins in the center.", 4, 0, 0),  # nothing of this is in the scene
        ("The blue star is in the lower right against an ocean.", 4, 3, 3),
        ("A circle travels right.", 2, 2, 2),
        ("The red circle moves right but never spins.", 3, 3, 3),  # a negated motion is not a stated fact
        ("Nice video, subscribe!", 0, 0, 0),
    ],
)
def test_judgement_of_sentences(text: str, stated: int, true: int, covered: int) -> None:
    assert judge(text, SCENE) == Judgement(stated, true, covered, TOTAL)


def test_the_end_place_is_true_but_is_not_a_fact_of_the_scene() -> None:
    # The circle ends one cell to the right of the upper left, but the scene's facts have start
    # places only.
    assert judge("The red circle is at the top.", SCENE) == Judgement(3, 3, 2, TOTAL)
