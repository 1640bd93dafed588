"""Check from a container's bytes, without a decoder, whether a file is complete.

Decoders decode what is left of a truncated file, without an error. But the container states how
long its parts are and where each sample lies.
"""

import struct
from contextlib import suppress
from typing import BinaryIO

from gve_ray.media.container import transport
from gve_ray.media.container.ebml import first_misfit, segment_end
from gve_ray.media.limits import Reason
from gve_ray.media.source import Blob

# Top-level boxes of ISO base media files (ISO/IEC 14496-12) and QuickTime. Anything else after the
# last known box is garbage, and its length says nothing about missing bytes.
_ISO_BOXES = frozenset(
    b"ftyp styp moov moof mdat mfra sidx ssix free skip wide pnot uuid meta emsg prft pdin udta".split()
)
_EBML_MAGIC = b"\x1a\x45\xdf\xa3"
_RIFF = b"RIFF"
_ASF_MAGIC = bytes.fromhex("3026b2758e66cf11a6d900aa0062ce6c")
_ASF_PROPERTIES = bytes.fromhex("a1dcab8c47a9cf118ee400c00c205365")


def missing_bytes(blob: Blob, *, ignore: frozenset[bytes] = frozenset()) -> int:
    """Return how many bytes of the container lie beyond the end of the file; 0 if none or unknown.

    Only the top level counts: ISO boxes (except the kinds in `ignore`), the Matroska segment, the
    RIFF chunk, whole packets of a transport stream, the sizes in the headers of ASF and FLV, GIF's
    blocks.
    """
    with blob.open() as file:
        head = file.read(4096)
        file.seek(0)
        if head[4:8] in _ISO_BOXES:
            boxes = iso_boxes(file, blob.size)
            end = max((start + size for kind, start, size in boxes if kind not in ignore), default=0)
        elif head.startswith(_EBML_MAGIC):
            end = segment_end(head)
        elif head.startswith(_RIFF):
            end = 8 + struct.unpack("<I", head[4:8])[0] if len(head) >= 8 else blob.size + 1
        elif head.startswith(_ASF_MAGIC):
            end = int(_stated(head, _ASF_PROPERTIES, 40, "<Q"))
        elif head.startswith(b"FLV"):
            end = int(_stated(head, b"filesize\0", 9, ">d"))
        elif head.startswith(b"GIF8"):
            end = gif_end(file)[0]
        else:
            end = _transport_end(file, head, blob.size)
    return max(0, end - blob.size)


def iso_boxes(file: BinaryIO, size: int) -> list[tuple[bytes, int, int]]:
    """Return (type, start, length) of each top-level box up to the first unknown one.

    The lengths are those that the file states, so the last box may end beyond `size`.
    """
    boxes: list[tuple[bytes, int, int]] = []
    at = 0
    while at + 8 <= size:
        file.seek(at)
        header = file.read(16)
        length, kind = int.from_bytes(header[:4], "big"), header[4:8]
        if length == 1 and len(header) == 16:
            length = int.from_bytes(header[8:16], "big")
        elif length == 0:  # to the end of the file
            length = size - at
        if kind not in _ISO_BOXES or length < 8:
            break
        boxes.append((kind, at, length))
        at += length
    return boxes


def is_fragmented(blob: Blob) -> bool:
    """Return whether this is an ISO file with movie fragments."""
    with blob.open() as file:
        return any(kind == b"moof" for kind, _, _ in iso_boxes(file, blob.size))


def is_protected(blob: Blob) -> bool:
    """Return whether the index of an ISO file declares an encrypted video track (ISO/IEC 23001-7).

    Only the packets show whether all, some or none of its pictures are in fact encrypted.
    """
    with blob.open() as file:
        if file.read(8)[4:] not in _ISO_BOXES:
            return False
        for kind, start, length in iso_boxes(file, blob.size):
            if kind == b"moov":
                file.seek(start)
                return b"encv" in file.read(length)
    return False


def gif_end(file: BinaryIO) -> tuple[int, bool]:
    """Return (byte position at which the last block of a GIF ends, whether its trailer was there).

    The position lies beyond the end of the file if that block is truncated. A missing trailer does
    no harm: browsers show all pictures. See the GIF89a specification, section "The Grammar".
    """
    data = file.read() if file.seek(0) == 0 else b""
    at = 13 + _colour_table(data[10:11])
    while at < len(data):
        kind = data[at]
        if kind == 0x3B:  # trailer
            return at + 1, True
        if kind == 0x21:  # extension: label, sub-blocks
            after = at + 2
        elif kind == 0x2C:  # picture: descriptor, colour table, code size, sub-blocks
            after = at + 11 + _colour_table(data[at + 9 : at + 10])
        else:  # garbage instead of a trailer
            return at, False
        with suppress(IndexError):  # sub-blocks that continue after the end of the file
            while length := data[after]:
                after += 1 + length
        at = after + 1
    return at, False


def _colour_table(flags: bytes) -> int:
    """Return the bytes of the colour table that follows a GIF's packed field."""
    return 3 << (flags[0] & 7) + 1 if flags and flags[0] & 0x80 else 0


def structural_damage(blob: Blob) -> str:
    """Return the damage that the container's framing shows inside a complete file, or "".

    For the two containers whose demuxers silently skip damage: Matroska and transport streams.
    """
    with blob.open() as file:
        head = file.read(4096)
        if head.startswith(_EBML_MAGIC):
            misfit = first_misfit(file, blob.size)
            return "" if misfit is None else f"the elements around byte {misfit} do not fit together"
    layout = transport.layout(head)
    return "" if layout is None else transport.damage(blob, *layout)


def why_not_opened(blob: Blob) -> tuple[Reason, str]:
    """Return (the reason why no demuxer opens a file, what to do about it).

    The second is "" where FFmpeg's message says more.
    """
    with blob.open() as file:
        magic = file.read(16)
        boxes = iso_boxes(file, blob.size) if magic[4:8] in _ISO_BOXES else []
    if is_protected(blob):
        return Reason.ENCRYPTED, "the video track is encrypted; decrypt the file first"
    if boxes and b"moov" not in [kind for kind, _, _ in boxes]:
        return Reason.TRUNCATED, ""  # the index is written last, so it is missing
    recognised = magic.startswith((_EBML_MAGIC, _ASF_MAGIC, b"FLV\x01", b"GIF8"))
    if boxes or recognised or (magic[:4] == _RIFF and magic[8:12] == b"AVI "):
        return (Reason.TRUNCATED if missing_bytes(blob) else Reason.CORRUPT), ""
    start_code = magic.startswith((b"\0\0\0\x01", b"\0\0\x01")) and magic[3] != 0xBA  # BA: a program stream
    if start_code or magic.startswith(b"YUV4MPEG2"):
        return Reason.NOT_A_VIDEO, (
            "a raw stream of pictures, which has no times; put it into a container, for example with "
            "ffmpeg -i FILE -c copy FILE.mkv (raw YUV needs an encoder instead of copy)"
        )
    return (
        Reason.NOT_A_VIDEO,
        "not a container that is read: MP4, QuickTime, Matroska, WebM, MPEG, AVI, FLV, ASF, Ogg, GIF ...",
    )


def _stated(head: bytes, marker: bytes, offset: int, layout: str) -> float:
    """Return the number `offset` bytes after the start of `marker`; 0 if there is none."""
    at = head.find(marker)
    if at < 0 or at + offset + 8 > len(head):
        return 0
    (value,) = struct.unpack_from(layout, head, at + offset)
    return value if 0 < value < 1 << 62 else 0


def _transport_end(file: BinaryIO, head: bytes, size: int) -> int:
    """Return where the last packet of an MPEG transport stream ends; 0 for any other file."""
    layout = transport.layout(head)
    if layout is None:
        return 0
    packet, sync = layout
    begun = size % packet
    file.seek(size - begun + sync)
    return size - begun + packet if begun > sync and file.read(1)[0] == transport.SYNC else 0
