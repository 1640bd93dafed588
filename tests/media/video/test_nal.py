"""Handmade NAL units, some with bytes that cannot belong to a coded picture."""

import struct

import pytest

from gve_ray.media.video.nal import inspect, length_size

SLICE = b"\x41\x9a\x24\x6c\x41\xff"  # H.264: a slice of a non-key picture
IDR = b"\x65\x88\x84\x21"
SEI = b"\x06\x05\x04abcd\x80"
HEVC_SLICE = b"\x02\x01\xd0\x29\x4b"
UNREFERENCED = b"\x01" + SLICE[1:]  # nal_ref_idc is 0


def doubtful(packet: bytes, codec: str, size: int) -> list[slice]:
    return inspect(packet, codec, size).doubtful


def unit(content: bytes) -> bytes:
    return struct.pack(">I", len(content)) + content


@pytest.mark.parametrize(
    "packet",
    [
        unit(SLICE),
        unit(SEI) + unit(IDR) + unit(SLICE),
        unit(SLICE + b"\0\0\3\1"),  # emulation prevention
        unit(SLICE + bytes(15)),  # filled up to a multiple of 16 bytes
        unit(SLICE + bytes(64)),
        unit(SLICE + b"\0\0\0\1\x0a"),  # an end of sequence in byte-stream form
        unit(SLICE + b"\0\0\1" + SLICE + b"\0\0\0\1\x0b"),  # more slices in that form
        unit(SEI + b"\0\0\0\0\1\2\3"),  # rubbish, but not in a picture
        unit(b"\x0c" + bytes(500)),  # filler data
        unit(b""),
        b"",
    ],
)
def test_what_cameras_and_editors_write_is_not_doubtful(packet):
    assert doubtful(packet, "h264", 4) == []


def test_a_hole_is_doubtful_from_its_first_zero_to_the_end_of_the_unit():
    packet = unit(SEI) + unit(SLICE + bytes(5) + b"\x77\x12") + unit(SLICE)
    start = len(unit(SEI)) + 4 + len(SLICE)
    assert doubtful(packet, "h264", 4) == [slice(start, start + 7)]


def test_more_zeros_than_any_padding_are_doubtful():
    assert doubtful(unit(SLICE + bytes(65)), "h264", 4) == [slice(4 + len(SLICE), 4 + len(SLICE) + 65)]


def test_a_start_code_without_a_valid_header_starts_no_unit():
    packet = unit(SLICE + b"\0\0\1\xff\x10")  # forbidden_zero_bit is set
    assert doubtful(packet, "h264", 4) == [slice(4 + len(SLICE), len(packet))]


def test_a_start_code_ends_what_is_doubtful():
    packet = unit(SLICE + b"\0\0\2\x99" + b"\0\0\1" + IDR)
    assert doubtful(packet, "h264", 4) == [slice(4 + len(SLICE), 4 + len(SLICE) + 7)]


def test_h265_has_headers_of_two_bytes():
    assert doubtful(unit(HEVC_SLICE + bytes(12)), "hevc", 4) == []
    assert doubtful(unit(HEVC_SLICE + b"\0\0\0\1\x4a\x01"), "hevc", 4) == []  # end of bitstream
    assert doubtful(unit(b"\x4e\x01" + bytes(9) + b"\x80"), "hevc", 4) == []  # SEI
    hole = unit(HEVC_SLICE + bytes(6) + b"\x55")
    assert doubtful(hole, "hevc", 4) == [slice(4 + len(HEVC_SLICE), len(hole))]


def test_a_length_beyond_the_packet_is_left_to_the_decoder():
    assert doubtful(struct.pack(">I", 900) + SLICE, "h264", 4) == []
    assert doubtful(unit(SLICE)[:2], "h264", 4) == []


def test_length_fields_are_read_from_the_decoder_configuration():
    assert length_size("h264", bytes([1, 0x64, 0, 0x1F, 0xFF, 0xE1])) == 4
    assert length_size("hevc", bytes([1]) + bytes(20) + bytes([0xFC | 1]) + bytes(4)) == 2
    assert length_size("h264", b"\0\0\0\x01\x67") == 0  # a byte stream
    assert length_size("vp9", bytes([1] * 30)) == 0
    assert length_size("h264", None) == 0


@pytest.mark.parametrize(
    "packet, codec, has_picture, fits",
    [
        (unit(SEI) + unit(b"\x0a"), "h264", False, True),
        (unit(b"\x09\x10"), "h264", False, True),
        (unit(b"\x4a\x01"), "hevc", False, True),
        (unit(SEI) + unit(SLICE), "h264", True, True),
        (unit(SEI + b"\0\0\1" + IDR), "h264", True, True),
        (struct.pack(">I", 900) + SEI, "h264", True, False),  # longer than the packet
        (unit(SLICE) + b"\0\0\0", "h264", True, False),  # too short for another length
        (unit(SLICE) + unit(b""), "h264", True, False),
        (unit(SLICE) + unit(b"\x86\x05"), "h264", True, False),  # forbidden_zero_bit is set
    ],
)
def test_the_headers_of_units_show_what_a_packet_holds(packet, codec, has_picture, fits):
    content = inspect(packet, codec, 4)
    assert (content.has_picture, content.fits, content.doubtful) == (has_picture, fits, [])


@pytest.mark.parametrize(
    "packet, codec, layer, disposable",
    [
        (unit(SLICE), "h264", 0, False),
        (unit(SEI) + unit(UNREFERENCED), "h264", 0, True),
        (unit(UNREFERENCED) + unit(SLICE), "h264", 0, False),  # only one of two slices
        (unit(SEI), "h264", 0, False),  # no picture
        (unit(HEVC_SLICE), "hevc", 0, False),  # TRAIL_R
        (unit(b"\x00\x01\xd0"), "hevc", 0, True),  # TRAIL_N
        (unit(b"\x00\x03\xd0"), "hevc", 2, True),
        (unit(b"\x26\x01\xaf"), "hevc", 0, False),  # IDR_W_RADL
    ],
)
def test_pictures_that_none_of_their_layer_refers_to(packet, codec, layer, disposable):
    content = inspect(packet, codec, 4)
    assert (content.layer, content.disposable) == (layer, disposable)
