"""The default index: exact search in memory with FAISS, stored as one file.

Every search reads all vectors: 100,000 vectors with 2,048 dimensions are 0.8 GB. They are read from
the file by the first search, so a process that needs only metadata does not hold them in memory.
benchmarks/search.py measures the times. Saving replaces the file as a whole.
"""

import json
import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict
from functools import cached_property

import numpy as np
import pyarrow as pa

from gve_ray.search import filters
from gve_ray.search.exact import NONE, exact
from gve_ray.search.index import (
    Filter,
    Hit,
    IndexFileError,
    IndexSpec,
    Value,
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
_SPEC = b"gve_ray.index"
_ROWS = 65_536  # per record batch


class _Rows:
    """The rows of an index, and what is computed from them when it is first needed.

    table: of `IndexSpec.schema`; a saved one is mapped from its file.
    """

    def __init__(self, table: pa.Table, dimension: int) -> None:
        self.table, self._dimension = table, dimension
        self._metadata = table.drop_columns(["vector"])

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

    def take(self, numbers: np.ndarray) -> Iterator[tuple[str, dict[str, Value]]]:
        """Yield the id and metadata of rows."""
        return rows_of(self._metadata.take(pa.array(numbers)).to_batches())

    def all(self) -> Iterator[tuple[str, dict[str, Value]]]:
        """Yield the id and metadata of every row."""
        return rows_of(self._metadata.to_batches(max_chunksize=_ROWS))


class FlatIndex:
    """A `VectorIndex` in memory; see there for its methods."""

    def __init__(self, folder: SharedFolder, spec: IndexSpec, table: pa.Table) -> None:
        self.spec = spec
        self._folder = folder
        self._rows = _Rows(table, spec.dimension)
        self._added: list[pa.Table] = []
        self._added_ids: set[str] = set()

    @classmethod
    def create(cls, folder: SharedFolder, spec: IndexSpec) -> "FlatIndex":
        """Create an empty index and save it."""
        index = cls(folder, spec, spec.schema.empty_table())
        index.save()
        return index

    @classmethod
    def load(cls, folder: SharedFolder) -> "FlatIndex":
        """Load the index as it was last saved. Raises IndexFileError if that is not possible."""
        try:
            with pa.memory_map(str(folder.fetch(FILE))) as file:
                table = pa.ipc.open_file(file).read_all()
            spec = IndexSpec(**json.loads((table.schema.metadata or {})[_SPEC]))
        except (OSError, pa.ArrowInvalid, KeyError, ValueError, TypeError) as error:
            raise IndexFileError(
                f"{folder.uri}/{FILE}: not a readable index ({error}); create it again"
            ) from error
        return cls(folder, spec, table.replace_schema_metadata(None))

    def add(self, ids: Sequence[str], vectors: np.ndarray, metadata: Sequence[Mapping[str, Value]]) -> None:
        table = table_of(self.spec, ids, vectors, metadata)
        check_new(ids, self._rows.numbers)
        check_new(ids, self._added_ids)
        self._added.append(table)
        self._added_ids.update(ids)

    def delete(self, ids: Sequence[str]) -> None:
        rows = self._merged()
        check_known(ids, rows.numbers)
        kept = np.ones(rows.table.num_rows, dtype=bool)
        kept[[rows.numbers[key] for key in ids]] = False
        self._rows = _Rows(rows.table.filter(pa.array(kept)).combine_chunks(), self.spec.dimension)

    def search(self, queries: np.ndarray, k: int, *, filter: Filter | None = None) -> list[list[Hit]]:
        queries = check_vectors(self.spec, queries)
        check_depth(k)
        conditions = filters.parse(filter, self.spec)
        rows, among = self._merged(), None
        if conditions:
            passing = filters.mask(conditions, rows.table).to_numpy()
            among = None if passing.all() else np.flatnonzero(passing)  # None saves a copy
        nearest, scores = exact(
            queries, rows.vectors, k, among=among, tie_break=rows.id_ranks, longest=rows.longest
        )
        return [
            hits_of(rows.take(near[near != NONE]), near_scores)
            for near, near_scores in zip(nearest, scores, strict=True)
        ]

    def get(self, ids: Sequence[str]) -> tuple[np.ndarray, list[dict[str, Value]]]:
        rows = self._merged()
        check_known(ids, rows.numbers)
        numbers = np.array([rows.numbers[key] for key in ids], dtype=np.int64)
        return rows.vectors[numbers], [metadata for _, metadata in rows.take(numbers)]

    def metadata_of(self, id: str) -> dict[str, Value]:
        rows = self._merged()
        check_known([id], rows.numbers)
        ((_, metadata),) = rows.take(np.array([rows.numbers[id]]))
        return metadata

    def ids(self) -> set[str]:
        return set(self._merged().numbers)

    def metadata(self) -> Iterator[tuple[str, dict[str, Value]]]:
        return self._merged().all()

    def count(self, *, filter: Filter | None = None) -> int:
        conditions = filters.parse(filter, self.spec)
        return int(np.count_nonzero(filters.mask(conditions, self._merged().table).to_numpy()))

    def save(self) -> None:
        table = self._merged().table.replace_schema_metadata({_SPEC: json.dumps(asdict(self.spec)).encode()})
        self._folder.path.mkdir(parents=True, exist_ok=True)
        part = self._folder.path / f"{FILE}.{os.getpid()}.part"
        with open(part, "wb") as file:
            with pa.ipc.new_file(file, table.schema) as writer:
                writer.write_table(table, max_chunksize=_ROWS)
            file.flush()
            os.fsync(file.fileno())
        os.replace(part, self._folder.path / FILE)
        self._folder.publish(FILE)

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
