"""The default index: search in memory with FAISS, exact or among smaller codes of the vectors.

An exact search reads all vectors: 100,000 vectors with 2,048 dimensions are 0.8 GB. They are read from
the file by the first search, so a process that needs only metadata does not hold them in memory. With
codes (`gve_ray.search.codes`), the vectors stay on disk, and a search reads those of its candidates.
benchmarks/search.py measures the times.

Saving replaces the file of rows as a whole. It names the file of codes that belongs to it. Codes of the
save before are kept for its readers.
"""

import json
import os
import secrets
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict
from functools import cached_property, partial
from pathlib import Path

import numpy as np
import pyarrow as pa

from gve_ray.search import filters
from gve_ray.search.codes import Codes
from gve_ray.search.exact import NONE, exact
from gve_ray.search.index import (
    Filter,
    Hit,
    IndexFileError,
    IndexOptions,
    IndexSpec,
    Value,
    best_hits,
    check_depth,
    check_known,
    check_new,
    check_vectors,
    hits_of,
    matrix_of,
    rows_of,
    table_of,
)
from gve_ray.store import SharedFolder

FILE = "vectors.arrow"
_CODES = "codes-{}.npz"
_SPEC = b"gve_ray.index"
_CODES_FILE = b"gve_ray.codes"
_ROWS = 65_536  # per record batch


class _Rows:
    """The rows of an index, and what is computed from them when it is first needed.

    table: of `IndexSpec.schema`; a saved one is mapped from its file.
    """

    def __init__(self, table: pa.Table, dimension: int) -> None:
        self.table, self._dimension = table, dimension
        self._described = [name for name in table.column_names if name != "vector"]
        self._batches = table.to_batches()
        self._ends = np.cumsum([batch.num_rows for batch in self._batches], dtype=np.int64)

    def __len__(self) -> int:
        return int(self.table.num_rows)

    @cached_property
    def vectors(self) -> np.ndarray:
        """The vectors, float32 [n, d]."""
        return matrix_of(self.table.column("vector"), self._dimension)

    @cached_property
    def numbers(self) -> dict[str, int]:
        """The number of the row with each id."""
        return {key: i for i, key in enumerate(self.table.column("id").to_pylist())}

    @cached_property
    def id_ranks(self) -> np.ndarray:
        """The position of each row's id in sorted order, int64 [n]."""
        ids = self.table.column("id").to_pylist()
        ranks = np.empty(len(ids), dtype=np.int64)
        ranks[sorted(range(len(ids)), key=ids.__getitem__)] = np.arange(len(ids))
        return ranks

    @cached_property
    def longest(self) -> float:
        """The largest norm of a vector."""
        parts = (self.vectors[start : start + _ROWS] for start in range(0, len(self.vectors), _ROWS))
        return max((float(np.linalg.norm(part, axis=1).max()) for part in parts), default=0.0)

    def take(self, numbers: np.ndarray, columns: Sequence[str]) -> pa.Table:
        """Return columns of rows, which are copied from the file; other rows are not read."""
        of_batch = np.searchsorted(self._ends, numbers, side="right")
        parts = [self.table.select(columns).slice(0, 0)]
        for at in np.unique(of_batch):
            batch = self._batches[at].select(columns)
            inside = numbers[of_batch == at] - (self._ends[at] - batch.num_rows)
            parts.append(pa.Table.from_batches([batch.take(pa.array(inside))]))
        order = np.argsort(np.argsort(of_batch, kind="stable"))
        return pa.concat_tables(parts).take(pa.array(order))

    def read(self, numbers: np.ndarray) -> np.ndarray:
        """Return the vectors of rows, float32 [n, d], which are copied from the file."""
        return matrix_of(self.take(numbers, ["vector"]).column("vector"), self._dimension)

    def described(self, numbers: np.ndarray) -> Iterator[tuple[str, dict[str, Value]]]:
        """Yield the id and metadata of rows."""
        return rows_of(self.take(numbers, self._described).to_batches())

    def all(self) -> Iterator[tuple[str, dict[str, Value]]]:
        """Yield the id and metadata of every row."""
        return rows_of(self.table.select(self._described).to_batches(max_chunksize=_ROWS))


class FlatIndex:
    """A `VectorIndex` in memory; see there for its methods.

    codes_file: name of the file with the codes of the rows, if it was saved.
    """

    def __init__(
        self,
        folder: SharedFolder,
        spec: IndexSpec,
        options: IndexOptions,
        table: pa.Table,
        codes_file: str | None = None,
    ) -> None:
        self.spec = spec
        self._folder, self._options = folder, options
        self._rows = _Rows(table, spec.dimension)
        self._added: list[pa.Table] = []
        self._added_ids: set[str] = set()
        self._codes: Codes | None = None  # of the first rows, if they have been read or made
        self._codes_file = codes_file

    @classmethod
    def create(cls, folder: SharedFolder, spec: IndexSpec, options: IndexOptions) -> "FlatIndex":
        """Create an empty index and save it. Raises ValueError if the prefix is too long."""
        if (options.prefix or 0) > spec.dimension:
            raise ValueError(f"search.prefix={options.prefix}: the vectors have {spec.dimension} dimensions")
        index = cls(folder, spec, options, spec.schema.empty_table())
        index.save()
        return index

    @classmethod
    def load(cls, folder: SharedFolder, options: IndexOptions) -> "FlatIndex":
        """Load the index as it was last saved. Raises IndexFileError if that is not possible."""
        try:
            with pa.memory_map(str(folder.fetch(FILE))) as file:
                table = pa.ipc.open_file(file).read_all()
            facts = table.schema.metadata or {}
            spec = IndexSpec(**json.loads(facts[_SPEC]))
        except (OSError, pa.ArrowInvalid, KeyError, ValueError, TypeError) as error:
            advice = f"not a readable index ({error}); create it again"
            raise IndexFileError.of(error, f"{folder.uri}/{FILE}", advice) from error
        codes_file = facts[_CODES_FILE].decode() if _CODES_FILE in facts else None
        return cls(folder, spec, options, table.replace_schema_metadata(None), codes_file)

    def add(self, ids: Sequence[str], vectors: np.ndarray, metadata: Sequence[Mapping[str, Value]]) -> None:
        table = table_of(self.spec, ids, vectors, metadata)
        check_new(ids, self._rows.numbers)
        check_new(ids, self._added_ids)
        self._added.append(table)
        self._added_ids.update(ids)

    def delete(self, ids: Sequence[str]) -> None:
        rows = self._merged()
        check_known(ids, rows.numbers)
        kept = np.ones(len(rows), dtype=bool)
        kept[[rows.numbers[key] for key in ids]] = False
        if codes := self._saved_codes():
            codes.keep(kept[: len(codes)])
        self._rows = _Rows(rows.table.filter(pa.array(kept)).combine_chunks(), self.spec.dimension)

    def search(self, queries: np.ndarray, k: int, *, filter: Filter | None = None) -> list[list[Hit]]:
        queries = check_vectors(self.spec, queries)
        check_depth(k)
        conditions = filters.parse(filter, self.spec)
        rows, among = self._merged(), None
        if conditions:
            passing = filters.mask(conditions, rows.table).to_numpy()
            among = None if passing.all() else passing
        codes = self._current_codes()
        if codes is None:
            among = None if among is None else np.flatnonzero(among)
            nearest, scores = exact(
                queries, rows.vectors, k, among=among, tie_break=rows.id_ranks, longest=rows.longest
            )
            return [
                hits_of(rows.described(near[near != NONE]), near_scores)
                for near, near_scores in zip(nearest, scores, strict=True)
            ]
        size = len(rows) if among is None else int(np.count_nonzero(among))
        if not size:
            return [[] for _ in queries]

        def candidates(query: np.ndarray, depth: int) -> pa.Table:
            if among is not None and size < self._options.approximate_from:
                passing = np.flatnonzero(among)
                (near,), _ = exact(query[None], rows.read(passing), depth)  # depth is at most size
                return rows.take(passing[near], rows.table.column_names)
            near = codes.nearest(query, min(self._options.refine * depth, size), among)
            return rows.take(near, rows.table.column_names)

        return [best_hits(self.spec, query, k, partial(candidates, query), limit=size) for query in queries]

    def get(self, ids: Sequence[str]) -> tuple[np.ndarray, list[dict[str, Value]]]:
        rows = self._merged()
        check_known(ids, rows.numbers)
        numbers = np.array([rows.numbers[key] for key in ids], dtype=np.int64)
        return rows.read(numbers), [metadata for _, metadata in rows.described(numbers)]

    def metadata_of(self, id: str) -> dict[str, Value]:
        rows = self._merged()
        check_known([id], rows.numbers)
        ((_, metadata),) = rows.described(np.array([rows.numbers[id]]))
        return metadata

    def ids(self) -> set[str]:
        return set(self._merged().numbers)

    def metadata(self) -> Iterator[tuple[str, dict[str, Value]]]:
        return self._merged().all()

    def count(self, *, filter: Filter | None = None) -> int:
        conditions = filters.parse(filter, self.spec)
        return int(np.count_nonzero(filters.mask(conditions, self._merged().table).to_numpy()))

    def save(self) -> None:
        rows, before = self._merged(), self._codes_file
        self._folder.path.mkdir(parents=True, exist_ok=True)
        facts = {_SPEC: json.dumps(asdict(self.spec)).encode()}
        if codes := self._current_codes():
            self._codes_file = _CODES.format(secrets.token_hex(8))
            facts[_CODES_FILE] = self._codes_file.encode()
            _write(self._folder, self._codes_file, codes.save)
        else:
            self._codes_file = None
        table = rows.table.replace_schema_metadata(facts)

        def write_rows(path: Path) -> None:
            with pa.OSFile(str(path), "wb") as file, pa.ipc.new_file(file, table.schema) as writer:
                writer.write_table(table, max_chunksize=_ROWS)

        _write(self._folder, FILE, write_rows)
        for name in self._folder.names():
            if Path(name).match(_CODES.format("*")) and name not in (before, self._codes_file):
                self._folder.remove(name)

    def close(self) -> None:
        """Do nothing: no file stays open."""

    def drop(self) -> None:
        """Do nothing: all files are in the folder."""

    def _merged(self) -> _Rows:
        """Return all rows. Appending those that were added copies all vectors, so `add` does not do it."""
        if self._added:
            table = pa.concat_tables([self._rows.table, *self._added]).combine_chunks()
            self._rows, self._added, self._added_ids = _Rows(table, self.spec.dimension), [], set()
        return self._rows

    def _saved_codes(self) -> Codes | None:
        """Return the codes of the first rows, as read from the file or changed since; None without any."""
        if self._codes is None and self._codes_file is not None:
            try:
                self._codes = Codes.load(self._folder.fetch(self._codes_file), self._options)
            except (OSError, ValueError) as error:
                uri = f"{self._folder.uri}/{self._codes_file}"
                advice = f"not readable ({error}); create the index again"
                raise IndexFileError.of(error, uri, advice) from error
        return self._codes

    def _current_codes(self) -> Codes | None:
        """Return the codes of all rows; None if each vector is compared with a query."""
        rows = self._merged()
        if not self._options.is_approximate(len(rows)):
            self._codes = self._codes_file = None
            return None
        codes = self._saved_codes()
        if codes is None or not codes.suits(len(rows)):
            codes = Codes.of(rows.read, len(rows), self._options)
        codes.extend(rows.read, len(rows))
        self._codes = codes
        return codes


def _write(folder: SharedFolder, name: str, write: Callable[[Path], None]) -> None:
    """Replace a file by what `write` writes to a path, and publish it."""
    part = folder.path / f"{name}.{os.getpid()}.part"
    write(part)
    with part.open("rb") as file:
        os.fsync(file.fileno())
    os.replace(part, folder.path / name)
    folder.publish(name)
