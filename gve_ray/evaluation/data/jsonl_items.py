"""Reads the JSON lines of a data set's queries and corpus into items with the paths of their media.

A line that does not give an item is recorded as a data error and left out; nothing here raises on
bad data.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import chain
from pathlib import PurePosixPath
from typing import Any

from gve_ray.errors import shown
from gve_ray.evaluation.data.data_errors import DataErrorLog
from gve_ray.evaluation.data.dataset_folder import DatasetFolder
from gve_ray.inputs import cells
from gve_ray.inputs.table import Row, open_table
from gve_ray.media.source import raise_storage_fault
from gve_ray.schema import Item

IMAGES, FRAMES, VIDEOS = "images", "videos_frames", "videos"
_PARTS = ("text", "image", "video")


@dataclass(frozen=True, kw_only=True)
class JsonlItems:
    """The items of one file.

    file: its name in the data set. items: the usable items by id, in file order. lines: the line
    number of every id in the file. lost: by the id of an unusable item, the number of its data
    error.
    """

    file: str
    items: dict[str, Item] = field(default_factory=dict)
    lines: dict[str, int] = field(default_factory=dict)
    lost: dict[str, int] = field(default_factory=dict)

    def place(self, key: str) -> str:
        """The file and line of an id, in words."""
        return f"{self.file} line {self.lines[key]}"


def read_items(
    folder: DatasetFolder,
    file: str,
    errors: DataErrorLog,
    *,
    adapt: Callable[[Mapping[str, Any]], Mapping[str, Any]] = lambda fields: fields,
) -> JsonlItems:
    """Read lines of `{"id", "text"?, "image"?, "video"?}`; `adapt` converts other layouts to it.

    If lines share an id, the first one counts. An empty string is an error if other lines of the
    file fill that field; if no line does (for example `"text": ""` throughout a set of image
    queries), the field is ignored.
    """
    result = JsonlItems(file=file)
    lines = [(row, adapt(row.cells)) for row in table_rows(folder, file, errors)]
    used = {part for _, fields in lines for part in _PARTS if _is_filled(fields.get(part))}
    for row, fields in lines:
        location = where(file, row)
        key = id_of(fields.get("id"))
        if key is None:
            errors.add(location, f"id={shown(fields.get('id'))}: give a non-empty string or a whole number")
            continue
        if key in result.lines:
            errors.add(location, f"duplicate id {shown(key)}; line {result.lines[key]} has it and counts")
            continue
        result.lines[key] = row.line or row.number
        item = _item(folder, fields, used)
        if isinstance(item, Item):
            result.items[key] = item
        else:
            result.lost[key] = errors.add(location, f"id {shown(key)}: {item}")
    return result


def table_rows(
    folder: DatasetFolder,
    file: str,
    errors: DataErrorLog,
    *,
    header: bool = True,
    columns: Sequence[str] = (),
) -> Iterator[Row]:
    """Yield the rows of a table; an unreadable file, column or row is recorded as an error.

    header: as in `open_table`. Raises OSError if an object store fails.
    """

    def refuse(row: Row, what: str) -> None:
        errors.add(where(file, row), what)

    try:
        table = open_table(folder.media(file), header=header, on_fault=refuse)
        if missing := [column for column in columns if column not in table.columns]:
            errors.add(
                file, f"no column {', '.join(missing)}; a table of this kind has {' and '.join(columns)}"
            )
            return
        yield from table.rows
    except OSError as error:
        raise_storage_fault(error)
        errors.add(file, f"cannot be read: {error.strerror or error}")
    except ValueError as error:
        raise_storage_fault(error)
        errors.add(file, str(error))


def where(file: str, row: Row) -> str:
    """The location of an error: the line of a text file, or the row of another kind of file."""
    return f"{file} line {row.line}" if row.line is not None else f"{file} {row.place}"


def id_of(value: Any) -> str | None:
    """An id as a string (some releases use numbers), or None if the value is not an id."""
    try:
        return cells.name(value)
    except ValueError:
        return None


def _is_filled(value: Any) -> bool:
    return isinstance(value, str) and not cells.is_missing(value)


def is_unicode(text: str) -> bool:
    """False for a lone surrogate, which JSON can spell but no tokenizer or file can store."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def _item(folder: DatasetFolder, fields: Mapping[str, Any], used: set[str]) -> Item | str:
    """The item of one line, or a description of what is wrong with it."""
    parts: dict[str, str] = {}
    for part in _PARTS:
        value = fields.get(part)
        if value is None:
            continue
        if not isinstance(value, str):
            return f"{part}={shown(value)}: not a string"
        if not _is_filled(value):
            if part in used:
                return f"empty {part}"
            continue
        if not is_unicode(value):
            return f"{part}={shown(value)}: it has a lone surrogate; write it as UTF-8"
        parts[part] = value
    if not parts:
        empty = [part for part in _PARTS if fields.get(part) is not None]
        return f"empty {empty[0]}" if empty else "no text, image or video"
    for part in ("image", "video"):
        if part in parts:
            path, error = _media(folder, part, parts[part])
            if error:
                return error
            parts[part] = path
    return Item(text=parts.get("text"), image=parts.get("image"), video=parts.get("video"))


def _media(folder: DatasetFolder, part: str, name: str) -> tuple[str, str]:
    """Find a media file or folder of frames: (path or URI, ""), or ("", what is wrong with the name).

    Extracted frames take precedence over the video file: the published scores were computed from
    them. A file that does not exist gives the path where it belongs: like every file that cannot be
    read, it counts as a miss (`scores.scoring`), and does not make the data set smaller.
    """
    relative = PurePosixPath(name)
    if relative.is_absolute() or ".." in relative.parts or not relative.parts:
        return "", f"{part}={shown(name)}: not a path inside the data set's folder"
    if part == "image":
        files = [f"{IMAGES}/{relative}", str(relative)]
        return folder.media(next(filter(folder.is_file, files), files[0])), ""
    # The published folders are named without the extension, but "street.2" may be a name that has none.
    frames = [f"{FRAMES}/{relative}", f"{FRAMES}/{relative.with_suffix('')}"]
    files = [f"{VIDEOS}/{relative}", str(relative)]
    present = chain(
        filter(folder.has_pictures, frames), filter(folder.is_file, files), filter(folder.is_folder, frames)
    )
    return folder.media(next(present, files[0])), ""
