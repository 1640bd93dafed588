"""Serve the file of an indexed video with HTTP range requests, so that a player can seek.

The URI always comes from the index and never from a client. Every reply is small and complete
instead of a stream, because there is no back-pressure between a Ray Serve replica and its proxy: a
stream would be read to its end even if the client reads only a part.
"""

import re
import stat
from functools import lru_cache
from pathlib import PurePosixPath
from urllib.parse import quote

from starlette.datastructures import Headers
from starlette.responses import Response

from gve_ray.media.source import file_facts, local_path, open_remote
from gve_ray.serving.errors import ApiError

PART = 4 << 20  # bytes of a reply to a range request; a player requests the next part
WHOLE = 64 << 20  # bytes; a larger file is served only in ranges
_RANGE = re.compile(r"\s*bytes\s*=\s*(\d{0,18})\s*-\s*(\d{0,18})\s*", re.IGNORECASE)
_OTHER_TYPE = "application/octet-stream"
_HEAD = 600  # bytes from which the type is detected
# Media types by the first bytes of a file; the first match counts. No type is one that a browser
# would execute.
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
MEDIA_TYPES = (*_TYPES, _OTHER_TYPE)  # of all replies with a file


def file_response(uri: str, *, size: int, etag: str, method: str = "GET", headers: Headers) -> Response:
    """Return the reply to GET or HEAD: the whole file, or the first `PART` bytes of the requested
    range.

    uri: local path or URI. size: bytes of the file when it was indexed. etag: its fingerprint.
    headers: of the request; Range and If-Range are used, and a Range header with several ranges is
    ignored. This reads the file, so call it in a thread.

    Raises FileNotFoundError, and ApiError: 410 if the file was changed after it was indexed, 404
    for a folder of frames, 400 for a file above `WHOLE` bytes without a range.
    """
    name = check_file(uri, size)
    reply_headers = {
        "Accept-Ranges": "bytes",
        "Content-Disposition": f"inline; filename*=UTF-8''{quote(name, safe='', errors='replace')}",
        "Cache-Control": "private",
        "ETag": f'"{etag}"',
        "X-Content-Type-Options": "nosniff",
        "Cross-Origin-Resource-Policy": "same-origin",
    }
    range_header = (
        headers.get("range", "")
        if headers.get("if-range", reply_headers["ETag"]) == reply_headers["ETag"]
        else ""
    )
    requested = _requested_range(range_header, size)
    if requested is None and size > WHOLE and method != "HEAD":
        raise ApiError(
            400,
            f"{name}: {size} bytes: ask for parts of it, by the header Range: bytes=FIRST-LAST",
            "Range",
            "range_needed",
        )
    start, end = requested or (0, size)
    if start >= end:
        return Response(status_code=416, headers=reply_headers | {"Content-Range": f"bytes */{size}"})
    if requested:
        end = min(end, start + PART)
        reply_headers["Content-Range"] = f"bytes {start}-{end - 1}/{size}"
    reply_headers["Content-Length"] = str(end - start)
    data = b"" if method == "HEAD" else _read(uri, start, end)
    return Response(data, 206 if requested else 200, headers=reply_headers, media_type=_type_of(uri, etag))


def check_file(uri: str, size: int) -> str:
    """Return the name of an indexed file, after a check that it is as it was. size: bytes, as indexed.

    Raises FileNotFoundError, and ApiError: 410 if the file was changed, 404 for a folder of frames.
    """
    path = local_path(uri)
    plain = uri.partition("?")[0] if path is None else path  # pyarrow accepts options after a "?"
    name = PurePosixPath(plain).name
    if path is not None and not stat.S_ISREG(path.stat().st_mode):
        raise ApiError(
            404, f"{name}: a folder of frames has no file to play; show its pictures", code="no_file"
        )
    current_size, _ = file_facts(uri)
    if current_size >= 0 and current_size != size:  # -1: the file system does not know
        raise ApiError(
            410, f"{name}: {current_size} bytes, {size} when it was indexed; run gve index again", code="gone"
        )
    return name


@lru_cache(maxsize=4096)
def _type_of(uri: str, etag: str) -> str:
    """Return the media type of a file; cached until its `etag` changes."""
    return media_type(_read(uri, 0, _HEAD))


def media_type(head: bytes) -> str:
    """Return the media type of a video or an animated image, detected from its first bytes.

    For any other file this is "application/octet-stream". The file name is not used, because it is
    often wrong and browsers trust the type.
    """
    return next((kind for kind, pattern in _TYPES.items() if pattern.match(head)), _OTHER_TYPE)


def _requested_range(header: str, size: int) -> tuple[int, int] | None:
    """Return the requested range as [start, end) (RFC 9110 section 14.1.2).

    The range is empty if it lies outside the file. None: the header is invalid and is ignored.
    """
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
