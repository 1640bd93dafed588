"""Edit lists of mp4 files (ISO/IEC 14496-12, section 8.6.6): which part of its samples a player shows."""

import struct
from collections.abc import Iterator

from gve_ray.media.container.framing import iso_boxes


def shorten(path: str, length: int) -> None:
    """Shorten the edit lists of an mp4 to `length` ticks of its movie timescale.

    FFmpeg ends them after the last packet. But the last packets may hold pictures that are there only
    because others refer to them, and sound beyond the end.
    """
    with open(path, "r+b") as file:
        boxes = iso_boxes(file, file.seek(0, 2))
        start, size = next((start, size) for kind, start, size in boxes if kind == b"moov")
        file.seek(start)
        moov = bytearray(file.read(size))
        movie = track = longest = 0
        for kind, at in _boxes(moov, 8, size):
            if kind == b"mvhd":
                movie = at
            elif kind == b"tkhd":
                track = at
            elif kind == b"elst":
                shown = _shorten_edits(moov, at, length)
                _put(moov, track, (28, 36), shown)
                longest = max(longest, shown)
        _put(moov, movie, (24, 32), longest)
        file.seek(start)
        file.write(moov)


def _shorten_edits(moov: bytearray, elst: int, length: int) -> int:
    """Shorten the edits in the box at `elst` to `length` together, and return their length."""
    is_wide, (count,) = moov[elst + 8] == 1, struct.unpack_from(">I", moov, elst + 12)
    left = length
    for at in range(elst + 16, elst + 16 + count * (20 if is_wide else 12), 20 if is_wide else 12):
        (duration,) = struct.unpack_from(">Q" if is_wide else ">I", moov, at)
        struct.pack_into(">Q" if is_wide else ">I", moov, at, min(duration, left))
        left -= min(duration, left)
    return length - left


def _put(moov: bytearray, box: int, offsets: tuple[int, int], value: int) -> None:
    """Write a duration into a box, at the first offset in version 0 of the box, the second in version 1."""
    is_wide = moov[box + 8] == 1
    struct.pack_into(">Q" if is_wide else ">I", moov, box + offsets[is_wide], value)


def _boxes(moov: bytearray, at: int, end: int) -> Iterator[tuple[bytes, int]]:
    """Yield the type and the position of each box in moov[at:end], and of those in tracks and edits."""
    while at < end:
        size, kind = struct.unpack_from(">I4s", moov, at)
        yield kind, at
        if kind in (b"trak", b"edts"):
            yield from _boxes(moov, at + 8, at + size)
        at += size
