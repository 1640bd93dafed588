"""Public data sets -> rows of the pair schema: text pairs, image-caption pairs and WebVid's csv.

A converter yields one row a pair, or None for a line without text or target, which is counted and left
out. Media stay references: nothing is opened here.
"""

import csv
import io
import json
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import pyarrow.parquet as pq

from gve_ray.schema import Task
from gve_ray.store.runfolder import filesystem
from gve_ray.training.config import COLUMNS, DataSetConfig, Format

Row = dict[str, Any]
Line = Mapping[str, Any]
DOMAIN = "general"


def convert(config: DataSetConfig) -> Iterator[Row | None]:
    """Rows of `PAIR_SCHEMA` from one file. Raises ValueError on missing columns or an unknown file type."""
    names = {**COLUMNS[config.format], **config.columns}
    make = _CONVERTERS[config.format]
    number = 0
    for line in _lines(config, names):
        for query, target, negatives in make(config, names, line):
            if not any(query.values()) or not any(target.values()):
                yield None
                continue
            yield {
                "pair_id": f"{config.name}-{number}",
                "task": task_of(config.format).value,
                "query": {**_NO_MEDIA, **query},
                "target": {**_NO_MEDIA, **target},
                "negatives": [{**_NO_MEDIA, **one} for one in negatives],
                "instruction": config.instruction,
                "domain": DOMAIN,
                "style": config.format,
            }
            number += 1


def task_of(kind: Format) -> Task:
    """The task of a format's pairs. Raises KeyError for `pairs`, whose folders say it."""
    return {"text_pairs": Task.T2T, "image_captions": Task.T2I, "webvid": Task.T2V}[kind]


_NO_MEDIA = {"text": None, "image": None, "video": None}
_Side = dict[str, str]


def _text_pairs(_: DataSetConfig, names: Line, line: Line) -> Iterator[tuple[_Side, _Side, list[_Side]]]:
    negatives = [{"text": text} for text in _texts(line.get(names["negatives"])) if text]
    for target in _texts(line[names["target"]]):
        yield {"text": _text(line[names["query"]])}, {"text": target}, negatives


def _image_captions(
    config: DataSetConfig, names: Line, line: Line
) -> Iterator[tuple[_Side, _Side, list[_Side]]]:
    image = _text(line[names["image"]])
    target = {"image": _under(config.root, image)} if image else {}
    yield {"text": _text(line[names["caption"]])}, target, []


def _webvid(config: DataSetConfig, names: Line, line: Line) -> Iterator[tuple[_Side, _Side, list[_Side]]]:
    video = _text(line[names["id"]])
    path = "/".join(part for part in (_text(line[names["folder"]]), f"{video}.mp4") if part)
    target = {"video": _under(config.root, path)} if video else {}
    yield {"text": _text(line[names["caption"]])}, target, []


_CONVERTERS: Mapping[Format, Callable[..., Iterator[tuple[_Side, _Side, list[_Side]]]]] = {
    "text_pairs": _text_pairs,
    "image_captions": _image_captions,
    "webvid": _webvid,
}


def _text(value: Any) -> str:
    return "" if value is None else str(value).strip()


def _texts(value: Any) -> list[str]:
    return [_text(one) for one in value] if isinstance(value, list) else [_text(value)]


def _under(root: str, path: str) -> str:
    """`path` below `root`, unless it is absolute or a URI already."""
    return path if not root or path.startswith("/") or "://" in path else f"{root.rstrip('/')}/{path}"


def _lines(config: DataSetConfig, names: Mapping[str, str]) -> Iterator[Line]:
    """Lines of a file as mappings from column to value; checks the columns on the first one."""
    files, path = filesystem(config.uri)
    ending = config.uri.rpartition(".")[2].lower()
    if ending not in _READERS:
        raise ValueError(
            f"data.{config.name}.uri={config.uri!r}: give a file ending in {', '.join(_READERS)}"
        )
    headless = all(name.isdecimal() for name in names.values())
    wanted = {name for use, name in names.items() if use != "negatives" or use in config.columns}
    for at, line in enumerate(_READERS[ending](files, path, headless)):
        if at == 0 and (missing := sorted(wanted - set(line))):
            raise ValueError(
                f"{config.uri}: no column {', '.join(missing)} among {', '.join(line)}; name the columns to "
                f"read in data.{config.name}.columns ({', '.join(names)})"
            )
        yield line


class _Tabs(csv.excel_tab):
    """Tab-separated text as data sets have it: not quoted, and holding single quote signs."""

    quoting = csv.QUOTE_NONE


def _read_table(files: Any, path: str, headless: bool, dialect: type[csv.Dialect]) -> Iterator[Line]:
    with files.open_input_stream(path) as stream, io.TextIOWrapper(stream, "utf-8", newline="") as text:
        if headless:
            for values in csv.reader(text, dialect):
                yield {str(i): value for i, value in enumerate(values)}
        else:
            yield from csv.DictReader(text, dialect=dialect)


def _read_csv(files: Any, path: str, headless: bool) -> Iterator[Line]:
    return _read_table(files, path, headless, csv.excel)


def _read_tsv(files: Any, path: str, headless: bool) -> Iterator[Line]:
    return _read_table(files, path, headless, _Tabs)


def _read_jsonl(files: Any, path: str, _: bool) -> Iterator[Line]:
    with files.open_input_stream(path) as stream, io.TextIOWrapper(stream, "utf-8") as text:
        for line in text:
            if line.strip():
                yield json.loads(line)


def _read_parquet(files: Any, path: str, _: bool) -> Iterator[Line]:
    with files.open_input_file(path) as source:
        for batch in pq.ParquetFile(source).iter_batches():
            yield from batch.to_pylist()


_READERS: Mapping[str, Callable[[Any, str, bool], Iterator[Line]]] = {
    "csv": _read_csv,
    "tsv": _read_tsv,
    "jsonl": _read_jsonl,
    "parquet": _read_parquet,
}
