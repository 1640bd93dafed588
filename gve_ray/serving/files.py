"""The file of an indexed video -> a reply in which a player can seek. Never called with what a client names: only
with a URI out of the index."""

import re
import stat
from collections.abc import Generator
from pathlib import PurePosixPath

from starlette.datastructures import Headers
from starlette.responses import FileResponse, Response, StreamingResponse
from starlette.types import Receive, Scope, Send

from gve_ray.media.source import file_facts, local_path, open_remote

_CHUNK = 1 << 20
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


def file_response(uri: str, *, size: int, etag: str, method: str = "GET", headers: Headers) -> Response:
    """An indexed file, or the part of it that the request asks for (Range, If-Range), to GET or HEAD.

    uri: local path or URI. size: bytes when it was indexed. etag: its fingerprint. headers: of the request.
    Local files give several ranges at once, too; of a URI, such a request gets the whole file. Reads only file
    facts, but from afar for a URI: call it in a thread. Raises FileNotFoundError, ChangedFileError, NotAFileError.
    """
    path = local_path(uri)
    name = uri.partition("?")[0] if path is None else path.name  # pyarrow takes options behind a "?"
    kind = _TYPES.get(PurePosixPath(name).suffix.lower(), _OTHER_TYPE)
    own = {
        "Accept-Ranges": "bytes",
        "Cache-Control": "private",
        "ETag": f'"{etag}"',
        "X-Content-Type-Options": "nosniff",
    }
    if path is not None:
        facts = path.stat()
        if not stat.S_ISREG(facts.st_mode):
            raise NotAFileError("a folder of frames has no file to play; show its pictures")
        _check_size(facts.st_size, size)
        return FileResponse(path, headers=own, media_type=kind, stat_result=facts)
    found, _ = file_facts(uri)
    if found >= 0:  # its file system can tell
        _check_size(found, size)
    return _remote_response(uri, size, kind, own, method, headers)


def _check_size(found: int, indexed: int) -> None:
    if found != indexed:
        raise ChangedFileError(
            f"the file has {found} bytes, {indexed} when it was indexed; run gve index again"
        )


def _remote_response(
    uri: str, size: int, kind: str, own: dict[str, str], method: str, headers: Headers
) -> Response:
    wanted = headers.get("range", "") if headers.get("if-range", own["ETag"]) == own["ETag"] else ""
    asked = _asked_range(wanted, size)
    start, end = asked or (0, size)
    if start >= end:
        return Response(status_code=416, headers=own | {"Content-Range": f"bytes */{size}"})
    own = own | {"Content-Length": str(end - start)}
    if asked:
        own["Content-Range"] = f"bytes {start}-{end - 1}/{size}"
    status = 206 if asked else 200
    if method == "HEAD":
        return Response(status_code=status, headers=own, media_type=kind)
    return _RemoteResponse(_read(uri, start, end), status, headers=own, media_type=kind)


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


class _RemoteResponse(StreamingResponse):
    """Closes its file however the reply ends; a client that leaves would keep it open until it is collected."""

    def __init__(
        self, parts: Generator[bytes, None, None], status: int, headers: dict[str, str], media_type: str
    ) -> None:
        super().__init__(parts, status, headers, media_type)
        self._parts = parts

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        try:
            await super().__call__(scope, receive, send)
        finally:
            self._parts.close()


def _read(uri: str, start: int, end: int) -> Generator[bytes, None, None]:
    with open_remote(uri) as file:
        file.seek(start)
        while start < end and (part := file.read(min(_CHUNK, end - start))):
            start += len(part)
            yield part
