import struct

import pytest

from gve_ray.media.picture.exif import AS_STORED, orientation, split_jpeg

SHORT, LONG, ASCII = 3, 4, 2


def entry(tag: int, kind: int, count: int, value: bytes, order: str = "<") -> bytes:
    return struct.pack(f"{order}HHI", tag, kind, count) + value.ljust(4, b"\0")[:4]


def block(*entries: bytes, order: str = "<", count: int | None = None) -> bytes:
    mark = b"II*\0" if order == "<" else b"MM\0*"
    head = struct.pack(f"{order}IH", 8, len(entries) if count is None else count)
    return b"Exif\0\0" + mark + head + b"".join(entries) + bytes(4)


def turned(value: int, order: str = "<") -> bytes:
    return entry(0x112, SHORT, 1, struct.pack(f"{order}H", value), order)


@pytest.mark.parametrize("order", ["<", ">"])
@pytest.mark.parametrize("value", range(1, 9))
def test_both_byte_orders_state_all_eight(order, value):
    assert orientation(block(turned(value, order), order=order)) == value
    assert orientation(block(turned(value, order), order=order).removeprefix(b"Exif\0\0")) == value


@pytest.mark.parametrize(
    "exif",
    [
        b"",
        b"Exif\0\0",
        b"Exif\0\0II*\0",
        b"Exif\0\0II*\0\xff\xff\xff\xff",
        b"Exif\0\0PNG but no TIFF",
        block(),
        block(turned(0)),
        block(turned(9)),
        block(turned(0x600)),
        block(entry(0x112, ASCII, 2, b"6\0")),
        block(entry(0x112, LONG, 1, b"\6")),
        block(entry(0x112, SHORT, 2, b"\6\0\6\0")),
        block(turned(6))[:-8],  # cut within its value
    ],
)
def test_what_states_no_orientation_leaves_a_picture_as_stored(exif):
    assert orientation(exif) == AS_STORED


def test_what_is_wrong_with_other_tags_is_of_no_concern():
    far = entry(0x10F, ASCII, 1 << 30, b"\xff\xff\xff\x7f")  # a maker's name of a gigabyte, beyond the end
    zero = entry(
        0x11A, 10, 1, struct.pack("<I", 9_999_999)
    )  # XResolution as a signed rational that is not there
    strange = entry(0x111, 99, 1, b"\1\2\3\4")
    assert orientation(block(far, strange, turned(8), zero)) == 8
    assert orientation(block(far, turned(8), count=60_000)) == 8  # and not that many entries


def segment(marker: int, body: bytes) -> bytes:
    return struct.pack(">BBH", 0xFF, marker, len(body) + 2) + body


JFIF = segment(0xE0, b"JFIF\0\1\2\1\0\1\0\1\0\0")
ADOBE = segment(0xEE, b"Adobe\0\x64\0\0\0\0\1")
TABLE, PIXELS = (
    segment(0xDB, bytes(65)),
    segment(0xDA, b"head") + b"\x12\x34\xff\xe1\0\x04\xab\xff\xd9 and a film",
)


def test_metadata_leaves_a_jpeg_and_all_that_decides_colours_stays():
    first, second = block(turned(6)), block(turned(3))
    odd = [
        segment(0xE0, b"JFIF\0"),
        segment(0xE1, b"http://ns.adobe.com/xap/1.0/\0<x/>"),
        segment(0xE1, first),
        segment(0xE1, second),
        segment(0xE2, b"MPF\0"),
        segment(0xEE, b"Adobe"),
        segment(0xFE, b"a comment"),
    ]
    data = b"\xff\xd8" + JFIF + b"".join(odd) + ADOBE + b"\xff" + TABLE + PIXELS
    assert split_jpeg(data) == (b"\xff\xd8" + JFIF + ADOBE + TABLE + PIXELS, first)


@pytest.mark.parametrize(
    "rest", [b"", b"\xff", b"\xff\xe1", b"\xff\xe1\xff\xff cut", b"\xff\xe1\0\0", b"noise"]
)
def test_from_the_first_odd_byte_on_a_jpeg_is_left_as_it_is(rest):
    data = b"\xff\xd8" + JFIF + rest
    assert split_jpeg(data) == (data, b"")
