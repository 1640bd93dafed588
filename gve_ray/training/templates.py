"""Read the columns of a row: a cell, an element of a cell, or a path made of several cells.

    "caption"                     the cell of the column
    "{page_dir}/{videoid}.mp4"    a path made of two columns
    "{key:.5}/{key}.jpg"          the first five characters of a column, and the whole of it
    "{query[0]}"                  the first element of a column that holds lists

A cell that is read as text may hold a text, a passage (an object with a `text` and perhaps a `title`), or a
list of them.
"""

import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import cache
from typing import Any, NamedTuple

from gve_ray.errors import shown
from gve_ray.inputs.cells import is_missing, name, texts

Get = Callable[[str], Any]  # the value of a column of a row


class Placeholder(NamedTuple):
    """A column in a template, the element of its list, and the number of characters to keep."""

    column: str
    element: int | None
    length: int | None


_PLACEHOLDER = re.compile(r"\{([^{}\[\]:]+)(?:\[(\d+)\])?(?::\.(\d+))?\}")


@cache
def parts_of(column: str) -> tuple[str | Placeholder, ...]:
    """Split a column or template into its literal parts and its columns.

    Raises ValueError for braces that enclose no column.
    """
    if "{" not in column and "}" not in column:
        return (Placeholder(column, None, None),)
    parts: list[str | Placeholder] = []
    end = 0
    for found in _PLACEHOLDER.finditer(column):
        parts.append(column[end : found.start()])
        element, length = (None if group is None else int(group) for group in found.groups()[1:])
        parts.append(Placeholder(found[1], element, length))
        end = found.end()
    parts.append(column[end:])
    if any("{" in part or "}" in part for part in parts if isinstance(part, str)):
        raise ValueError(f"{column!r}: write a column in braces as {{name}}, {{name[0]}} or {{name:.5}}")
    return tuple(part for part in parts if part)


def columns_in(templates: Iterable[str]) -> list[str]:
    """Return the columns that templates read, each once."""
    parts = (part for template in templates for part in parts_of(template))
    return list(dict.fromkeys(part.column for part in parts if isinstance(part, Placeholder)))


def value_of(column: str, get: Get) -> Any:
    """Return the value of a column or template for one row: a cell, the element of a cell, or a path.

    Raises ValueError for a value of the wrong type.
    """
    parts = parts_of(column)
    if len(parts) == 1 and isinstance(parts[0], Placeholder) and parts[0].length is None:
        return _element(parts[0], get)
    return _path_of(parts, get)


def _element(part: Placeholder, get: Get) -> Any:
    value = get(part.column)
    if part.element is None or is_missing(value):
        return value
    if not isinstance(value, list | tuple):
        raise ValueError(f"{shown(value)}: not a list, but its element {part.element} is read")
    return value[part.element] if part.element < len(value) else None


def _path_of(parts: Sequence[str | Placeholder], get: Get) -> str | None:
    """Fill in a template. A folder without a value is left out; without a file name there is no path."""
    segments: list[str | None] = [""]
    for part in parts:
        if isinstance(part, Placeholder):
            text = name(_element(part, get))
            if text is None or segments[-1] is None:
                segments[-1] = None
            else:
                segments[-1] += text[: part.length]
            continue
        for at, literal in enumerate(part.split("/")):
            if at:
                segments.append(literal)
            elif segments[-1] is not None:
                segments[-1] += literal
    if segments[-1] is None:
        return None
    return "/".join(segment for segment in segments if segment is not None)


def passages(value: Any) -> list[str]:
    """Return the texts of a cell; a passage is its title and its text. Raises ValueError for other types."""
    if isinstance(value, Mapping):
        if "text" not in value:
            raise ValueError(f"{shown(value)}: not a passage; give a text, or an object with the key text")
        body = texts(value["text"])
        return [" ".join([*texts(value.get("title")), *body])] if body else []
    if isinstance(value, list | tuple):
        return [text for part in value for text in passages(part)]
    return texts(value)


def ids_in(column: str, get: Get) -> list[str]:
    """Return the ids of a cell, which holds one id or a list of them. Raises ValueError naming the column."""
    value = get(column)
    try:
        if isinstance(value, str):
            return texts(value)
        ids = [name(part) for part in (value if isinstance(value, list | tuple) else [value])]
    except ValueError as error:
        raise ValueError(f"{column}={error}") from None
    return [text for text in ids if text is not None]
