"""Syntax of length-prefixed NAL units (H.264 and H.265 in MP4 and Matroska), checked without decoding.

Inside a NAL unit the bytes 00 00 00, 00 00 01 and 00 00 02 cannot occur (H.264 section 7.4.1, H.265
section 7.4.2): encoders break them up with 03. A hole of zeros, the commonest damage of interrupted
downloads, is therefore certain to show here, while the decoder often slides over it.
"""

_STRAY_ZEROS = 4


def length_size(codec: str, extradata: bytes | None) -> int:
    """Bytes of a NAL length field (avcC, hvcC); 0 where units are not length-prefixed."""
    if not extradata or extradata[0] != 1:
        return 0
    if codec == "h264" and len(extradata) > 4:
        return (extradata[4] & 3) + 1
    if codec == "hevc" and len(extradata) > 21:
        return (extradata[21] & 3) + 1
    return 0


def is_valid(packet: bytes, size: int) -> bool:
    """True if the packet splits exactly into NAL units without forbidden bytes. size: of a length field."""
    at = 0
    while at < len(packet):
        start = at + size
        end = start + int.from_bytes(packet[at:start], "big")
        if not start < end <= len(packet):
            return False
        if packet[start] & 0x80:  # forbidden_zero_bit
            return False
        at = end
        # Some muxers leave a few zeros in that stood between units in a byte stream.
        for _ in range(_STRAY_ZEROS):
            if packet[end - 1] != 0:
                break
            end -= 1
        zeros = packet.find(b"\0\0", start, end)
        while zeros >= 0 and zeros + 2 < end:
            if packet[zeros + 2] < 3:
                return False
            zeros = packet.find(b"\0\0", zeros + 2, end)
    return True
