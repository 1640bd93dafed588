"""Change the index of an MP4 or MOV file (ISO/IEC 14496-12) whose `moov` box may change its size.

That is: a file whose index comes last, or one in fragments with offsets that are relative to each
fragment.
"""

import struct
from collections.abc import Callable, Iterable, Sequence

_PARENTS = frozenset({b"moov", b"trak", b"mdia", b"minf", b"stbl", b"edts", b"moof", b"traf"})
_SAMPLE_ENTRY = 78  # bytes of a visual sample entry before its own boxes

# The matrix [a b; c d] of a track header for each of `pictures.ORIENTATIONS`: a stored point (x, y)
# is shown at (a x + c y, b x + d y), up to a translation that brings the picture back to the
# origin.
MATRICES: dict[str, tuple[int, int, int, int]] = {
    "upright": (1, 0, 0, 1),
    "mirrored": (-1, 0, 0, 1),
    "flipped": (1, 0, 0, -1),
    "turned 180": (-1, 0, 0, -1),
    "turned 90": (0, 1, -1, 0),
    "turned 270": (0, -1, 1, 0),
    "transposed": (0, 1, 1, 0),
    "transversed": (0, -1, -1, 0),
}


class Box:
    """One box: either a payload or, for the kinds in _PARENTS, child boxes."""

    def __init__(self, kind: bytes, payload: bytes = b"", children: list["Box"] | None = None) -> None:
        self.kind, self.payload, self.children = kind, payload, children

    def __getitem__(self, path: str) -> "Box":
        """The first box at a path of kinds, e.g. box["mdia/minf/stbl"]. Raises KeyError."""
        kind, _, rest = path.partition("/")
        for child in self.children or ():
            if child.kind == kind.encode():
                return child[rest] if rest else child
        raise KeyError(path)

    def drop(self, kind: bytes) -> None:
        assert self.children is not None
        self.children = [child for child in self.children if child.kind != kind]

    def put(self, child: "Box", at: int) -> None:
        """Put a child in, instead of any of its kind."""
        self.drop(child.kind)
        assert self.children is not None
        self.children.insert(at, child)

    def __bytes__(self) -> bytes:
        content = self.payload if self.children is None else b"".join(map(bytes, self.children))
        return struct.pack(">I4s", 8 + len(content), self.kind) + content


Change = Callable[[Box, Box], None]  # of (moov, the video track's trak)


def parse(data: bytes) -> list[Box]:
    """The boxes of a file or of a box's payload."""
    boxes, at = [], 0
    while at < len(data):
        size, kind = struct.unpack_from(">I4s", data, at)
        payload = data[at + 8 : at + size]
        boxes.append(Box(kind, payload) if kind not in _PARENTS else Box(kind, children=parse(payload)))
        at += size
    return boxes


def edit(data: bytes, *changes: Change) -> bytes:
    """The file after each change."""
    boxes = parse(data)
    moov = next(box for box in boxes if box.kind == b"moov")
    tracks = [box for box in moov.children or () if box.kind == b"trak"]
    track = next(box for box in tracks if box["mdia/hdlr"].payload[8:12] == b"vide")
    for change in changes:
        change(moov, track)
    return b"".join(bytes(box) for box in boxes if box.kind != b"mfra")  # that holds absolute offsets


def index_first(data: bytes) -> bytes:
    """The file with its index in front of the pictures, as it is for streaming."""
    boxes = parse(data)
    moov = next(box for box in boxes if box.kind == b"moov")
    for track in moov.children or ():
        if track.kind == b"trak":
            offsets = track["mdia/minf/stbl/stco"]
            (count,) = struct.unpack_from(">I", offsets.payload, 4)
            moved = [at + len(bytes(moov)) for at in struct.unpack_from(f">{count}I", offsets.payload, 8)]
            offsets.payload = offsets.payload[:8] + struct.pack(f">{count}I", *moved)
    boxes.remove(moov)
    boxes.insert(1, moov)  # after ftyp
    return b"".join(map(bytes, boxes))


def shift_fragments(data: bytes, seconds: float, *, sound: bool) -> bytes:
    """A file in fragments whose picture is decoded so much later, and so is its sound if `sound`.
    The clock of such a file may start anywhere, as it does in a recording of a live stream."""
    boxes = parse(data)
    moov = next(box for box in boxes if box.kind == b"moov")
    ticks = {}
    for track in moov.children or ():
        if track.kind == b"trak" and (sound or track["mdia/hdlr"].payload[8:12] == b"vide"):
            number = track["tkhd"].payload[12:16]
            ticks[number] = round(seconds * _timescale(track["mdia/mdhd"]))
    for box in boxes:
        for fragment in box.children or () if box.kind == b"moof" else ():
            if fragment.kind == b"traf":
                begin = fragment["tfdt"]
                (time,) = struct.unpack_from(">Q", begin.payload, 4)  # FFmpeg writes version 1
                shifted = time + ticks.get(fragment["tfhd"].payload[4:8], 0)
                begin.payload = begin.payload[:4] + struct.pack(">Q", shifted)
    return b"".join(bytes(box) for box in boxes if box.kind not in (b"mfra", b"sidx"))


def with_orientation(name: str, width: int = 160, height: int = 96) -> Change:
    """Set the track's display matrix. The picture of width x height is translated back to the origin."""

    def change(moov: Box, track: Box) -> None:
        a, b, c, d = MATRICES[name]
        x = -min(0, a * width) - min(0, c * height)
        y = -min(0, b * width) - min(0, d * height)
        header = track["tkhd"]
        at = 40 if header.payload[0] == 0 else 52
        fields = [a << 16, b << 16, 0, c << 16, d << 16, 0, x << 16, y << 16, 1 << 30]
        header.payload = header.payload[:at] + struct.pack(">9i", *fields) + header.payload[at + 36 :]

    return change


def with_edits(*edits: tuple[float | None, float]) -> Change:
    """Replace the track's edit list. edits: (seconds of the film at which the edit begins, or None
    for an empty one; its duration in seconds). Second 0 of the film is its first frame."""

    def change(moov: Box, track: Box) -> None:
        movie = _timescale(moov["mvhd"])
        media = _timescale(track["mdia/mdhd"])
        first = _first_media_time(track)
        rows = [
            (round(duration * movie), -1 if begin is None else first + round(begin * media))
            for begin, duration in edits
        ]
        table = b"".join(struct.pack(">IiHH", length, at, 1, 0) for length, at in rows)
        content = struct.pack(">II", 0, len(rows)) + table
        track.put(Box(b"edts", children=[Box(b"elst", content)]), 1)
        total = sum(length for length, _ in rows)
        track["tkhd"].payload = _with_duration(track["tkhd"].payload, 20, total)
        longest = max(total, int.from_bytes(moov["mvhd"].payload[16:20], "big"))
        moov["mvhd"].payload = _with_duration(moov["mvhd"].payload, 16, longest)

    return change


def without_edits(moov: Box, track: Box) -> None:
    track.drop(b"edts")


def with_sync_samples(choose: Callable[[list[int], int], Iterable[int] | None]) -> Change:
    """Replace the table of sync samples. choose: (its numbers, counted from 0; number of samples)
    -> the new ones, or None for no table at all."""

    def change(moov: Box, track: Box) -> None:
        table = track["mdia/minf/stbl"]
        (samples,) = struct.unpack_from(">I", table["stsz"].payload, 8)
        payload = table["stss"].payload
        (count,) = struct.unpack_from(">I", payload, 4)
        chosen = choose([n - 1 for n in struct.unpack_from(f">{count}I", payload, 8)], samples)
        table.drop(b"stss")
        if chosen is not None:
            numbers = [n + 1 for n in sorted(chosen)]
            table.put(Box(b"stss", struct.pack(f">II{len(numbers)}I", 0, len(numbers), *numbers)), 2)

    return change


def with_long_offsets(moov: Box, track: Box) -> None:
    """co64 in place of stco."""
    table = track["mdia/minf/stbl"]
    payload = table["stco"].payload
    (count,) = struct.unpack_from(">I", payload, 4)
    offsets = struct.unpack_from(f">{count}I", payload, 8)
    table.drop(b"stco")
    table.put(Box(b"co64", struct.pack(f">II{count}Q", 0, count, *offsets)), len(table.children or ()))


def with_pixel_shape(wide: int, tall: int) -> Change:
    """Set the `pasp` box of the sample entry."""

    def change(moov: Box, track: Box) -> None:
        description = track["mdia/minf/stbl/stsd"]
        entry = parse(description.payload[8:])[0]
        boxes = [box for box in parse(entry.payload[_SAMPLE_ENTRY:]) if box.kind != b"pasp"]
        boxes.append(Box(b"pasp", struct.pack(">II", wide, tall)))
        entry.payload = entry.payload[:_SAMPLE_ENTRY] + b"".join(map(bytes, boxes))
        description.payload = description.payload[:8] + bytes(entry)

    return change


def with_codec_tag(tag: bytes) -> Change:
    """Set the sample entry's four-character code."""

    def change(moov: Box, track: Box) -> None:
        description = track["mdia/minf/stbl/stsd"]
        description.payload = description.payload[:12] + tag + description.payload[16:]

    return change


def sample_sizes(data: bytes) -> Sequence[int]:
    """Bytes of each sample of the first track."""
    moov = next(box for box in parse(data) if box.kind == b"moov")
    payload = moov["trak/mdia/minf/stbl/stsz"].payload
    (count,) = struct.unpack_from(">I", payload, 8)
    return struct.unpack_from(f">{count}I", payload, 12)


def _timescale(header: Box) -> int:
    """Ticks a second, of an mvhd or mdhd box."""
    return int.from_bytes(header.payload[12:16] if header.payload[0] == 0 else header.payload[20:24], "big")


def _with_duration(payload: bytes, at: int, ticks: int) -> bytes:
    return payload[:at] + struct.pack(">I", ticks) + payload[at + 4 :]


def _first_media_time(track: Box) -> int:
    """The composition time of the frame that is shown first: the smallest in the table of samples."""
    table = track["mdia/minf/stbl"]
    try:
        offsets = _runs(table["ctts"].payload, ">Ii")
    except KeyError:
        return 0
    steps = _runs(table["stts"].payload, ">II")
    begun, smallest = 0, None
    for step, offset in zip(steps, offsets, strict=True):
        smallest = begun + offset if smallest is None else min(smallest, begun + offset)
        begun += step
    return smallest or 0


def _runs(payload: bytes, layout: str) -> list[int]:
    """A run-length coded table of samples, one value each."""
    (count,) = struct.unpack_from(">I", payload, 4)
    rows = [struct.unpack_from(layout, payload, 8 + 8 * i) for i in range(count)]
    return [value for repeats, value in rows for _ in range(repeats)]
