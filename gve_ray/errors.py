"""How error messages show the values of users: `shown` quotes and shortens them.

f"top_k={shown(value)}: give a whole number"
"""

import reprlib
from typing import Any

MAX_SHOWN = 100  # characters


def shown(value: Any) -> str:
    """Return a value quoted as by `repr` and cut to about 100 characters, however large it is."""
    short = reprlib.Repr()
    short.maxstring = short.maxother = MAX_SHOWN - 20
    short.maxlevel = 3  # reprlib's default of 6 levels with 6 entries each would give megabytes
    if isinstance(value, int) and value.bit_length() > 8 * MAX_SHOWN:  # Python refuses to print the longest
        return f"a number of {value.bit_length()} bits"
    return shortened(short.repr(value))


def shortened(text: str, length: int = MAX_SHOWN) -> str:
    """Return a text, or its beginning and end around dots if it has more than `length` characters."""
    if len(text) <= length:
        return text
    tail = length // 4
    return f"{text[: length - tail - 3]}...{text[-tail:]}"
