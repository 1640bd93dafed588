"""Text files of users: plain or gzipped, in UTF-8 or with a byte order mark.

    for line in open_text("captions.csv.gz"):
        fault = bad_byte(line)     # "" or "byte 0xe9 after 'caf' is not UTF-8; ..."

Bytes that are not UTF-8 do not end the reading: they become surrogates, which `bad_byte` finds, so that the line they
are in can be named and all others used. No other encoding is guessed: a wrong guess would be learnt as text.
"""

import gzip
import io
from typing import Any, TextIO

from gve_ray.media.source import local_path, open_remote

_GZIP = b"\x1f\x8b"
_MARKS = (  # UTF-32's begins as UTF-16's does
    (b"\xff\xfe\x00\x00", "utf-32"),
    (b"\x00\x00\xfe\xff", "utf-32"),
    (b"\xff\xfe", "utf-16"),
    (b"\xfe\xff", "utf-16"),
    (b"\xef\xbb\xbf", "utf-8-sig"),
)
_WORKBOOKS = (b"PK\x03\x04", b"\xd0\xcf\x11\xe0")  # .xlsx is a zip archive, .xls an OLE file
_BUFFER = 1 << 20  # bytes of one read; a remote file is asked for them one by one


class NotTextError(ValueError):
    """A file is not text, or in an encoding that cannot be recognised."""


def open_text(source: str) -> TextIO:
    """A text file's lines by its path or URI, unzipped, with their ends; close it when they are read.

    Raises NotTextError, OSError where the file cannot be read, ValueError or ImportError for a URI that nothing here
    speaks.
    """
    path = local_path(source)
    raw = open_remote(source) if path is None else path.open("rb")
    stream = _buffered(raw)
    if stream.peek(2).startswith(_GZIP):
        stream = _buffered(gzip.GzipFile(fileobj=stream))
    head = stream.peek(_BUFFER)
    encoding = next((name for mark, name in _MARKS if head.startswith(mark)), None)
    if head.startswith(_WORKBOOKS):
        raise NotTextError("an Excel workbook or a zip archive; save the sheet as CSV UTF-8")
    if encoding is None and b"\0" in head:
        raise NotTextError(
            "bytes of value 0, so not UTF-8 (UTF-16 without a byte order mark?); save it as UTF-8"
        )
    errors = "surrogateescape" if encoding in (None, "utf-8-sig") else "strict"
    return io.TextIOWrapper(stream, encoding or "utf-8", errors, newline="")


def _buffered(stream: Any) -> io.BufferedReader:
    return io.BufferedReader(stream, _BUFFER)


def bad_byte(text: str) -> str:
    """The first byte of a text that is not UTF-8, in words; "" where all are."""
    try:
        _ = text.isascii() or text.encode()
    except UnicodeEncodeError as error:
        byte = bytes([ord(text[error.start]) - 0xDC00])
        # cp1252 leaves five values without a character
        return (
            f"byte 0x{byte.hex()} after {text[: error.start][-22:]!r} is not UTF-8; if the file is Windows-1252 it is "
            f"{byte.decode('cp1252', 'replace')!r}: save the file as UTF-8 (iconv -f WINDOWS-1252 -t UTF-8)"
        )
    return ""
