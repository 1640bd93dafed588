"""Read the subtitles of each video: a stage of the index job.

They are text tracks inside the file, and .srt and .vtt files next to it: `film.srt` and `film.en.srt`
belong to `film.mp4`. Tracks are read in a child process. What cannot be read is a fault that is written
down; all other subtitles of the video count.
"""

import hashlib
import json
from collections.abc import Mapping, Sequence
from typing import Any

import pyarrow as pa

from gve_ray.media import DecodeProcess, Limits, MediaError
from gve_ray.media.source import is_folder, open_binary, raise_storage_fault
from gve_ray.media.subtitles import MAX_BYTES, Cue, decode_text, parse_subtitles
from gve_ray.stage import Reject, row_finished

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
                raise_storage_fault(error)
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


def words_version(version: str, files: Sequence[tuple[str, str]]) -> str:
    """Return 32 hex digits that identify the subtitles of a version of a video (`catalog.version_of`)."""
    return hashlib.sha256(json.dumps([_READER, version, files]).encode()).hexdigest()[:32]
