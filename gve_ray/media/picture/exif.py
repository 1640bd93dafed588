"""Read the orientation of a picture from EXIF. A full parser could fail on the other tags.

orientation(exif)      1 to 8, from the bytes of an EXIF block
split_jpeg(data)       (the JPEG without its metadata, its EXIF block)
"""

import struct

from PIL.Image import Transpose

AS_STORED = 1
# The operation that turns a picture of each orientation upright (Exif 2.32, "Orientation").
TURNS: dict[int, Transpose | None] = {
    AS_STORED: None,
    2: Transpose.FLIP_LEFT_RIGHT,
    3: Transpose.ROTATE_180,
    4: Transpose.FLIP_TOP_BOTTOM,
    5: Transpose.TRANSPOSE,
    6: Transpose.ROTATE_270,
    7: Transpose.TRANSVERSE,
    8: Transpose.ROTATE_90,
}
SIDEWAYS = frozenset({5, 6, 7, 8})  # width and height are exchanged

_EXIF = b"Exif\0\0"
_ORIENTATION, _SHORT = 0x0112, 3
_ENTRY = 12  # bytes of a directory's entry
_SOS, _APP0, _APP1, _APP14, _APP15, _COMMENT = 0xDA, 0xE0, 0xE1, 0xEE, 0xEF, 0xFE


def orientation(exif: bytes) -> int:
    """Return the orientation in an EXIF block, with or without the leading "Exif": 1 to 8.

    It is AS_STORED if the tag is missing or is not one 16-bit number from 1 to 8, as in browsers.
    Other tags are not read, so damage to them does no harm. XMP, which may have an orientation too,
    is not read.
    """
    tiff = exif.removeprefix(_EXIF)
    order = {b"II*\0": "<", b"MM\0*": ">"}.get(tiff[:4])
    if order is None or len(tiff) < 8:
        return AS_STORED
    (start,) = struct.unpack_from(f"{order}I", tiff, 4)
    if start + 2 > len(tiff):
        return AS_STORED
    (count,) = struct.unpack_from(f"{order}H", tiff, start)
    for at in range(start + 2, min(start + 2 + count * _ENTRY, len(tiff) - _ENTRY + 1), _ENTRY):
        tag, kind, values, value = struct.unpack_from(f"{order}HHIH", tiff, at)
        if tag == _ORIENTATION:
            return value if (kind, values) == (_SHORT, 1) and value in TURNS else AS_STORED
    return AS_STORED


def split_jpeg(data: bytes) -> tuple[bytes, bytes]:
    """Return (the JPEG without its metadata, its first EXIF block or b"").

    The metadata are the comments and all APPn segments except those of JFIF and Adobe, which define
    the colours. The data from the first byte that does not belong to a complete segment is kept
    unchanged.
    """
    kept, exif, at = [data[:2]], b"", 2
    while data[at : at + 1] == b"\xff" and at + 4 <= len(data):
        marker, end = data[at + 1], at + 2 + int.from_bytes(data[at + 2 : at + 4], "big")
        if marker == 0xFF:  # padding before a marker
            at += 1
            continue
        if marker == _SOS or end < at + 4 or end > len(data):
            break
        body = data[at + 4 : end]
        if marker == _APP1 and body.startswith(_EXIF):
            exif = exif or body
        if _decides_colours(marker, body) or not (_APP0 <= marker <= _APP15 or marker == _COMMENT):
            kept.append(data[at:end])
        at = end
    return b"".join([*kept, data[at:]]), exif


def _decides_colours(marker: int, body: bytes) -> bool:
    """Whether a segment is a complete JFIF or Adobe header."""
    jfif = marker == _APP0 and body.startswith(b"JFIF\0") and len(body) >= 14
    return jfif or (marker == _APP14 and body.startswith(b"Adobe") and len(body) >= 12)
