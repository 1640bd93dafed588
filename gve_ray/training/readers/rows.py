"""Readers of files in which each row has its query and target: tables, JSON files beside media, conversations,
and folders of classes.
"""

import json
import os
import re
from collections.abc import Mapping
from functools import partial
from itertools import pairwise
from typing import Any

from pyarrow import fs

from gve_ray.errors import shown
from gve_ray.inputs.encoding import bad_byte, open_text
from gve_ray.inputs.listing import find_files
from gve_ray.store.runfolder import filesystem
from gve_ray.training.readers.reader import Reader, Record, Rows, records_of, under

_MARKER = re.compile(r"<(?:image|video)>")  # where a conversation has its medium


def table(reader: Reader) -> Rows:
    """Rows of one or more tables, whose columns may be templates."""
    negatives = reader.columns.get("negatives", "")
    columns = [column for side in ("query", "target") for _, column in reader.fields[side]]
    optional = {*reader.format.expected}
    if negatives:
        columns.append(negatives)
        if "negatives" not in reader.config.columns:
            optional.add(negatives)
    columns += [*reader.format.expected, *reader.config.minimum]
    for row in reader.rows(reader.config.uri, columns, optional):
        yield row.place, partial(records_of, reader, row.cells, negatives)


def json_files(reader: Reader) -> Rows:
    """JSON files of one object each, next to the image or video that they describe."""
    for file in find_files(reader.config.uri):
        with open_text(file) as stream:
            text = stream.read()
        try:
            cells = json.loads(text)
        except ValueError as error:
            raise ValueError(f"{file}: not JSON: {bad_byte(text) or error}") from None
        if not isinstance(cells, dict):
            raise ValueError(f"{file}: not a JSON object; give one file for each image or video")
        stem = file.removesuffix(".json")
        cells["stem"] = stem if "://" in stem else os.path.abspath(stem)
        yield file, partial(records_of, reader, cells)


def conversations(reader: Reader) -> Rows:
    """Rows of LLaVA's form: an image, and turns whose `from` is human or gpt. Each reply makes a pair."""
    image, turns = reader.columns["image"], reader.columns["conversations"]
    for row in reader.rows(reader.config.uri, [image, turns, *reader.config.minimum]):
        yield row.place, partial(_exchanges, reader, row.cells, turns)


def _exchanges(reader: Reader, cells: Mapping[str, Any], column: str) -> list[Record]:
    turns = cells.get(column) or []
    if not isinstance(turns, list) or not all(
        isinstance(turn, dict) and isinstance(turn.get("value"), str) for turn in turns
    ):
        raise ValueError(f"{column}={shown(turns)}: not a list of turns with the keys from and value")
    records = []
    for asked, answered in pairwise(turns):
        if (asked.get("from"), answered.get("from")) == ("human", "gpt"):
            exchange = {"question": _MARKER.sub("", asked["value"]), "answer": answered["value"]}
            records += records_of(reader, {**cells, **exchange})
    return records


def class_folders(reader: Reader) -> Rows:
    """A folder of images for each class, and a text file with a line `<folder> <name>` for each class."""
    config = reader.config
    with open_text(config.pool) as lines:
        words = [line.strip().partition(" ") for line in lines if line.strip()]
    classes = {folder: label.strip() for folder, _, label in words}
    files, root = filesystem(config.uri)
    found = files.get_file_info(fs.FileSelector(root, recursive=True))
    paths = sorted(info.path[len(root) :].lstrip("/") for info in found if info.type == fs.FileType.File)
    for path in paths:
        folder = path.rpartition("/")[0].rpartition("/")[2]
        if path.rpartition("/")[2].startswith("."):
            continue
        if folder not in classes:
            raise ValueError(f"{path}: {config.pool} has no class {folder!r}; add a line `{folder} <name>`")
        cells = {"image": under(config.uri, path), "class": classes[folder]}
        yield path, partial(records_of, reader, cells)
