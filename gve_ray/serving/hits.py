"""Write the hits of a search down, for people, spreadsheets and video editors.

A hit is an object of the reply of `POST /v1/search`.
"""

import csv
import io
from collections.abc import Mapping, Sequence
from pathlib import PurePosixPath
from typing import Any

MIN_CONFIDENCE = 0.9  # a hit with less is weak, unless the request says otherwise
EDL_FPS = 25  # frames per second of the timecodes


def confident(hits: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """Return the hits without weak ones; hits of an earlier service do not say whether they are weak."""
    return [hit for hit in hits if hit.get("confident") is not False]


def as_text(hits: Sequence[Mapping[str, Any]]) -> str:
    """Return one line for each hit, best first: rank, score, times (h:mm:ss.s) and URI.

    If words match, another line has them, with the matching ones in square brackets. If the hits are
    grouped by video, another line has the starts of the further moments. If reranking has moved a hit,
    another line has its rank before.
    """
    lines = []
    for rank, hit in enumerate(hits, 1):
        times = f"{_clock(hit['start'])} - {_clock(hit['end'])}"
        lines.append(f"{rank:3d}  {hit['score']:6.3f}  {times}  {hit['uri']}")
        if words := hit.get("words"):
            lines.append(f"{'':13}{words['source']}: {_marked(words['text'], words['marks'])}")
        if further := ", ".join(_clock(other["start"]) for other in hit.get("moments", ())):
            lines.append(f"{'':13}also at {further}")
        if hit.get("rank_before") not in (None, rank):
            lines.append(f"{'':13}was at rank {hit['rank_before']} before reranking")
    return "\n".join(lines)


def as_csv(hits: Sequence[Mapping[str, Any]]) -> str:
    """Return a table with a header: rank, score, confidence, start and end (seconds), uri, id, and the metadata."""
    first = ("score", "confidence", "start", "end", "uri", "id")
    metadata = sorted({name for hit in hits for name in hit["metadata"]})
    out = io.StringIO()
    table = csv.writer(out)
    table.writerow(("rank", *first, *metadata))
    for rank, hit in enumerate(hits, 1):
        values = [hit[name] for name in first] + [hit["metadata"].get(name) for name in metadata]
        table.writerow((rank, *values))
    return out.getvalue().rstrip("\r\n")


def as_edl(hits: Sequence[Mapping[str, Any]]) -> str:
    """Return an edit decision list (CMX 3600) of the moments one after another, for a video editor.

    Its timecodes count from the start of each file, at `EDL_FPS` frames per second.
    """
    lines = ["TITLE: gve search", "FCM: NON-DROP FRAME"]
    done = 0  # frames
    for number, hit in enumerate(hits, 1):
        start = round(hit["start"] * EDL_FPS)
        frames = max(1, round(hit["end"] * EDL_FPS) - start)
        times = (start, start + frames, done, done + frames)
        lines += [
            "",
            f"{number:03d}  AX       V     C        {' '.join(map(_timecode, times))}",
            f"* FROM CLIP NAME: {PurePosixPath(_one_line(hit['uri'])).name}",
            f"* SOURCE FILE: {_one_line(hit['uri'])}",
        ]
        done += frames
    return "\n".join(lines)


def _marked(text: str, marks: Sequence[Sequence[int]]) -> str:
    """Return a text with square brackets around the marked parts, without characters that steer a terminal."""
    parts, done = [], 0
    for start, end in marks:
        parts += [text[done:start], "[", text[start:end], "]"]
        done = end
    marked = "".join([*parts, text[done:]])
    return "".join(character if character.isprintable() else " " for character in marked)


def _clock(seconds: float) -> str:
    tenths = round(seconds * 10)
    return f"{tenths // 36000}:{tenths // 600 % 60:02d}:{tenths // 10 % 60:02d}.{tenths % 10}"


def _timecode(frames: int) -> str:
    seconds, frame = divmod(frames, EDL_FPS)
    return f"{seconds // 3600:02d}:{seconds // 60 % 60:02d}:{seconds % 60:02d}:{frame:02d}"


def _one_line(uri: str) -> str:
    """A file name may contain line breaks, which would begin another entry."""
    return " ".join(uri.splitlines())


# The forms in which the service sends confident hits, by the media type that a request accepts.
FORMS = {"text/csv": as_csv, "text/x-edl": as_edl}
