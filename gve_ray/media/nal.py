"""Look for bytes in length-prefixed NAL units (H.264, H.265 in MP4 and Matroska) that no picture can hold.

Inside a NAL unit the bytes 00 00 00, 00 00 01 and 00 00 02 cannot occur (H.264 section 7.4.1, H.265
section 7.4.2): encoders break them up with 03. Where they do occur, the unit has ended, and what follows
is padding, another unit in byte-stream form, or a hole that an interrupted download left. Many healthy
cameras and editors write the first two, so the syntax alone refuses nothing; `sequential.depends_on`
finds out whether the decoder needs those bytes.
"""

_PADDING = 64  # zeros at the end of a unit; hardware encoders fill up to a multiple of 16 or 32 bytes


def length_size(codec: str, extradata: bytes | None) -> int:
    """Bytes of a NAL length field (avcC, hvcC); 0 where units are not length-prefixed."""
    if not extradata or extradata[0] != 1:
        return 0
    if codec == "h264" and len(extradata) > 4:
        return (extradata[4] & 3) + 1
    if codec == "hevc" and len(extradata) > 21:
        return (extradata[21] & 3) + 1
    return 0


def doubtful_bytes(packet: bytes, codec: str, size: int) -> list[slice]:
    """Ranges of a packet that lie in a slice of a picture, after the end that its syntax gives it.

    size: bytes of a length field. Not reported: up to 64 zeros at the end of a unit, units in byte-stream
    form (a start code and a valid header), and anything outside slices, which the decoder does not need.
    """
    ranges: list[slice] = []
    at = 0
    while at + size < len(packet):
        start = at + size
        at = min(len(packet), start + int.from_bytes(packet[at:start], "big"))
        ranges += _after_the_end(packet, codec, start, at)
    return ranges


def _after_the_end(packet: bytes, codec: str, start: int, end: int) -> list[slice]:
    ranges: list[slice] = []
    while start < end:
        stop = _forbidden(packet, start, end)
        following = _next_unit(packet, codec, stop, end)
        padding = end - stop <= _PADDING and not any(packet[stop:end])
        # Zeros in front of a start code belong to it.
        rest = stop < following and (following == end or any(packet[stop : following - 1]))
        if rest and not padding and _is_slice(packet, codec, start):
            ranges.append(slice(stop, following))
        start = following
    return ranges


def _forbidden(packet: bytes, start: int, end: int) -> int:
    """Where the first 00 00 00, 00 00 01 or 00 00 02 of [start, end) begins; `end` if there is none."""
    at = packet.find(b"\0\0", start, end)
    while at >= 0 and at + 2 < end:
        if packet[at + 2] < 3:
            return at
        at = packet.find(b"\0\0", at + 1, end)
    return end


def _next_unit(packet: bytes, codec: str, at: int, end: int) -> int:
    """Where the header of the next unit in byte-stream form stands in [at, end); `end` if there is none."""
    at = packet.find(b"\0\0\1", at, end)
    while at >= 0:
        if _is_header(packet[at + 3 : at + 5], codec):
            return at + 3
        at = packet.find(b"\0\0\1", at + 3, end)
    return end


def _is_header(head: bytes, codec: str) -> bool:
    """True if these bytes can begin a NAL unit of the base layer (H.264 section 7.4.1, H.265 section 7.4.2.2)."""
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
