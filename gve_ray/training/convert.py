"""Convert public data sets (text pairs, image-caption pairs, WebVid's CSV) to rows of the pair schema.

A converter yields one row per pair; a cell with several captions makes several pairs. For a row without a
query or a target it yields None, which is counted and skipped. Media stay references and are not opened.
"""

from collections.abc import Callable, Iterator, Mapping
from itertools import product
from typing import Any

from gve_ray.config import expand_home
from gve_ray.inputs.cells import name, texts
from gve_ray.inputs.table import Row, open_table
from gve_ray.schema import Task
from gve_ray.training.config import COLUMNS, DataSetConfig, Format

Names = Mapping[str, str]
Cells = Mapping[str, Any]
DOMAIN = "general"


def convert(config: DataSetConfig) -> Iterator[dict[str, Any] | None]:
    """Yield the rows of one file in `PAIR_SCHEMA`, and None for each row without a query or a target.

    Raises ValueError naming the file for an unknown file type, missing columns or a malformed row, and OSError
    if the file cannot be read.
    """
    names = {**COLUMNS[config.format], **config.columns}
    try:
        number = 0
        for row in _rows(config, names):
            for query, target, negatives in _pairs(config, names, row):
                if not any(query.values()) or not any(target.values()):
                    yield None
                    continue
                yield {
                    "pair_id": f"{config.name}-{number}",
                    "task": task_of(config.format).value,
                    "query": {**_NO_MEDIA, **query},
                    "target": {**_NO_MEDIA, **target},
                    "negatives": [{**_NO_MEDIA, **negative} for negative in negatives],
                    "instruction": config.instruction,
                    "domain": DOMAIN,
                    "style": config.format,
                }
                number += 1
    except ValueError as error:
        raise ValueError(f"data.{config.name}.uri={config.uri!r}: {error}") from error


def _pairs(config: DataSetConfig, names: Names, row: Row) -> "_Pairs":
    try:
        yield from _CONVERTERS[config.format](config, names, row.cells)
    except ValueError as error:
        raise ValueError(f"{row.place} has {error}") from None


def task_of(kind: Format) -> Task:
    """Return the task of a format. Raises KeyError for `pairs`, whose folder names give the tasks."""
    return {"text_pairs": Task.T2T, "image_captions": Task.T2I, "webvid": Task.T2V}[kind]


_NO_MEDIA = {"text": None, "image": None, "video": None}
_Side = dict[str, str]
_Pairs = Iterator[tuple[_Side, _Side, list[_Side]]]


def _text_pairs(_: DataSetConfig, names: Names, cells: Cells) -> _Pairs:
    negatives = [{"text": text} for text in _read(texts, names["negatives"], cells)]
    for query, target in product(_texts(names["query"], cells), _texts(names["target"], cells)):
        yield query, target, negatives


def _image_captions(config: DataSetConfig, names: Names, cells: Cells) -> _Pairs:
    image = _read(name, names["image"], cells)
    target = {"image": _under(config.root, image)} if image else {}
    for caption in _texts(names["caption"], cells):
        yield caption, target, []


def _webvid(config: DataSetConfig, names: Names, cells: Cells) -> _Pairs:
    video, folder = (_read(name, names[column], cells) for column in ("id", "folder"))
    path = f"{folder}/{video}.mp4" if folder else f"{video}.mp4"
    target = {"video": _under(config.root, path)} if video else {}
    for caption in _texts(names["caption"], cells):
        yield caption, target, []


_CONVERTERS: Mapping[Format, Callable[[DataSetConfig, Names, Cells], _Pairs]] = {
    "text_pairs": _text_pairs,
    "image_captions": _image_captions,
    "webvid": _webvid,
}


def _texts(column: str, cells: Cells) -> list[_Side]:
    """Return a query or target for each text of a cell; an empty one if the cell has none."""
    return [{"text": text} for text in _read(texts, column, cells)] or [{}]


def _read(read: Callable[[Any], Any], column: str, cells: Cells) -> Any:
    try:
        return read(cells.get(column))
    except ValueError as error:
        raise ValueError(f"{column}={error}") from None


def _under(root: str, path: str) -> str:
    """Join `root` and `path`; a path that is absolute or a URI is returned as it is."""
    path = expand_home(path)
    return path if not root or path.startswith("/") or "://" in path else f"{root.rstrip('/')}/{path}"


def _rows(config: DataSetConfig, names: Names) -> Iterator[Row]:
    """Open a file, check its columns and return its rows."""
    headless = all(column.isdecimal() for column in names.values())
    table = open_table(config.uri, header=not headless, columns=list(names.values()))
    required = {column for use, column in names.items() if use != "negatives" or use in config.columns}
    if missing := sorted(required - set(table.columns)):
        raise ValueError(
            f"no column {', '.join(missing)} among {', '.join(table.columns)}; name the columns to "
            f"read in data.{config.name}.columns ({', '.join(names)})"
        )
    return table.rows
