"""Read the words of subtitles: text tracks inside a video file, and .srt and .vtt files.

    cues = parse_subtitles(decode_text(Path("film.srt").read_bytes()))    # list[Cue]

`DecodeProcess.read_subtitles` reads the tracks of a file. Pictures of words (DVD, Blu-ray and DVB
subtitles) are not read.
"""

import codecs
import html
import os
import re
from collections.abc import Iterable
from dataclasses import dataclass

import av
from av.subtitles.stream import SubtitleStream

from gve_ray.media.limits import Limits, MediaError, Reason
from gve_ray.media.source import Source, raise_storage_fault
from gve_ray.media.video.open_video import open_container

SUFFIXES = (".srt", ".vtt")
MAX_BYTES = 16 * 2**20  # of a subtitle file, and of the text of all tracks of a video
_CODECS = frozenset({"mov_text", "srt", "subrip", "webvtt", "ass", "ssa", "text"})
_DEFAULT_SECONDS = 3.0  # how long a cue without a usable end is shown

_MARKS = (
    (codecs.BOM_UTF32_LE, "utf-32"),
    (codecs.BOM_UTF32_BE, "utf-32"),
    (codecs.BOM_UTF16_LE, "utf-16"),
    (codecs.BOM_UTF16_BE, "utf-16"),
    (codecs.BOM_UTF8, "utf-8-sig"),
)
# What may be between the name of the video and .srt: a language, and for whom the subtitles are.
_KIND = re.compile(r"(?:\.[A-Za-z]{2,3}(?:[-_][A-Za-z0-9]{2,8})?)?(?:\.(?:forced|sdh|cc|hi|default))?$")
_TIME = r"(?:(\d{1,3}):)?(\d{1,2}):(\d{1,2})(?:[.,](\d{1,6}))?"
_TIMING = re.compile(rf"^\s*{_TIME}\s*--?>\s*{_TIME}(?:\s.*)?$")
_NUMBER = re.compile(r"^\s*\d+\s*$")
# Tags of SRT and WebVTT, WebVTT's times within a cue, and the overrides of ASS: <b>, <v Ann>, <00:01.500>, {\an8}.
_TAG = re.compile(r"</?[A-Za-z][^<>]{0,200}>|<[\d:.]{1,20}>|\{\\[^{}]{0,500}\}")
_SPACE = re.compile(r"[ \t\r\f\v\u00a0\u200b-\u200f\ufeff]+")
# Control characters, which no subtitle shows, and halves of surrogate pairs.
_UNSHOWN = re.compile("[\x00-\x08\x0e-\x1f\x7f\u202a-\u202e\u2066-\u2069\ud800-\udfff]")


@dataclass(frozen=True)
class Cue:
    """A text and when it is shown. start, end: seconds, start <= end. text: lines without any tags."""

    start: float
    end: float
    text: str


def video_stems(name: str) -> set[str]:
    """Return the names, without their endings, of the videos to which a subtitle file of this name may belong.

    `film.en.srt` belongs to `film.mp4` or to `film.en.mp4`.
    """
    stem = os.path.splitext(name)[0]
    kind = _KIND.search(stem)
    return {stem, stem[: kind.start()] if kind else stem}


def decode_text(data: bytes) -> str:
    """Decode a subtitle file.

    A byte order mark counts, then UTF-8 and UTF-16 are tried. Anything else is read as Windows-1252:
    the words of other old encodings are then wrong, but times and plain letters are right.
    """
    for mark, encoding in _MARKS:
        if data.startswith(mark):
            return data.decode(encoding, "replace")
    if b"\0" in data[:1000]:
        # In UTF-16, the high byte of Latin letters, digits and line ends is 0.
        return data.decode("utf-16-be" if data[:1] == b"\0" else "utf-16-le", "replace")
    try:
        return data.decode()
    except UnicodeDecodeError:
        return data.decode("cp1252", "replace")


def parse_subtitles(text: str) -> list[Cue]:
    """Return the cues of an SRT or WebVTT file, sorted by time.

    What does not belong to a cue is skipped. Numbers and blank lines between cues may be missing, and
    cues may overlap. A cue without a text is left out.
    """
    lines = re.split(r"\r\n|\n|\r", text)
    is_vtt = lines[0].lstrip("\ufeff").startswith("WEBVTT")
    timings = [(at, match) for at, line in enumerate(lines) if (match := _TIMING.match(line))]
    cues = []
    ends = [*(at for at, _ in timings), len(lines)][1:]
    for (at, match), after in zip(timings, ends, strict=False):
        body = lines[at + 1 : after]
        if after < len(lines):
            body = _without_name(body, is_vtt=is_vtt)
        if is_vtt and "" in body:  # notes and styles may follow the blank line that ends a cue
            body = body[: body.index("")]
        start, end = _seconds(match.groups()[:4]), _seconds(match.groups()[4:])
        cues.append(cue_of(start, end, "\n".join(body)))
    return sorted_cues(cues)


def read_subtitle_tracks(source: Source, *, limits: Limits) -> list[list[float | str]]:
    """Return start, end (seconds on the file's own clock) and text of each cue of all text tracks.

    Of a file without such tracks, little more than the header is read. Raises MediaError if the file
    cannot be opened, or if a track is damaged, and OSError if an object store fails.
    """
    cues: list[Cue | None] = []
    try:
        with open_container(source) as container:
            tracks = [stream for stream in container.streams if _has_text(stream)]
            size = 0
            for packet in container.demux(*tracks) if tracks else ():
                if not packet.size or packet.pts is None:
                    continue
                shown = packet.stream.codec_context.decode2(packet)
                if shown is None:
                    continue
                start = float(packet.pts * packet.time_base)
                seconds = float((packet.duration or 0) * packet.time_base)
                text = "\n".join(
                    _dialogue(rect.dialogue) for rect in shown.rects if hasattr(rect, "dialogue")
                )
                size += len(text)
                if size > MAX_BYTES:
                    raise MediaError(Reason.TOO_LARGE, f"subtitles of more than {MAX_BYTES} characters")
                cues.append(cue_of(start, start + seconds, text))
    except (av.error.FFmpegError, ValueError, OSError) as error:
        raise_storage_fault(error)
        raise MediaError(Reason.CORRUPT, f"{source!s:.200}: subtitles: {error}") from error
    return [[cue.start, cue.end, cue.text] for cue in sorted_cues(cues)]


def joined(cues: Iterable[Cue]) -> str:
    """Return the lines of cues, without a line that repeats the one before, as rolling captions do."""
    lines: list[str] = []
    for cue in cues:
        lines += [line for line in cue.text.split("\n") if line not in lines[-2:]]
    return "\n".join(lines)


def _has_text(stream: object) -> bool:
    return (
        isinstance(stream, SubtitleStream)
        and stream.codec_context is not None
        and stream.codec_context.name in _CODECS
    )


def _dialogue(data: bytes) -> str:
    # \h is ASS's hard space; \n is a line break only in one of its modes.
    return data.decode("utf-8", "replace").replace("\\h", " ").replace("\\n", "\n")


def _without_name(body: list[str], *, is_vtt: bool) -> list[str]:
    """Return the lines before a timing without the number or the name of its cue."""
    if not body or not body[-1].strip():
        return body
    after_blank = len(body) > 1 and not body[-2].strip()
    return body[:-1] if _NUMBER.match(body[-1]) or (is_vtt and after_blank) else body


def _seconds(parts: tuple[str | None, ...]) -> float:
    hours, minutes, seconds, fraction = parts
    whole = 3600 * int(hours or 0) + 60 * int(minutes or 0) + int(seconds or 0)
    return whole + float(f"0.{fraction or 0}")


def cue_of(start: float, end: float, text: str) -> Cue | None:
    """Return a cue with a cleaned text, or None if that is empty."""
    plain = _UNSHOWN.sub("", html.unescape(_TAG.sub("", text)))
    lines = (_SPACE.sub(" ", line).strip() for line in plain.splitlines())
    clean = "\n".join(line for line in lines if line)
    return Cue(start, end if end > start else start + _DEFAULT_SECONDS, clean) if clean else None


def sorted_cues(cues: Iterable[Cue | None]) -> list[Cue]:
    """Return cues by time, each once, without None."""
    return sorted({cue for cue in cues if cue is not None}, key=lambda cue: (cue.start, cue.end, cue.text))
