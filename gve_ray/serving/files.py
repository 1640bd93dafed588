"""The file of an indexed video -> a reply in which a player can seek. Never called with what a client names: only
with a URI out of the index.

Every reply is small and whole. A stream would be read to its end at once, whatever the client takes of it: between
a Ray Serve replica and its proxy nothing tells the sender to wait.
"""

import re
import stat
from pathlib import PurePosixPath

from starlette.datastructures import Headers
from starlette.responses import Response

from gve_ray.media.source import file_facts, local_path, open_remote

PART = 4 << 20  # bytes of a reply to a range; a player asks for the next
WHOLE = 64 << 20  # a larger file is given by ranges alone
_RANGE = re.compile(r"\s*bytes\s*=\s*(\d{0,18})\s*-\s*(\d{0,18})\s*", re.IGNORECASE)
_OTHER_TYPE = "application/octet-stream"
# Named here, for what `mimetypes` says depends on the machine; and nothing a browser would run is among them.
_TYPES = {
    ".mp4": "video/mp4",
    ".m4v": "video/mp4",
    ".mov": "video/quicktime",
    ".mkv": "video/x-matroska",
    ".webm": "video/webm",
    ".avi": "video/x-msvideo",
    ".flv": "video/x-flv",
    ".wmv": "video/x-ms-wmv",
    ".mpg": "video/mpeg",
    ".mpeg": "video/mpeg",
    ".mts": "video/mp2t",
    ".m2ts": "video/mp2t",
    ".ts": "video/mp2t",
    ".3gp": "video/3gpp",
    ".ogv": "video/ogg",
    ".gif": "image/gif",
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
    name = uri.partition("?")[0] if path is None else path.name  # pyarrow takes options behind a "?"
    if path is not None and not stat.S_ISREG(path.stat().st_mode):
        raise NotAFileError("a folder of frames has no file to play; show its pictures")
    found, _ = file_facts(uri)
    if found >= 0 and found != size:  # -1: its file system cannot tell
        raise ChangedFileError(f"the file has {found} bytes, {size} when it was indexed; run gve index again")
    own = {
        "Accept-Ranges": "bytes",
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
    kind = _TYPES.get(PurePosixPath(name).suffix.lower(), _OTHER_TYPE)
    return Response(data, 206 if asked else 200, headers=own, media_type=kind)


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
