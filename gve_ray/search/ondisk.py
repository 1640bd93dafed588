"""An index on disk or in an object store, for millions of vectors, built on Lance.

Below `IndexOptions.approximate_from` vectors, a search reads all of them and is exact. From that
size on, `save` builds an approximate index, and later adds new rows to it. benchmarks/search.py
measures its recall.

Lance commits every change as a new version; `index.json` (see folder.py) names the version that was
last saved. Readers open that version. A writer that finds later versions, left by a crash, returns
to the saved one. Files of an older version stay until the first change by the next writer, so that
its readers have until then to open the new version.
"""

import logging
import math
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
_MAX_FRAGMENTS = 16
_COUNTS_KEPT = 1000


class LanceIndex:
    """A `VectorIndex` on disk; see there for its methods.

    saved: called by `save` with the version that readers are to open from then on.
    """

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
        self._counted: dict[str | None, int] = {}  # rows that pass each filter, as SQL, until a change
        self._has_changed = False  # whether this object has made a change

    @classmethod
    def create(
        cls, folder: SharedFolder, spec: IndexSpec, options: IndexOptions, saved: Callable[[int], None]
    ) -> "LanceIndex":
        """Create an empty index and save it."""
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
        """Open a saved version. Raises IndexFileError if that is not possible."""
        import lance

        uri = f"{folder.uri}/{FOLDER}"
        try:
            dataset = lance.dataset(uri, version=version, storage_options=lance_options(uri))
        except (ValueError, OSError) as error:
            advice = f"version {version}: {error}; create the index again"
            raise IndexFileError.of(error, uri, advice) from error
        return cls(dataset, spec, options, saved)

    def add(self, ids: Sequence[str], vectors: np.ndarray, metadata: Sequence[Mapping[str, Value]]) -> None:
        import lance

        table = table_of(self.spec, ids, vectors, metadata)
        check_new(ids, self._ids())
        if not len(ids):
            return
        self._prepare_change()
        uri = self._dataset.uri
        self._dataset = lance.write_dataset(table, uri, mode="append", storage_options=lance_options(uri))
        self._ids().update(ids)

    def delete(self, ids: Sequence[str]) -> None:
        check_known(ids, self._ids())
        self._prepare_change()
        for at in range(0, len(ids), _IDS_AT_ONCE):
            self._dataset.delete(_sql_in(ids[at : at + _IDS_AT_ONCE]))
        self._ids().difference_update(ids)

    def search(self, queries: np.ndarray, k: int, *, filter: Filter | None = None) -> list[list[Hit]]:
        queries = check_vectors(self.spec, queries)
        check_depth(k)
        where = filters.to_sql(filters.parse(filter, self.spec))
        size = self._count(where)
        if not size:
            return [[] for _ in queries]
        return [
            best_hits(self.spec, query, k, partial(self._nearest, query, where), limit=size)
            for query in queries
        ]

    def get(self, ids: Sequence[str]) -> tuple[np.ndarray, list[dict[str, Value]]]:
        tables = [
            self._dataset.to_table(filter=_sql_in(ids[at : at + _IDS_AT_ONCE]))
            for at in range(0, len(ids), _IDS_AT_ONCE)
        ]
        table = pa.concat_tables(tables) if tables else self.spec.schema.empty_table()
        row = {key: i for i, key in enumerate(table.column("id").to_pylist())}
        check_known(ids, row)
        rows = table.take(pa.array([row[key] for key in ids], pa.int64()))
        metadata = rows.select([*self.spec.fields]).to_pylist()
        return matrix_of(rows.column("vector"), self.spec.dimension), metadata

    def metadata_of(self, id: str) -> dict[str, Value]:
        rows = self._dataset.to_table(filter=_sql_in([id]), columns=["id", *self.spec.fields])
        metadata = dict(rows_of(rows.to_batches()))
        check_known([id], metadata)
        return metadata[id]

    def ids(self) -> set[str]:
        return set(self._ids())

    def metadata(self) -> Iterator[tuple[str, dict[str, Value]]]:
        return rows_of(self._dataset.to_batches(columns=["id", *self.spec.fields]))

    def count(self, *, filter: Filter | None = None) -> int:
        return self._count(filters.to_sql(filters.parse(filter, self.spec)))

    def save(self) -> None:
        if len(self._dataset.get_fragments()) > _MAX_FRAGMENTS:
            self._dataset.optimize.compact_files()
        count = self._dataset.count_rows()
        if self._options.is_approximate(count):
            if self._dataset.describe_indices():
                self._dataset.optimize.optimize_indices()
            else:
                self._build(count)
        self._saved(self._dataset.version)

    def close(self) -> None:
        """Do nothing: no file stays open between calls."""

    def drop(self) -> None:
        """Do nothing: all files are in the folder."""

    def _count(self, where: str | None) -> int:
        if where not in self._counted:
            if len(self._counted) >= _COUNTS_KEPT:
                self._counted.clear()
            self._counted[where] = int(self._dataset.count_rows(where))
        return self._counted[where]

    def _nearest(self, query: np.ndarray, where: str | None, depth: int) -> pa.Table:
        nearest = {"column": "vector", "q": query, "k": depth, "metric": "dot"}
        if self._dataset.describe_indices():
            # The nearest rows that pass a filter are in as many more cells as rows do not pass.
            probes = math.ceil(self._options.probes * self._count(None) / self._count(where))
            nearest |= {"nprobes": probes, "refine_factor": self._options.refine}
        return self._dataset.to_table(
            columns=["id", "vector", *self.spec.fields, "_distance"],
            filter=where,
            nearest=nearest,
            prefilter=True,
        )

    def _build(self, count: int) -> None:
        kind = self._options.chosen_structure
        log.info("%s: building %s over %d vectors", self._dataset.uri, kind, count)
        cells = max(1, round(count / self._options.cell))
        more = {"num_sub_vectors": max(1, self.spec.dimension // 4)} if kind == "IVF_PQ" else {}
        self._dataset.create_index("vector", kind, metric="dot", num_partitions=cells, **more)
        self._dataset.create_scalar_index("id", "BTREE")

    def _prepare_change(self) -> None:
        """Discard versions that a crashed writer committed after the last save.

        If there are none, deletes the versions before the saved one, which no reader uses any more.
        """
        if self._dataset.version < self._dataset.latest_version:
            # The saved version is now one of the older versions, so those are not deleted this
            # time.
            self._dataset.restore()
        elif not self._has_changed:
            self._dataset.cleanup_old_versions(older_than=timedelta(0))
        self._has_changed = True
        self._counted.clear()

    def _ids(self) -> set[str]:
        if self._known is None:
            self._known = set(self._dataset.to_table(columns=["id"]).column(0).to_pylist())
        return self._known


def _sql_in(ids: Sequence[str]) -> str:
    return filters.to_sql([filters.Condition("id", "in", tuple(ids))]) or "false"
