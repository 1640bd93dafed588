"""Interpret a cell of a table as a list of texts or as a name.

    texts("['a dog', 'one dog']")    # ["a dog", "one dog"], as pandas writes a list into a CSV file
    name(7.0)                        # "7", since pandas turns whole numbers into floats if one is missing

A cell that holds only a marker such as "nan" counts as missing, as in `pandas.read_csv`. Both
functions raise ValueError for values of other types.
"""

import ast
import io
import json
import math
import re
import tokenize
from decimal import Decimal
from typing import Any

from gve_ray.errors import shown

# Markers that pandas, NumPy, R, SQL and Excel write for a missing value.
_MISSING = frozenset(
    ["", "nan", "NaN", "NaT", "None", "<NA>", "null", "NULL", "NA", "N/A", "n/a", "#N/A", "\\N"]
)
_WHOLE = re.compile(r"(-?\d+)\.0+")
_ROUNDED = re.compile(r"\d(\.\d+)?[eE]\+\d+")  # how Excel and pandas write a long number, with digits lost
_EXACT = 2**53  # a float represents every whole number up to this one exactly


def is_missing(value: Any) -> bool:
    """Whether a cell holds no value: None, NaN, a blank text, or a marker of a missing value."""
    if isinstance(value, str):
        return value.strip() in _MISSING
    return value is None or (isinstance(value, float) and math.isnan(value))


def texts(value: Any) -> list[str]:
    """Return the texts of a cell, stripped. A cell may hold a list, also written as text in Python or JSON form."""
    if is_missing(value):
        return []
    if isinstance(value, list | tuple):
        return [text for part in value for text in texts(part)]
    text = _text(value)
    if text is None:
        raise ValueError(f"{shown(value)}: not a text; give a text, or a list of texts")
    parts = _written_list(text) if text.startswith("[") else None
    return [text] if parts is None else texts(parts)


def name(value: Any) -> str | None:
    """Return an id or path as text, None if it is missing. Numbers keep their digits: 7.0 becomes "7"."""
    if is_missing(value):
        return None
    text = _text(value)
    if text is None:
        raise ValueError(f"{shown(value)}: not a name; give a text or a whole number")
    if "+" in text and _ROUNDED.fullmatch(text):
        raise ValueError(f"{shown(text)}: a number that was rounded; write it with all its digits, as a text")
    whole = _WHOLE.fullmatch(text) if text.endswith("0") else None
    return whole[1] if whole else text


def _text(value: Any) -> str | None:
    """Convert text, a number, or bytes (which some programs write to Parquet for text) to stripped text.

    Returns None for other types.
    """
    if isinstance(value, str):
        try:
            _ = value.isascii() or value.encode()
        except UnicodeEncodeError:
            raise ValueError(
                f"{shown(value)}: half of a surrogate pair is no character; write the file as UTF-8"
            ) from None
        return value.strip()
    if isinstance(value, bytes):
        return value.decode().strip()  # raises UnicodeDecodeError, which is a ValueError
    if isinstance(value, int | float | Decimal) and not isinstance(value, bool):
        return _digits(value)
    return None


def _digits(number: int | float | Decimal) -> str:
    if isinstance(number, int) or number % 1:
        return str(number)
    if isinstance(number, float) and abs(number) > _EXACT:
        raise ValueError(
            f"{shown(number)}: a floating-point number cannot hold so many digits; write it as a whole number or a text"
        )
    return str(int(number))


def _written_list(text: str) -> list[str | None] | None:
    """Parse a list of texts that is written as text; return None for other text, such as `[music]`.

    It may have the form of JSON, Python, or NumPy, which puts no commas between the texts.
    """
    if not text.endswith("]"):
        return None
    try:
        value = json.loads(text)
        return value if all(isinstance(part, str | None) for part in value) else None
    except (ValueError, RecursionError):
        pass
    try:
        tokens = [
            token for token in tokenize.generate_tokens(io.StringIO(text).readline) if token.string.strip()
        ]
        parts = [ast.literal_eval(token.string) for token in tokens if token.type == tokenize.STRING]
    except (tokenize.TokenError, SyntaxError, ValueError):
        return None
    rest = {token.string for token in tokens[1:-1] if token.type != tokenize.STRING}
    is_list = parts and rest <= {",", "nan", "None"} and all(isinstance(part, str) for part in parts)
    return parts if is_list else None
