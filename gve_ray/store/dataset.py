"""Store rows in Lance data sets with atomic commits.

Workers write fragments (`Store.write`), which readers do not see. The driver makes many of them
visible by one atomic commit (`Store.commit`). A job that is started again processes the keys of its
input that are not in `Store.keys()`. If a process is killed between the two steps, no incomplete
rows are visible, only orphan files are left, which `Store.clean` deletes.

Trade-off: a store has only one writer (driver) at a time. A lock of its folder refuses a second one
(`RunFolder`), and the version check of `commit` detects one in spite of it.
"""

import bisect
import json
import logging
import operator
import os
import threading
import time
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from datetime import timedelta
from functools import reduce
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
_KEPT_VERSIONS = 10  # a reader may be opening one that was the newest when it looked
_KEYS_AT_ONCE = 1000  # in one SQL filter
# For the metadata of fragments. Lance's default is 1 GB, in each process.
_CACHE_BYTES = 32 * 2**20
_COMPACT_BELOW_BYTES = 4 * 2**20


class StoreError(RuntimeError):
    """A store does not have the expected schema, does not exist, or has a second writer."""


class Store:
    """One Lance data set with a fixed schema and a string key column.

    uri: path or object-store URI of the data set; credentials come from the environment. A store
    can be pickled, and opens nothing until it is used. Several threads may read from one object and
    commit to it at the same time; while one creates, deletes or drops, no other thread may use the
    object.
    """

    def __init__(self, uri: str, schema: pa.Schema, *, key: str = "video_id") -> None:
        if key not in schema.names:
            raise ValueError(f"key={key!r}: not a column of the schema; use one of {schema.names}")
        self.uri = str(uri)
        self.schema = schema
        self.key = key
        self._forget()

    def __getstate__(self) -> dict[str, Any]:
        return {"uri": self.uri, "schema": self.schema, "key": self.key}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        self._forget()

    def _forget(self) -> None:
        self._writing: lance.LanceDataset | None = None
        self._snapshot: _Snapshot | None = None
        self._snapshot_lock = threading.Lock()
        self._commit_lock = threading.Lock()
        self._version: int | None = None
        self._commits = 0

    # ---- Opening

    def exists(self) -> bool:
        """Return whether the data set has been created."""
        return self._open() is not None

    def create(self) -> "Store":
        """Create the empty data set by an atomic commit if it does not exist; return self.

        A data set without the last columns of the schema, from an earlier version, gets them, with null in
        its rows. Raises StoreError if a data set with another schema exists.
        """
        import lance

        self._version = None  # a driver that calls `create` becomes the one writer
        dataset = self._open()
        if dataset is None:
            try:
                options = lance_options(self.uri)
                lance.write_dataset(
                    self.schema.empty_table(), self.uri, mode="create", storage_options=options
                )
            except OSError as error:
                if "already exists" not in str(error):
                    raise
                # Another process has created it first; its schema is checked below.
            dataset = self._open()
            assert dataset is not None
        n_there = len(dataset.schema)
        if n_there < len(self.schema) and dataset.schema.equals(pa.schema(list(self.schema)[:n_there])):
            dataset.add_columns(pa.schema(list(self.schema)[n_there:]))
            dataset = self._existing()
        if not dataset.schema.equals(self.schema):
            raise StoreError(
                f"{self.uri}: {_schema_difference(dataset.schema, self.schema)}; it was written by another "
                "version or for another purpose; name a new folder"
            )
        return self

    def _open(self) -> "lance.LanceDataset | None":
        import lance

        if os.path.isfile(self.uri):  # Lance would try to list it again and again, for two seconds
            return None
        try:
            return lance.dataset(
                self.uri,
                storage_options=lance_options(self.uri),
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

    # ---- Writing

    def write(self, table: pa.Table) -> str:
        """Write rows as fragments that are not visible yet; return what `commit` needs, as JSON.

        Any machine that can access the URI may call this. Raises StoreError if the schema differs,
        or the data set has not been created.
        """
        from lance.fragment import write_fragments

        if not table.schema.equals(self.schema):
            raise StoreError(f"{self.uri}: {_schema_difference(table.schema, self.schema)}")
        if self._writing is None:  # the schema is fixed, so any version can be used for all writes
            self._writing = self._existing()
        options = lance_options(self.uri)
        fragments = write_fragments(
            table, self._writing, schema=self.schema, mode="append", storage_options=options
        )
        return json.dumps([fragment.to_json() for fragment in fragments])

    def commit(self, written: Sequence[str]) -> int:
        """Make fragments visible in one step; return their number of rows.

        written: results of `write`. Only the driver may call this. Raises StoreError if another
        driver has committed since the last commit of this one, because two writers could write a
        row twice.
        """
        from lance.fragment import FragmentMetadata

        fragments = [
            FragmentMetadata.from_json(json.dumps(fragment))
            for text in written
            for fragment in json.loads(text)
        ]
        if not fragments:
            return 0
        with self._commit_lock:
            self._commit(fragments)
        return sum(fragment.physical_rows for fragment in fragments)

    def _commit(self, fragments: "Sequence[Any]") -> None:
        import lance

        started = time.monotonic()
        dataset = self._existing()
        if self._version is not None and dataset.version != self._version:
            raise StoreError(
                f"{self.uri}: has version {dataset.version}, but this driver's last commit was version "
                f"{self._version}; another run writes to this folder: stop it, then start this one again"
            )
        committed = lance.LanceDataset.commit(
            dataset,
            lance.LanceOperation.Append(fragments),
            read_version=dataset.version,
            storage_options=lance_options(self.uri),
        )
        self._version = committed.version
        self._commits += 1
        log.debug("%s: %d fragments in %.2f s", self.uri, len(fragments), time.monotonic() - started)
        if self._commits % _COMMITS_BETWEEN_CLEANING == 0:
            # The manifest of each version lists all fragments, so keeping old versions would need
            # space quadratic in the number of commits.
            committed.cleanup_old_versions(retain_versions=_KEPT_VERSIONS)

    def append(self, table: pa.Table) -> int:
        """Write and commit rows (driver only); return their number."""
        return self.commit([self.write(table)]) if table.num_rows else 0

    def delete(self, keys: Iterable[str]) -> None:
        """Delete rows by key (driver only); keys that do not exist are ignored."""
        todo = sorted(keys)
        dataset = self._open()
        if dataset is None or not todo:
            return
        for start in range(0, len(todo), _KEYS_AT_ONCE):
            batch = todo[start : start + _KEYS_AT_ONCE]
            quoted = ", ".join("'" + key.replace("'", "''") + "'" for key in batch)
            dataset.delete(f"`{self.key}` in ({quoted})")
        self._forget()

    def drop(self) -> None:
        """Delete the whole data set if it exists (driver only)."""
        files, path = filesystem(self.uri)
        if files.get_file_info(path).type != fs.FileType.NotFound:
            files.delete_dir(path)
        self._forget()

    def clean(self) -> None:
        """Delete old versions and orphan files of killed runs. No process may write meanwhile."""
        dataset = self._open()
        if dataset is not None:
            stats = dataset.cleanup_old_versions(older_than=timedelta(0), delete_unverified=True)
            if stats.data_files_removed:
                log.info("%s: removed %d orphan files", self.uri, stats.data_files_removed)

    def compact(self) -> None:
        """Merge small fragments.

        Does nothing if fragments are large: there are fewer of them, and copying is expensive.
        """
        dataset = self._existing()
        fragments = dataset.get_fragments()
        sizes = [file.file_size_bytes or 0 for fragment in fragments for file in fragment.data_files()]
        if len(fragments) > 16 and sum(sizes) < _COMPACT_BELOW_BYTES * len(fragments):
            dataset.optimize.compact_files()
            dataset.cleanup_old_versions(older_than=timedelta(0))
            self._version = None

    # ---- Reading

    def keys(self, filter: str | None = None) -> set[str]:
        """Return the committed keys; empty if the data set does not exist yet."""
        if not self.exists():
            return set()
        return {key for batch in self.batches([self.key], filter) for key in batch.column(0).to_pylist()}

    def columns(self) -> list[str]:
        """Return the columns of the data set; one of an earlier version may lack the last of the schema."""
        return list(self._existing().schema.names)

    def count(self, filter: str | None = None) -> int:
        """Return the number of committed rows; 0 if the data set does not exist yet."""
        dataset = self._open()
        return 0 if dataset is None else dataset.count_rows(filter)

    def table(self, columns: Sequence[str] | None = None, filter: str | None = None) -> pa.Table:
        """Return committed rows as one table, in the order of commits.

        It is empty if the data set does not exist yet. Do not request columns with large values.
        """
        dataset = self._open()
        if dataset is None:
            empty = self.schema.empty_table()
            return empty if columns is None else empty.select(list(columns))
        return dataset.to_table(columns=None if columns is None else list(columns), filter=filter)

    def batches(
        self, columns: Sequence[str] | None = None, filter: str | None = None, *, rows: int = 8192
    ) -> Iterator[pa.RecordBatch]:
        """Stream committed rows, for data that does not fit in memory."""
        yield from self._existing().to_batches(
            columns=None if columns is None else list(columns), filter=filter, batch_size=rows
        )

    def select(
        self,
        keys: pa.Array | pa.ChunkedArray | None = None,
        columns: Sequence[str] | None = None,
        *,
        rows: int = 8192,
        by_key: bool = False,
    ) -> Iterator[pa.RecordBatch]:
        """Stream the rows of those keys that are committed, in the order of commits.

        keys: by default all. by_key: in the order of keys.
        """
        if self._open() is None:
            return
        snapshot = self._latest()
        positions = snapshot.positions(keys)
        if not by_key:
            positions = np.sort(positions)
            if len(positions) == snapshot.rows:
                yield from self.batches(columns, rows=rows)
                return
        for start in range(0, len(positions), rows):
            some = positions[start : start + rows].tolist()
            table = snapshot.dataset.take(some, columns=None if columns is None else list(columns))
            yield from table.combine_chunks().to_batches()

    def take(self, keys: Sequence[str], columns: Sequence[str] | None = None) -> pa.Table:
        """Return rows by key, in the order of `keys`. Raises KeyError if a key is not committed."""
        snapshot = self._snapshot or self._latest()
        positions = [snapshot.position(key) for key in keys]
        if any(position is None for position in positions):
            snapshot = self._latest()  # rows may have been committed since the snapshot was read
            positions = [snapshot.position(key) for key in keys]
        missing = [key for key, position in zip(keys, positions, strict=True) if position is None]
        if missing:
            raise KeyError(f"{self.uri}: {len(missing)} keys not committed, first {missing[:3]}")
        if not positions:
            return self.table(columns).slice(0, 0)
        return snapshot.dataset.take(positions, columns=None if columns is None else list(columns))

    def _latest(self) -> "_Snapshot":
        """Return a snapshot of the newest version; the keys are read only if the version is new."""
        with self._snapshot_lock:  # other threads wait instead of reading the same keys
            dataset = self._existing()
            if self._snapshot is None or self._snapshot.dataset.version != dataset.version:
                self._snapshot = _Snapshot.read(dataset, self.key, self._snapshot)
            return self._snapshot


@dataclass(frozen=True, kw_only=True)
class _Snapshot:
    """One version of a data set, and the position of each key's row.

    fragments: their ids in order. rows: number of rows. runs: sorted keys with the positions of their
    rows; each is at least twice as long as the next. Rows that were committed since an earlier
    snapshot become a separate run, so that not all keys are read and sorted again. Arrow arrays
    take 30 bytes per row; a dict of 1.55 million keys would take 0.25 GB.
    """

    dataset: "lance.LanceDataset"
    fragments: Sequence[int]
    rows: int
    runs: "Sequence[_Run]"

    @classmethod
    def read(cls, dataset: "lance.LanceDataset", key: str, earlier: "_Snapshot | None" = None) -> "_Snapshot":
        """Read the keys, those of `earlier` only if its rows are no longer the first ones."""
        fragments = dataset.get_fragments()
        ids = [fragment.fragment_id for fragment in fragments]
        total = dataset.count_rows()
        if earlier is not None and ids[: len(earlier.fragments)] == earlier.fragments:
            new = fragments[len(earlier.fragments) :]
            if earlier.rows + sum(fragment.count_rows() for fragment in new) == total:  # nothing was deleted
                runs = earlier.runs
                if new:
                    added = dataset.scanner(columns=[key], fragments=new).to_table().column(0)
                    runs = _merged([*runs, _Run.of(added.combine_chunks(), earlier.rows)])
                return cls(dataset=dataset, fragments=ids, rows=total, runs=runs)
        all_keys = dataset.to_table(columns=[key]).column(0).combine_chunks()
        return cls(dataset=dataset, fragments=ids, rows=total, runs=[_Run.of(all_keys, 0)])

    def position(self, key: str) -> int | None:
        """Return the position of a key's row, or None if the key does not exist."""
        return next((found for run in self.runs if (found := run.position(key)) is not None), None)

    def positions(self, keys: pa.Array | pa.ChunkedArray | None) -> np.ndarray:
        """Return the positions of the rows of these keys, int64 [n], in the order of keys. None means all keys."""
        runs = self.runs if keys is None else [run.among(keys) for run in self.runs]
        return reduce(operator.add, runs).positions


@dataclass(frozen=True)
class _Run:
    """Sorted keys, and the positions of their rows, int64 [n]."""

    keys: pa.Array
    positions: np.ndarray

    @classmethod
    def of(cls, keys: pa.Array, first: int) -> "_Run":
        """Return the run of keys whose rows follow each other from position `first`."""
        return cls._sorted(keys, np.arange(first, first + len(keys), dtype=np.int64))

    @classmethod
    def _sorted(cls, keys: pa.Array, positions: np.ndarray) -> "_Run":
        order = pc.sort_indices(keys)
        return cls(keys.take(order), positions[order.to_numpy()])

    def __add__(self, other: "_Run") -> "_Run":
        keys = pa.concat_arrays([self.keys, other.keys])
        return self._sorted(keys, np.concatenate([self.positions, other.positions]))

    def among(self, keys: pa.Array | pa.ChunkedArray) -> "_Run":
        """Return the run of those keys that are also in `keys`."""
        is_wanted = pc.is_in(self.keys, value_set=keys)
        return _Run(self.keys.filter(is_wanted), self.positions[is_wanted.to_numpy(zero_copy_only=False)])

    def position(self, key: str) -> int | None:
        i = bisect.bisect_left(range(len(self.keys)), key, key=lambda j: self.keys[j].as_py())
        exists = i < len(self.keys) and self.keys[i].as_py() == key
        return int(self.positions[i]) if exists else None


def _merged(runs: Sequence[_Run]) -> Sequence[_Run]:
    """Merge the last runs while one is less than twice as long as the next, so that there are few."""
    runs = list(runs)
    while len(runs) > 1 and len(runs[-2].keys) < 2 * len(runs[-1].keys):
        last = runs.pop()
        runs[-1] = runs[-1] + last
    return runs


def _schema_difference(actual: pa.Schema, expected: pa.Schema) -> str:
    missing = [name for name in expected.names if name not in actual.names]
    extra = [name for name in actual.names if name not in expected.names]
    types = [
        f"{name} is {actual.field(name).type}, not {expected.field(name).type}"
        for name in expected.names
        if name in actual.names and not actual.field(name).type.equals(expected.field(name).type)
    ]
    return f"columns differ: missing {missing}, unexpected {extra}, types {types}"
