"""What every index of vectors can do, and the checks they share.

    index = create_index(folder, IndexSpec(dimension=64, fields={"year": "int"}), IndexOptions())
    index.add(["a"], vectors, [{"year": 2024}])           # float32 [1, 64]
    index.save()                                          # what is saved survives anything
    hits = open_index(folder).search(queries, 10, filter={"year": {"gte": 2020}})

Scores are inner products, computed anew in float64 over what an index found: all kinds give the same numbers.
"""

import math
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, Protocol

import numpy as np
import pyarrow as pa

from gve_ray.search.exact import within

FieldType = Literal["string", "int", "float", "bool"]
Value = str | int | float | bool | None
Filter = Mapping[str, Any]  # field -> condition; gve_ray.search.filters says which

ARROW_TYPES = {"string": pa.string(), "int": pa.int64(), "float": pa.float64(), "bool": pa.bool_()}
RESERVED = frozenset({"id", "vector", "score"})
LONGEST_ID = 256  # bytes
_ROUNDING = 1e-5  # of an engine's scores
_FIELD = re.compile(r"[A-Za-z][A-Za-z0-9_]*")
_SURROGATE = re.compile("[\ud800-\udfff]")
# What `fits` asks of a value, for messages.
FITTING = {
    "string": "a text of whole characters",
    "int": "a whole number of 64 bits",
    "float": "a finite number (a whole one: of 64 bits)",
    "bool": "true or false",
}


class SearchError(ValueError):
    """A query or a row does not fit the index: its dimension, its filter, its fields."""


class UnknownIdError(LookupError):
    """Ids that the index does not hold."""


class IndexFileError(RuntimeError):
    """A folder holds no index, or one that cannot be read."""


@dataclass(frozen=True, kw_only=True)
class IndexSpec:
    """What the rows of an index are. dimension: of its vectors. fields: name and type of its metadata."""

    dimension: int
    fields: Mapping[str, FieldType] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if self.dimension < 1:
            raise ValueError(f"dimension={self.dimension}: use 1 or more")
        for name, kind in self.fields.items():
            if not _FIELD.fullmatch(name) or name in RESERVED:
                raise ValueError(
                    f"field {name!r}: use letters, digits and _, a letter first, and none of "
                    f"{', '.join(sorted(RESERVED))}"
                )
            if kind not in ARROW_TYPES:
                raise ValueError(f"field {name!r} is {kind!r}; use {', '.join(ARROW_TYPES)}")

    @property
    def metadata_schema(self) -> pa.Schema:
        """The fields as Arrow columns."""
        return pa.schema([(name, ARROW_TYPES[kind]) for name, kind in self.fields.items()])

    @property
    def schema(self) -> pa.Schema:
        """A whole row: id, vector, fields."""
        vector = pa.list_(pa.float32(), self.dimension)
        return pa.schema([("id", pa.string()), ("vector", vector), *self.metadata_schema])


@dataclass(frozen=True, kw_only=True)
class IndexOptions:
    """Which index, and how it searches.

    kind: faiss is exact and in memory; lance is on disk, and approximate from `approximate_from` vectors on;
    milvus is a server's (`uri`), or embedded in the folder without one, for one process at a time.
    lance: what is approximate is `structure`; a cell of it holds about `cell` vectors, and `probes` cells are
    searched; `refine` times as many rows as asked for are scored by their full vectors.
    milvus: the key is in the environment variable `token_variable`.
    """

    kind: Literal["faiss", "lance", "milvus"] = "faiss"
    approximate_from: int = 20_000
    structure: Literal["IVF_RQ", "IVF_HNSW_SQ", "IVF_PQ", "IVF_FLAT"] = "IVF_RQ"
    cell: int = 1024
    probes: int = 128
    refine: int = 8
    uri: str | None = None
    token_variable: str = "MILVUS_TOKEN"

    def __post_init__(self) -> None:
        for name in ("approximate_from", "cell", "probes", "refine"):
            value = getattr(self, name)
            if value < 1:
                raise ValueError(f"search.{name}={value}: use 1 or more")
        if self.approximate_from < 256:
            raise ValueError(f"search.approximate_from={self.approximate_from}: use 256 or more")
        if self.uri is not None and self.kind != "milvus":
            raise ValueError(f"search.uri={self.uri!r}: only milvus has a server; leave it out")


@dataclass(frozen=True, kw_only=True)
class Hit:
    """One row found. score: inner product with the query. metadata: a value for each field, or None."""

    id: str
    score: float
    metadata: Mapping[str, Value]


class VectorIndex(Protocol):
    """Vectors with metadata, in a folder. One process may change it at a time; any number may search.

    What was changed but not saved may be lost in a crash, or be there: whoever goes on after one compares
    `metadata`. What was saved is whole. Equal scores come in the order of the ids. An approximate index may miss
    some of the nearest rows; what it finds is scored and ordered like all others.
    """

    spec: IndexSpec

    def add(self, ids: Sequence[str], vectors: np.ndarray, metadata: Sequence[Mapping[str, Value]]) -> None:
        """Add rows, or none of them. vectors: float32 [n, d]. A field that a row does not name is None.

        Raises SearchError for ids that repeat or are there already, a wrong dimension, a value that is no
        number or not of its field's type, and unknown fields.
        """

    def delete(self, ids: Sequence[str]) -> None:
        """Delete rows. Raises UnknownIdError, and deletes none, if one is not there."""

    def search(self, queries: np.ndarray, k: int, *, filter: Filter | None = None) -> list[list[Hit]]:
        """For each query, float32 [n, d], the k rows of largest inner product, best first; fewer if there are.

        Raises SearchError for a wrong dimension or a filter that does not fit the fields.
        """

    def get(self, ids: Sequence[str]) -> tuple[np.ndarray, list[dict[str, Value]]]:
        """Vectors float32 [n, d] and metadata of rows, in order. Raises UnknownIdError."""

    def ids(self) -> set[str]:
        """All ids."""

    def metadata(self) -> Iterator[tuple[str, dict[str, Value]]]:
        """Id and metadata of every row, in any order, without reading the vectors."""

    def count(self, *, filter: Filter | None = None) -> int:
        """Number of rows that pass the filter."""

    def save(self) -> None:
        """Make all changes durable: a process that opens the folder sees all of them, or before that none."""

    def close(self) -> None:
        """Give back files and connections."""

    def drop(self) -> None:
        """Close, and delete what the index keeps outside its folder."""


def table_of(
    spec: IndexSpec, ids: Sequence[str], vectors: np.ndarray, metadata: Sequence[Mapping[str, Value]]
) -> pa.Table:
    """Rows as a table of `spec.schema`. Raises SearchError as `VectorIndex.add`, but for ids already there."""
    if not len(ids) == len(vectors) == len(metadata):
        raise SearchError(f"{len(ids)} ids, {len(vectors)} vectors, {len(metadata)} metadata: one each")
    for one in ids:
        if one is None or not fits(one, "string") or not 0 < len(one.encode()) <= LONGEST_ID:
            raise SearchError(f"id {one!r}: a text of 1 to {LONGEST_ID} bytes")
    if len(set(ids)) < len(ids):
        raise SearchError(f"ids repeat: {sorted({one for one in ids if ids.count(one) > 1})[:3]}")
    checked = check_vectors(spec, vectors)
    if unknown := sorted({name for row in metadata for name in row} - set(spec.fields)):
        raise SearchError(f"metadata {unknown}: no such fields; this index has {sorted(spec.fields)}")
    columns: list[pa.Array] = [
        pa.array(ids, pa.string()),
        pa.FixedSizeListArray.from_arrays(pa.array(checked.reshape(-1)), spec.dimension),
    ]
    for name, kind in spec.fields.items():
        values = [row.get(name) for row in metadata]
        for value in values:
            if not fits(value, kind):
                raise SearchError(f"metadata {name}={value!r}: the field is {kind}; give {FITTING[kind]}")
        columns.append(pa.array(values, ARROW_TYPES[kind]))
    return pa.Table.from_arrays(columns, schema=spec.schema)


def fits(value: object, kind: FieldType) -> bool:
    """Whether a value can be in a field of a type; None always can."""
    if value is None:
        return True
    if kind == "string":
        # Half of a surrogate pair, as JSON may hold, cannot be written as UTF-8.
        return isinstance(value, str) and not _SURROGATE.search(value)
    if kind == "bool" or isinstance(value, bool):
        return kind == "bool" and isinstance(value, bool)
    if isinstance(value, int):
        return -(2**63) <= value < 2**63
    return kind == "float" and isinstance(value, float) and math.isfinite(value)


def check_vectors(spec: IndexSpec, vectors: np.ndarray) -> np.ndarray:
    """The vectors, contiguous float32 [n, d]. Raises SearchError if they are not of the index's dimension."""
    if vectors.ndim != 2 or vectors.shape[1] != spec.dimension:
        raise SearchError(
            f"vectors {vectors.shape}: this index has dimension {spec.dimension}, give [n, {spec.dimension}]; "
            "another model's vectors need another index"
        )
    if vectors.dtype != np.float32:
        raise SearchError(f"vectors are {vectors.dtype}: give float32")
    if not np.isfinite(vectors).all():
        raise SearchError("a vector is not finite: its embedding is broken")
    return np.ascontiguousarray(vectors)


def check_depth(k: int) -> None:
    """Raises SearchError unless k is positive."""
    if k < 1:
        raise SearchError(f"k={k}: use 1 or more")


def check_known(ids: Sequence[str], known: set[str] | Mapping[str, object]) -> None:
    """Raises UnknownIdError, naming some, if one of the ids is not known."""
    if missing := [one for one in ids if one not in known]:
        raise UnknownIdError(f"{len(missing)} ids are not in the index, first {missing[:3]}")


def check_new(ids: Sequence[str], known: set[str] | Mapping[str, object]) -> None:
    """Raises SearchError, naming some, if one of the ids is known."""
    if there := [one for one in ids if one in known]:
        raise SearchError(f"{len(there)} ids are in the index already, first {there[:3]}; delete them first")


def matrix_of(column: pa.ChunkedArray, dimension: int) -> np.ndarray:
    """A column of vectors as float32 [n, dimension]."""
    parts = [chunk.flatten().to_numpy(zero_copy_only=False) for chunk in column.chunks]
    flat = parts[0] if len(parts) == 1 else np.concatenate([np.empty(0, np.float32), *parts])
    return flat.reshape(-1, dimension)


def rows_of(batches: Iterable[pa.RecordBatch]) -> Iterator[tuple[str, dict[str, Value]]]:
    """Id and metadata of each row of batches of `IndexSpec.schema` without vectors."""
    for batch in batches:
        for row in batch.to_pylist():
            yield row.pop("id"), row


def best_hits(
    spec: IndexSpec, query: np.ndarray, k: int, nearest: Callable[[int], pa.Table], *, most: int
) -> list[Hit]:
    """The best k rows for a query [d], scored and ordered as by `exact`, from an engine that finds candidates.

    nearest: gives about so many rows of `spec.schema`, fewer if there are no more. Of equal scores an engine
    may return any, so it is asked for more while the last one it found is as good as the k-th, up to `most`.
    """
    depth = min(k + max(16, k // 4), most)
    while True:
        found = nearest(depth)
        vectors = matrix_of(found.column("vector"), spec.dimension)
        places = np.argsort(np.argsort(np.array(found.column("id").to_pylist(), dtype=object)))
        rows, scores = within(query[None], vectors, [np.arange(len(vectors))], tie_break=places)
        if len(vectors) < depth or depth == most or scores[0, -1] + _ROUNDING < scores[0, k - 1]:
            break
        depth = min(4 * depth, most)
    best = found.select(["id", *spec.fields]).take(pa.array(rows[0, :k])).to_pylist()
    return [hit(row, score) for row, score in zip(best, scores[0, :k].tolist(), strict=True)]


def hit(row: dict[str, Any], score: float) -> Hit:
    """A row (id and fields) with its score."""
    return Hit(id=row.pop("id"), score=score, metadata=row)
