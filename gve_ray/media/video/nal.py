"""Find bytes in length-prefixed NAL units (H.264, H.265 in MP4 and Matroska) that no picture can hold.

Inside a NAL unit the bytes 00 00 00, 00 00 01 and 00 00 02 cannot occur (H.264 section 7.4.1, H.265
section 7.4.2): encoders insert 03 to prevent them. Where they do occur, the unit has ended, and
what follows is padding, another unit in byte-stream form, or a gap that an interrupted download
left. Many cameras and editors write the first two, so such bytes alone are no reason to refuse a
file; `sequential.check_doubtful_bytes` finds out whether the decoder needs them.
"""

from collections.abc import Iterator
from typing import NamedTuple

_PADDING = 64  # zeros at the end of a unit; hardware encoders pad to a multiple of 16 or 32 bytes


class PacketContent(NamedTuple):
    """What the NAL units of one packet hold.

    has_picture: False for a packet that has only parameter sets, messages or an end of sequence.
    fits: whether the units fill the packet exactly and have valid headers. doubtful: byte ranges
    that no coded picture can hold (see `inspect`). layer: the temporal layer (TemporalId) of the
    picture; 0 in H.264. disposable: whether no picture of this layer or a lower one refers to it.
    """

    has_picture: bool
    fits: bool
    doubtful: list[slice]
    layer: int = 0
    disposable: bool = False


def length_size(codec: str, extradata: bytes | None) -> int:
    """Return the bytes of a NAL length field (avcC, hvcC); 0 if units are not length-prefixed."""
    if not extradata or extradata[0] != 1:
        return 0
    if codec == "h264" and len(extradata) > 4:
        return (extradata[4] & 3) + 1
    if codec == "hevc" and len(extradata) > 21:
        return (extradata[21] & 3) + 1
    return 0


def inspect(packet: bytes, codec: str, size: int) -> PacketContent:
    """Return what a packet holds according to the headers of its NAL units.

    size: bytes of a length field. Doubtful bytes are in a slice of a picture, after its end
    according to the syntax, except up to 64 zeros at the end of a unit and units in byte-stream
    form (a start code and a valid header). Bytes outside slices do not count, since the decoder
    does not need them. Lengths that do not fit are left to the decoder: the packet may hold a
    picture.
    """
    ranges: list[slice] = []
    has_slice, fits, disposable, layer = False, True, True, 0
    at = 0
    while at + size < len(packet):
        start = at + size
        at = start + int.from_bytes(packet[at:start], "big")
        if at > len(packet):
            return PacketContent(True, False, ranges)
        fits &= start < at and packet[start] < 0x80  # forbidden_zero_bit
        for unit, doubtful in _units(packet, codec, start, at):
            if _is_slice(packet, codec, unit):
                has_slice = True
                disposable &= _is_disposable(packet, codec, unit)
                layer = max(layer, _layer(packet, codec, unit))
                ranges += [doubtful] if doubtful else []
    return PacketContent(
        has_picture=has_slice or at == 0,
        fits=fits and at == len(packet),
        doubtful=ranges,
        layer=layer,
        disposable=has_slice and disposable,
    )


def _units(packet: bytes, codec: str, start: int, end: int) -> Iterator[tuple[int, slice | None]]:
    """Yield (header, doubtful bytes after it) of the unit in [start, end), and of the units in
    byte-stream form that follow it there."""
    while start < end:
        stop = _forbidden(packet, start, end)
        following = _next_unit(packet, codec, stop, end)
        padding = end - stop <= _PADDING and not any(packet[stop:end])
        # Zeros in front of a start code belong to it.
        rest = stop < following and (following == end or any(packet[stop : following - 1]))
        yield start, slice(stop, following) if rest and not padding else None
        start = following


def _forbidden(packet: bytes, start: int, end: int) -> int:
    """Return where the first 00 00 00, 00 00 01 or 00 00 02 of [start, end) begins; `end` if none does."""
    at = packet.find(b"\0\0", start, end)
    while at >= 0 and at + 2 < end:
        if packet[at + 2] < 3:
            return at
        at = packet.find(b"\0\0", at + 1, end)
    return end


def _next_unit(packet: bytes, codec: str, at: int, end: int) -> int:
    """Return where the header of the next byte-stream unit in [at, end) is; `end` if there is none."""
    at = packet.find(b"\0\0\1", at, end)
    while at >= 0:
        if _is_header(packet[at + 3 : at + 5], codec):
            return at + 3
        at = packet.find(b"\0\0\1", at + 3, end)
    return end


def _is_header(head: bytes, codec: str) -> bool:
    """Return whether a NAL unit of the base layer can begin so (H.264 7.4.1, H.265 7.4.2.2)."""
    if not head or head[0] & 0x80:
        return False
    if codec == "h264":
        kind, reference = head[0] & 0x1F, head[0] >> 5
        return (
            kind in (1, 7, 8)
            or (kind == 5 and reference > 0)
            or (kind in (6, 9, 10, 11, 12) and not reference)
        )
    kind, layer = head[0] >> 1, (head[0] & 1) << 5 | (head[1] >> 3 if len(head) > 1 else 0)
    return (
        (kind < 10 or 16 <= kind <= 21 or 32 <= kind <= 40)
        and layer == 0
        and len(head) > 1
        and head[1] & 7 > 0
    )


def _is_slice(packet: bytes, codec: str, at: int) -> bool:
    return 1 <= packet[at] & 0x1F <= 5 if codec == "h264" else packet[at] >> 1 & 0x3F < 32


def _is_disposable(packet: bytes, codec: str, at: int) -> bool:
    """Return whether a slice is of a picture that none of its layer refers to.

    That is nal_ref_idc 0 in H.264 (section 7.4.1), and one of the sub-layer non-reference pictures
    in H.265 (Table 7-1).
    """
    if codec == "h264":
        return packet[at] & 0x60 == 0
    kind = packet[at] >> 1 & 0x3F
    return kind < 16 and kind % 2 == 0


def _layer(packet: bytes, codec: str, at: int) -> int:
    return 0 if codec == "h264" or at + 1 >= len(packet) else max(0, (packet[at + 1] & 7) - 1)
