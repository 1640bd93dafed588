"""What the last finished run left of each video, and what a new one changes: pure, but for two file calls."""

import hashlib
import json
import math
import os
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import pyarrow as pa
import pyarrow.parquet as pq
from pyarrow import fs

from gve_ray.job import PreflightError
from gve_ray.search.index import RESERVED, FieldType, IndexSpec, Value
from gve_ray.search.library import FIELDS
from gve_ray.store.runfolder import filesystem, write_atomically

FILE = "catalog.parquet"
CATALOG_SCHEMA = pa.schema(
    [
        ("video_id", pa.string()),
        ("uri", pa.string()),
        ("version", pa.string()),
        ("fingerprint", pa.string()),  # sha256 of the file; null where it could not be read
        ("metadata", pa.string()),  # JSON: caption, and the manifest's other columns
        ("segments", pa.int64()),  # in the index
        ("lost", pa.int64()),  # segments that could not be embedded
        ("reason", pa.string()),  # why none of it is in the index; null where some is
        ("detail", pa.string()),
    ]
)
State = Literal["added", "changed", "unchanged", "rejected", "removed"]


@dataclass(frozen=True, kw_only=True)
class Change:
    """What a run does to the videos. state: by video_id, those removed included."""

    state: Mapping[str, State]

    def counts(self) -> dict[str, int]:
        """How many videos are in each state: added + changed + unchanged + rejected are the input."""
        found = Counter(self.state.values())
        names: tuple[State, ...] = ("added", "changed", "unchanged", "rejected", "removed")
        return {name: found[name] for name in names}


def version_of(video_id: str, uri: str, stamp: str) -> str:
    """Names a file as it is now: 32 hex digits."""
    return hashlib.sha256(json.dumps([video_id, uri, stamp]).encode()).hexdigest()[:32]


def compare(before: Sequence[Mapping[str, Any]], now: Sequence[Mapping[str, Any]]) -> Change:
    """Two catalogs, rows of `CATALOG_SCHEMA`. A video that was rejected before counts as added once it is not."""
    known = {row["video_id"]: row for row in before}
    state: dict[str, State] = {}
    for row in now:
        video_id, old = row["video_id"], known.get(row["video_id"])
        if row["reason"] is not None:
            state[video_id] = "rejected"
        elif old is None or old["reason"] is not None:
            state[video_id] = "added"
        elif any(old[name] != row[name] for name in ("metadata", "uri", "fingerprint", "segments")):
            state[video_id] = "changed"
        else:
            state[video_id] = "unchanged"
    state |= {
        row["video_id"]: "removed" for row in before if row["video_id"] not in state and row["reason"] is None
    }
    return Change(state=state)


def read_catalog(folder: str | os.PathLike[str]) -> list[dict[str, Any]]:
    """Rows of the last finished run in a folder, by its path or URI; none before the first."""
    files, path = filesystem(f"{folder}/{FILE}")
    if files.get_file_info(path).type != fs.FileType.File:
        return []
    return pq.read_table(path, schema=CATALOG_SCHEMA, filesystem=files).to_pylist()


def write_catalog(folder: str | os.PathLike[str], rows: Iterable[Mapping[str, Any]]) -> None:
    """Replace the catalog as a whole."""
    sink = pa.BufferOutputStream()
    pq.write_table(pa.Table.from_pylist([dict(row) for row in rows], schema=CATALOG_SCHEMA), sink)
    files, path = filesystem(f"{folder}/{FILE}")
    write_atomically(files, path, sink.getvalue().to_pybytes())


def user_fields(source: str, metadata: Iterable[Mapping[str, Any]]) -> dict[str, FieldType]:
    """Names and types of a manifest's own columns, by their values; what is no number or truth value is text.

    Raises PreflightError for a name that cannot be a field.
    """
    types: dict[str, set[FieldType]] = {}
    for row in metadata:
        for name, value in row.items():
            kinds = types.setdefault(name, set())
            if value is not None:
                kinds.add(_type_of(value))
    found: dict[str, FieldType] = {}
    for name, kinds in sorted(types.items()):
        if name in FIELDS or name in RESERVED:
            raise PreflightError(
                f"input={source!r}: column {name!r} is one that the index has itself; rename it"
            )
        if len(kinds) == 1:
            (found[name],) = kinds
        else:
            found[name] = "float" if kinds == {"int", "float"} else "string"
        try:
            IndexSpec(dimension=1, fields={name: found[name]})
        except ValueError as error:
            raise PreflightError(f"input={source!r}: a column cannot be filtered by: {error}") from error
    return found


def _type_of(value: Any) -> FieldType:
    if isinstance(value, bool):
        return "bool"
    if isinstance(value, int):
        return "int" if -(2**63) <= value < 2**63 else "string"
    return "float" if isinstance(value, float) else "string"


def field_values(row: Mapping[str, Any], fields: Mapping[str, FieldType]) -> dict[str, Value]:
    """A manifest row's own columns as values of their fields; what is not finite is None."""
    return {name: _as(row.get(name), kind) for name, kind in fields.items()}


def _as(value: Any, kind: FieldType) -> Value:
    if value is None or (isinstance(value, float) and not math.isfinite(value)):
        return None
    if kind == "string":
        return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
    return float(value) if kind == "float" else value
