"""Read text files that are plain or gzipped, in UTF-8 or with a byte order mark.

    for line in open_text("captions.csv.gz"):
        fault = bad_byte(line)     # "" or "byte 0xe9 after 'caf' is not UTF-8; ..."

Bytes that are not UTF-8 do not stop the reading. They become surrogates, which `bad_byte` detects,
so that their line can be reported and all others used. No other encoding is guessed, because a
wrong guess would corrupt the text.
"""

import gzip
import io
from typing import TextIO, cast

from gve_ray.media.source import open_binary

_GZIP = b"\x1f\x8b"
_MARKS = (  # UTF-32 comes first, because its mark begins like that of UTF-16
    (b"\xff\xfe\x00\x00", "utf-32"),
    (b"\x00\x00\xfe\xff", "utf-32"),
    (b"\xff\xfe", "utf-16"),
    (b"\xfe\xff", "utf-16"),
    (b"\xef\xbb\xbf", "utf-8-sig"),
)
_WORKBOOKS = (b"PK\x03\x04", b"\xd0\xcf\x11\xe0")  # .xlsx is a zip archive, .xls an OLE file
_BUFFER = 1 << 20  # bytes per read; each read of a remote file is one request


class NotTextError(ValueError):
    """A file is not text, or its encoding cannot be recognised."""


def open_text(source: str) -> TextIO:
    """Open a text file by path or URI and decompress it. Lines keep their line ends. The caller closes it.

    Raises NotTextError, OSError if the file cannot be read, and ValueError or ImportError for a URI
    with an unsupported scheme.
    """
    stream = open_binary(source, _BUFFER)
    if stream.peek(2).startswith(_GZIP):
        # typeshed does not know that GzipFile has the methods of a raw stream
        stream = io.BufferedReader(cast(io.RawIOBase, gzip.GzipFile(fileobj=stream)), _BUFFER)
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


def bad_byte(text: str) -> str:
    """Describe the first byte of a text that is not UTF-8; return "" if there is none."""
    try:
        _ = text.isascii() or text.encode()
    except UnicodeEncodeError as error:
        byte = bytes([ord(text[error.start]) - 0xDC00])
        # five byte values have no character in cp1252
        return (
            f"byte 0x{byte.hex()} after {text[: error.start][-22:]!r} is not UTF-8; if the file is Windows-1252 it is "
            f"{byte.decode('cp1252', 'replace')!r}: save the file as UTF-8 (iconv -f WINDOWS-1252 -t UTF-8)"
        )
    return ""
