"""Random access to training pairs by row number, from one memory-mapped Arrow file per task.

Parquet and CSV have no fast random access, so `freeze` copies the pairs of a run to Arrow files before
training. Reading the rows of a step then takes microseconds, and processes share the memory pages. Pairs
hold texts and references; pixels stay in assets.lance.
"""

import hashlib
import json
import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from gve_ray.schema import ASSET_SCHEME, PAIR_SCHEMA, AssetRef, Item, Task
from gve_ray.training.schedule import hash_of

_ROWS = 1024  # rows per Arrow batch
_PROBED_FILES = 256  # local files per data set whose existence is checked before training


@dataclass(frozen=True, kw_only=True, eq=False)
class Pair:
    """One row of the pair schema. The query carries the instruction; the target and negatives have none."""

    pair_id: str
    query: Item
    target: Item
    negatives: tuple[Item, ...]


@dataclass(frozen=True, kw_only=True, eq=False)
class PairIds:
    """Ids of all pairs of a task, int64 [pairs] each.

    queries, targets: `identity_of` the item. sources: `id_of` what the target shows, see `source_of`.
    """

    queries: np.ndarray
    targets: np.ndarray
    sources: np.ndarray


def freeze(rows: Iterable[Mapping[str, Any] | None], path: str | os.PathLike[str]) -> int:
    """Write rows of `PAIR_SCHEMA` to an Arrow file, which appears only when complete.

    Rows that are None are skipped; returns their number.
    """
    target = Path(path)
    target.parent.mkdir(parents=True, exist_ok=True)
    part = target.with_name(f".{target.name}.{os.getpid()}.part")
    n_skipped = 0
    waiting: list[Mapping[str, Any]] = []
    with pa.OSFile(str(part), "wb") as sink, pa.ipc.new_file(sink, _FILE_SCHEMA) as writer:
        for row in rows:
            if row is None:
                n_skipped += 1
                continue
            waiting.append(row)
            if len(waiting) == _ROWS:
                writer.write_batch(pa.RecordBatch.from_pylist(waiting, schema=_FILE_SCHEMA))
                waiting = []
        if waiting:
            writer.write_batch(pa.RecordBatch.from_pylist(waiting, schema=_FILE_SCHEMA))
    os.replace(part, target)
    return n_skipped


# A file holds one task, so it needs no task column (a dictionary in each batch).
_FILE_SCHEMA = PAIR_SCHEMA.remove(PAIR_SCHEMA.get_field_index("task"))


class PairSet:
    """The pairs of one task by row number. The file is opened on first use, so a PairSet can be pickled.

    sample: maximum number of pairs, sampled with the seed; None: all. Raises ValueError if there are none.
    """

    def __init__(
        self, path: str | os.PathLike[str], *, name: str, task: Task, sample: int | None = None, seed: int = 0
    ) -> None:
        self.path, self.name, self.task = str(path), name, task
        self._sample, self._seed = sample, seed
        self._reader: Any = None
        self._chosen: np.ndarray | None = None
        self._size = 0

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_reader": None, "_chosen": None}

    def __len__(self) -> int:
        self._open()
        return self._size

    def take(self, rows: Sequence[int] | np.ndarray) -> list[Pair]:
        """Return the pairs at these rows, in order. Raises IndexError for a row that does not exist."""
        reader = self._open()
        numbers = np.asarray(rows, dtype=np.int64)
        if len(numbers) and not 0 <= numbers.min() <= numbers.max() < self._size:
            raise IndexError(f"{self.name}: rows {numbers.min()} to {numbers.max()} of {self._size} pairs")
        if self._chosen is not None:
            numbers = self._chosen[numbers]
        batches = {at: reader.get_batch(at) for at in np.unique(numbers // _ROWS).tolist()}
        values = (batches[row // _ROWS].slice(row % _ROWS, 1).to_pylist()[0] for row in numbers.tolist())
        return [pair_of(row) for row in values]

    def ids(self) -> PairIds:
        """Compute the ids of all pairs. It reads the file batch by batch and takes 24 bytes per pair."""
        reader = self._open()
        queries, targets, sources = (np.empty(self._size, dtype=np.int64) for _ in range(3))
        done = 0
        for at in range(reader.num_record_batches):
            batch = reader.get_batch(at)
            if self._chosen is not None:
                first, last = np.searchsorted(self._chosen, [at * _ROWS, (at + 1) * _ROWS])
                batch = batch.take(pa.array(self._chosen[first:last] - at * _ROWS))
            for query, target in zip(
                batch.column("query").to_pylist(), batch.column("target").to_pylist(), strict=True
            ):
                queries[done] = identity_of(Item(**query))
                targets[done] = identity_of(Item(**target))
                sources[done] = id_of(source_of(Item(**target)))
                done += 1
        return PairIds(queries=queries, targets=targets, sources=sources)

    def has_negatives(self) -> bool:
        """Whether any pair of the file has hard negatives."""
        reader = self._open()
        batches = (reader.get_batch(at) for at in range(reader.num_record_batches))
        return any(len(pc.list_flatten(batch.column("negatives"))) for batch in batches)

    def references(self) -> set[str]:
        """Return all media references in the file: assets (`asset://ID`, without the part), paths and URIs."""
        reader = self._open()
        references: set[str] = set()
        for at in range(reader.num_record_batches):
            batch = reader.get_batch(at)
            sides = [
                batch.column("query"),
                batch.column("target"),
                pc.list_flatten(batch.column("negatives")),
            ]
            for side in sides:
                for kind in ("image", "video"):
                    whole = pc.replace_substring_regex(
                        pc.struct_field(side, kind), f"^({ASSET_SCHEME}[^/]+)/.*", r"\1"
                    )
                    references.update(pc.unique(whole.drop_null()).to_pylist())
        return references

    def _open(self) -> Any:
        if self._reader is None:
            self._reader = pa.ipc.open_file(pa.memory_map(self.path))
            last = self._reader.num_record_batches - 1
            size = last * _ROWS + len(self._reader.get_batch(last)) if last >= 0 else 0
            if not size:
                raise ValueError(f"{self.name}: no pairs; drop it from the mixture or make pairs for it")
            if self._sample is not None and self._sample < size:
                rng = np.random.default_rng(hash_of(self._seed, self.name, "sample"))
                self._chosen = np.sort(rng.permutation(size)[: self._sample])
                size = self._sample
            self._size = size
        return self._reader


def pair_of(row: Mapping[str, Any]) -> Pair:
    """Convert a row of the pair schema to a `Pair`."""
    return Pair(
        pair_id=row["pair_id"],
        query=Item(**row["query"], instruction=row["instruction"]),
        target=Item(**row["target"]),
        negatives=tuple(Item(**item) for item in row["negatives"] or ()),
    )


def source_of(item: Item) -> str:
    """Return what an item shows: the id of its video, or else its file, or else its text.

    Items with equal sources are not negatives of each other. Raises TypeError for media in memory.
    """
    for media in (item.video, item.image):
        if media is None:
            continue
        if not isinstance(media, str):
            raise TypeError("source_of: media in memory; training pairs hold references")
        return AssetRef.parse(media).video_id if media.startswith(ASSET_SCHEME) else media
    return str(item.text)


def identity_of(item: Item) -> int:
    """Hash all that an item shows (text, image and video), but not its instruction. See `id_of`.

    Queries with an equal identity ask for the same thing, so their targets are not negatives of each other.
    Unlike in `source_of`, two texts about one image differ. Raises TypeError for media in memory.
    """
    parts = (item.text, item.image, item.video)
    if not all(part is None or isinstance(part, str) for part in parts):
        raise TypeError("identity_of: media in memory; training pairs hold references")
    return id_of(json.dumps(parts))


def id_of(text: str) -> int:
    """Hash a pair id or source to a signed 64-bit integer, the same on every machine."""
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8).digest(), "big", signed=True)


def check_references(sets: Iterable[PairSet], videos: set[str]) -> None:
    """Raise ValueError naming media references that do not resolve.

    videos: ids in assets.lance. For local files an evenly spaced sample of at least 256 per data set is
    checked, or all if there are fewer; remote URIs are not checked.
    """
    for pairs in sets:
        references = pairs.references()
        assets = {ref for ref in references if ref.startswith(ASSET_SCHEME)}
        lost = sorted(ref for ref in assets if AssetRef.parse(f"{ref}/video").video_id not in videos)
        _refuse(
            pairs.name, lost, "assets.lance has no such video; train with the assets its pairs were made from"
        )
        local = sorted(ref for ref in references - assets if "://" not in ref)
        spread = local[:: max(1, len(local) // _PROBED_FILES)]
        gone = [path for path in spread if not Path(path).exists()]
        _refuse(pairs.name, gone, "no such file; set the data set's `root` to where its media are")


def _refuse(name: str, lost: Sequence[str], why: str) -> None:
    if lost:
        raise ValueError(f"{name}: {len(lost)} references do not resolve, e.g. {', '.join(lost[:3])}: {why}")


def rows_of_parts(files: Any, paths: Sequence[str]) -> Iterator[Mapping[str, Any]]:
    """Yield the rows of Parquet files in the pair schema, in order. Raises ValueError if columns are missing."""
    import pyarrow.parquet as pq

    for path in paths:
        with files.open_input_file(path) as source:
            parquet = pq.ParquetFile(source)
            if missing := sorted(set(_FILE_SCHEMA.names) - set(parquet.schema_arrow.names)):
                raise ValueError(f"{path}: no column {', '.join(missing)}; parts are rows of the pair schema")
            for batch in parquet.iter_batches(columns=_FILE_SCHEMA.names):
                yield from batch.to_pylist()
