"""Read the files of public data sets as records: what a row has as query, target and hard negatives.

    for record in read_records(config): ...    # None for a row that makes no pair

Each reader serves one form of files (formats.py). Media stay references and are not opened. Rows are
streamed; of a pool, only the entries that the rows refer to are held in memory.
"""

import json
import os
import re
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from functools import partial
from itertools import pairwise, product
from typing import Any, NamedTuple

from pyarrow import fs

from gve_ray.config import expand_home
from gve_ray.inputs.cells import is_missing, name, texts
from gve_ray.inputs.encoding import bad_byte, open_text
from gve_ray.inputs.listing import find_files
from gve_ray.inputs.table import FORMS, TableError, is_table, kind_of, open_table
from gve_ray.schema import Task
from gve_ray.store.runfolder import filesystem
from gve_ray.training.config import DataSetConfig
from gve_ray.training.formats import FORMATS, Format
from gve_ray.training.pairs import id_of
from gve_ray.training.templates import Get, columns_in, ids_in, passages, value_of

Side = dict[str, str]  # fields of an Item: text, image, video
_FIELDS = {"T": "text", "I": "image", "V": "video"}
_MARKER = re.compile(r"<(?:image|video)>")  # where a conversation has its medium


class Record(NamedTuple):
    """One row. Each query makes a pair with each target; all pairs have the same negatives."""

    queries: list[Side]
    targets: list[Side]
    negatives: list[Side]


class _Row(NamedTuple):
    """One row of a file. place: for messages."""

    place: str
    cells: Mapping[str, Any]


def task_of(config: DataSetConfig) -> Task:
    """Return the task of a data set that is not a `pairs` folder, whose folder names give the tasks."""
    return Task(config.task or FORMATS[config.format].tasks[0])


def read_records(config: DataSetConfig) -> Iterator[Record | None]:
    """Yield one record per row of a data set, and None for a row that lacks its query or target.

    Raises ValueError for a file that is missing, is of the wrong kind, lacks columns or has a malformed
    row, and OSError if it cannot be read.
    """
    reader = _Reader(config)
    for number, (place, read) in enumerate(_READERS[reader.format.reader](reader)):
        try:
            records = read()
        except ValueError as error:
            raise ValueError(f"{place} has {error}") from None
        complete = [record for record in records if record.queries and record.targets]
        if reader.format.one_caption:
            complete = [_one_query(record, f"{config.name} {number}") for record in complete]
        if complete:
            yield from complete
        else:
            yield None


def _one_query(record: Record, seed: str) -> Record:
    """Choose one of the queries at random. The choice depends only on the seed."""
    return record._replace(queries=[record.queries[id_of(seed) % len(record.queries)]])


def check_source(config: DataSetConfig) -> None:
    """Raise ValueError if a file of a data set does not exist or is of the wrong kind, and OSError likewise."""
    reader = FORMATS[config.format].reader
    wanted = {"uri": config.uri, "pool": config.pool} if config.pool else {"uri": config.uri}
    for option, source in wanted.items():
        try:
            if reader == "class_folders":
                kind = fs.FileType.Directory if option == "uri" else fs.FileType.File
                what = f"no such {'folder of class folders' if option == 'uri' else 'file'}"
                is_valid = kind_of(source) == kind
            elif reader == "json_files":
                what = "no such file; give a glob of JSON files"
                is_valid = all(kind_of(file) == fs.FileType.File for file in find_files(source))
            else:
                what = f"no such file, or none that ends in {FORMS}"
                is_valid = all(map(is_table, find_files(source)))
            if reader == "qrels" and is_valid:
                _beside_qrels(source, "corpus"), _beside_qrels(source, "queries")
        except ValueError as error:
            what, is_valid = str(error), False
        if not is_valid:
            raise ValueError(f"data.{config.name}.{option}={source}: {what}")


# The place of each row, for messages, and a function that reads it.
_Rows = Iterator[tuple[str, Callable[[], list[Record]]]]


class _Reader:
    """A data set with its format, its task and the column of each field."""

    def __init__(self, config: DataSetConfig) -> None:
        self.config = config
        self.format: Format = FORMATS[config.format]
        self.task = task_of(config)
        self.columns = {**self.format.columns, **config.columns}
        # The item's field and the column of each modality of a side.
        self.fields = {
            "query": self._fields(self.task.query, self.format.query),
            "target": self._fields(self.task.target, self.format.target),
        }

    def _fields(self, letters: str, sources: Mapping[str, str]) -> list[tuple[str, str]]:
        return [(_FIELDS[letter], self.columns.get(sources[letter], sources[letter])) for letter in letters]

    def sides(self, side: str, get: Get) -> list[Side]:
        """Return the queries or targets of a row: every combination of its texts and media."""
        fields = self.fields[side]
        values = [self._values(field, column, get) for field, column in fields]
        return [
            {field: value for (field, _), value in zip(fields, parts, strict=True)}
            for parts in product(*values)
        ]

    def only(self, side: str, get: Get) -> list[Side]:
        """Return the queries or targets of a row that has no modality other than those of the task."""
        letters = getattr(self.task, side)
        for letter, source in getattr(self.format, side).items():
            column = self.columns.get(source)
            if letter not in letters and column and self._values(_FIELDS[letter], column, get):
                return []
        return self.sides(side, get)

    def _values(self, field: str, column: str, get: Get) -> list[str]:
        try:
            value = value_of(column, get)
            if field == "text":
                return passages(value)
            paths = [name(part) for part in value] if isinstance(value, list) else [name(value)]
        except ValueError as error:
            raise ValueError(f"{column}={error}") from None
        return [_under(self.config.root, path) for path in paths if path]

    def rows(self, source: str, columns: Sequence[str], optional: Collection[str] = ()) -> Iterator[_Row]:
        """Yield the rows of the tables that a path, URI or glob names, and check that they have the columns.

        columns: columns or templates. optional: those of them that a table may lack.
        """
        files = find_files(source)
        for file in files:
            try:
                for row in self._rows_of(file, columns, optional):
                    yield row if len(files) == 1 else row._replace(place=f"{file}: {row.place}")
            except TableError as error:
                raise ValueError(str(error) if len(files) == 1 else f"{file}: {error}") from error

    def _rows_of(self, file: str, columns: Sequence[str], optional: Collection[str]) -> Iterator[_Row]:
        required = columns_in(column for column in columns if column not in optional)
        names = columns_in(columns)
        has_header = not all(column.isdecimal() for column in names)
        table = open_table(file, header=has_header, columns=names)
        if missing := sorted(set(required) - set(table.columns)):
            raise TableError(
                f"no column {', '.join(missing)} among {', '.join(table.columns)}; name the columns to "
                f"read in data.{self.config.name}.columns ({', '.join(self.columns)})"
            )
        for row in table.rows:
            yield _Row(row.place, row.cells)

    def is_kept(self, cells: Mapping[str, Any]) -> bool:
        """Whether a row reaches the minimum of its columns and has the values that the format expects."""
        for column, lowest in self.config.minimum.items():
            value = cells.get(column)
            try:
                if value is None or is_missing(value) or float(value) < lowest:
                    return False
            except (TypeError, ValueError):
                raise ValueError(f"{column}={value!r}: not a number; see `minimum`") from None
        return all(cells.get(column) in (None, value) for column, value in self.format.expected.items())


def _under(root: str, path: str) -> str:
    """Join `root` and `path`; a path that is absolute or a URI is returned as it is."""
    path = expand_home(path)
    return path if not root or path.startswith("/") or "://" in path else f"{root.rstrip('/')}/{path}"


# ---- Readers of rows with query and target


def _table(reader: _Reader) -> _Rows:
    negatives = reader.columns.get("negatives", "")
    columns = [column for side in ("query", "target") for _, column in reader.fields[side]]
    optional = {*reader.format.expected}
    if negatives:
        columns.append(negatives)
        if "negatives" not in reader.config.columns:
            optional.add(negatives)
    columns += [*reader.format.expected, *reader.config.minimum]
    for row in reader.rows(reader.config.uri, columns, optional):
        yield row.place, partial(_records, reader, row.cells, negatives)


def _records(reader: _Reader, cells: Mapping[str, Any], negatives: str = "") -> list[Record]:
    if not reader.is_kept(cells):
        return []
    queries, targets = reader.sides("query", cells.get), reader.sides("target", cells.get)
    return [Record(queries, targets, _negatives(reader, cells, negatives) if negatives else [])]


def _negatives(reader: _Reader, cells: Mapping[str, Any], column: str) -> list[Side]:
    """Return the hard negatives of a row. Each element of the cell has the form of the target's cell."""
    value = value_of(column, cells.get)
    try:
        elements = value if isinstance(value, list | tuple) else texts(value)
    except ValueError as error:
        raise ValueError(f"{column}={error}") from None
    return [side for element in elements for side in reader.sides("target", partial(_always, element))]


def _always(value: Any, _: str) -> Any:
    return value


def _json_files(reader: _Reader) -> _Rows:
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
        yield file, partial(_records, reader, cells)


def _conversations(reader: _Reader) -> _Rows:
    """Rows of LLaVA's form: an image, and turns whose `from` is human or gpt. Each reply makes a pair."""
    image, turns = reader.columns["image"], reader.columns["conversations"]
    for row in reader.rows(reader.config.uri, [image, turns, *reader.config.minimum]):
        yield row.place, partial(_exchanges, reader, row.cells, turns)


def _exchanges(reader: _Reader, cells: Mapping[str, Any], column: str) -> list[Record]:
    turns = cells.get(column) or []
    if not isinstance(turns, list) or not all(
        isinstance(turn, dict) and isinstance(turn.get("value"), str) for turn in turns
    ):
        raise ValueError(f"{column}={turns!r}: not a list of turns with the keys from and value")
    records = []
    for asked, answered in pairwise(turns):
        if (asked.get("from"), answered.get("from")) == ("human", "gpt"):
            exchange = {"question": _MARKER.sub("", asked["value"]), "answer": answered["value"]}
            records += _records(reader, {**cells, **exchange})
    return records


# ---- Readers of rows that refer to entries of other files


def _pool(reader: _Reader) -> _Rows:
    """Rows with the ids of their positives and negatives, and a second table with what these are.

    A row, and an entry of the pool, is of the task if it has the modalities of the task and no others:
    M-BEIR keeps several tasks in one file.
    """
    config, columns = reader.config, reader.columns
    positives, negatives = columns["positives"], columns["negatives"]
    optional = {negatives} if "negatives" not in config.columns else set()
    optional |= _of_other_tasks(reader, "query")
    read = [*_all_columns(reader, "query"), positives, negatives, *config.minimum]
    wanted: set[str] = set()
    for row in reader.rows(config.uri, read, optional):
        try:
            wanted.update(ids_in(positives, row.cells.get), ids_in(negatives, row.cells.get))
        except ValueError as error:
            raise ValueError(f"{row.place} has {error}") from None
    entries = _entries(reader, wanted)
    for row in reader.rows(config.uri, read, optional):
        yield row.place, partial(_of_pool, reader, entries, row.cells)


def _entries(reader: _Reader, wanted: Collection[str]) -> dict[str, list[Side]]:
    """Return the entries of the pool with these ids; an entry that is not of the task is an empty list."""
    source, key = reader.config.pool, reader.columns["id"]
    read = [key, *_all_columns(reader, "target")]
    entries = {}
    for row in reader.rows(source, read, _of_other_tasks(reader, "target")):
        try:
            for entry in ids_in(key, row.cells.get):
                if entry in wanted:
                    entries[entry] = reader.only("target", row.cells.get)
        except ValueError as error:
            raise ValueError(f"{source}: {row.place} has {error}") from None
    return entries


def _of_pool(reader: _Reader, entries: Mapping[str, list[Side]], cells: Mapping[str, Any]) -> list[Record]:
    if not reader.is_kept(cells):
        return []
    sides: dict[str, list[Side]] = {}
    for field in ("positives", "negatives"):
        column = reader.columns[field]
        ids = ids_in(column, cells.get)
        if lost := next((entry for entry in ids if entry not in entries), None):
            raise ValueError(
                f"{column}={lost!r}: {reader.config.pool} has no such entry; name the pool it is in"
            )
        sides[field] = [side for entry in ids for side in entries[entry]]
    return [Record(reader.only("query", cells.get), sides["positives"], sides["negatives"])]


def _all_columns(reader: _Reader, side: str) -> list[str]:
    sources: Mapping[str, str] = getattr(reader.format, side)
    return [reader.columns[field] for field in sources.values() if field in reader.columns]


def _of_other_tasks(reader: _Reader, side: str) -> set[str]:
    return set(_all_columns(reader, side)) - {column for _, column in reader.fields[side]}


def _qrels(reader: _Reader) -> _Rows:
    """BEIR's folder: a table of judgements in qrels/; its parent folder has the queries and the corpus."""
    config = reader.config
    query, target, score = (reader.columns[field] for field in ("query_id", "target_id", "score"))
    read = [query, target, score, *config.minimum]
    wanted: tuple[set[str], set[str]] = (set(), set())
    for row in reader.rows(config.uri, read):
        for ids, column in zip(wanted, (query, target), strict=True):
            ids.update(ids_in(column, row.cells.get))
    queries = _documents(reader, _beside_qrels(config.uri, "queries"), wanted[0])
    corpus = _documents(reader, _beside_qrels(config.uri, "corpus"), wanted[1])

    def read_row(cells: Mapping[str, Any]) -> list[Record]:
        sides: list[list[Side]] = []
        for column, documents, file in ((query, queries, "queries"), (target, corpus, "corpus")):
            ids = ids_in(column, cells.get)
            if lost := next((entry for entry in ids if entry not in documents), None):
                raise ValueError(f"{column}={lost!r}: the {file} beside it has no such id")
            sides.append([side for entry in ids for side in documents[entry]])
        # A score of 0 marks a document that is not relevant.
        return (
            [Record(sides[0], sides[1], [])]
            if reader.is_kept(cells) and name(cells.get(score)) != "0"
            else []
        )

    for row in reader.rows(config.uri, read):
        yield row.place, partial(read_row, row.cells)


def _beside_qrels(uri: str, file: str) -> str:
    """Return the path of the queries or the corpus of a BEIR folder. Raises ValueError if there is none."""
    folder = uri.rpartition("/")[0].rpartition("/")[0] or "."
    names = [f"{folder}/{file}{suffix}" for suffix in (".jsonl", ".jsonl.gz", ".parquet")]
    found = next((path for path in names if is_table(path)), None)
    if found is None:
        raise ValueError(f"no {names[0]} beside it; name the judgements as FOLDER/qrels/train.tsv")
    return found


def _documents(reader: _Reader, source: str, wanted: Collection[str]) -> dict[str, list[Side]]:
    documents = {}
    for row in reader.rows(source, ["_id", "title", "text"], ["title"]):
        for key in ids_in("_id", row.cells.get):
            if key in wanted:
                documents[key] = [{"text": text} for text in passages({"text": None, **row.cells})]
    return documents


def _class_folders(reader: _Reader) -> _Rows:
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
        cells = {"image": _under(config.uri, path), "class": classes[folder]}
        yield path, partial(_records, reader, cells)


_READERS: Mapping[str, Callable[[_Reader], _Rows]] = {
    "table": _table,
    "json_files": _json_files,
    "conversations": _conversations,
    "pool": _pool,
    "qrels": _qrels,
    "class_folders": _class_folders,
}
