"""The JSON lines of a data set's queries and corpus, as items whose media are there.

A line that gives no item is told as a fault and left out; nothing here raises on bad data.
"""

import json
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import PurePosixPath
from typing import Any

from gve_ray.evaluation.faults import Faults, shown
from gve_ray.evaluation.place import Place
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
    adapt: Callable[[dict[str, Any]], Mapping[str, Any]] = lambda fields: fields,
) -> Rows:
    """Read `{"id", "text"?, "image"?, "video"?}` lines. adapt: brings a line of another layout to this form.

    Of lines with the same id the first counts. An empty string is a fault where other lines of the file
    fill that field; where none does (`"text": ""` all through a set of image queries) it is no field.
    """
    rows = Rows(file=file)
    found = [(number, adapt(fields)) for number, fields in json_lines(place, file, faults)]
    used = {part for _, fields in found for part in _PARTS if _is_filled(fields.get(part))}
    for number, fields in found:
        where = f"{file} line {number}"
        key = id_of(fields.get("id"))
        if key is None:
            faults.add(where, f"id={shown(fields.get('id'))}: give a non-empty string or a whole number")
            continue
        if key in rows.lines:
            faults.add(where, f"duplicate id {shown(key)}; line {rows.lines[key]} has it and counts")
            continue
        rows.lines[key] = number
        item = _item(place, fields, used)
        if isinstance(item, Item):
            rows.items[key] = item
        else:
            rows.lost[key] = faults.add(where, f"id {shown(key)}: {item}")
    return rows


def json_lines(place: Place, file: str, faults: Faults) -> Iterator[tuple[int, dict[str, Any]]]:
    """(line number from 1, object) of a JSON lines file; blank lines are passed over."""
    for number, raw in text_lines(place, file, faults):
        try:
            value = json.loads(raw.decode("utf-8"))
        except (ValueError, RecursionError) as error:
            faults.add(f"{file} line {number}", f"not JSON: {error}")
            continue
        if isinstance(value, dict):
            yield number, value
        else:
            faults.add(f"{file} line {number}", f"{shown(value)}: not a JSON object")


def text_lines(place: Place, file: str, faults: Faults) -> list[tuple[int, bytes]]:
    """(line number from 1, bytes) of the lines that are not blank. An unreadable or empty file is a fault."""
    try:
        data = place.read(file)
    except OSError as error:
        faults.add(file, f"cannot be read: {error.strerror or error}")
        return []
    # Texts may hold other characters that Python calls line ends, so only "\n" ends a line here.
    lines = enumerate(data.removeprefix(b"\xef\xbb\xbf").split(b"\n"), 1)
    found = [(number, raw) for number, raw in lines if raw.strip()]
    if not found:
        faults.add(file, "empty: it has no lines")
    return found


def id_of(value: Any) -> str | None:
    """An id as a string: some releases number what others name. None for what is no id."""
    if isinstance(value, int) and not isinstance(value, bool):
        return str(value)
    return value if _is_filled(value) and _is_unicode(value) else None


def _is_filled(value: Any) -> bool:
    return isinstance(value, str) and bool(value.strip())


def _is_unicode(text: str) -> bool:
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
        if not value.strip():
            if part in used:
                return f"empty {part}"
            continue
        if not _is_unicode(value):
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
