"""The file of an indexed video -> a reply in which a player can seek. Never called with what a client names: only
with a URI out of the index.

Every reply is small and whole. A stream would be read to its end at once, whatever the client takes of it: between
a Ray Serve replica and its proxy nothing tells the sender to wait.
"""

import re
import stat
from functools import lru_cache
from pathlib import PurePosixPath
from urllib.parse import quote

from starlette.datastructures import Headers
from starlette.responses import Response

from gve_ray.media.source import file_facts, local_path, open_remote

PART = 4 << 20  # bytes of a reply to a range; a player asks for the next
WHOLE = 64 << 20  # a larger file is given by ranges alone
_RANGE = re.compile(r"\s*bytes\s*=\s*(\d{0,18})\s*-\s*(\d{0,18})\s*", re.IGNORECASE)
_OTHER_TYPE = "application/octet-stream"
_HEAD = 600  # bytes that tell a file's type
# Media types by what a file begins with; the first match counts. None is of a kind that a browser would run.
_TYPES = {
    kind: re.compile(pattern, re.DOTALL)
    for kind, pattern in {
        "video/quicktime": rb"....(ftypqt  |moov|mdat|wide|free|skip|pnot)",
        "video/3gpp": rb"....ftyp3gp",
        "video/3gpp2": rb"....ftyp3g2",
        "image/avif": rb"....ftypavi[fs]",
        "video/mp4": rb"....(ftyp|styp|sidx|moof)",
        "video/webm": rb"\x1aE\xdf\xa3.{0,60}\x42\x82.{1,8}webm",
        "video/matroska": rb"\x1aE\xdf\xa3",
        "video/ogg": rb"OggS",
        "video/vnd.avi": rb"RIFF....AVI ",
        "video/mp2t": rb"(G.{187}){3}|(....G.{187}){3}",
        "video/mpeg": rb"\0\0\x01[\xba\xb3]",
        "video/x-flv": rb"FLV\x01",
        "video/x-ms-asf": rb"0&\xb2u\x8ef\xcf\x11",
        "application/mxf": rb"\x06\x0e\x2b\x34",
        "image/gif": rb"GIF8[79]a",
        "image/webp": rb"RIFF....WEBP",
        "image/png": rb"\x89PNG\r\n\x1a\n",
    }.items()
}


class ChangedFileError(Exception):
    """A file is no longer the one that was indexed."""


class NotAFileError(Exception):
    """What was indexed is no single file: a folder of frames."""


class TooLargeError(Exception):
    """A file is too large to be given at once."""


def file_response(uri: str, *, size: int, etag: str, method: str = "GET", headers: Headers) -> Response:
    """An indexed file, or the first `PART` bytes of the range that the request asks for (Range, If-Range), to GET
    or HEAD.

    uri: local path or URI. size: bytes when it was indexed. etag: its fingerprint. headers: of the request; one
    range is understood, anything else counts as none. Reads the file: call it in a thread. Raises
    FileNotFoundError, ChangedFileError, NotAFileError, and TooLargeError without a range above `WHOLE`.
    """
    path = local_path(uri)
    plain = uri.partition("?")[0] if path is None else path  # pyarrow takes options behind a "?"
    name = quote(PurePosixPath(plain).name, safe="", errors="replace")
    if path is not None and not stat.S_ISREG(path.stat().st_mode):
        raise NotAFileError("a folder of frames has no file to play; show its pictures")
    found, _ = file_facts(uri)
    if found >= 0 and found != size:  # -1: its file system cannot tell
        raise ChangedFileError(f"the file has {found} bytes, {size} when it was indexed; run gve index again")
    own = {
        "Accept-Ranges": "bytes",
        "Content-Disposition": f"inline; filename*=UTF-8''{name}",
        "Cache-Control": "private",
        "ETag": f'"{etag}"',
        "X-Content-Type-Options": "nosniff",
        "Cross-Origin-Resource-Policy": "same-origin",
    }
    wanted = headers.get("range", "") if headers.get("if-range", own["ETag"]) == own["ETag"] else ""
    asked = _asked_range(wanted, size)
    if asked is None and size > WHOLE and method != "HEAD":
        raise TooLargeError(f"{size} bytes: ask for parts of it, by the header Range: bytes=FIRST-LAST")
    start, end = asked or (0, size)
    if start >= end:
        return Response(status_code=416, headers=own | {"Content-Range": f"bytes */{size}"})
    if asked:
        end = min(end, start + PART)
        own["Content-Range"] = f"bytes {start}-{end - 1}/{size}"
    own["Content-Length"] = str(end - start)
    data = b"" if method == "HEAD" else _read(uri, start, end)
    return Response(data, 206 if asked else 200, headers=own, media_type=_type_of(uri, etag))


@lru_cache(maxsize=4096)
def _type_of(uri: str, etag: str) -> str:
    """The media type of a file; kept until its `etag` changes."""
    return media_type(_read(uri, 0, _HEAD))


def media_type(head: bytes) -> str:
    """The media type of a video or an animated image by its first bytes; "application/octet-stream" for any other file.

    The file's name plays no part: it is often wrong, and browsers act on the type.
    """
    return next((kind for kind, pattern in _TYPES.items() if pattern.match(head)), _OTHER_TYPE)


def _asked_range(header: str, size: int) -> tuple[int, int] | None:
    """First byte and the one after the last (RFC 9110 section 14.1.2), an empty range where the file has nothing
    of what is asked for; None where the header is not understood, which counts as if it were not there."""
    match = _RANGE.fullmatch(header)
    first, last = match.groups() if match else ("", "")
    if not first:
        return (max(0, size - int(last)), size) if last else None
    if last and int(last) < int(first):
        return None
    return int(first), min(size, int(last) + 1) if last else size


def _read(uri: str, start: int, end: int) -> bytes:
    path = local_path(uri)
    with open_remote(uri) if path is None else path.open("rb") as file:
        file.seek(start)
        return bytes(file.read(end - start))
