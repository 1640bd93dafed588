"""Record the state of each video after a run, and find what has changed since the last."""

import hashlib
import json
import math
import os
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Literal, get_args

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
        ("subtitles", pa.string()),  # stamps of the subtitle files next to it; null if they are not read
        ("fingerprint", pa.string()),  # sha256 of the file; null if it could not be read
        ("metadata", pa.string()),  # JSON: caption, and the user's columns of the manifest
        ("segments", pa.int64()),  # number of segments in the index
        ("lost", pa.int64()),  # number of segments that could not be embedded
        ("reason", pa.string()),  # why no segment is in the index; null if some are
        ("detail", pa.string()),
    ]
)
State = Literal["added", "changed", "unchanged", "rejected", "removed"]
STATES: tuple[State, ...] = get_args(State)  # the input has videos of all states except "removed"


def version_of(video_id: str, uri: str, stamp: str) -> str:
    """Return 32 hex digits that identify the current version of a file. stamp: `media_stamp`."""
    return hashlib.sha256(json.dumps([video_id, uri, stamp]).encode()).hexdigest()[:32]


def compare(before: Sequence[Mapping[str, Any]], now: Sequence[Mapping[str, Any]]) -> dict[str, State]:
    """Return the state of each video by its id, including removed videos.

    before, now: catalogs, as rows of `CATALOG_SCHEMA`. A video that was rejected before and is not
    rejected now counts as added. Subtitles that were not read before do not make a video count as
    changed.
    """
    earlier = {row["video_id"]: row for row in before}
    state: dict[str, State] = {}
    for row in now:
        video_id, old = row["video_id"], earlier.get(row["video_id"])
        if row["reason"] is not None:
            state[video_id] = "rejected"
        elif old is None or old["reason"] is not None:
            state[video_id] = "added"
        elif _differs(old, row):
            state[video_id] = "changed"
        else:
            state[video_id] = "unchanged"
    for row in before:
        if row["video_id"] not in state and row["reason"] is None:
            state[row["video_id"]] = "removed"
    return state


def _differs(old: Mapping[str, Any], row: Mapping[str, Any]) -> bool:
    stamps = old.get("subtitles"), row.get("subtitles")
    return any(old[name] != row[name] for name in ("metadata", "uri", "fingerprint", "segments")) or (
        None not in stamps and stamps[0] != stamps[1]
    )


def read_catalog(folder: str | os.PathLike[str]) -> list[dict[str, Any]]:
    """Read the catalog of a folder, given by path or URI; empty before the first finished run."""
    files, path = filesystem(f"{folder}/{FILE}")
    if files.get_file_info(path).type != fs.FileType.File:
        return []
    return pq.read_table(path, schema=CATALOG_SCHEMA, filesystem=files).to_pylist()


def write_catalog(folder: str | os.PathLike[str], rows: Iterable[Mapping[str, Any]]) -> None:
    """Replace the catalog of a folder in one atomic write."""
    buffer = pa.BufferOutputStream()
    pq.write_table(pa.Table.from_pylist([dict(row) for row in rows], schema=CATALOG_SCHEMA), buffer)
    files, path = filesystem(f"{folder}/{FILE}")
    write_atomically(files, path, buffer.getvalue().to_pybytes())


def user_fields(source: str, metadata: Iterable[Mapping[str, Any]]) -> dict[str, FieldType]:
    """Derive the index fields for the user's columns of a manifest from their values.

    source: the manifest, for errors. A column whose values are neither all numbers nor all booleans
    becomes a string field. Raises PreflightError for a name that cannot be a field.
    """
    types: dict[str, set[FieldType]] = {}
    for row in metadata:
        for name, value in row.items():
            kinds = types.setdefault(name, set())
            if value is not None:
                kinds.add(_type_of(value))
    fields: dict[str, FieldType] = {}
    for name, kinds in sorted(types.items()):
        if name in FIELDS or name in RESERVED:
            raise PreflightError(
                f"input={source!r}: the name of column {name!r} is reserved for the index; rename it"
            )
        if len(kinds) == 1:
            (fields[name],) = kinds
        else:
            fields[name] = "float" if kinds == {"int", "float"} else "string"
        try:
            IndexSpec(dimension=1, fields={name: fields[name]})
        except ValueError as error:
            raise PreflightError(f"input={source!r}: a column cannot be a filter field: {error}") from error
    return fields


def _type_of(value: Any) -> FieldType:
    if isinstance(value, bool):
        return "bool"
    if isinstance(value, int):
        return "int" if -(2**63) <= value < 2**63 else "string"
    return "float" if isinstance(value, float) else "string"


def field_values(row: Mapping[str, Any], fields: Mapping[str, FieldType]) -> dict[str, Value]:
    """Convert the user's columns of a manifest row to field values; NaN and infinity to None."""
    return {name: _converted(row.get(name), kind) for name, kind in fields.items()}


def _converted(value: Any, kind: FieldType) -> Value:
    if value is None or (isinstance(value, float) and not math.isfinite(value)):
        return None
    if kind == "string":
        return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
    return float(value) if kind == "float" else value
