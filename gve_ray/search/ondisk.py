"""Search on disk or in an object store, by Lance, for millions of vectors: memory holds none of them.

Below `IndexOptions.approximate_from` vectors a search reads them all and is exact. From there on `save` builds
an approximate index, and later adds to it what is new. benchmarks/search.py measures what it misses.

Lance commits every change; `index.json` (see folder.py) names the version that was last saved. Readers open
that one, and a writer that finds later ones, left by a crash, returns to it. What an older version needs stays
until the next writer's first change: those who read it have that long to open the new one.
"""

import logging
from collections.abc import Callable, Iterator, Mapping, Sequence
from datetime import timedelta
from functools import partial
from typing import TYPE_CHECKING

import numpy as np
import pyarrow as pa

from gve_ray.search import filters
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
    matrix_of,
    rows_of,
    table_of,
)
from gve_ray.store import SharedFolder
from gve_ray.store.runfolder import lance_options

if TYPE_CHECKING:
    import lance

log = logging.getLogger(__name__)

FOLDER = "vectors.lance"
_IDS_AT_ONCE = 1000  # in one SQL filter
_MOST_FRAGMENTS = 16


class LanceIndex:
    """`VectorIndex` on disk; see the Protocol. saved: called with the version to be read from now on."""

    def __init__(
        self,
        dataset: "lance.LanceDataset",
        spec: IndexSpec,
        options: IndexOptions,
        saved: Callable[[int], None],
    ) -> None:
        self.spec = spec
        self._options = options
        self._dataset = dataset
        self._saved = saved
        self._known: set[str] | None = None
        self._has_changed = False  # once it is a writer's

    @classmethod
    def create(
        cls, folder: SharedFolder, spec: IndexSpec, options: IndexOptions, saved: Callable[[int], None]
    ) -> "LanceIndex":
        """An empty one, saved."""
        import lance

        uri = f"{folder.uri}/{FOLDER}"
        dataset = lance.write_dataset(
            spec.schema.empty_table(), uri, mode="create", storage_options=lance_options(uri)
        )
        index = cls(dataset, spec, options, saved)
        saved(dataset.version)
        return index

    @classmethod
    def load(
        cls,
        folder: SharedFolder,
        spec: IndexSpec,
        options: IndexOptions,
        saved: Callable[[int], None],
        version: int,
    ) -> "LanceIndex":
        """The version that was saved. Raises IndexFileError."""
        import lance

        uri = f"{folder.uri}/{FOLDER}"
        try:
            dataset = lance.dataset(uri, version=version, storage_options=lance_options(uri))
        except (ValueError, OSError) as error:
            raise IndexFileError(f"{uri}: version {version}: {error}; make it again") from error
        return cls(dataset, spec, options, saved)

    def add(self, ids: Sequence[str], vectors: np.ndarray, metadata: Sequence[Mapping[str, Value]]) -> None:
        import lance

        table = table_of(self.spec, ids, vectors, metadata)
        check_new(ids, self._ids())
        if not len(ids):
            return
        self._to_write()
        uri = self._dataset.uri
        self._dataset = lance.write_dataset(table, uri, mode="append", storage_options=lance_options(uri))
        self._ids().update(ids)

    def delete(self, ids: Sequence[str]) -> None:
        check_known(ids, self._ids())
        self._to_write()
        for at in range(0, len(ids), _IDS_AT_ONCE):
            self._dataset.delete(_among(ids[at : at + _IDS_AT_ONCE]))
        self._ids().difference_update(ids)

    def search(self, queries: np.ndarray, k: int, *, filter: Filter | None = None) -> list[list[Hit]]:
        queries = check_vectors(self.spec, queries)
        check_depth(k)
        where = filters.to_sql(filters.parse(filter, self.spec))
        most = self._dataset.count_rows()
        if not most:
            return [[] for _ in queries]
        return [
            best_hits(self.spec, query, k, partial(self._nearest, query, where), most=most)
            for query in queries
        ]

    def get(self, ids: Sequence[str]) -> tuple[np.ndarray, list[dict[str, Value]]]:
        tables = [
            self._dataset.to_table(filter=_among(ids[at : at + _IDS_AT_ONCE]))
            for at in range(0, len(ids), _IDS_AT_ONCE)
        ]
        table = pa.concat_tables(tables) if tables else self.spec.schema.empty_table()
        row = {one: i for i, one in enumerate(table.column("id").to_pylist())}
        check_known(ids, row)
        rows = table.take(pa.array([row[one] for one in ids], pa.int64()))
        return matrix_of(rows.column("vector"), self.spec.dimension), rows.select(
            [*self.spec.fields]
        ).to_pylist()

    def ids(self) -> set[str]:
        return set(self._ids())

    def metadata(self) -> Iterator[tuple[str, dict[str, Value]]]:
        return rows_of(self._dataset.to_batches(columns=["id", *self.spec.fields]))

    def count(self, *, filter: Filter | None = None) -> int:
        where = filters.to_sql(filters.parse(filter, self.spec))
        return int(self._dataset.count_rows(where))

    def save(self) -> None:
        if len(self._dataset.get_fragments()) > _MOST_FRAGMENTS:
            self._dataset.optimize.compact_files()
        count = self._dataset.count_rows()
        if count >= self._options.approximate_from:
            if self._dataset.describe_indices():
                self._dataset.optimize.optimize_indices()
            else:
                self._build(count)
        self._saved(self._dataset.version)

    def close(self) -> None:
        """Nothing is open between calls."""

    def drop(self) -> None:
        """Nothing is outside the folder."""

    def _nearest(self, query: np.ndarray, where: str | None, depth: int) -> pa.Table:
        nearest = {"column": "vector", "q": query, "k": depth, "metric": "dot"}
        if self._dataset.describe_indices():
            nearest |= {"nprobes": self._options.probes, "refine_factor": self._options.refine}
        return self._dataset.to_table(
            columns=["id", "vector", *self.spec.fields, "_distance"],
            filter=where,
            nearest=nearest,
            prefilter=True,
        )

    def _build(self, count: int) -> None:
        kind = self._options.structure
        log.info("%s: building %s over %d vectors", self._dataset.uri, kind, count)
        cells = max(1, round(count / self._options.cell))
        more = {"num_sub_vectors": max(1, self.spec.dimension // 4)} if kind == "IVF_PQ" else {}
        self._dataset.create_index("vector", kind, metric="dot", num_partitions=cells, **more)
        self._dataset.create_scalar_index("id", "BTREE")

    def _to_write(self) -> None:
        """Before a change: away with versions that were committed after the last save, and then a crash; or, if
        there was none, with those before it, which nobody reads any more."""
        if self._dataset.version < self._dataset.latest_version:
            # The saved version is now among the older ones: they stay for this time.
            self._dataset.restore()
        elif not self._has_changed:
            self._dataset.cleanup_old_versions(older_than=timedelta(0))
        self._has_changed = True

    def _ids(self) -> set[str]:
        if self._known is None:
            self._known = set(self._dataset.to_table(columns=["id"]).column(0).to_pylist())
        return self._known


def _among(ids: Sequence[str]) -> str:
    return filters.to_sql([filters.Condition("id", "in", tuple(ids))]) or "false"
