"""Read tables of user data: CSV, TSV, JSON, JSON Lines and Parquet, by path or URI.

    table = open_table("s3://bucket/captions.csv.gz")
    table.columns                       # ["uri", "caption"]
    for row in table.rows:
        row.place, row.cells            # "row 1 (line 2)", {"uri": "a.mp4", "caption": "a dog"}

The end of the name determines the format; all but Parquet may be gzipped. Text is UTF-8 or has a
byte order mark. Empty cells, null and NaN become None. Use `gve_ray.inputs.cells` to interpret a
cell as texts or as a name.
"""

import csv
import gzip
import io
import json
import math
import re
import zlib
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import chain, dropwhile, islice
from types import MappingProxyType
from typing import Any, NamedTuple, TextIO

import pyarrow as pa
from pyarrow import fs

from gve_ray.errors import shown
from gve_ray.inputs.encoding import NotTextError, bad_byte, open_text
from gve_ray.media.source import local_path
from gve_ray.store.runfolder import filesystem

SUFFIXES = (".csv", ".tsv", ".json", ".jsonl", ".ndjson", ".parquet")
FORMS = ".csv, .tsv, .json, .jsonl or .parquet, all but the last also with .gz"

_LONGEST_CELL = 1 << 26  # characters; bounds the memory when a quote is not closed
_BATCH = 1024  # rows per batch of Parquet
_HEAD = 1000  # rows of JSON that are searched for column names
_ROW_NUMBER = re.compile(r"__index_level_\d+__")  # the column in which pandas stores its index in Parquet
_QUOTED = re.compile(r'"[^"]*"?')


class TableError(ValueError):
    """A table cannot be read, or a row is malformed. The message gives the place, but not the file."""


class RowError(TableError):
    """A row is malformed, or one of its cells has an invalid value."""


class Row(NamedTuple):
    """One row of a table.

    number: from 1, not counting the header and blank rows. line: the line of a text file where the
    row begins, from 1; None in Parquet and in a JSON array. cells: value by column, without absent
    columns.
    """

    number: int
    line: int | None = None
    cells: Mapping[str, Any] = MappingProxyType({})

    @property
    def place(self) -> str:
        """The place of the row, for messages."""
        return f"row {self.number}" + ("" if self.line is None else f" (line {self.line})")


@dataclass(frozen=True, kw_only=True)
class Table:
    """A table.

    columns: the names in the header; for JSON, the keys in the first 1,000 rows. rows: an iterator
    that reads on demand, once.
    """

    columns: Sequence[str]
    rows: Iterator[Row]


OnFault = Callable[[Row, str], object]


def form_of(source: str) -> str | None:
    """Return the suffix, one of `SUFFIXES`, of a path or URI of a table; None for any other file."""
    name = (source.partition("?")[0] if "://" in source else source).lower()
    plain = name.removesuffix(".gz")
    form = next((suffix for suffix in SUFFIXES if plain.endswith(suffix)), None)
    return None if form == ".parquet" and plain != name else form


def kind_of(source: str) -> fs.FileType:
    """Return whether a path or URI is a file, a folder or does not exist.

    Raises ValueError or ImportError for a URI with an unsupported scheme.
    """
    path = local_path(source)
    if path is None:
        files, name = filesystem(source)
        return files.get_file_info(name).type
    if path.is_dir():
        return fs.FileType.Directory
    return fs.FileType.File if path.exists() else fs.FileType.NotFound


def is_table(source: str) -> bool:
    """Return whether a path or URI is a table: a file, or a folder named *.parquet. Raises as `kind_of`."""
    form = form_of(source)
    kind = kind_of(source) if form else fs.FileType.NotFound
    return kind == fs.FileType.File or (kind == fs.FileType.Directory and form == ".parquet")


def open_table(
    source: str,
    *,
    header: bool = True,
    columns: Collection[str] | None = None,
    comment: str | None = None,
    on_fault: OnFault | None = None,
) -> Table:
    """Open a table by path or URI.

    header: whether the first row of a CSV or TSV file names the columns; else they are "0", "1"
    and so on. columns: the columns of a Parquet file to read; None: all. comment: prefix of comment lines
    in CSV and TSV. on_fault: called with a malformed row (without cells) and a description of its
    fault, and the row is skipped; without it, RowError is raised.

    Raises TableError, here or when the rows are read, OSError if the file cannot be read, and
    ValueError or ImportError for a URI with an unsupported scheme.
    """
    form = form_of(source)
    if form is None:
        raise TableError(f"the name does not end in {FORMS}")
    refuse = on_fault or _raise
    with _as_table_errors():
        if form == ".parquet":
            table = _open_parquet(source, columns)
        elif form == ".csv":
            table = _open_cells(_split_csv(open_text(source), comment), header, refuse, _FIX_CSV)
        elif form == ".tsv":
            lines = _rows_of_text(open_text(source), comment)
            table = _open_cells(_split_tsv(lines), header, refuse, _FIX_TSV)
        else:
            table = _open_json(open_text(source), refuse, is_lines=form != ".json")
    return Table(columns=table.columns, rows=_with_table_errors(table.rows))


def _with_table_errors(rows: Iterator[Row]) -> Iterator[Row]:
    with _as_table_errors():
        yield from rows


def _raise(row: Row, fault: str) -> None:
    raise RowError(f"{row.place}: {fault}")


@contextmanager
def _as_table_errors() -> Iterator[None]:
    try:
        yield
    except NotTextError as error:
        raise TableError(str(error)) from error
    except (UnicodeDecodeError, EOFError, zlib.error, gzip.BadGzipFile, pa.ArrowInvalid) as error:
        raise TableError(f"cannot be read ({type(error).__name__}: {error}); write the file anew") from error


# ---- CSV and TSV

_FIX_CSV = (
    "put a text with delimiters, quotes or line breaks in double quotes, and double each quote inside it"
)
_FIX_TSV = "write a text that holds tabs or line breaks without them, or the file as CSV"

# Line number, cells, and a description of their fault (empty if there is none).
_Cells = tuple[int, list[str], str]


def _rows_of_text(text: TextIO, comment: str | None) -> Iterator[tuple[int, str]]:
    """Yield (line number from 1, line) of the lines that are not comments."""
    with text:
        for number, line in enumerate(text, 1):
            if comment is None or not line.startswith(comment):
                yield number, line


def _split_csv(text: TextIO, comment: str | None) -> Iterator[_Cells]:
    """Yield the cells of a CSV file (RFC 4180). The delimiter may be one that Excel uses in some countries."""
    csv.field_size_limit(_LONGEST_CELL)  # the csv module keeps one limit for the process; its own is 128 KiB
    lines = dropwhile(lambda numbered: not numbered[1].strip(), _rows_of_text(text, comment))
    first = list(islice(lines, 1))
    delimiter = _delimiter(first[0][1]) if first else ","
    if first and _is_separator_line(first[0][1]):
        first = []
    begin, fault = 0, ""  # of the current row

    def counted() -> Iterator[str]:
        nonlocal begin, fault
        for number, line in chain(first, lines):
            begin = begin or number
            fault = fault or bad_byte(line)
            yield line

    reader = csv.reader(counted(), delimiter=delimiter, strict=True, skipinitialspace=True)
    while True:
        begin, fault = 0, ""
        try:
            cells = next(reader)
        except StopIteration:
            return
        except csv.Error as error:
            why = "a quote is opened and not closed" if "end of data" in str(error) else str(error)
            fault = fault or f"not CSV ({why}); {_FIX_CSV}"
            cells = []
        yield begin, cells, fault


def _is_separator_line(line: str) -> bool:
    """Whether this is the line `sep=;`, which names the delimiter to Excel."""
    return re.fullmatch(r"sep=.\r?\n?", line, re.IGNORECASE) is not None


def _delimiter(line: str) -> str:
    """Return the delimiter: a comma, unless the first line has none outside quotes and has another one."""
    if _is_separator_line(line):
        return line[4]
    bare = _QUOTED.sub("", line)
    return next((mark for mark in ",;\t|" if mark in bare), ",")


def _split_tsv(lines: Iterable[tuple[int, str]]) -> Iterator[_Cells]:
    """Yield the cells between tabs.

    A quote is an ordinary character, as usual in data sets, except around a whole cell with inner
    quotes doubled; such a cell is unquoted.
    """
    for number, line in lines:
        yield number, [_unquoted(cell) for cell in line.rstrip("\r\n").split("\t")], bad_byte(line)


def _unquoted(cell: str) -> str:
    if len(cell) < 2 or not (cell[0] == cell[-1] == '"'):
        return cell
    inner = cell[1:-1].replace('""', "")
    return cell if '"' in inner else cell[1:-1].replace('""', '"')


def _open_cells(records: Iterator[_Cells], header: bool, refuse: OnFault, fix: str) -> Table:
    filled: Iterator[_Cells] = (
        record for record in records if record[2] or any(cell.strip() for cell in record[1])
    )
    first = next(filled, None)
    if first is None:
        raise TableError("empty: it has no lines")
    line, first_cells, fault = first
    if fault:
        raise TableError(f"line {line}: {fault}")
    if header:
        names = [cell.strip() for cell in first_cells]
        if twice := next((name for name in names if name and names.count(name) > 1), None):
            raise TableError(f"column {twice!r} is there twice; rename one of the two")
        expected = f"{len(names)} columns ({', '.join(names)})"
    else:
        names = [str(i) for i in range(len(first_cells))]
        filled = chain([first], filled)
        expected = f"{len(names)} columns in the first row"

    # A first column without a name is the row number that pandas writes.
    nameless = [i for i, name in enumerate(names) if i and not name]

    def fault_of(cells: Sequence[str]) -> str:
        # Spreadsheets add empty cells at the end, so these are not an error.
        if len(cells) != len(names) and (len(cells) < len(names) or any(map(str.strip, cells[len(names) :]))):
            return f"{len(cells)} {'cell' if len(cells) == 1 else 'cells'} for {expected}; {fix}"
        if header and cells[0] == first_cells[0] and cells == first_cells:
            return "the header again, as files that were joined have it; remove the line"
        at = next((i for i in nameless if cells[i].strip()), None)
        return "" if at is None else f"cell {at + 1} holds {cells[at]!r}, but its column has no name; {fix}"

    return Table(
        columns=[name for name in names if name], rows=_rows_of_cells(filled, names, fault_of, refuse)
    )


def _rows_of_cells(
    records: Iterator[_Cells], names: Sequence[str], fault_of: Callable[[Sequence[str]], str], refuse: OnFault
) -> Iterator[Row]:
    for number, (line, cells, fault) in enumerate(records, 1):
        if fault := fault or fault_of(cells):
            refuse(Row(number=number, line=line), fault)
            continue
        named = {
            name: cell if cell.strip() else None for name, cell in zip(names, cells, strict=False) if name
        }
        yield Row(number=number, line=line, cells=named)


# ---- JSON


def _open_json(text: TextIO, refuse: OnFault, *, is_lines: bool) -> Table:
    """JSON Lines, or a file that holds an array of objects or objects line by line."""
    rows = _rows_of_lines(text, refuse) if is_lines else _rows_of_json(text, refuse)
    head = list(islice(rows, _HEAD))
    names = dict.fromkeys(name for row in head for name in row.cells)
    return Table(columns=list(names), rows=chain(head, rows))


def _rows_of_json(file: TextIO, refuse: OnFault) -> Iterator[Row]:
    with file:
        text = file.read()
    try:
        value = _parsed(text)
    except (ValueError, RecursionError) as error:
        if text.lstrip().startswith("["):
            raise TableError(f"not JSON: {error}") from None
        yield from _rows_of_lines(io.StringIO(text), refuse)
        return
    for line, part in enumerate(() if text.isascii() else text.split("\n"), 1):
        if bad := bad_byte(part):
            raise TableError(f"line {line}: {bad}")
    if not isinstance(value, list):
        keys = f"the keys {', '.join(list(value)[:5])}" if isinstance(value, dict) and value else shown(value)
        raise TableError(
            f"not a table but one JSON value ({keys}); give an array of objects, one a row, or one object a line"
        )
    for number, cells in enumerate(value, 1):
        if isinstance(cells, dict):
            yield Row(number=number, cells=cells)
        else:
            refuse(Row(number=number), f"{shown(cells)}: not a JSON object")
    if not value:
        raise TableError("empty: it has no rows")


def _rows_of_lines(text: TextIO, refuse: OnFault) -> Iterator[Row]:
    number = 0
    with text:
        for line, words in enumerate(text, 1):
            if not words.strip():
                continue
            number += 1
            row = Row(number=number, line=line)
            if bad := bad_byte(words):
                refuse(row, bad)
                continue
            try:
                cells = _parsed(words.rstrip("\r\n"))
            except (ValueError, RecursionError) as error:
                refuse(row, f"not JSON: {error}")
                continue
            if isinstance(cells, dict):
                yield Row(number=number, line=line, cells=cells)
            else:
                fix = "give one object a line, or name an array of objects .json"
                refuse(row, f"{shown(cells)}: not a JSON object; {fix}")
    if not number:
        raise TableError("empty: it has no lines")


def _parsed(text: str) -> Any:
    """Parse a JSON value. NaN and Infinity, which are not JSON but which pandas writes, become None."""
    return _DECODER.decode(text)


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    members = dict(pairs)
    if len(members) < len(pairs):
        names = [name for name, _ in pairs]
        twice = next(name for name in names if names.count(name) > 1)
        raise ValueError(f"key {twice!r} is there twice; rename one of the two")
    return members


_DECODER = json.JSONDecoder(parse_constant=lambda _: None, object_pairs_hook=_object)


# ---- Parquet


def _open_parquet(source: str, columns: Collection[str] | None) -> Table:
    import pyarrow.dataset as ds

    files, path = filesystem(source)
    parts = ds.dataset(path, filesystem=files, format="parquet")
    names = [name for name in parts.schema.names if not _ROW_NUMBER.fullmatch(name)]
    selected = [name for name in names if columns is None or name in columns]
    return Table(columns=names, rows=_rows_of_parquet(parts.to_batches(columns=selected, batch_size=_BATCH)))


def _rows_of_parquet(batches: Iterable[pa.RecordBatch]) -> Iterator[Row]:
    rows = (cells for batch in batches for cells in batch.to_pylist())
    for number, cells in enumerate(rows, 1):
        yield Row(number=number, cells={name: _without_nan(cell) for name, cell in cells.items()})


def _without_nan(value: Any) -> Any:
    if isinstance(value, float) and math.isnan(value):
        return None
    if isinstance(value, list):
        return [_without_nan(part) for part in value]
    if isinstance(value, dict):
        return {name: _without_nan(part) for name, part in value.items()}
    return value
