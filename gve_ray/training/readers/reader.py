"""What all readers share: the records that they return, and the columns of query and target.

reader = Reader(config)
for row in reader.rows(config.uri, ["query", "positive"]):
    records = records_of(reader, row.cells)
"""

from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from functools import partial
from itertools import product
from typing import Any, NamedTuple

from gve_ray.config import expand_home
from gve_ray.errors import shown
from gve_ray.inputs.cells import is_missing, name, texts
from gve_ray.inputs.listing import find_files
from gve_ray.inputs.table import TableError, open_table
from gve_ray.schema import Task
from gve_ray.training.config import DataSetConfig
from gve_ray.training.formats import FORMATS, Format
from gve_ray.training.templates import Get, columns_in, passages, value_of

Side = dict[str, str]  # fields of an Item: text, image, video
_FIELDS = {"T": "text", "I": "image", "V": "video"}


class Record(NamedTuple):
    """One row. Each query makes a pair with each target; all pairs have the same negatives."""

    queries: list[Side]
    targets: list[Side]
    negatives: list[Side]


class Row(NamedTuple):
    """One row of a file. place: for messages."""

    place: str
    cells: Mapping[str, Any]


# The place of each row, for messages, and a function that reads it.
Rows = Iterator[tuple[str, Callable[[], list[Record]]]]


def task_of(config: DataSetConfig) -> Task:
    """Return the task of a data set that is not a `pairs` folder, whose folder names give the tasks."""
    return Task(config.task or FORMATS[config.format].tasks[0])


class Reader:
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
        return [under(self.config.root, path) for path in paths if path]

    def rows(self, source: str, columns: Sequence[str], optional: Collection[str] = ()) -> Iterator[Row]:
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

    def _rows_of(self, file: str, columns: Sequence[str], optional: Collection[str]) -> Iterator[Row]:
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
            yield Row(row.place, row.cells)

    def is_kept(self, cells: Mapping[str, Any]) -> bool:
        """Whether a row reaches the minimum of its columns and has the values that the format expects."""
        for column, lowest in self.config.minimum.items():
            value = cells.get(column)
            try:
                if value is None or is_missing(value) or float(value) < lowest:
                    return False
            except (TypeError, ValueError):
                raise ValueError(f"{column}={shown(value)}: not a number; see `minimum`") from None
        return all(cells.get(column) in (None, value) for column, value in self.format.expected.items())


def under(root: str, path: str) -> str:
    """Join `root` and `path`; a path that is absolute or a URI is returned as it is."""
    path = expand_home(path)
    return path if not root or path.startswith("/") or "://" in path else f"{root.rstrip('/')}/{path}"


def records_of(reader: Reader, cells: Mapping[str, Any], negatives: str = "") -> list[Record]:
    """Return the record of a row that has its query and target, or none if the row is left out.

    negatives: the column of hard negatives, if there is one. Raises ValueError for a malformed cell.
    """
    if not reader.is_kept(cells):
        return []
    queries, targets = reader.sides("query", cells.get), reader.sides("target", cells.get)
    return [Record(queries, targets, _negatives(reader, cells, negatives) if negatives else [])]


def _negatives(reader: Reader, cells: Mapping[str, Any], column: str) -> list[Side]:
    """Return the hard negatives of a row. Each element of the cell has the form of the target's cell."""
    value = value_of(column, cells.get)
    try:
        elements = value if isinstance(value, list | tuple) else texts(value)
    except ValueError as error:
        raise ValueError(f"{column}={error}") from None
    return [side for element in elements for side in reader.sides("target", partial(_always, element))]


def _always(value: Any, _: str) -> Any:
    return value
