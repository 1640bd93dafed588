"""Captions, ids and paths as pandas, NumPy, R and spreadsheets write them into a cell."""

from decimal import Decimal
from typing import Any

import numpy as np
import pytest

from gve_ray.inputs.cells import is_missing, name, texts


@pytest.mark.parametrize(
    "value", [None, float("nan"), "", " \n", "nan", "NaN", "None", "<NA>", "null", "NA", "#N/A"]
)
def test_what_is_missing(value: Any) -> None:
    assert is_missing(value)
    assert texts(value) == []
    assert name(value) is None


@pytest.mark.parametrize("text", ["None of them move", "nan bread", "0", "[]x", "N", "NAN"])
def test_texts_that_only_begin_so(text: str) -> None:
    assert not is_missing(text)
    assert texts(text) == [text]


@pytest.mark.parametrize(
    "value, found",
    [
        (" a dog ", ["a dog"]),
        (["a dog", None, " ", "nan", " one dog"], ["a dog", "one dog"]),
        ([["a"], ["b", "c"]], ["a", "b", "c"]),
        ([], []),
        (5, ["5"]),
        (2024.0, ["2024"]),
        ("café".encode(), ["café"]),
        ('["a dog", "it\'s one"]', ["a dog", "it's one"]),
        (str(["a dog", 'the "one"', "it's"]), ["a dog", 'the "one"', "it's"]),
        (str(["a dog", float("nan"), None]), ["a dog"]),
        (str(np.array(["a dog", "one dog"])), ["a dog", "one dog"]),
        (str(np.array(["a dog that goes on and on " * 2, "one dog"], dtype=object)),
         [("a dog that goes on and on " * 2).strip(), "one dog"]),
        ("[]", []),
        ("[music]", ["[music]"]),
        ("[music] a man sings [applause]", ["[music] a man sings [applause]"]),
        ("[1, 2]", ["[1, 2]"]),
        ("[it's open", ["[it's open"]),
        ("[it's open]", ["[it's open]"]),
        ("['a' + 'b']", ["['a' + 'b']"]),
    ],
)  # fmt: skip
def test_one_caption_or_several(value: Any, found: list[str]) -> None:
    assert texts(value) == found


@pytest.mark.parametrize(
    "value, found",
    [
        ("007", "007"),
        (" a b ", "a b"),
        (7, "7"),
        (-7, "-7"),
        (7.0, "7"),
        ("7.0", "7"),  # of a column of numbers with a gap, written to CSV
        ("007.0", "007"),
        ("1.10", "1.10"),
        ("v1.0", "v1.0"),
        (1.5, "1.5"),
        (1e15, "1000000000000000"),
        (2**53 + 1, "9007199254740993"),
        (2**63 - 1, "9223372036854775807"),
        (Decimal("701234567890123456"), "701234567890123456"),
        (Decimal("7.00"), "7"),
        (b"abc", "abc"),
    ],
)
def test_names_keep_their_digits(value: Any, found: str) -> None:
    assert name(value) == found


@pytest.mark.parametrize("text", ["1.06667E+09", "7.012345678901235e+17", "1e+16"])
def test_a_number_that_lost_its_digits_is_no_name(text: str) -> None:
    with pytest.raises(ValueError, match="write it with all its digits"):
        name(text)
    assert texts(text) == [text]


@pytest.mark.parametrize("read", [texts, name])
@pytest.mark.parametrize(
    "value, says",
    [
        ({"raw": "x"}, r"\{'raw': 'x'\}: not a (text|name)"),
        (True, "True: not a"),
        ("\ud800", "half of a surrogate pair"),
        (b"\xe9", "can't decode byte 0xe9"),
        (7.1e17, r"7\.1e\+17: .*cannot hold so many digits"),
    ],
)
def test_what_is_no_text_is_refused(read: Any, value: Any, says: str) -> None:
    with pytest.raises(ValueError, match=says):
        read(value)
    with pytest.raises(ValueError, match=says):
        texts([value])
