"""Prompt templates, their draws and their schemas."""

import json
import re
from collections import Counter

import pytest

from gve_ray.synthesis import prompts

IDS = ("video_captions", "frame_captions", "composed_image", "composed_clip")


@pytest.mark.parametrize("prompt_id", IDS)
def test_every_prompt_loads_and_fills(prompt_id: str) -> None:
    prompt = prompts.load_prompt(prompt_id)
    if prompt_id.endswith("captions"):
        slots = prompts.draw_caption_slots(0, "v", prompt_id, None)
    else:
        slots = prompts.draw_query_slots(0, "v", prompt_id)
    system, user = prompts.messages(prompt_id, **slots)
    assert system["content"] == prompt.system
    text = user["content"][-1]["text"]  # type: ignore[index]
    assert "$" not in text
    assert all(value in text for value in slots.values())


def test_a_missing_slot_is_an_error() -> None:
    with pytest.raises(KeyError, match="caption"):
        prompts.load_prompt("video_captions").fill(
            profile="spatial", readability="easy", education="university"
        )


def test_an_unknown_prompt_is_an_error() -> None:
    with pytest.raises(ValueError, match="'poem'"):
        prompts.load_prompt("poem")


def test_profiles_follow_the_papers_shares() -> None:
    drawn = Counter(
        prompts.draw_caption_slots(1, f"v{i}", "video_captions", None)["profile"] for i in range(6000)
    )
    # 30/60/10 percent of 6000, five standard deviations of a binomial.
    for name, expected, slack in (("spatial", 1800, 178), ("temporal", 3600, 190), ("other", 600, 117)):
        assert abs(drawn[name] - expected) < slack


def test_draws_depend_on_seed_and_video_alone() -> None:
    first = [prompts.draw_query_slots(3, f"v{i}", "composed_clip") for i in range(40)]
    again = [prompts.draw_query_slots(3, f"v{i}", "composed_clip") for i in reversed(range(40))][::-1]
    assert first == again
    assert first != [prompts.draw_query_slots(4, f"v{i}", "composed_clip") for i in range(40)]


@pytest.mark.parametrize(
    ("text", "allowed"),
    [
        ("A red circle.", True),
        ("Ein roter Kreis – schön", True),
        ('a "quoted" word', False),
        ("two\nlines", False),
    ],
)
def test_schema_pattern_lets_only_strict_json_text_through(text: str, allowed: bool) -> None:
    pattern = json.loads(prompts.QUERY_JSON_SCHEMA)["properties"]["query"]["pattern"]
    assert bool(re.search(pattern, text)) is allowed
