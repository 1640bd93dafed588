"""Training pairs by row number, out of one Arrow file a task that all workers of a machine share.

Parquet and csv cannot be read at random; the pairs of a run are therefore copied once into Arrow files
(`freeze`), which are mapped into memory: a step's rows cost microseconds, and the pages are shared.
Pairs are texts and references; pixels stay in assets.lance.
"""

import hashlib
import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from gve_ray.schema import ASSET_SCHEME, PAIR_SCHEMA, AssetRef, Item, Task

_ROWS = 1024  # of an Arrow batch
_PROBED_FILES = 256  # of a set, looked for on disk before training


@dataclass(frozen=True, kw_only=True, eq=False)
class Pair:
    """One row of the pair schema. The query carries the instruction; the target and negatives have none."""

    pair_id: str
    query: Item
    target: Item
    negatives: tuple[Item, ...]
    domain: str | None
    style: str | None


@dataclass(frozen=True, kw_only=True)
class Frozen:
    """What `freeze` wrote: n_in = n_out + n_skipped."""

    n_out: int
    n_skipped: int


def freeze(rows: Iterable[Mapping[str, Any] | None], path: str | os.PathLike[str]) -> Frozen:
    """Write rows of `PAIR_SCHEMA` as an Arrow file, whole or not at all. None is a row to skip."""
    out = Path(path)
    out.parent.mkdir(parents=True, exist_ok=True)
    part = out.with_name(f".{out.name}.{os.getpid()}.part")
    n_out = n_skipped = 0
    waiting: list[Mapping[str, Any]] = []
    with pa.OSFile(str(part), "wb") as sink, pa.ipc.new_file(sink, _FILE_SCHEMA) as writer:
        for row in rows:
            if row is None:
                n_skipped += 1
                continue
            waiting.append(row)
            if len(waiting) == _ROWS:
                writer.write_batch(pa.RecordBatch.from_pylist(waiting, schema=_FILE_SCHEMA))
                n_out, waiting = n_out + _ROWS, []
        if waiting:
            writer.write_batch(pa.RecordBatch.from_pylist(waiting, schema=_FILE_SCHEMA))
    os.replace(part, out)
    return Frozen(n_out=n_out + len(waiting), n_skipped=n_skipped)


# The file is one task's: a dictionary column would only cost a dictionary a batch.
_FILE_SCHEMA = PAIR_SCHEMA.remove(PAIR_SCHEMA.get_field_index("task"))


class PairSet:
    """Pairs of one task, by row number. Opened on first use, so it can be sent to workers.

    sample: at most so many pairs, drawn by the seed; None takes all. Raises ValueError when there are none.
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
        """The pairs at these rows, in order."""
        reader = self._open()
        numbers = np.asarray(rows, dtype=np.int64)
        if len(numbers) and not 0 <= numbers.min() <= numbers.max() < self._size:
            raise IndexError(f"{self.name}: rows {numbers.min()} to {numbers.max()} of {self._size} pairs")
        if self._chosen is not None:
            numbers = self._chosen[numbers]
        batches = {at: reader.get_batch(at) for at in np.unique(numbers // _ROWS).tolist()}
        found = (batches[row // _ROWS].slice(row % _ROWS, 1).to_pylist()[0] for row in numbers.tolist())
        return [pair_of(row) for row in found]

    def has_negatives(self) -> bool:
        """Whether any pair of the file brings hard negatives of its own."""
        reader = self._open()
        batches = (reader.get_batch(at) for at in range(reader.num_record_batches))
        return any(len(pc.list_flatten(batch.column("negatives"))) for batch in batches)

    def references(self) -> set[str]:
        """Every reference to media in the file: asset references without their part, paths and URIs."""
        reader = self._open()
        found: set[str] = set()
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
                    found.update(pc.unique(whole.drop_null()).to_pylist())
        return found

    def _open(self) -> Any:
        if self._reader is None:
            self._reader = pa.ipc.open_file(pa.memory_map(self.path))
            last = self._reader.num_record_batches - 1
            size = last * _ROWS + len(self._reader.get_batch(last)) if last >= 0 else 0
            if not size:
                raise ValueError(f"{self.name}: no pairs; drop it from the mixture or make pairs for it")
            if self._sample is not None and self._sample < size:
                digest = hashlib.sha256(f"{self._seed}:{self.name}:sample".encode()).digest()
                rng = np.random.default_rng(int.from_bytes(digest[:16], "big"))
                self._chosen = np.sort(rng.permutation(size)[: self._sample])
                size = self._sample
            self._size = size
        return self._reader


def pair_of(row: Mapping[str, Any]) -> Pair:
    """A row of the pair schema as a `Pair`."""
    return Pair(
        pair_id=row["pair_id"],
        query=Item(**row["query"], instruction=row["instruction"]),
        target=Item(**row["target"]),
        negatives=tuple(Item(**one) for one in row["negatives"] or ()),
        domain=row["domain"],
        style=row["style"],
    )


def source_of(item: Item) -> str:
    """What an item shows: the id of its video, else its file, else its text. Equal sources are no negatives
    of each other. Raises TypeError for media in memory, which have no name.
    """
    for media in (item.video, item.image):
        if media is None:
            continue
        if not isinstance(media, str):
            raise TypeError("source_of: media in memory; training pairs hold references")
        return AssetRef.parse(media).video_id if media.startswith(ASSET_SCHEME) else media
    return str(item.text)


def id_of(text: str) -> int:
    """A signed 64-bit number for a pair id or source, equal on every machine."""
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8).digest(), "big", signed=True)


@dataclass(frozen=True, kw_only=True, eq=False)
class Corpus:
    """Targets of a set without repeats, for mining. positives: int64 [pairs], the row of each pair's target.
    groups: int64 [items], equal for targets that show the same source.
    """

    items: list[Item]
    positives: np.ndarray
    groups: np.ndarray


def corpus_of(pairs: Iterable[Pair]) -> Corpus:
    """The distinct targets of pairs, in order of appearance."""
    rows: dict[tuple[Any, ...], int] = {}
    items: list[Item] = []
    positives: list[int] = []
    for pair in pairs:
        target = pair.target
        key = (target.text, target.image, target.video)
        if key not in rows:
            rows[key] = len(items)
            items.append(target)
        positives.append(rows[key])
    groups = [id_of(source_of(item)) for item in items]
    return Corpus(
        items=items,
        positives=np.asarray(positives, dtype=np.int64),
        groups=np.asarray(groups, dtype=np.int64),
    )


def check_references(sets: Iterable[PairSet], videos: set[str]) -> None:
    """Raise ValueError naming the references that lead nowhere, before a step meets one.

    videos: ids in assets.lance. Local files are looked for by a spread of a few hundred; other URIs are not.
    """
    for one in sets:
        references = one.references()
        assets = {ref for ref in references if ref.startswith(ASSET_SCHEME)}
        lost = sorted(ref for ref in assets if AssetRef.parse(f"{ref}/video").video_id not in videos)
        _refuse(
            one.name, lost, "assets.lance has no such video; train with the assets its pairs were made from"
        )
        local = sorted(ref for ref in references - assets if "://" not in ref)
        spread = local[:: max(1, len(local) // _PROBED_FILES)]
        gone = [path for path in spread if not Path(path).exists()]
        _refuse(one.name, gone, "no such file; set the data set's `root` to where its media are")


def _refuse(name: str, lost: Sequence[str], why: str) -> None:
    if lost:
        raise ValueError(f"{name}: {len(lost)} references do not resolve, e.g. {', '.join(lost[:3])}: {why}")


def rows_of_parts(files: Any, paths: Sequence[str]) -> Iterator[Mapping[str, Any]]:
    """Rows of Parquet parts in the pair schema, in order. Raises ValueError where columns are missing."""
    import pyarrow.parquet as pq

    for path in paths:
        with files.open_input_file(path) as source:
            parquet = pq.ParquetFile(source)
            if missing := sorted(set(_FILE_SCHEMA.names) - set(parquet.schema_arrow.names)):
                raise ValueError(f"{path}: no column {', '.join(missing)}; parts are rows of the pair schema")
            for batch in parquet.iter_batches(columns=_FILE_SCHEMA.names):
                yield from batch.to_pylist()
