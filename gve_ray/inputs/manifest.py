"""What the job is given, as one table: a manifest, a folder, a glob or one video -> video_id, uri, caption.

A manifest (.parquet, .jsonl, .csv) has a column `uri`, and `video_id` and `caption` if there are any. A
URI is a path, relative to the manifest's folder unless absolute, or any pyarrow/fsspec URI. A folder is
searched with its subfolders for files with a video's ending; what is in them is for `integrity` to judge.
"""

import csv
import hashlib
import io
import json
import logging
import os
import re
from collections import Counter
from collections.abc import Iterable, Mapping
from typing import Any

import pyarrow as pa
from pyarrow import fs

from gve_ray.job import PreflightError
from gve_ray.media.source import VIDEO_SUFFIXES
from gve_ray.store.runfolder import filesystem, in_uri

log = logging.getLogger(__name__)

MANIFEST_SCHEMA = pa.schema([("video_id", pa.string()), ("uri", pa.string()), ("caption", pa.string())])
MANIFEST_SUFFIXES = (".parquet", ".jsonl", ".csv")
_ROWS = 8192  # of an Arrow batch
_WILD = re.compile(r"[*?\[]")
_SCHEME = re.compile(r"^[A-Za-z][A-Za-z0-9+.-]+://")


def read_manifest(source: str, *, metadata: bool = False) -> pa.Table:
    """Table of `MANIFEST_SCHEMA`, one row a video, sorted by video_id; a caption is null where there is none.

    metadata: with one more column of that name, a JSON object with the manifest's other columns; those of a
    .csv are texts. Raises PreflightError for a source that is not there, cannot be read, names no video, or
    repeats an id.
    """
    try:
        if source.lower().endswith(MANIFEST_SUFFIXES) and not _WILD.search(source):
            rows = _read_rows(source, metadata=metadata)
        else:
            rows = [{"uri": uri} for uri in _find_videos(source)]
        table = _table(source, rows)  # which reads them
    except (OSError, ValueError, pa.ArrowException, ImportError, csv.Error) as error:
        raise PreflightError(
            f"input={source!r}: cannot be read ({type(error).__name__}: {error}); name a folder, a glob, "
            f"or a manifest ({', '.join(MANIFEST_SUFFIXES)})"
        ) from error
    return table if metadata else table.drop_columns(["metadata"])


def video_uris(source: str) -> list[str]:
    """URI of each video that the job is given. Raises as `read_manifest`."""
    found: list[str] = read_manifest(source).column("uri").to_pylist()
    return found


def video_id_of(uri: str) -> str:
    """The id of a video that was given none: 16 hex digits of its URI's sha256."""
    return hashlib.sha256(uri.encode()).hexdigest()[:16]


def _table(source: str, rows: Iterable[Mapping[str, Any]]) -> pa.Table:
    schema = MANIFEST_SCHEMA.append(pa.field("metadata", pa.string()))
    found: dict[str, str] = {}  # uri by id
    waiting: list[dict[str, str | None]] = []
    batches: list[pa.RecordBatch] = []
    again = 0
    for number, row in enumerate(rows, 1):
        uri = row.get("uri")
        if not isinstance(uri, str) or not uri.strip():
            raise PreflightError(f"input={source!r}: row {number} has uri={uri!r}; give a path or a URI")
        if half := next((name for name, value in row.items() if not _is_text(value)), None):
            raise PreflightError(
                f"input={source!r}: row {number} has {half}={row[half]!r}: a half of a surrogate pair is no "
                "character; write the file as UTF-8"
            )
        uri = _anchored(uri.strip(), source)
        given = row.get("video_id")
        video_id = video_id_of(uri) if given is None or given == "" else str(given)
        caption = row.get("caption")
        text = caption.strip() if isinstance(caption, str) else ""
        if video_id in found:
            if found[video_id] != uri:
                raise PreflightError(
                    f"input={source!r}: row {number}: video_id {video_id!r} is given to {uri} and to "
                    f"{found[video_id]}; ids must be unique"
                )
            again += 1
            continue
        found[video_id] = uri
        more = {name: value for name, value in row.items() if name not in MANIFEST_SCHEMA.names}
        waiting.append(
            {
                "video_id": video_id,
                "uri": uri,
                "caption": text or None,
                "metadata": json.dumps(more, ensure_ascii=False, sort_keys=True, default=str),
            }
        )
        if len(waiting) == _ROWS:  # as dicts a row takes 1 kB, in Arrow what is in it
            batches.append(pa.RecordBatch.from_pylist(waiting, schema=schema))
            waiting = []
    if again:
        log.warning("input=%r: %d rows repeat an earlier row's video; the first counts", source, again)
    if not found:
        raise PreflightError(f"input={source!r}: no rows; there is no video to work on")
    batches.append(pa.RecordBatch.from_pylist(waiting, schema=schema))
    return pa.Table.from_batches(batches).sort_by("video_id")


def _is_text(value: object) -> bool:
    """False for a str that no file can hold, as JSON's \\ud800 makes one; others are not looked into."""
    try:
        return not isinstance(value, str) or value.encode() is not None
    except UnicodeEncodeError:
        return False


def _anchored(uri: str, source: str) -> str:
    """A relative path, made absolute by the folder of the manifest that it stands in."""
    if _SCHEME.match(uri) or uri.startswith("/"):
        return uri
    if _SCHEME.match(source):
        return source.rpartition("/")[0] + "/" + uri
    return os.path.normpath(os.path.join(os.path.dirname(os.path.abspath(source)), uri))


def _read_rows(source: str, *, metadata: bool) -> Iterable[Mapping[str, Any]]:
    files, path = _filesystem(source)
    if source.lower().endswith(".parquet"):
        import pyarrow.parquet as pq

        table = pq.read_table(path, filesystem=files)
        _need_uri(source, table.column_names)
        wanted = [name for name in table.column_names if metadata or name in MANIFEST_SCHEMA.names]
        return (row for batch in table.select(wanted).to_batches(_ROWS) for row in batch.to_pylist())
    with files.open_input_stream(path) as stream:
        text = stream.read().decode("utf-8-sig")
    if source.lower().endswith(".csv"):
        reader = csv.DictReader(io.StringIO(text))
        _need_uri(source, list(reader.fieldnames or []))
        return list(reader)
    return list(_json_lines(source, text))


def _json_lines(source: str, text: str) -> Iterable[dict[str, Any]]:
    for number, line in enumerate(text.split("\n"), 1):
        if not line.strip():
            continue
        try:
            row = json.loads(line)
        except ValueError as error:
            raise PreflightError(
                f"input={source!r}: line {number} is not JSON ({error}); mend the file"
            ) from None
        if not isinstance(row, dict):
            raise PreflightError(f"input={source!r}: line {number} is no JSON object; give {{'uri': ...}}")
        _need_uri(source, list(row))
        yield row


def _need_uri(source: str, columns: list[str]) -> None:
    if "uri" not in columns:
        raise PreflightError(
            f"input={source!r}: columns {columns} without 'uri'; rename the column of paths to uri"
        )


def _find_videos(source: str) -> list[str]:
    """URIs of the videos in a folder and below, of a glob, or of one file; sorted."""
    wild = _WILD.search(source)
    base = (
        source[: wild.start()].rpartition("/")[0] or ("/" if source.startswith("/") else ".")
        if wild
        else source
    )
    files, path = _filesystem(base)
    info = files.get_file_info(path)
    if info.type == fs.FileType.NotFound:
        raise PreflightError(f"input={source!r}: no such file or folder; name a folder, a glob or a manifest")
    if info.type == fs.FileType.File:
        return [_uri(files, base, path, info.path)]
    listed = files.get_file_info(fs.FileSelector(path, recursive=True))
    names = sorted(one.path for one in listed if one.type == fs.FileType.File)
    if wild:
        # The pattern of the part below the base, in which * stays within a folder and ** does not.
        pattern = _glob_pattern(source[len(base) :].lstrip("/") if base != "." else source)
        names = [name for name in names if pattern.fullmatch(name[len(path) :].lstrip("/"))]
    else:
        names = [name for name in names if not _hidden(name[len(path) :])]
    videos = [name for name in names if os.path.splitext(name)[1].lower() in VIDEO_SUFFIXES]
    others = Counter(os.path.splitext(name)[1].lower() or "no ending" for name in names)
    others = Counter({ending: n for ending, n in others.items() if ending not in VIDEO_SUFFIXES})
    beside = ", ".join(f"{n} {ending}" for ending, n in others.most_common(5)) or "nothing else"
    if not videos:
        raise PreflightError(
            f"input={source!r}: no video in it ({beside}); files must end in one of "
            f"{' '.join(sorted(VIDEO_SUFFIXES))}, or be named by a manifest"
        )
    if others:
        log.info("input=%r: %d videos; left out by their ending: %s", source, len(videos), beside)
    return [_uri(files, base, path, name) for name in videos]


def _hidden(path: str) -> bool:
    return any(part.startswith(".") for part in path.split("/"))


def _glob_pattern(glob: str) -> re.Pattern[str]:
    """A regular expression for a shell pattern: * and ? within a folder, ** over folders, [...] as it is."""
    out, at = "", 0
    while at < len(glob):
        if glob.startswith("**/", at):
            out, at = out + "(?:.*/)?", at + 3
        elif glob.startswith("**", at):
            out, at = out + ".*", at + 2
        elif glob[at] == "*":
            out, at = out + "[^/]*", at + 1
        elif glob[at] == "?":
            out, at = out + "[^/]", at + 1
        elif glob[at] == "[" and (end := glob.find("]", at + 2)) > 0:
            inner = glob[at + 1 : end].replace("\\", r"\\")
            out, at = out + "[" + (f"^{inner[1:]}" if inner[0] == "!" else inner) + "]", end + 1
        else:
            out, at = out + re.escape(glob[at]), at + 1
    return re.compile(out)


def _filesystem(source: str) -> tuple[fs.FileSystem, str]:
    """The file system of a path, in which ~ is the home folder, or of a URI."""
    return filesystem(source if _SCHEME.match(source) else os.path.expanduser(source))


def _uri(files: fs.FileSystem, base: str, path: str, name: str) -> str:
    """The URI of a listed file: as the base was given, so with its scheme, host and query."""
    if not _SCHEME.match(base):
        return name
    place, mark, query = base.partition("?")
    place = place.rstrip("/")
    given = next((one for one in (path, in_uri(files, path)) if place.endswith(one)), "")
    return place.removesuffix(given) + in_uri(files, name) + mark + query
