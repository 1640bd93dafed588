"""Read the input of a job (a manifest, a folder, a glob or one video) into a table of video_id, uri and caption.

The input may also be WebDataset archives or Parquet tables of Hugging Face's `datasets` (gve_ray.inputs.shards).

A manifest is a table (gve_ray.inputs.table) with a column `uri` and optional columns `video_id` and
`caption`. A `uri` is a path, absolute or relative to the manifest's folder, or any pyarrow/fsspec
URI. A folder is searched with its subfolders for files whose names end like a video's; their
content is not checked here.
"""

import hashlib
import json
import logging
import os
import re
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any
from urllib.parse import quote

import pyarrow as pa
from pyarrow import fs

from gve_ray.config import expand_home
from gve_ray.inputs.cells import name, texts
from gve_ray.inputs.listing import find_files, find_videos, local_uri
from gve_ray.inputs.shards import (
    PackedVideo,
    is_archive,
    video_column,
    videos_in_archive,
    videos_in_table,
)
from gve_ray.inputs.table import FORMS, Row, RowError, TableError, form_of, is_table, kind_of, open_table
from gve_ray.job import PreflightError
from gve_ray.media.source import local_path
from gve_ray.progress import Progress
from gve_ray.store.runfolder import filesystem

log = logging.getLogger(__name__)

MANIFEST_SCHEMA = pa.schema([("video_id", pa.string()), ("uri", pa.string()), ("caption", pa.string())])
_COLUMNS = frozenset(MANIFEST_SCHEMA.names)
_SCHEMA = MANIFEST_SCHEMA.append(pa.field("metadata", pa.string()))
_LOOKS = "a manifest has a column uri, and video_id and caption if there are any"
_ROWS = 8192  # rows per Arrow batch
_SHARDS_AT_ONCE = 16  # in an object store, each header is a request
# The characters to quote in a URI; existing %XX escapes are kept.
_UNQUOTED = re.compile(r"%(?![0-9A-Fa-f]{2})|[^\w.~/%-]", re.ASCII)


def read_manifest(source: str, *, metadata: bool = False) -> pa.Table:
    """Return a table of `MANIFEST_SCHEMA`, one row per video, sorted by video_id.

    A missing caption is null; if a cell has several captions, the first is used. metadata: add a
    column `metadata`, a JSON object with the manifest's other columns; those of CSV and TSV are
    text. Raises PreflightError for a source that does not exist, cannot be read or names no video,
    for a malformed row, and for one id with two URIs.
    """
    place = expand_home(source)
    try:
        table = _table(source, _entries(source, place, metadata=metadata))  # this reads the rows
    except RowError as error:
        raise PreflightError(f"input={source!r}: {error}") from error
    except TableError as error:
        raise PreflightError(f"input={source!r}: {error}; {_LOOKS}") from error
    except (OSError, ValueError, pa.ArrowException, ImportError) as error:
        raise PreflightError(
            f"input={source!r}: cannot be read ({type(error).__name__}: {error}); name a folder, a glob, "
            f"or a manifest ({FORMS})"
        ) from error
    return table if metadata else table.drop_columns(["metadata"])


def video_uris(source: str) -> list[str]:
    """Return the URI of each input video. Raises the same errors as `read_manifest`."""
    uris: list[str] = read_manifest(source).column("uri").to_pylist()
    return uris


def video_id_of(uri: str) -> str:
    """Return the id of a video without one in the manifest: 16 hex digits of the SHA-256 of its URI."""
    return hashlib.sha256(uri.encode()).hexdigest()[:16]


_Entry = Mapping[str, str | None]  # keys are the columns of _SCHEMA


def _entries(source: str, place: str, *, metadata: bool) -> Iterator[tuple[str, _Entry]]:
    """Yield (location, entry) of each video. place: the source with the home folder expanded."""
    if shards := _shards(place):
        yield from _packed_entries(source, shards, metadata=metadata)
        return
    if not is_table(place):
        for uri in find_videos(place):
            yield uri, {"video_id": video_id_of(uri), "uri": uri, "caption": None, "metadata": "{}"}
        return
    table = open_table(place, columns=None if metadata else _COLUMNS)
    if "uri" not in table.columns:
        raise TableError(f"columns {list(table.columns)} without 'uri'; rename the column of paths to uri")
    anchor = _Anchor(place)
    several = 0
    for row in table.rows:
        try:
            entry, captions = _entry(row, anchor)
        except ValueError as error:
            raise RowError(f"{row.place} has {error}") from error
        several += captions > 1
        yield row.place, entry
    _warn_of_several(source, several)


def _shards(place: str) -> list[str]:
    """Return the archives or tables of `datasets` that a path, URI or glob names; empty for another input."""
    if not is_archive(place) and form_of(place) != ".parquet":
        return []
    if is_table(place):
        is_one = kind_of(place) == fs.FileType.File and video_column(place) is not None
        return [place] if is_one else []
    kind = kind_of(place)
    if kind == fs.FileType.Directory:
        return []
    return [place] if kind == fs.FileType.File else find_files(place)


def _packed_entries(source: str, shards: Sequence[str], *, metadata: bool) -> Iterator[tuple[str, _Entry]]:
    """Yield (location, entry) of each video inside WebDataset archives or tables of `datasets`."""
    empty = several = 0
    for video in _packed_videos(shards):
        if video is None:
            empty += 1
            continue
        several += len(video.captions) > 1
        entry = {
            "video_id": video.video_id or video_id_of(video.name),
            "uri": video.uri,
            "caption": video.captions[0] if video.captions else None,
            "metadata": _metadata(video.metadata) if metadata else "{}",
        }
        yield video.place, entry
    if empty:
        log.warning("input=%r: %d samples have no video", source, empty)
    _warn_of_several(source, several)


def _packed_videos(shards: Sequence[str]) -> Iterator[PackedVideo | None]:
    """Yield what `_videos_of` returns for each shard, in order, while the next ones are read."""
    progress = Progress("input", len(shards), unit="archives")
    pool = ThreadPoolExecutor(_SHARDS_AT_ONCE)
    rest, running = iter(shards), deque[Future[list[PackedVideo | None]]]()
    try:
        for number in range(len(shards)):
            while len(running) < _SHARDS_AT_ONCE and (shard := next(rest, None)) is not None:
                running.append(pool.submit(_videos_of, shard))
            yield from running.popleft().result()
            progress.reach(number + 1)
    finally:
        pool.shutdown(cancel_futures=True)
        progress.close()


def _videos_of(shard: str) -> list[PackedVideo | None]:
    """Return the videos of an archive or a table, and None for each sample without one."""
    place = shard if "://" in shard else local_uri(os.path.abspath(shard))
    if is_archive(shard):
        return list(videos_in_archive(place))
    column = video_column(shard)
    if column is None:
        raise TableError(
            f"{shard}: a Parquet table without a column of videos; name a manifest alone, without * in its name"
        )
    return list(videos_in_table(place, column, _Anchor(shard).absolute))


def _warn_of_several(source: str, several: int) -> None:
    if several:
        log.warning("input=%r: %d rows have several captions; the first of each is used", source, several)


def _metadata(cells: Mapping[str, Any]) -> str:
    """Return cells as a JSON object. Raises ValueError for text that is not Unicode."""
    words = json.dumps(cells, ensure_ascii=False, sort_keys=True, default=str) if cells else "{}"
    if words != words.encode("utf-8", "replace").decode():
        raise ValueError(
            f"half of a surrogate pair in {words!r}, which is no character; write the file as UTF-8"
        )
    return words


def _entry(row: Row, anchor: "_Anchor") -> tuple[_Entry, int]:
    """Return the entry of a row and its number of captions. Raises ValueError naming the cell."""
    cells = {column: _read(column, name, row) for column in ("uri", "video_id")}
    if not isinstance(row.cells.get("uri"), str | bytes) or cells["uri"] is None:
        raise ValueError(f"uri={row.cells.get('uri')!r}; give a path or a URI")
    uri = anchor.absolute(cells["uri"])
    captions = _read("caption", texts, row)
    more = {column: cell for column, cell in row.cells.items() if column not in _COLUMNS}
    return {
        "video_id": cells["video_id"] or video_id_of(uri),
        "uri": uri,
        "caption": captions[0] if captions else None,
        "metadata": _metadata(more),
    }, len(captions)


def _read(column: str, read: Callable[[Any], Any], row: Row) -> Any:
    try:
        return read(row.cells.get(column))
    except ValueError as error:
        raise ValueError(f"{column}={error}") from None


def _table(source: str, entries: Iterable[tuple[str, _Entry]]) -> pa.Table:
    uri_by_id: dict[str, str] = {}
    waiting: list[_Entry] = []
    batches: list[pa.RecordBatch] = []
    again = 0
    for where, entry in entries:
        video_id, uri = str(entry["video_id"]), str(entry["uri"])
        if video_id in uri_by_id:
            if uri_by_id[video_id] != uri:
                raise PreflightError(
                    f"input={source!r}: {where}: video_id {video_id!r} is given to {uri} and to "
                    f"{uri_by_id[video_id]}; ids must be unique"
                )
            again += 1
            continue
        uri_by_id[video_id] = uri
        waiting.append(entry)
        if len(waiting) == _ROWS:  # a row takes 1 kB as a dict, and much less in Arrow
            batches.append(pa.RecordBatch.from_pylist(waiting, schema=_SCHEMA))
            waiting = []
    if again:
        log.warning("input=%r: %d rows repeat an earlier row's video; the first counts", source, again)
    if not uri_by_id:
        raise PreflightError(f"input={source!r}: no rows; there is no video to work on")
    batches.append(pa.RecordBatch.from_pylist(waiting, schema=_SCHEMA))
    return pa.Table.from_batches(batches).sort_by("video_id")


class _Anchor:
    """Makes the paths of a manifest absolute. Relative paths start at the folder of the manifest."""

    def __init__(self, place: str) -> None:
        path = local_path(place)
        self._folder = None if path is None else os.path.dirname(os.path.abspath(path))
        self._uri, mark, query = place.partition("?")
        self._uri, self._options = self._uri.rpartition("/")[0], mark + query
        self._quotes = path is None and not isinstance(filesystem(place)[0], fs.PyFileSystem)

    def absolute(self, uri: str) -> str:
        """Return a path or URI that any worker can open."""
        uri = expand_home(uri)
        if "://" in uri or uri.startswith("/"):
            return uri
        if self._folder is not None:
            return local_uri(os.path.normpath(os.path.join(self._folder, uri)))
        quoted = _UNQUOTED.sub(lambda part: quote(part[0]), uri) if self._quotes else uri
        return f"{self._uri}/{quoted}{self._options}"
