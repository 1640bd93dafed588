"""Check whether the elements of a Matroska or WebM file fit together.

FFmpeg's demuxer resynchronises after damage and leaves out what it cannot parse, without an error.
The sizes of the elements show the damage, since children must fill their parent exactly.
"""

import io
from typing import BinaryIO

_SEGMENT, _CLUSTER, _BLOCK_GROUP = 0x18538067, 0x1F43B675, 0xA0
_SEGMENT_ID = _SEGMENT.to_bytes(4, "big")
# Which element is looked into, by its parent; None is the file.
_NESTED = {None: _SEGMENT, _SEGMENT: _CLUSTER, _CLUSTER: _BLOCK_GROUP, _BLOCK_GROUP: None}
# RFC 9559: children of the segment; an element of one of these ends a cluster of unknown size.
_IN_SEGMENT = frozenset(
    {0x114D9B74, 0x1549A966, 0x1654AE6B, _CLUSTER, 0x1C53BB6B, 0x1941A469, 0x1043A770, 0x1254C367}
)
# Timestamp, SimpleBlock, BlockGroup, PrevSize, Position, SilentTracks, EncryptedBlock, Void,
# CRC-32.
_IN_CLUSTER = frozenset({0xE7, 0xA3, _BLOCK_GROUP, 0xAB, 0xA7, 0x5854, 0xAF, 0xEC, 0xBF})


def first_misfit(file: BinaryIO, size: int) -> int | None:
    """Return the byte position of the first element that does not fit its parent; None if all fit.

    The children of the segment, of its clusters and of their block groups are checked, but nothing
    after the segment. An element that the end of the file cuts off does not fit either.
    """
    return _walk(file, 0, size, None, open_ended=False)[0]


def segment_end(head: bytes) -> int:
    """Return where the segment ends according to the head of a file; 0 if unknown (a live recording)."""
    at = head.find(_SEGMENT_ID)
    end = _element(io.BytesIO(head), at, len(head))[2] if at >= 0 else None
    return end or 0


def _walk(
    file: BinaryIO, at: int, stop: int, parent: int | None, *, open_ended: bool
) -> tuple[int | None, int]:
    """Return (the first misfit or None, where the parent ends).

    open_ended: the parent's size is unknown, so it lasts until an element that cannot be its child.
    """
    while at < stop:
        kind, start, end = _element(file, at, stop)
        if parent == _CLUSTER and open_ended and kind in _IN_SEGMENT:
            return None, at
        fits = kind in _IN_CLUSTER if parent == _CLUSTER else kind != 0
        if fits and kind == _NESTED[parent] and not (kind == _BLOCK_GROUP and (end is None or end > stop)):
            misfit, end = _walk(file, start, stop if end is None else end, kind, open_ended=end is None)
            if misfit is not None or kind == _SEGMENT:
                return misfit, end
        if not fits or end is None or end > stop:
            return at, at
        at = end
    return None, at


def _element(file: BinaryIO, at: int, stop: int) -> tuple[int, int, int | None]:
    """Return (id, start of content, end of content) of the element at `at`.

    The id is 0 if there is no element, and the end is None if its size is unknown.
    """
    file.seek(at)
    head = file.read(min(12, stop - at))
    id_width = 9 - head[0].bit_length() if head else 0
    if not 1 <= id_width <= 4 or len(head) <= id_width or head[id_width] == 0:
        return 0, at, None
    width = 9 - head[id_width].bit_length()
    if len(head) < id_width + width:
        return 0, at, None
    value = int.from_bytes(head[id_width : id_width + width], "big") & ((1 << 7 * width) - 1)
    start = at + id_width + width
    unknown = value == (1 << 7 * width) - 1
    return int.from_bytes(head[:id_width], "big"), start, None if unknown else start + value
