"""Caption noise: junk states no facts, untidy captions state the same facts as tidy ones."""

import random

import pytest

from gve_ray.demo.facts import stated_facts
from gve_ray.demo.noise import JUNK, junk_caption, untidy


@pytest.mark.parametrize("kind", JUNK)
def test_junk_states_no_facts(kind: str) -> None:
    rng = random.Random(5)
    captions = [JUNK[kind](rng) for _ in range(200)]
    assert all(text.strip() for text in captions)
    assert not [text for text in captions if stated_facts(text)]
    assert len(set(captions)) > 7


def test_some_junk_combines_two_kinds() -> None:
    rng = random.Random(5)
    both = sum("#" in text and "http" in text for text in (junk_caption(rng) for _ in range(2000)))
    assert both > 0
    assert junk_caption(random.Random(9)) == junk_caption(random.Random(9))


def test_untidy_captions_state_the_same_facts() -> None:
    rng = random.Random(5)
    caption = "small red star moves left then spins on a brick wall"
    variants = {untidy(caption, rng) for _ in range(100)}
    assert len(variants) > 10
    assert all(stated_facts(text) == stated_facts(caption) for text in variants)
    assert len(stated_facts(caption)) == 5  # colour, shape, two motions, background
