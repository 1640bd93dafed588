"""List videos inside WebDataset archives and inside Parquet tables of Hugging Face's `datasets`.

    for video in videos_in_archive("s3://bucket/00000.tar"): ...     # WebDataset
    for video in videos_in_table("train-00000.parquet", column, anchor): ...

The videos stay where they are (`gve_ray.media.packed`). Only headers, captions and small columns are read here.
"""

import json
import os
import re
import tarfile
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import pyarrow.parquet as pq

from gve_ray.inputs.cells import name, texts
from gve_ray.inputs.table import RowError, TableError
from gve_ray.media.packed import cell_uri, slice_uri
from gve_ray.media.source import VIDEO_SUFFIXES, open_binary

ARCHIVE = ".tar"
_BUFFER = 1 << 16  # bytes per request
_LONGEST_TEXT = 16 << 20  # bytes of a caption or of the JSON of a sample
# How WebDataset splits the name of a member into the key of its sample and the name of its field.
_MEMBER = re.compile(r"((?:.*/)?[^./][^./]*)\.([^/]*)", re.DOTALL)
_CAPTIONS = ("caption", "text")  # columns of captions, the first that is there


@dataclass(frozen=True, kw_only=True)
class PackedVideo:
    """A video inside a file. place: for messages. name: what its id is made of, if `video_id` is None."""

    place: str
    uri: str
    name: str
    video_id: str | None = None
    captions: list[str] = field(default_factory=list)
    metadata: Mapping[str, Any] = field(default_factory=dict)


def is_archive(source: str) -> bool:
    """Return whether a path, URI or glob is one of tar archives, by its name."""
    plain = source.partition("?")[0] if "://" in source else source
    return plain.lower().endswith(ARCHIVE)


# ---- WebDataset


def videos_in_archive(source: str) -> Iterator[PackedVideo | None]:
    """Yield the videos of a WebDataset archive, and None for each sample without one.

    A caption is the sample's .txt file, or `caption` in its .json file, whose other values are metadata.
    Raises TableError if the archive is damaged or compressed, and RowError for a malformed sample; OSError if
    it cannot be read.
    """
    try:
        with (
            open_binary(source, _BUFFER) as file,
            tarfile.open(fileobj=file, mode="r:") as archive,
        ):
            for key, members in _samples(source, archive):
                yield from _videos(source, archive, key, members)
    except tarfile.TarError as error:
        raise TableError(
            f"{source}: not a complete tar archive ({error}); copy it again or remove it, and unpack one that is "
            "compressed"
        ) from error


def _samples(source: str, archive: tarfile.TarFile) -> Iterator[tuple[str, dict[str, tarfile.TarInfo]]]:
    """Yield (key, members by the name of their field) of each sample: files with one key that follow each other."""
    key, members = "", dict[str, tarfile.TarInfo]()
    for info in archive:
        found = _MEMBER.fullmatch(info.name)
        if not info.isfile() or found is None:
            continue
        if found[1] != key:
            if members:
                yield key, members
            key, members = found[1], {}
        if found[2] in members:
            raise RowError(
                f"{source}: sample {key!r} has two files .{found[2]}; give each sample another key"
            )
        members[found[2]] = info
    if members:
        yield key, members


def _videos(
    source: str, archive: tarfile.TarFile, key: str, members: Mapping[str, tarfile.TarInfo]
) -> Iterator[PackedVideo | None]:
    place = f"{source}: sample {key!r}"
    videos = {
        kind: info
        for kind, info in members.items()
        if os.path.splitext(info.name)[1].lower() in VIDEO_SUFFIXES
    }
    if not videos:
        yield None
        return
    facts = _json(place, archive, members["json"]) if "json" in members else {}
    captions = _captions(place, facts.pop("caption", None))
    if "txt" in members:
        captions = _captions(place, _text(place, archive, members["txt"])) or captions
    for info in videos.values():
        yield PackedVideo(
            place=place,
            uri=slice_uri(source, info.offset_data, info.size),
            name=f"{source}/{info.name}",
            captions=captions,
            metadata={"key": key} | facts,
        )


def _text(place: str, archive: tarfile.TarFile, info: tarfile.TarInfo) -> str:
    if info.size > _LONGEST_TEXT:
        raise RowError(f"{place}: {info.name} has {info.size} bytes, which is no caption")
    file = archive.extractfile(info)
    assert file is not None, "it is a file"
    try:
        return file.read().decode()
    except UnicodeDecodeError as error:
        raise RowError(f"{place}: {info.name} is not UTF-8 ({error}); write it anew") from error


def _json(place: str, archive: tarfile.TarFile, info: tarfile.TarInfo) -> dict[str, Any]:
    try:
        facts = json.loads(_text(place, archive, info))
    except (ValueError, RecursionError) as error:
        raise RowError(f"{place}: {info.name} is not JSON ({error})") from error
    if not isinstance(facts, dict):
        raise RowError(f"{place}: {info.name} is not a JSON object; give one with a caption")
    return facts


def _captions(place: str, value: Any) -> list[str]:
    try:
        return texts(value)
    except ValueError as error:
        raise RowError(f"{place}: caption={error}") from error


# ---- Parquet


def video_column(source: str) -> str | None:
    """Return the column of videos of a Parquet table: a `Video` of `datasets`, or a struct of bytes and path.

    Returns None for another table. Raises OSError or pyarrow.ArrowException if it cannot be read.
    """
    with open_binary(source, _BUFFER) as file:
        schema = pq.read_schema(file)
    features = (
        json.loads((schema.metadata or {}).get(b"huggingface", b"{}")).get("info", {}).get("features", {})
    )
    for column, feature in features.items():
        if isinstance(feature, dict) and feature.get("_type") == "Video":
            return str(column)
    for column in ("video", "mp4"):  # as `datasets` names it where the features are not stored
        at = schema.get_field_index(column)
        if at >= 0 and {"bytes", "path"} <= {part.name for part in _fields(schema.field(at).type)}:
            return column
    return None


def _fields(kind: Any) -> list[Any]:
    return [kind.field(i) for i in range(kind.num_fields)]


def videos_in_table(source: str, column: str, absolute: Callable[[str], str]) -> Iterator[PackedVideo]:
    """Yield the videos of a Parquet table of `datasets`: bytes in the table, or paths.

    column: see `video_column`. absolute: makes a path of the table absolute. Captions are in the column `caption` or
    `text`, ids in `video_id`. Raises RowError for a malformed row.
    """
    with open_binary(source, _BUFFER) as file:
        table = pq.ParquetFile(file)
        schema = table.schema_arrow
        caption = next((one for one in _CAPTIONS if one in schema.names), "")
        is_struct = bool(schema.field(column).type.num_fields)
        others = [one for one in (caption, "video_id") if one in schema.names]
        wanted = [f"{column}.path" if is_struct else column, *others]
        number = 0
        for group in range(table.num_row_groups):
            has_bytes = is_struct and _has_bytes(table, group, column)
            row_in_group = 0
            for batch in table.iter_batches(1024, row_groups=[group], columns=wanted):
                for row in batch.to_pylist():
                    number += 1
                    place = f"{source}: row {number}"
                    cell = row[column]
                    path = cell.get("path") if isinstance(cell, dict) else cell
                    if has_bytes:
                        uri = cell_uri(source, column, group, row_in_group)
                    elif path:
                        uri = absolute(path)
                    else:
                        raise RowError(f"{place}: has neither bytes nor a path in {column!r}")
                    yield PackedVideo(
                        place=place,
                        uri=uri,
                        name=f"{source}/{number}" if has_bytes else uri,
                        video_id=_id(place, row.get("video_id")),
                        captions=_captions(place, row[caption]) if caption else [],
                        metadata={"path": path} if path else {},
                    )
                    row_in_group += 1


def _id(place: str, value: Any) -> str | None:
    try:
        return name(value)
    except ValueError as error:
        raise RowError(f"{place}: video_id={error}") from error


def _has_bytes(table: pq.ParquetFile, group: int, column: str) -> bool:
    """Return whether any cell of a row group has bytes; their paths are only names then."""
    facts = table.metadata.row_group(group)
    for i in range(facts.num_columns):
        chunk = facts.column(i)
        if chunk.path_in_schema == f"{column}.bytes":
            counted = chunk.statistics is not None and chunk.statistics.has_null_count
            return not counted or chunk.statistics.null_count < facts.num_rows
    return False
