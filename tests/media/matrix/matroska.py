"""Change the elements of a Matroska or WebM file (RFC 9559)."""

import struct
from collections.abc import Callable, Iterator

_SEGMENT, _SEEK_HEAD, _CLUSTER, _CUES, _TRACKS, _TRACK, _VIDEO, _CODEC = (
    0x18538067, 0x114D9B74, 0x1F43B675, 0x1C53BB6B, 0x1654AE6B, 0xAE, 0xE0, 0x86,
)  # fmt: skip
_SIMPLE_BLOCK, _BLOCK_GROUP, _BLOCK, _CUE_POINT, _CUE_POSITIONS, _CUE_TIME, _CUE_CLUSTER = (
    0xA3, 0xA0, 0xA1, 0xBB, 0xB7, 0xB3, 0xF1,
)  # fmt: skip
_PARENTS = frozenset(
    {_SEGMENT, _CLUSTER, _CUES, _TRACKS, _TRACK, _VIDEO, _BLOCK_GROUP, _CUE_POINT, _CUE_POSITIONS}
)
_DISPLAY_WIDTH, _DISPLAY_HEIGHT, _DISPLAY_UNIT = 0x54B0, 0x54BA, 0x54B2
_PROJECTION, _PROJECTION_TYPE, _YAW, _ROLL = 0x7670, 0x7671, 0x7673, 0x7675


class Element:
    """One EBML element: either a payload or, for the kinds in _PARENTS, child elements. at: its
    position in the file it was read from, counted from the start of its parent's payload."""

    def __init__(
        self, kind: int, payload: bytes = b"", children: list["Element"] | None = None, at: int = -1
    ) -> None:
        self.kind, self.payload, self.children, self.at = kind, payload, children, at

    def all(self, kind: int) -> Iterator["Element"]:
        """This element and those below it that are of a kind."""
        if self.kind == kind:
            yield self
        for child in self.children or ():
            yield from child.all(kind)

    def put(self, child: "Element") -> None:
        """Put a child in, instead of any of its kind."""
        assert self.children is not None
        self.children = [*(other for other in self.children if other.kind != child.kind), child]

    def __bytes__(self) -> bytes:
        content = self.payload if self.children is None else b"".join(map(bytes, self.children))
        size = (len(content) | 1 << 56).to_bytes(8, "big")
        return self.kind.to_bytes((self.kind.bit_length() + 7) // 8, "big") + size + content


Change = Callable[[Element], None]  # of the segment


def parse(data: bytes) -> list[Element]:
    """The elements of a file or of an element's payload. All sizes must be known."""
    elements, at = [], 0
    while at < len(data):
        id_width = 9 - data[at].bit_length()
        width = 9 - data[at + id_width].bit_length()
        start = at + id_width + width
        kind = int.from_bytes(data[at : at + id_width], "big")
        end = start + (int.from_bytes(data[at + id_width : start], "big") & ((1 << 7 * width) - 1))
        if kind in _PARENTS:
            elements.append(Element(kind, children=parse(data[start:end]), at=at))
        else:
            elements.append(Element(kind, data[start:end], at=at))
        at = end
    return elements


def edit(data: bytes, *changes: Change) -> bytes:
    """The file after each change. Cues are pointed to where their clusters are then, and the list
    of the segment's parts, which is optional, is left out."""
    elements = parse(data)
    segment = next(element for element in elements if element.kind == _SEGMENT)
    segment.children = [child for child in segment.children or () if child.kind != _SEEK_HEAD]
    for change in changes:
        change(segment)
    at, moved = 0, {}
    for child in segment.children:
        moved[child.at] = at
        # Positions have 8 bytes from here on, so that a new position does not change a size.
        for position in child.all(_CUE_CLUSTER):
            position.payload = position.payload.rjust(8, b"\0")
        at += len(bytes(child))
    for position in segment.all(_CUE_CLUSTER):
        old = int.from_bytes(position.payload, "big")
        position.payload = moved.get(old, old).to_bytes(8, "big")
    return b"".join(map(bytes, elements))


def without_cues(segment: Element) -> None:
    segment.children = [child for child in segment.children or () if child.kind != _CUES]


def with_shifted_cues(seconds: float) -> Change:
    """Let each cue point to the right cluster, but say that it begins so much later. Ticks are milliseconds."""

    def change(segment: Element) -> None:
        for time in segment.all(_CUE_TIME):
            ticks = max(0, int.from_bytes(time.payload, "big") + round(1000 * seconds))
            time.payload = ticks.to_bytes(8, "big")

    return change


def with_cues_to_one_cluster(number: int) -> Change:
    """Let all cues point to one cluster."""

    def change(segment: Element) -> None:
        clusters = [child.at for child in segment.children or () if child.kind == _CLUSTER]
        for position in segment.all(_CUE_CLUSTER):
            position.payload = clusters[number % len(clusters)].to_bytes(8, "big")

    return change


def with_key_flags(keep: Callable[[int, bool], bool]) -> Change:
    """Set each simple block's key flag to keep(its number, what the flag is)."""

    def change(segment: Element) -> None:
        for number, block in enumerate(segment.all(_SIMPLE_BLOCK)):
            flags = block.payload[3]
            flag = keep(number, bool(flags & 0x80))
            block.payload = block.payload[:3] + bytes([flags & 0x7F | flag << 7]) + block.payload[4:]

    return change


def with_codec(name: bytes) -> Change:
    """Set the tracks' CodecID."""

    def change(segment: Element) -> None:
        for codec in segment.all(_CODEC):
            codec.payload = name

    return change


def with_display_size(width: int, height: int, unit: int = 0) -> Change:
    """Set the video's DisplayWidth and DisplayHeight. unit: 0 is pixels, 3 an aspect ratio."""

    def change(segment: Element) -> None:
        for video in segment.all(_VIDEO):
            video.put(Element(_DISPLAY_WIDTH, struct.pack(">H", width)))
            video.put(Element(_DISPLAY_HEIGHT, struct.pack(">H", height)))
            video.put(Element(_DISPLAY_UNIT, bytes([unit])))

    return change


def with_roll(degrees: float, *, mirrored: bool = False) -> Change:
    """Set a rectangular projection's roll, counter-clockwise, and its yaw of 180 degrees, which mirrors."""

    def change(segment: Element) -> None:
        pose = [Element(_PROJECTION_TYPE, b"\0"), Element(_ROLL, struct.pack(">f", degrees))]
        if mirrored:
            pose.append(Element(_YAW, struct.pack(">f", 180.0)))
        for video in segment.all(_VIDEO):
            video.put(Element(_PROJECTION, b"".join(map(bytes, pose))))

    return change


def encrypted(segment: Element) -> None:
    """Declare the tracks as encrypted by AES-CTR, and scramble all blocks as a player without the key sees them."""
    settings = Element(0x47E7, bytes(Element(0x47E8, b"\x01")))  # ContentEncAESSettings: CTR
    encryption = [Element(0x47E1, b"\x05"), Element(0x47E2, bytes(range(16))), settings]
    encoding = [
        Element(0x5031, b"\0"), Element(0x5032, b"\x01"), Element(0x5033, b"\x01"),
        Element(0x5035, b"".join(map(bytes, encryption))),
    ]  # fmt: skip
    for track in segment.all(_TRACK):
        track.put(Element(0x6D80, bytes(Element(0x6240, b"".join(map(bytes, encoding))))))
    for kind in (_SIMPLE_BLOCK, _BLOCK):
        for block in segment.all(kind):
            cipher = bytes((byte ^ 0xA5) + i & 0xFF for i, byte in enumerate(block.payload[4:]))
            block.payload = block.payload[:4] + b"\x01" + bytes(8) + cipher  # signal byte, 8 bytes of IV
