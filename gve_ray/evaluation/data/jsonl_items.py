"""The JSON lines of a data set's queries and corpus, as items whose media are there.

A line that gives no item is told as a fault and left out; nothing here raises on bad data.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import PurePosixPath
from typing import Any

from gve_ray.evaluation.data.data_errors import Faults, shown
from gve_ray.evaluation.data.dataset_folder import Place
from gve_ray.inputs import cells
from gve_ray.inputs.table import Row, open_table
from gve_ray.schema import Item

IMAGES, FRAMES, VIDEOS = "images", "videos_frames", "videos"
_PARTS = ("text", "image", "video")


@dataclass(frozen=True, kw_only=True)
class Rows:
    """One file of items. file: its name in the data set. items: those that can be used, in file order.
    lines: line number of every id the file has. lost: number of the fault that cost an id its item."""

    file: str
    items: dict[str, Item] = field(default_factory=dict)
    lines: dict[str, int] = field(default_factory=dict)
    lost: dict[str, int] = field(default_factory=dict)

    def place(self, key: str) -> str:
        """Where an id stands, in words."""
        return f"{self.file} line {self.lines[key]}"


def read_rows(
    place: Place,
    file: str,
    faults: Faults,
    *,
    adapt: Callable[[Mapping[str, Any]], Mapping[str, Any]] = lambda fields: fields,
) -> Rows:
    """Read `{"id", "text"?, "image"?, "video"?}` lines. adapt: brings a line of another layout to this form.

    Of lines with the same id the first counts. An empty string is a fault where other lines of the file
    fill that field; where none does (`"text": ""` all through a set of image queries) it is no field.
    """
    rows = Rows(file=file)
    found = [(row, adapt(row.cells)) for row in table_rows(place, file, faults)]
    used = {part for _, fields in found for part in _PARTS if _is_filled(fields.get(part))}
    for row, fields in found:
        here = where(file, row)
        key = id_of(fields.get("id"))
        if key is None:
            faults.add(here, f"id={shown(fields.get('id'))}: give a non-empty string or a whole number")
            continue
        if key in rows.lines:
            faults.add(here, f"duplicate id {shown(key)}; line {rows.lines[key]} has it and counts")
            continue
        rows.lines[key] = row.line or row.number
        item = _item(place, fields, used)
        if isinstance(item, Item):
            rows.items[key] = item
        else:
            rows.lost[key] = faults.add(here, f"id {shown(key)}: {item}")
    return rows


def table_rows(
    place: Place, file: str, faults: Faults, *, header: bool = True, columns: Sequence[str] = ()
) -> Iterator[Row]:
    """Rows of a table. A file that cannot be read or lacks one of the columns, and each malformed row, is a fault.

    header: as of `open_table`.
    """

    def refuse(row: Row, what: str) -> None:
        faults.add(where(file, row), what)

    try:
        table = open_table(place.media(file), header=header, on_fault=refuse)
        if missing := [column for column in columns if column not in table.columns]:
            faults.add(
                file, f"no column {', '.join(missing)}; a table of this kind has {' and '.join(columns)}"
            )
            return
        yield from table.rows
    except OSError as error:
        faults.add(file, f"cannot be read: {error.strerror or error}")
    except ValueError as error:
        faults.add(file, str(error))


def where(file: str, row: Row) -> str:
    """The place of a fault: the line of a text file, the row of another one."""
    return f"{file} line {row.line}" if row.line is not None else f"{file} {row.place}"


def id_of(value: Any) -> str | None:
    """An id as a string: some releases number what others name. None for what is no id."""
    try:
        return cells.name(value)
    except ValueError:
        return None


def _is_filled(value: Any) -> bool:
    return isinstance(value, str) and not cells.is_missing(value)


def is_unicode(text: str) -> bool:
    """False for half a surrogate pair, which JSON can spell and no tokenizer or file can hold."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def _item(place: Place, fields: Mapping[str, Any], used: set[str]) -> Item | str:
    """The item of one line, or what is wrong with it."""
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
            return f"{part}={shown(value)}: half a surrogate pair; write it as UTF-8"
        parts[part] = value
    if not parts:
        empty = [part for part in _PARTS if fields.get(part) is not None]
        return f"empty {empty[0]}" if empty else "no text, image or video"
    for part in ("image", "video"):
        if part in parts:
            path, fault = _media(place, part, parts[part])
            if fault:
                return fault
            parts[part] = path
    return Item(text=parts.get("text"), image=parts.get("image"), video=parts.get("video"))


def _media(place: Place, part: str, name: str) -> tuple[str, str]:
    """(path or URI, "") of a media file or folder of frames, or ("", what is wrong).

    Frames are looked for before the video itself: they are what the published scores were made from.
    """
    relative = PurePosixPath(name)
    if relative.is_absolute() or ".." in relative.parts or not relative.parts:
        return "", f"{part}={shown(name)}: not a path inside the data set's folder"
    if part == "image":
        for path in (f"{IMAGES}/{relative}", str(relative)):
            if place.is_file(path):
                return place.media(path), ""
        return "", f"image {shown(name)}: no such file in {IMAGES}/"
    # The published folders are named without the extension, but "street.2" may be a name that has none.
    frames = [f"{FRAMES}/{relative}", f"{FRAMES}/{relative.with_suffix('')}"]
    for path in frames:
        if place.has_pictures(path):
            return place.media(path), ""
    for path in (f"{VIDEOS}/{relative}", str(relative)):
        if place.is_file(path):
            return place.media(path), ""
    wanted = f"{FRAMES}/{relative.with_suffix('')}/"
    if any(place.is_folder(path) for path in frames):
        return "", f"video {shown(name)}: missing frames; {shown(wanted)} has no pictures"
    return (
        "",
        f"video {shown(name)}: missing frames; there is no {shown(wanted)} and no such file in {VIDEOS}/",
    )
