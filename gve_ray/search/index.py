"""The interface of all vector indexes, the types of its arguments, and the checks they share.

    index = create_index(folder, IndexSpec(dimension=64, fields={"year": "int"}), IndexOptions())
    index.add(["a"], vectors, [{"year": 2024}])           # float32 [1, 64]
    index.save()                                          # saved changes survive a crash
    hits = open_index(folder).search(queries, 10, filter={"year": {"gte": 2020}})

Scores are inner products. They are computed in float64 for the rows that an index has found, so all
kinds of index return the same numbers.
"""

import math
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, Protocol, Self

import numpy as np
import pyarrow as pa

from gve_ray.errors import shown
from gve_ray.search.exact import within
from gve_ray.store.faults import is_storage_fault, storage_fault

FieldType = Literal["string", "int", "float", "bool"]
Value = str | int | float | bool | None
Source = Literal["subtitles", "speech", "caption", "transcript", "name"]  # where words come from
Span = tuple[float, float]  # start and end, seconds
Filter = Mapping[str, Any]  # field -> condition; see gve_ray.search.filters

ARROW_TYPES = {"string": pa.string(), "int": pa.int64(), "float": pa.float64(), "bool": pa.bool_()}
RESERVED = frozenset({"id", "vector", "score"})
MAX_ID_BYTES = 256
_ROUNDING = 1e-5  # rounding error of an engine's own scores
_FIELD = re.compile(r"[A-Za-z][A-Za-z0-9_]*")
_SURROGATE = re.compile("[\ud800-\udfff]")
# The values that `fits` accepts, for messages.
FITTING = {
    "string": "a text of valid Unicode characters",
    "int": "a 64-bit integer",
    "float": "a finite number (an integer: of at most 64 bits)",
    "bool": "true or false",
}


class SearchError(ValueError):
    """A query or a row does not match the index: its dimension, its filter or its fields."""


class UnknownIdError(LookupError):
    """The index does not contain some of the given ids."""


class IndexFileError(RuntimeError):
    """A folder has no index, or one that cannot be read."""

    @classmethod
    def of(cls, error: Exception, uri: str, otherwise: str) -> Self:
        """Return the error to raise where opening or reading `uri` has failed.

        otherwise: what is wrong and what helps, unless the error comes from storage (`storage_fault`).
        """
        fault = storage_fault(error, uri) if is_storage_fault(error) else None
        return cls(fault or f"{uri}: {otherwise}")


class ExclusiveIndexError(IndexFileError):
    """Only one process can open this index, and another one needs it."""


@dataclass(frozen=True, kw_only=True)
class IndexSpec:
    """The rows of an index. dimension: of its vectors. fields: names and types of its metadata."""

    dimension: int
    fields: Mapping[str, FieldType] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if self.dimension < 1:
            raise ValueError(f"dimension={self.dimension}: use 1 or more")
        for name, kind in self.fields.items():
            if not _FIELD.fullmatch(name) or name in RESERVED:
                raise ValueError(
                    f"field {name!r}: use letters, digits and _, start with a letter, and avoid the names "
                    f"{', '.join(sorted(RESERVED))}"
                )
            if kind not in ARROW_TYPES:
                raise ValueError(f"field {name!r} is {kind!r}; use {', '.join(ARROW_TYPES)}")

    @property
    def schema(self) -> pa.Schema:
        """A complete row: id, vector and fields, as Arrow columns."""
        vector = pa.list_(pa.float32(), self.dimension)
        fields = [(name, ARROW_TYPES[kind]) for name, kind in self.fields.items()]
        return pa.schema([("id", pa.string()), ("vector", vector), *fields])


Structure = Literal[
    "FLAT", "SQ", "RQ", "IVF_SQ", "IVF_RQ", "HNSW_SQ", "IVF_FLAT", "IVF_PQ", "IVF_HNSW_SQ"
]  # fmt: skip
# Those of each kind; the first is the default. A Milvus server chooses its own.
STRUCTURES: Mapping[str, Sequence[Structure]] = {
    "faiss": ("FLAT", "SQ", "RQ", "IVF_SQ", "IVF_RQ", "HNSW_SQ"),
    "lance": ("IVF_RQ", "IVF_FLAT", "IVF_PQ", "IVF_HNSW_SQ"),
    "milvus": (),
}


@dataclass(frozen=True, kw_only=True)
class IndexOptions:
    """The kind of index, and how it searches.

    kind: "faiss" is in memory, and exact unless `structure` or `prefix` say otherwise. "lance" is on
    disk, and approximate. "milvus" is a server at `uri`; without `uri`, it is embedded in the folder,
    for one process at a time.

    structure: what an approximate search reads instead of the vectors; null means FLAT for faiss (all
    vectors) and IVF_RQ for lance. SQ has a byte for each dimension, RQ a bit, PQ a quarter of a byte.
    IVF groups vectors into cells, of which a search reads the nearest; HNSW links each vector to its
    neighbours. faiss has FLAT, SQ, RQ, IVF_SQ, IVF_RQ and HNSW_SQ; lance has IVF_RQ, IVF_FLAT, IVF_PQ and
    IVF_HNSW_SQ. prefix: for faiss, the number of dimensions, the first ones, that an approximate search
    reads; null means all. refine: an approximate search for k rows scores about refine * k rows by
    their full vectors. approximate_from: with fewer vectors, or fewer that pass the filter in faiss,
    each is compared with the query. cell: approximate number of vectors in one cell. probes: cells that
    a search reads; with a filter, as many more as rows do not pass. For HNSW, the neighbours that it
    keeps while it searches.

    For milvus: uri: of the server. token_variable: the environment variable with the access token.
    """

    kind: Literal["faiss", "lance", "milvus"] = "faiss"
    structure: Structure | None = None
    prefix: int | None = None
    refine: int = 8
    approximate_from: int = 20_000
    cell: int = 1024
    probes: int = 128
    uri: str | None = None
    token_variable: str = "MILVUS_TOKEN"

    def __post_init__(self) -> None:
        for name in ("approximate_from", "cell", "probes", "refine", "prefix"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise ValueError(f"search.{name}={value}: use 1 or more")
        if self.kind == "lance" and self.approximate_from < 256:
            raise ValueError(f"search.approximate_from={self.approximate_from}: use 256 or more")
        if self.structure is not None and self.structure not in STRUCTURES[self.kind]:
            known = ", ".join(STRUCTURES[self.kind]) or "none; leave it out"
            raise ValueError(f"search.structure={self.structure}: {self.kind} has {known}")
        if self.prefix is not None and self.kind != "faiss":
            raise ValueError(f"search.prefix={self.prefix}: only faiss searches a prefix; remove it")
        if self.uri is not None and self.kind != "milvus":
            raise ValueError(f"search.uri={self.uri!r}: only milvus uses a server; remove it")

    @property
    def chosen_structure(self) -> Structure | None:
        """The structure, or the default one of the kind; None for Milvus."""
        return self.structure or next(iter(STRUCTURES[self.kind]), None)

    def is_approximate(self, count: int) -> bool:
        """Return whether a search may miss some of the nearest of so many vectors."""
        is_exact = self.chosen_structure == "FLAT" and self.prefix is None
        return self.kind == "milvus" or (count >= self.approximate_from and not is_exact)


@dataclass(frozen=True, kw_only=True)
class Quote:
    """The words of a hit that match a query.

    source: where they come from. text: a part of that text. marks: start and end of each word that
    matches, in characters (Unicode code points) of `text`.
    """

    source: Source
    text: str
    marks: Sequence[tuple[int, int]]


@dataclass(frozen=True, kw_only=True)
class Hit:
    """One row of a result.

    score: inner product with the query. metadata: the value of each field, which may be None. matched:
    what a search by picture and by words has matched. words: those that have, if any.
    """

    id: str
    score: float
    metadata: Mapping[str, Value]
    matched: Sequence[Literal["picture", "words"]] = ("picture",)
    words: Quote | None = None


def span_of(hit: Hit) -> Span:
    """Return start and end of a segment."""
    start, end = hit.metadata["start"], hit.metadata["end"]
    assert isinstance(start, float)
    assert isinstance(end, float)
    return start, end


class VectorIndex(Protocol):
    """Vectors with metadata, stored in a folder.

    Only one process may change an index at a time; any number may search. After a crash, changes
    that were not saved may be lost or may be present, so a program that continues must compare
    `metadata`; saved changes are complete. Rows with equal scores are in the order of their ids. An
    approximate index may miss some of the nearest rows; the rows it finds are scored and ordered
    exactly.
    """

    spec: IndexSpec

    def add(self, ids: Sequence[str], vectors: np.ndarray, metadata: Sequence[Mapping[str, Value]]) -> None:
        """Add all of the rows, or none. vectors: float32 [n, d]. A field missing in a row is None.

        Raises SearchError for ids that repeat or exist already, a wrong dimension, vectors that are
        not finite, values that do not match the type of their field, and unknown fields.
        """

    def delete(self, ids: Sequence[str]) -> None:
        """Delete rows. Raises UnknownIdError, and deletes none, if an id does not exist."""

    def search(self, queries: np.ndarray, k: int, *, filter: Filter | None = None) -> list[list[Hit]]:
        """Return for each query the k rows with the largest inner products, best first.

        queries: float32 [n, d]. A list is shorter than k if fewer rows pass the filter. Raises
        SearchError for a wrong dimension, or a filter that does not match the fields.
        """

    def get(self, ids: Sequence[str]) -> tuple[np.ndarray, list[dict[str, Value]]]:
        """Return vectors, float32 [n, d], and metadata in the order of the ids.

        Raises UnknownIdError if an id does not exist.
        """

    def metadata_of(self, id: str) -> dict[str, Value]:
        """Return the metadata of one row, without reading its vector.

        Raises UnknownIdError if the id does not exist.
        """

    def ids(self) -> set[str]:
        """Return all ids."""

    def metadata(self) -> Iterator[tuple[str, dict[str, Value]]]:
        """Yield the id and metadata of every row, in any order, without reading the vectors."""

    def count(self, *, filter: Filter | None = None) -> int:
        """Return the number of rows that pass the filter."""

    def save(self) -> None:
        """Make all changes durable; other processes that open the folder see all of them or none."""

    def close(self) -> None:
        """Close files and connections."""

    def drop(self) -> None:
        """Close, and delete everything that the index keeps outside its folder."""


def table_of(
    spec: IndexSpec, ids: Sequence[str], vectors: np.ndarray, metadata: Sequence[Mapping[str, Value]]
) -> pa.Table:
    """Return rows as a table of `spec.schema`.

    Raises the same errors as `VectorIndex.add`, except for ids that exist already.
    """
    if not len(ids) == len(vectors) == len(metadata):
        raise SearchError(
            f"{len(ids)} ids, {len(vectors)} vectors, {len(metadata)} metadata: give the same number of each"
        )
    for key in ids:
        if key is None or not fits(key, "string") or not 0 < len(key.encode()) <= MAX_ID_BYTES:
            raise SearchError(f"id {shown(key)}: give a text of 1 to {MAX_ID_BYTES} bytes")
    if len(set(ids)) < len(ids):
        raise SearchError(f"ids repeat: {sorted({key for key in ids if ids.count(key) > 1})[:3]}")
    checked = check_vectors(spec, vectors)
    if unknown := sorted({name for row in metadata for name in row} - set(spec.fields)):
        raise SearchError(f"metadata {shown(unknown)}: no such fields; this index has {sorted(spec.fields)}")
    columns: list[pa.Array] = [
        pa.array(ids, pa.string()),
        pa.FixedSizeListArray.from_arrays(pa.array(checked.reshape(-1)), spec.dimension),
    ]
    for name, kind in spec.fields.items():
        values = [row.get(name) for row in metadata]
        for value in values:
            if not fits(value, kind):
                raise SearchError(
                    f"metadata {name}={shown(value)}: the field is {kind}; give {FITTING[kind]}"
                )
        columns.append(pa.array(values, ARROW_TYPES[kind]))
    return pa.Table.from_arrays(columns, schema=spec.schema)


def fits(value: object, kind: FieldType) -> bool:
    """Return whether a field of the type can hold the value; every field can hold None."""
    if value is None:
        return True
    if kind == "string":
        # JSON may contain half of a surrogate pair, which cannot be encoded as UTF-8.
        return isinstance(value, str) and not _SURROGATE.search(value)
    if kind == "bool" or isinstance(value, bool):
        return kind == "bool" and isinstance(value, bool)
    if isinstance(value, int):
        return -(2**63) <= value < 2**63
    return kind == "float" and isinstance(value, float) and math.isfinite(value)


def check_vectors(spec: IndexSpec, vectors: np.ndarray) -> np.ndarray:
    """Return the vectors as contiguous float32 [n, d].

    Raises SearchError for a wrong dimension or dtype, and for vectors that are not finite.
    """
    if vectors.ndim != 2 or vectors.shape[1] != spec.dimension:
        raise SearchError(
            f"vectors {vectors.shape}: this index has dimension {spec.dimension}, give [n, {spec.dimension}]; "
            "vectors of another model need another index"
        )
    if vectors.dtype != np.float32:
        raise SearchError(f"vectors are {vectors.dtype}: give float32")
    if not np.isfinite(vectors).all():
        raise SearchError("a vector is not finite: its embedding is invalid")
    return np.ascontiguousarray(vectors)


def check_depth(k: int) -> None:
    """Raise SearchError unless k is positive."""
    if k < 1:
        raise SearchError(f"k={k}: use 1 or more")


def check_known(ids: Sequence[str], known: set[str] | Mapping[str, object]) -> None:
    """Raise UnknownIdError, naming up to three, if some of the ids are not in `known`."""
    if missing := [key for key in ids if key not in known]:
        raise UnknownIdError(f"{len(missing)} ids are not in the index, first {missing[:3]}")


def check_new(ids: Sequence[str], known: set[str] | Mapping[str, object]) -> None:
    """Raise SearchError, naming up to three, if some of the ids are in `known`."""
    if existing := [key for key in ids if key in known]:
        raise SearchError(
            f"{len(existing)} ids are in the index already, first {existing[:3]}; delete them first"
        )


def matrix_of(column: pa.ChunkedArray, dimension: int) -> np.ndarray:
    """Return a column of vectors as float32 [n, dimension]."""
    parts = [chunk.flatten().to_numpy(zero_copy_only=False) for chunk in column.chunks]
    flat = parts[0] if len(parts) == 1 else np.concatenate([np.empty(0, np.float32), *parts])
    return flat.reshape(-1, dimension)


def rows_of(batches: Iterable[pa.RecordBatch]) -> Iterator[tuple[str, dict[str, Value]]]:
    """Yield the id and metadata of each row. batches: of `IndexSpec.schema` without the vectors."""
    for batch in batches:
        for row in batch.to_pylist():
            yield row.pop("id"), row


def best_hits(
    spec: IndexSpec, query: np.ndarray, k: int, nearest: Callable[[int], pa.Table], *, limit: int
) -> list[Hit]:
    """Return the best k rows for a query [d], scored and ordered as by `exact`.

    nearest: a function of an engine that returns the given number of nearest rows as a table of
    `spec.schema`, or fewer if there are no more. Of rows with equal scores an engine may return
    any. Therefore more are requested, up to `limit`, while the last row found is as good as the
    k-th.
    """
    depth = min(k + max(16, k // 4), limit)
    while True:
        candidates = nearest(depth)
        vectors = matrix_of(candidates.column("vector"), spec.dimension)
        id_ranks = np.argsort(np.argsort(np.array(candidates.column("id").to_pylist(), dtype=object)))
        rows, scores = within(query[None], vectors, [np.arange(len(vectors))], tie_break=id_ranks)
        if len(vectors) < depth or depth == limit or scores[0, -1] + _ROUNDING < scores[0, k - 1]:
            break
        depth = min(4 * depth, limit)
    best = rows_of(candidates.select(["id", *spec.fields]).take(pa.array(rows[0, :k])).to_batches())
    return hits_of(best, scores[0, :k])


def hits_of(rows: Iterable[tuple[str, dict[str, Value]]], scores: np.ndarray) -> list[Hit]:
    """Return a `Hit` for each row. scores: [n or more], of which the first n are used."""
    return [
        Hit(id=key, score=score, metadata=metadata)
        for (key, metadata), score in zip(rows, scores.tolist(), strict=False)
    ]
