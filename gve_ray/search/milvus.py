"""An index in Milvus, for more vectors than one machine can hold.

Milvus is a server or cluster given by its URI, or embedded in the folder. Each index is one
collection. Milvus applies changes at once and has no versions. Therefore, after a crash before
`save`, some of the changes are present; `VectorIndex` describes how to continue.
"""

import logging
import os
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from gve_ray.search import filters
from gve_ray.search.index import (
    MAX_ID_BYTES,
    Filter,
    Hit,
    IndexFileError,
    IndexOptions,
    IndexSpec,
    SearchError,
    Value,
    best_hits,
    check_depth,
    check_known,
    check_new,
    check_vectors,
    matrix_of,
    table_of,
)

log = logging.getLogger(__name__)

FILE = "milvus.db"  # if embedded
_MAX_TEXT_BYTES = 65_535  # Milvus's limit
_MAX_RESULTS = 16_384  # Milvus's limit
_ROWS_AT_ONCE = 1000
_TYPES = {"string": "VARCHAR", "int": "INT64", "float": "DOUBLE", "bool": "BOOL"}


class MilvusIndex:
    """A `VectorIndex` in Milvus; see there for its methods."""

    def __init__(self, client: Any, collection: str, spec: IndexSpec) -> None:
        self.spec = spec
        self._client = client
        self._collection = collection
        self._known: set[str] | None = None

    @classmethod
    def create(cls, folder: Path, spec: IndexSpec, options: IndexOptions, collection: str) -> "MilvusIndex":
        """Create an empty collection."""
        from pymilvus import DataType

        client = _connect(folder, options)
        schema = client.create_schema(auto_id=False, enable_dynamic_field=False)
        schema.add_field("id", DataType.VARCHAR, is_primary=True, max_length=MAX_ID_BYTES)
        schema.add_field("vector", DataType.FLOAT_VECTOR, dim=spec.dimension)
        for name, kind in spec.fields.items():
            more = {"max_length": _MAX_TEXT_BYTES} if kind == "string" else {}
            schema.add_field(name, getattr(DataType, _TYPES[kind]), nullable=True, **more)
        index = client.prepare_index_params()
        index.add_index("vector", index_type="AUTOINDEX", metric_type="IP")
        client.create_collection(collection, schema=schema, index_params=index, consistency_level="Strong")
        return cls(client, collection, spec)

    @classmethod
    def load(cls, folder: Path, spec: IndexSpec, options: IndexOptions, collection: str) -> "MilvusIndex":
        """Open an existing collection. Raises IndexFileError if it does not exist."""
        from pymilvus import MilvusException

        files = folder / FILE / "collections" / collection  # if embedded
        # Left by a process that did not close the embedded Milvus; opening it replays them.
        has_logs = not options.uri and any(files.glob("wal/*"))
        client = _connect(folder, options)
        if not client.has_collection(collection):
            where = options.uri or folder / FILE
            raise IndexFileError(f"{where}: no collection {collection!r}; create the index again")
        try:
            client.load_collection(collection)
        except MilvusException:
            # A process that is killed while it writes an index file leaves it incomplete. Milvus
            # builds it again from the rows if it does not exist.
            index_files = [] if options.uri else list(files.glob("partitions/*/indexes/*"))
            if not index_files:
                raise
            log.warning("%s: an index file is incomplete; building it again", folder)
            for path in index_files:
                path.unlink()
            client.load_collection(collection)
        index = cls(client, collection, spec)
        if has_logs:
            index._remove_copies()
        return index

    def add(self, ids: Sequence[str], vectors: np.ndarray, metadata: Sequence[Mapping[str, Value]]) -> None:
        table = table_of(self.spec, ids, vectors, metadata)
        for name, kind in self.spec.fields.items():
            if kind == "string" and any(
                len((row.get(name) or "").encode()) > _MAX_TEXT_BYTES  # type: ignore[union-attr]
                for row in metadata
            ):
                raise SearchError(f"metadata {name}: Milvus stores texts of at most {_MAX_TEXT_BYTES} bytes")
        check_new(ids, self._ids())
        for at in range(0, table.num_rows, _ROWS_AT_ONCE):
            self._client.insert(self._collection, table.slice(at, _ROWS_AT_ONCE).to_pylist())
        self._ids().update(ids)

    def delete(self, ids: Sequence[str]) -> None:
        check_known(ids, self._ids())
        for at in range(0, len(ids), _ROWS_AT_ONCE):
            self._client.delete(self._collection, ids=list(ids[at : at + _ROWS_AT_ONCE]))
        self._ids().difference_update(ids)

    def search(self, queries: np.ndarray, k: int, *, filter: Filter | None = None) -> list[list[Hit]]:
        queries = check_vectors(self.spec, queries)
        check_depth(k)
        conditions = filters.parse(filter, self.spec)
        if k > _MAX_RESULTS:
            raise SearchError(f"k={k}: Milvus returns at most {_MAX_RESULTS} rows")
        where = filters.to_milvus(conditions)
        return [
            best_hits(self.spec, query, k, partial(self._nearest, query, where), limit=_MAX_RESULTS)
            for query in queries
        ]

    def get(self, ids: Sequence[str]) -> tuple[np.ndarray, list[dict[str, Value]]]:
        rows: dict[str, dict[str, Any]] = {}
        for at in range(0, len(ids), _ROWS_AT_ONCE):
            part = list(ids[at : at + _ROWS_AT_ONCE])
            fetched = self._client.get(self._collection, ids=part, output_fields=["*"])
            rows |= {row["id"]: row for row in fetched}
        check_known(ids, rows)
        table = self._table([rows[key] for key in ids])
        metadata = table.select([*self.spec.fields]).to_pylist()
        return matrix_of(table.column("vector"), self.spec.dimension), metadata or [{} for _ in ids]

    def metadata_of(self, id: str) -> dict[str, Value]:
        rows = self._client.get(self._collection, ids=[id], output_fields=["id", *self.spec.fields])
        check_known([id], {row["id"] for row in rows})
        return {name: rows[0].get(name) for name in self.spec.fields}

    def ids(self) -> set[str]:
        return set(self._ids())

    def metadata(self) -> Iterator[tuple[str, dict[str, Value]]]:
        for row in self._rows([*self.spec.fields]):
            yield row["id"], {name: row.get(name) for name in self.spec.fields}

    def count(self, *, filter: Filter | None = None) -> int:
        where = filters.to_milvus(filters.parse(filter, self.spec))
        (row,) = self._client.query(self._collection, filter=where, output_fields=["count(*)"])
        return int(row["count(*)"])

    def save(self) -> None:
        self._client.flush(self._collection)

    def close(self) -> None:
        self._client.close()

    def drop(self) -> None:
        self._client.drop_collection(self._collection)
        self.close()

    def _remove_copies(self) -> None:
        """Keep one copy of each row.

        If an embedded Milvus is killed between writing rows to their file and deleting its log of
        them, it holds these rows twice when it has replayed the log.
        """
        if self.count() == len(self._ids()):
            return
        counts = Counter(row["id"] for row in self._rows([]))
        copied = [key for key, count in counts.items() if count > 1]
        for at in range(0, len(copied), _ROWS_AT_ONCE):
            part = copied[at : at + _ROWS_AT_ONCE]
            rows = {
                row["id"]: row for row in self._client.get(self._collection, ids=part, output_fields=["*"])
            }
            table = self._table([rows[key] for key in part])
            # A new version hides all older copies at once, so a kill at any moment loses no row.
            self._client.upsert(self._collection, table.to_pylist())
        self._client.flush(self._collection)

    def _nearest(self, query: np.ndarray, where: str, depth: int) -> pa.Table:
        (hits,) = self._client.search(
            self._collection,
            data=[query.tolist()],
            limit=depth,
            filter=where,
            output_fields=["id", "vector", *self.spec.fields],
        )
        return self._table([row["entity"] for row in hits])

    def _table(self, rows: Sequence[Mapping[str, Any]]) -> pa.Table:
        return pa.Table.from_pylist([dict(row) for row in rows], schema=self.spec.schema)

    def _ids(self) -> set[str]:
        if self._known is None:
            self._known = {row["id"] for row in self._rows([])}
        return self._known

    def _rows(self, fields: Sequence[str]) -> Iterator[dict[str, Any]]:
        """Yield every row, with its id and the given fields."""
        batches = self._client.query_iterator(
            self._collection, batch_size=_ROWS_AT_ONCE, output_fields=["id", *fields]
        )
        try:
            while batch := batches.next():
                yield from batch
        finally:
            batches.close()


def _connect(folder: Path, options: IndexOptions) -> Any:
    try:
        from pymilvus import MilvusClient, MilvusException
    except ImportError as error:
        raise IndexFileError("milvus: its client is not installed; pip install 'gve-ray[milvus]'") from error
    # The client logs a warning for each feature that the embedded engine does not have.
    logging.getLogger("pymilvus").setLevel(logging.ERROR)
    try:
        return MilvusClient(
            options.uri or str(folder / FILE), token=os.environ.get(options.token_variable, "")
        )
    except (MilvusException, OSError, RuntimeError) as error:
        where = options.uri or f"{folder / FILE} (embedded: one process at a time)"
        raise IndexFileError(f"milvus: cannot open {where}: {error}") from error
