"""Read the subtitles of each video: a stage of the index job.

They are text tracks inside the file, and .srt and .vtt files next to it: `film.srt` and `film.en.srt`
belong to `film.mp4`. Tracks are read in a child process. What cannot be read is a fault that is written
down; all other subtitles of the video count.
"""

import hashlib
import json
import logging
import os
from collections import defaultdict
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pyarrow as pa
from pyarrow import fs

from gve_ray.inputs.listing import local_uri
from gve_ray.media import DecodeProcess, Limits, MediaError
from gve_ray.media.source import is_folder, local_path, open_binary
from gve_ray.media.subtitles import MAX_BYTES, SUFFIXES, Cue, decode_text, parse_subtitles, video_stems
from gve_ray.stage import Reject, row_finished
from gve_ray.store.runfolder import filesystem, in_uri

log = logging.getLogger(__name__)

SUBTITLE_SCHEMA = pa.schema(
    [
        ("words", pa.string()),  # changes with the video and with its subtitle files (words_version)
        ("starts", pa.list_(pa.float64())),  # of the cues, seconds on the video's own clock, ascending
        ("ends", pa.list_(pa.float64())),
        ("texts", pa.list_(pa.string())),
        ("faults", pa.list_(pa.string())),  # what could not be read, and why
    ]
)
PENDING_SUBTITLES = pa.schema(
    [
        ("words", pa.string()),
        ("uri", pa.string()),
        ("start", pa.float64()),  # of the video, to which the times in subtitle files refer
        ("files", pa.list_(pa.string())),  # URIs of its subtitle files
    ]
)
_READER = 1  # changes when the same files give other cues
_BUFFER = 1 << 20  # bytes per request
_FOLDER_THREADS = 16
_UNLISTED = ("http", "https")


class SubtitleWorker:
    """Stage worker: takes rows of `PENDING_SUBTITLES`, returns rows of `SUBTITLE_SCHEMA`."""

    def __init__(self, limits: Limits) -> None:
        self._process = DecodeProcess(limits)

    def __call__(self, rows: Sequence[Mapping[str, Any]]) -> list[dict[str, Any] | Reject]:
        results: list[dict[str, Any] | Reject] = []
        for row in rows:
            results.append(self._read(row))
            row_finished()
        return results

    def _read(self, row: Mapping[str, Any]) -> dict[str, Any]:
        cues: set[Cue] = set()
        faults = []
        if not is_folder(row["uri"]):
            try:
                cues.update(self._process.read_subtitles(row["uri"]))
            except MediaError as error:
                faults.append(str(error))
        for uri in row["files"]:
            try:
                read = read_subtitle_file(uri)
            except (OSError, ValueError) as error:
                faults.append(f"{uri}: {error}")
                continue
            cues.update(Cue(row["start"] + cue.start, row["start"] + cue.end, cue.text) for cue in read)
        ordered = sorted(cues, key=lambda cue: (cue.start, cue.end, cue.text))
        return {
            "words": row["words"],
            "starts": [cue.start for cue in ordered],
            "ends": [cue.end for cue in ordered],
            "texts": [cue.text for cue in ordered],
            "faults": faults,
        }


def read_subtitle_file(uri: str) -> list[Cue]:
    """Return the cues of an .srt or .vtt file. Raises OSError, or ValueError if it has none."""
    with open_binary(uri, _BUFFER) as file:
        data = file.read(MAX_BYTES + 1)
    if len(data) > MAX_BYTES:
        raise ValueError(f"larger than {MAX_BYTES} bytes; is it a subtitle file?")
    cues = parse_subtitles(decode_text(data))
    if not cues:
        raise ValueError("no line such as 00:01:02,500 --> 00:01:04,000 with a text below it")
    return cues


def subtitle_files(uris: Sequence[str]) -> dict[str, list[tuple[str, str]]]:
    """Return the subtitle files next to each video, with a text that changes when the file does.

    Each folder is listed once. A folder that cannot be listed, such as one of a web server, has none.
    """
    by_folder: defaultdict[str, list[str]] = defaultdict(list)
    for uri in uris:
        by_folder[_split(uri)[0]].append(uri)
    with ThreadPoolExecutor(_FOLDER_THREADS) as pool:
        listed = dict(zip(by_folder, pool.map(_listed, by_folder), strict=True))
    files: dict[str, list[tuple[str, str]]] = {}
    for folder, videos in by_folder.items():
        of_stem: defaultdict[str, list[tuple[str, str]]] = defaultdict(list)
        for name, uri, stamp in listed[folder]:
            for video_stem in video_stems(name):
                of_stem[video_stem].append((uri, stamp))
        for uri in videos:
            files[uri] = sorted(of_stem.get(os.path.splitext(_split(uri)[1])[0], []))
    return files


def words_version(version: str, files: Sequence[tuple[str, str]]) -> str:
    """Return 32 hex digits that identify the subtitles of a version of a video (`catalog.version_of`)."""
    return hashlib.sha256(json.dumps([_READER, version, files]).encode()).hexdigest()[:32]


def _split(uri: str) -> tuple[str, str]:
    """Return the folder of a video and its name in there, as a file system has them.

    The folder is a path, or a URI with the query of the video's.
    """
    path = local_path(uri)
    if path is not None:
        return str(path.parent), os.fsencode(path.name).decode("utf-8", "replace")
    place, mark, query = uri.partition("?")
    folder = place.rstrip("/").rpartition("/")[0]
    try:
        name = filesystem(uri)[1].rstrip("/").rpartition("/")[2]
    except (OSError, ValueError, ImportError):
        name = place.rstrip("/").rpartition("/")[2]
    return folder + mark + query, name


def _listed(folder: str) -> list[tuple[str, str, str]]:
    """Return name, URI and stamp of each subtitle file in a folder."""
    try:
        if "://" not in folder:
            with os.scandir(folder) as entries:
                return [
                    (
                        entry.name,
                        local_uri(entry.path),
                        _stamp(entry.stat().st_size, entry.stat().st_mtime_ns),
                    )
                    for entry in entries
                    if entry.name.lower().endswith(SUFFIXES) and entry.is_file()
                ]
        if folder.partition("://")[0].lower() in _UNLISTED:
            return []
        place, mark, query = folder.partition("?")
        files, path = filesystem(folder)
        return [
            (
                info.base_name,
                f"{place}/{in_uri(files, info.base_name)}{mark}{query}",
                _stamp(info.size, info.mtime_ns),
            )
            for info in files.get_file_info(fs.FileSelector(path))
            if info.type == fs.FileType.File and info.base_name.lower().endswith(SUFFIXES)
        ]
    except (OSError, ValueError, ImportError) as error:
        log.warning("%s: subtitle files cannot be listed: %s", folder, error)
        return []


def _stamp(size: int | None, changed: int | None) -> str:
    return f"{size} {changed}"
