"""The default index: exact search in memory with FAISS, stored as one file.

Every search reads all vectors: 100,000 vectors with 2,048 dimensions are 0.8 GB.
benchmarks/search.py measures the times. Saving replaces the file as a whole.
"""

import json
import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict

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
    hit,
    matrix_of,
    rows_of,
    table_of,
)
from gve_ray.store import SharedFolder

FILE = "vectors.arrow"
_SPEC = b"gve_ray.index"
_ROWS = 65_536  # per record batch


class FlatIndex:
    """A `VectorIndex` in memory; see there for its methods."""

    def __init__(self, folder: SharedFolder, spec: IndexSpec, table: pa.Table) -> None:
        self.spec = spec
        self._folder = folder
        self._set(matrix_of(table.column("vector"), spec.dimension), table.drop_columns(["vector"]))
        self._new: list[pa.Table] = []

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
        check_new(ids, self._row)
        first = len(self._row)
        self._row.update({key: first + i for i, key in enumerate(ids)})
        self._new.append(table)

    def delete(self, ids: Sequence[str]) -> None:
        check_known(ids, self._row)
        self._merge()
        kept = np.ones(len(self._vectors), dtype=bool)
        kept[[self._row[key] for key in ids]] = False
        self._set(self._vectors[kept], self._table.filter(pa.array(kept)))

    def search(self, queries: np.ndarray, k: int, *, filter: Filter | None = None) -> list[list[Hit]]:
        queries = check_vectors(self.spec, queries)
        check_depth(k)
        conditions = filters.parse(filter, self.spec)
        self._merge()
        among = None
        if conditions:
            passing = filters.mask(conditions, self._table).to_numpy()
            among = None if passing.all() else np.flatnonzero(passing)  # None saves a copy
        rows, scores = exact(
            queries, self._vectors, k, among=among, tie_break=self._id_ranks, longest=self._longest
        )
        return [
            self._hits(near[near != NONE], near_scores)
            for near, near_scores in zip(rows, scores, strict=True)
        ]

    def get(self, ids: Sequence[str]) -> tuple[np.ndarray, list[dict[str, Value]]]:
        check_known(ids, self._row)
        self._merge()
        rows = np.array([self._row[key] for key in ids], dtype=np.int64)
        return self._vectors[rows], self._table.take(pa.array(rows)).drop_columns(["id"]).to_pylist()

    def ids(self) -> set[str]:
        return set(self._row)

    def metadata(self) -> Iterator[tuple[str, dict[str, Value]]]:
        self._merge()
        return rows_of(self._table.to_batches(max_chunksize=_ROWS))

    def count(self, *, filter: Filter | None = None) -> int:
        conditions = filters.parse(filter, self.spec)
        self._merge()
        return int(np.count_nonzero(filters.mask(conditions, self._table).to_numpy()))

    def save(self) -> None:
        self._merge()
        self._folder.path.mkdir(parents=True, exist_ok=True)
        schema = self.spec.schema.with_metadata({_SPEC: json.dumps(asdict(self.spec)).encode()})
        part = self._folder.path / f"{FILE}.{os.getpid()}.part"
        with open(part, "wb") as file:
            with pa.ipc.new_file(file, schema) as writer:
                for start in range(0, len(self._vectors), _ROWS):
                    writer.write_table(self._slice(start, schema))
            file.flush()
            os.fsync(file.fileno())
        os.replace(part, self._folder.path / FILE)
        self._folder.publish(FILE)

    def close(self) -> None:
        """Do nothing: no file stays open."""

    def drop(self) -> None:
        """Do nothing: all files are in the folder."""

    def _hits(self, rows: np.ndarray, scores: np.ndarray) -> list[Hit]:
        metadata = self._table.take(pa.array(rows)).to_pylist()
        return [hit(row, float(score)) for row, score in zip(metadata, scores, strict=False)]

    def _slice(self, start: int, schema: pa.Schema) -> pa.Table:
        part = self._vectors[start : start + _ROWS]
        vectors = pa.FixedSizeListArray.from_arrays(pa.array(part.reshape(-1)), self.spec.dimension)
        table = self._table.slice(start, _ROWS)
        columns = [table.column("id"), vectors, *(table.column(name) for name in self.spec.fields)]
        return pa.Table.from_arrays(columns, schema=schema)

    def _merge(self) -> None:
        """Append the rows that were added. Each merge copies all vectors, so `add` does not do it."""
        if not self._new:
            return
        new, self._new = self._new, []
        vectors = [self._vectors, *(matrix_of(table.column("vector"), self.spec.dimension) for table in new)]
        tables = [self._table, *(table.drop_columns(["vector"]) for table in new)]
        self._set(np.concatenate(vectors), pa.concat_tables(tables))

    def _set(self, vectors: np.ndarray, table: pa.Table) -> None:
        self._vectors, self._table = vectors, table
        ids = table.column("id").to_pylist()
        self._row = {key: i for i, key in enumerate(ids)}
        self._id_ranks = np.empty(len(ids), dtype=np.int64)  # of each row's id in sorted order
        self._id_ranks[sorted(range(len(ids)), key=ids.__getitem__)] = np.arange(len(ids))
        norms = (
            float(np.linalg.norm(vectors[start : start + _ROWS], axis=1).max())
            for start in range(0, len(vectors), _ROWS)
        )
        self._longest = max(norms, default=0.0)
