"""Lance data sets with atomic commits, and the folders of runs that own them.

Workers write fragments (`Store.write`), which nobody can see; the driver makes them visible, many
at a time, by one atomic commit (`Store.commit`). Resume is what the manifest has minus `Store.keys()`.
Killing anything between the two leaves orphan files and no half-written rows; `Store.clean` removes them.

Trade-off: one writer (driver) a store. A second one is refused by a file lock on local folders
(`RunFolder`) and noticed by the version check of `commit` elsewhere.
"""

import bisect
import json
import logging
import threading
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import timedelta
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from pyarrow import fs

from gve_ray.store.runfolder import filesystem, lance_options

if TYPE_CHECKING:
    import lance

log = logging.getLogger(__name__)

_COMMITS_BETWEEN_CLEANING = 100
_KEYS_AT_ONCE = 1000  # in one SQL filter
_CACHE_BYTES = 32 * 2**20  # of what fragments say of themselves; Lance's own limit is 1 GB, in each process
_COMPACT_BELOW_BYTES = 4 * 2**20


class StoreError(RuntimeError):
    """A store is not what it was opened as, or another driver writes to it."""


class Store:
    """One Lance data set of a known schema, addressed by a string key column.

    uri: path or object-store URI of the data set. storage_options go to Lance as they are (for example
    `aws_endpoint`, `aws_access_key_id`); what they do not say, it takes from the environment. The object is cheap,
    picklable and opens nothing until used. Threads may read from one object at the same time; one that writes has
    it to itself.
    """

    def __init__(
        self,
        uri: str,
        schema: pa.Schema,
        *,
        key: str = "video_id",
        storage_options: Mapping[str, str] | None = None,
    ) -> None:
        if key not in schema.names:
            raise ValueError(f"key={key!r}: not a column of {schema.names}; name one of them")
        self.uri = str(uri)
        self.schema = schema
        self.key = key
        self.storage_options = dict(storage_options) if storage_options else None
        self._forget()

    def __getstate__(self) -> dict[str, Any]:
        return {
            "uri": self.uri,
            "schema": self.schema,
            "key": self.key,
            "storage_options": self.storage_options,
        }

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        self._forget()

    def _forget(self) -> None:
        self._writing: lance.LanceDataset | None = None
        self._sorted: _Sorted | None = None
        self._sorting = threading.Lock()
        self._version: int | None = None
        self._commits = 0

    def _options(self) -> dict[str, str] | None:
        return lance_options(self.uri, self.storage_options)

    # ---- opening

    def exists(self) -> bool:
        """Whether the data set has been created."""
        return self._open() is not None

    def create(self) -> "Store":
        """Create the empty data set by an atomic commit if it does not exist; returns self.

        Raises StoreError if a data set of another schema is there.
        """
        import lance

        self._version = None  # whoever creates begins anew as the one driver
        dataset = self._open()
        if dataset is None:
            try:
                lance.write_dataset(
                    self.schema.empty_table(),
                    self.uri,
                    mode="create",
                    storage_options=self._options(),
                )
            except OSError as error:
                if "already exists" not in str(error):  # another process was first: then its schema counts
                    raise
            dataset = self._open()
            assert dataset is not None
        if not dataset.schema.equals(self.schema):
            raise StoreError(
                f"{self.uri}: {_schema_difference(dataset.schema, self.schema)}; it was written by another "
                "version or for another purpose: give a new folder"
            )
        return self

    def _open(self) -> "lance.LanceDataset | None":
        import lance

        try:
            return lance.dataset(
                self.uri,
                storage_options=self._options(),
                metadata_cache_size_bytes=_CACHE_BYTES,
                index_cache_size_bytes=_CACHE_BYTES,
            )
        except ValueError as error:
            if "was not found" in str(error):
                return None
            raise

    def _existing(self) -> "lance.LanceDataset":
        dataset = self._open()
        if dataset is None:
            raise StoreError(f"{self.uri}: no such data set; run the stage that writes it first")
        return dataset

    # ---- writing

    def write(self, table: pa.Table) -> str:
        """Write rows as fragments that nobody sees; returns what `commit` needs, as JSON.

        Runs on any machine that reaches the uri; the data set must have been created.
        Raises StoreError if the columns are not the store's.
        """
        from lance.fragment import write_fragments

        if not table.schema.equals(self.schema):
            raise StoreError(f"{self.uri}: {_schema_difference(table.schema, self.schema)}")
        if self._writing is None:  # the schema is fixed, so an old version does for all writes
            self._writing = self._existing()
        fragments = write_fragments(
            table,
            self._writing,
            schema=self.schema,
            mode="append",
            storage_options=self._options(),
        )
        return json.dumps([fragment.to_json() for fragment in fragments])

    def commit(self, written: Sequence[str]) -> int:
        """Make what `write` returned visible, all of it or nothing; returns the number of rows.

        Driver only. Raises StoreError if another driver has committed since this one's last commit:
        with two writers nobody can promise that no row is written twice.
        """
        import lance
        from lance.fragment import FragmentMetadata

        fragments = [
            FragmentMetadata.from_json(json.dumps(one)) for text in written for one in json.loads(text)
        ]
        if not fragments:
            return 0
        begun = time.monotonic()
        dataset = self._existing()
        if self._version is not None and dataset.version != self._version:
            raise StoreError(
                f"{self.uri}: at version {dataset.version} but this driver left it at {self._version}; "
                "another run writes to this folder: stop it, then start this one again"
            )
        committed = lance.LanceDataset.commit(
            dataset,
            lance.LanceOperation.Append(fragments),
            read_version=dataset.version,
            storage_options=self._options(),
        )
        self._version = committed.version
        self._commits += 1
        log.debug("%s: %d fragments in %.2f s", self.uri, len(fragments), time.monotonic() - begun)
        if self._commits % _COMMITS_BETWEEN_CLEANING == 0:
            # Each version's manifest lists every fragment: without this they grow quadratically.
            committed.cleanup_old_versions(older_than=timedelta(0))
        return sum(fragment.physical_rows for fragment in fragments)

    def append(self, table: pa.Table) -> int:
        """Write and commit rows in one step (driver only); returns their number."""
        return self.commit([self.write(table)]) if table.num_rows else 0

    def delete(self, keys: Iterable[str]) -> None:
        """Delete rows by key (driver only); keys that are not there are passed over."""
        todo = sorted(keys)
        dataset = self._open()
        if dataset is None or not todo:
            return
        for at in range(0, len(todo), _KEYS_AT_ONCE):
            quoted = ", ".join("'" + key.replace("'", "''") + "'" for key in todo[at : at + _KEYS_AT_ONCE])
            dataset.delete(f"`{self.key}` in ({quoted})")
        self._forget()

    def drop(self) -> None:
        """Delete the whole data set, if it is there (driver only)."""
        files, path = filesystem(self.uri, self.storage_options)
        if files.get_file_info(path).type != fs.FileType.NotFound:
            files.delete_dir(path)
        self._forget()

    def clean(self) -> None:
        """Delete old versions and the orphan files of killed runs. Only while nobody writes."""
        dataset = self._open()
        if dataset is not None:
            stats = dataset.cleanup_old_versions(older_than=timedelta(0), delete_unverified=True)
            if stats.data_files_removed:
                log.info("%s: removed %d orphan files", self.uri, stats.data_files_removed)

    def compact(self) -> None:
        """Merge small fragments, unless the data is heavy (then fragments are few and copying is dear)."""
        dataset = self._existing()
        fragments = dataset.get_fragments()
        sizes = [part.file_size_bytes or 0 for one in fragments for part in one.data_files()]
        if len(fragments) > 16 and sum(sizes) < _COMPACT_BELOW_BYTES * len(fragments):
            dataset.optimize.compact_files()
            dataset.cleanup_old_versions(older_than=timedelta(0))
            self._version = None

    # ---- reading

    def keys(self, filter: str | None = None) -> set[str]:
        """The committed keys; empty if the data set does not exist yet."""
        if not self.exists():
            return set()
        found: set[str] = set()
        for batch in self.batches([self.key], filter):
            found.update(batch.column(0).to_pylist())
        return found

    def count(self, filter: str | None = None) -> int:
        """Number of committed rows; 0 if the data set does not exist yet."""
        dataset = self._open()
        return 0 if dataset is None else dataset.count_rows(filter)

    def table(self, columns: Sequence[str] | None = None, filter: str | None = None) -> pa.Table:
        """Committed rows as one table, in commit order; leave heavy columns out. Empty if not created."""
        dataset = self._open()
        if dataset is None:
            empty = self.schema.empty_table()
            return empty if columns is None else empty.select(list(columns))
        return dataset.to_table(columns=None if columns is None else list(columns), filter=filter)

    def batches(
        self, columns: Sequence[str] | None = None, filter: str | None = None, *, rows: int = 8192
    ) -> Iterator[pa.RecordBatch]:
        """Stream committed rows, for what does not fit in memory."""
        yield from self._existing().to_batches(
            columns=None if columns is None else list(columns), filter=filter, batch_size=rows
        )

    def take(self, keys: Sequence[str], columns: Sequence[str] | None = None) -> pa.Table:
        """Rows by key, in the order of `keys`. Raises KeyError naming the keys that are not committed."""
        found = self._sorted or self._latest()
        positions = [found.position(key) for key in keys]
        if any(at is None for at in positions):
            found = self._latest()  # rows may have been committed since the last look
            positions = [found.position(key) for key in keys]
        missing = [key for key, at in zip(keys, positions, strict=True) if at is None]
        if missing:
            raise KeyError(f"{self.uri}: {len(missing)} keys not committed, first {missing[:3]}")
        chosen = None if columns is None else list(columns)
        if not positions:
            return self.table(chosen).slice(0, 0)
        return found.dataset.take(positions, columns=chosen)

    def _latest(self) -> "_Sorted":
        """The keys of the newest version; they are read only if it is newer than the one known."""
        with self._sorting:  # the threads that wait need not read them again
            dataset = self._existing()
            if self._sorted is None or self._sorted.dataset.version != dataset.version:
                self._sorted = _Sorted.read(dataset, self.key)
            return self._sorted


@dataclass(frozen=True, kw_only=True)
class _Sorted:
    """One version and where its rows are: 30 bytes a row in Arrow, where a dict of 1.55 M keys takes 0.25 GB."""

    dataset: "lance.LanceDataset"
    keys: pa.Array
    positions: np.ndarray  # int64, of each key's row

    @classmethod
    def read(cls, dataset: "lance.LanceDataset", key: str) -> "_Sorted":
        keys = dataset.to_table(columns=[key]).column(0).combine_chunks()
        order = pc.sort_indices(keys)
        return cls(dataset=dataset, keys=keys.take(order), positions=order.to_numpy())

    def position(self, key: str) -> int | None:
        at = bisect.bisect_left(range(len(self.keys)), key, key=lambda i: self.keys[i].as_py())
        found = at < len(self.keys) and self.keys[at].as_py() == key
        return int(self.positions[at]) if found else None


def _schema_difference(have: pa.Schema, want: pa.Schema) -> str:
    missing = [name for name in want.names if name not in have.names]
    extra = [name for name in have.names if name not in want.names]
    types = [
        f"{name} is {have.field(name).type}, not {want.field(name).type}"
        for name in want.names
        if name in have.names and not have.field(name).type.equals(want.field(name).type)
    ]
    return f"columns differ: missing {missing}, unexpected {extra}, types {types}"
