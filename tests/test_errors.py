"""Values in error messages: short ones as `repr` shows them, long ones cut."""

from typing import Any

import pytest

from gve_ray.errors import MAX_SHOWN, shortened, shown


@pytest.mark.parametrize("value", ["a", "it's", 5, None, True, 1.5, [1, "b"], {"gte": 10}])
def test_short_values_are_shown_whole(value: Any) -> None:
    assert shown(value) == repr(value)


@pytest.mark.parametrize(
    "value",
    [
        "x" * 5_000_000,
        b"x" * 5_000_000,
        10**50_000,
        [["y" * 1000] * 1000] * 1000,
        {"z" * 10**6: {"a": "b" * 10**6}},
    ],
    ids=["text", "bytes", "number", "lists", "objects"],
)
def test_long_values_are_cut(value: Any) -> None:
    assert 5 < len(shown(value)) <= MAX_SHOWN


def test_a_cut_text_keeps_its_beginning_and_its_end() -> None:
    assert shortened("a" * 50 + "b" * 50, 20) == "a" * 12 + "..." + "b" * 5
    assert shortened("a" * 20, 20) == "a" * 20
