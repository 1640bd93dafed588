"""Completeness checks on handmade bytes."""

import io
import struct

import pytest

from gve_ray.media.container.ebml import first_misfit
from gve_ray.media.container.framing import gif_end, iso_boxes, missing_bytes, why_not_opened
from gve_ray.media.container.transport import damage, layout
from gve_ray.media.limits import MediaError
from gve_ray.media.source import Blob


def blob(data: bytes) -> Blob:
    return Blob(name="test", size=len(data), data=data)


def box(kind: bytes, content: bytes, size: int | None = None) -> bytes:
    return struct.pack(">I", 8 + len(content) if size is None else size) + kind + content


def test_iso_boxes_end_where_the_file_does():
    data = box(b"ftyp", b"isom") + box(b"mdat", bytes(100)) + box(b"moov", bytes(20))
    assert missing_bytes(blob(data)) == 0
    assert missing_bytes(blob(data[:-5])) == 5
    assert [kind for kind, _, _ in iso_boxes(io.BytesIO(data), len(data))] == [b"ftyp", b"mdat", b"moov"]


def test_an_unknown_box_is_rubbish_not_a_promise():
    data = box(b"ftyp", b"isom") + box(b"moov", bytes(20))
    assert missing_bytes(blob(data + box(b"\x9a\x03kk", b"", size=10**9))) == 0


def test_long_and_open_boxes():
    head = box(b"ftyp", b"isom")
    long = struct.pack(">I4sQ", 1, b"mdat", 16 + 50) + bytes(50)
    assert missing_bytes(blob(head + long)) == 0
    assert missing_bytes(blob(head + long[:-7])) == 7
    assert missing_bytes(blob(head + box(b"mdat", bytes(9), size=0))) == 0


@pytest.mark.parametrize(
    "data, reason",
    [
        (box(b"ftyp", b"isom") + box(b"mdat", bytes(50)), "truncated"),  # the index never came
        (box(b"ftyp", b"isom") + box(b"moov", bytes(9)), "corrupt"),
        (b"\x1a\x45\xdf\xa3rest", "corrupt"),
        (b"RIFF" + struct.pack("<I", 4) + b"AVI ", "corrupt"),
        (b"RIFF" + struct.pack("<I", 400) + b"AVI ", "truncated"),
        (b"RIFF" + struct.pack("<I", 4) + b"WAVE", "not_a_video"),
        (b"plain text", "not_a_video"),
    ],
)
def test_reasons_for_files_no_demuxer_opens(data, reason):
    assert why_not_opened(blob(data))[0] == reason


def element(kind: int, content: bytes, *, unknown: bool = False) -> bytes:
    size = b"\x01" + b"\xff" * 7 if unknown else (len(content) | 1 << 28).to_bytes(4, "big")
    return kind.to_bytes((kind.bit_length() + 7) // 8, "big") + size + content


def matroska(*, live: bool = False) -> bytes:
    block = element(0xA3, b"\x81\0\0\x80" + bytes(20))
    group = element(0xA0, element(0xA1, b"\x81\0\0\0" + bytes(20)) + element(0x9B, b"\x01"))
    cluster = element(0x1F43B675, element(0xE7, b"\0") + block + group, unknown=live)
    segment = element(0x1549A966, bytes(10)) + cluster + cluster + element(0x1C53BB6B, bytes(5))
    return element(0x1A45DFA3, bytes(12)) + element(0x18538067, segment, unknown=live)


@pytest.mark.parametrize("live", [False, True])
def test_matroska_elements_tile(live):
    data = matroska(live=live)
    assert first_misfit(io.BytesIO(data), len(data)) is None


@pytest.mark.parametrize("live", [False, True])
def test_a_bad_byte_in_any_element_head_of_a_cluster_is_found(live):
    data = matroska(live=live)
    simple_block = data.index(b"\xa3\x10\x00\x00\x18\x81")
    for at in (simple_block, simple_block + 1, simple_block + 4):
        broken = data[:at] + bytes([data[at] ^ 0x55]) + data[at + 1 :]
        assert first_misfit(io.BytesIO(broken), len(broken)) is not None, at


def test_matroska_says_how_long_it_is():
    data = matroska()
    assert missing_bytes(blob(data)) == 0
    assert missing_bytes(blob(data[:-9])) == 9
    assert missing_bytes(blob(matroska(live=True)[:-9])) == 0  # a live recording does not know


def unit(content: bytes) -> bytes:
    return len(content).to_bytes(4, "big") + content


def transport(counters: list[int], starts: set[int], *, pid: int = 256) -> bytes:
    """Packets of one stream that carry payload; `starts` lists those where a unit begins."""
    return b"".join(
        bytes([0x47, (0x40 if i in starts else 0) | pid >> 8, pid & 0xFF, 0x10 | counter % 16]) + bytes(184)
        for i, counter in enumerate(counters)
    )


def test_transport_packets_in_step_are_sound():
    data = transport(list(range(40)), {0, 20})
    assert layout(data) == (188, 0)
    assert damage(blob(data), 188, 0) == ""
    assert damage(blob(data[: 188 * 7] + data[188 * 6 :]), 188, 0) == ""  # one packet repeated


def test_lost_and_broken_transport_packets_are_found():
    data = transport(list(range(40)), {0, 20})
    assert "gap" in damage(blob(data[: 188 * 7] + data[188 * 9 :]), 188, 0)
    assert "broken" in damage(blob(data[: 188 * 7] + b"\0" + data[188 * 7 + 1 :]), 188, 0)
    assert "broken" in damage(blob(data[: 188 * 7 + 1] + b"\xc1" + data[188 * 7 + 2 :]), 188, 0)


def test_joined_recordings_are_no_loss():
    assert damage(blob(transport([5, 6, 7, 0, 1, 2], {0, 3})), 188, 0) == ""


def test_time_coded_packets_are_known():
    plain = transport(list(range(10)), {0})
    coded = b"".join(b"\1\2\3\4" + plain[i : i + 188] for i in range(0, len(plain), 188))
    assert layout(coded) == (192, 4)
    assert damage(blob(coded), 192, 4) == ""
    assert missing_bytes(blob(coded)) == 0
    assert missing_bytes(blob(coded[:-40])) == 40
    assert layout(b"plain text" * 500) is None


def test_scrambled_transport_packets_are_encrypted():
    data = bytearray(transport(list(range(40)), {0, 20}))
    data[188 * 7 + 3] |= 0x80
    with pytest.raises(MediaError, match="encrypted: 1 of 40"):
        damage(blob(bytes(data)), 188, 0)


@pytest.mark.parametrize("head", [b"\0\0\0\1\x67\x64", b"\0\0\1\xb3\x14", b"YUV4MPEG2 W4 H4"])
def test_raw_streams_are_told_what_to_do(head):
    reason, detail = why_not_opened(blob(head + bytes(200)))
    assert reason == "not_a_video"
    assert "container" in detail


# Four pixels, two pictures: header, colour table of two, then for each a control block and an image
# block.
GIF_HEAD = b"GIF89a\x02\0\x02\0\x80\0\0" + b"\0\0\0\xff\xff\xff"
GIF_PICTURE = b"\x21\xf9\x04\0\x0a\0\0\0" + b"\x2c\0\0\0\0\x02\0\x02\0\0" + b"\x02\x02\x4c\x01\0"


def test_a_gif_ends_with_its_last_block_trailer_or_not():
    whole = GIF_HEAD + GIF_PICTURE * 2
    assert missing_bytes(blob(whole + b";")) == 0
    assert missing_bytes(blob(whole)) == 0
    assert missing_bytes(blob(whole[:-3])) > 0
    assert gif_end(io.BytesIO(whole + b";rubbish")) == (len(whole) + 1, True)
    assert gif_end(io.BytesIO(whole)) == (len(whole), False)
