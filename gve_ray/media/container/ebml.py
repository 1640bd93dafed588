"""Walk a Matroska or WebM file's elements to see whether they still fit together.

FFmpeg's demuxer resynchronises after damage and leaves out what it cannot parse, without an error; the
element sizes, which must tile their parents exactly, give the damage away.
"""

from typing import BinaryIO

_HEADER, _SEGMENT, _CLUSTER = 0x1A45DFA3, 0x18538067, 0x1F43B675
# RFC 9559: children of the segment; an element of one of these ends a cluster of unknown size.
_TOP = frozenset(
    {0x114D9B74, 0x1549A966, 0x1654AE6B, _CLUSTER, 0x1C53BB6B, 0x1941A469, 0x1043A770, 0x1254C367}
)
# Timestamp, SimpleBlock, BlockGroup, PrevSize, Position, SilentTracks, EncryptedBlock, Void, CRC-32.
_IN_CLUSTER = frozenset({0xE7, 0xA3, 0xA0, 0xAB, 0xA7, 0x5854, 0xAF, 0xEC, 0xBF})
_BLOCK_GROUP = 0xA0


def first_misfit(file: BinaryIO, size: int) -> int | None:
    """Byte position of the first element that does not fit its parent, or None where all do.

    Checks the segment's children, the clusters' and the block groups'. What follows a segment of known
    size is not looked at. Elements cut off by the end of the file are misfits too.
    """
    at = 0
    while at < size:
        kind, start, end = _element(file, at, size)
        if kind == _SEGMENT:
            return _walk_segment(file, start, size if end is None else end)
        if end is None or end > size:
            return at
        at = end
    return at


def _walk_segment(file: BinaryIO, at: int, stop: int) -> int | None:
    while at < stop:
        kind, start, end = _element(file, at, stop)
        if kind == _CLUSTER:
            misfit, end = _walk_cluster(file, start, stop if end is None else end, open_ended=end is None)
            if misfit is not None:
                return misfit
        if kind == 0 or end is None or end > stop:
            return at
        at = end
    return None


def _walk_cluster(file: BinaryIO, at: int, stop: int, *, open_ended: bool) -> tuple[int | None, int]:
    """(misfit or None, where the cluster ends)."""
    while at < stop:
        kind, start, end = _element(file, at, stop)
        if open_ended and kind in _TOP:
            return None, at
        if kind not in _IN_CLUSTER or end is None or end > stop:
            return at, at
        if kind == _BLOCK_GROUP and (misfit := _walk_group(file, start, end)) is not None:
            return misfit, at
        at = end
    return None, at


def _walk_group(file: BinaryIO, at: int, stop: int) -> int | None:
    while at < stop:
        kind, _, end = _element(file, at, stop)
        if kind == 0 or end is None or end > stop:
            return at
        at = end
    return None


def _element(file: BinaryIO, at: int, stop: int) -> tuple[int, int, int | None]:
    """(id, start of content, end of content) of the element at `at`; id 0 where there is none, end None
    where the size is unknown."""
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
