"""The sparse engine finds every frame by the timestamp of the decoded picture, even if the index is wrong."""

import io
import struct
from collections.abc import Callable

import av
import numpy as np
import pytest

from gve_ray.media import FrameRequest, Limits, MediaError, decode, read_frames
from gve_ray.media.source import open_source
from gve_ray.media.video.probe import scan
from gve_ray.media.video.sequential import Deadline
from gve_ray.media.video.sparse import read_sparse
from tests.media.videos import read_number

LIMITS = Limits()
X265 = "log-level=none:pools=none:frame-threads=1"
GROUPS = {
    "h264, closed": {"options": {"g": "10", "bf": "3"}},
    "h264, open": {"options": {"x264-params": "open-gop=1:keyint=8:min-keyint=4:b-pyramid=normal"}},
    "h265, open": {
        "codec": "libx265",
        "options": {"x265-params": f"{X265}:keyint=10:min-keyint=4:open-gop=1:bframes=4"},
    },
    "h264, Matroska": {"container": "matroska", "options": {"g": "10", "bf": "3"}},
}


def sparse(data: bytes, numbers: list[int]) -> dict[int, int] | None:
    """Return requested frame number -> number painted into the picture that the sparse engine returns."""
    scanned = scan(open_source(data, LIMITS), LIMITS)
    assert scanned.timeline is not None
    frames = read_sparse(scanned, scanned.timeline, set(numbers), lambda rgb: rgb, Deadline(60.0))
    return None if frames is None else {i: read_number(pixels) for i, pixels in frames.items()}


@pytest.mark.parametrize("settings", GROUPS.values(), ids=GROUPS)
def test_every_frame_is_found_in_open_and_closed_groups(make, settings):
    data = make(frames=60, **settings)
    for numbers in ([0, 59], [3, 4, 5, 6, 7, 8, 9, 10, 11], list(range(0, 60, 7))):
        assert sparse(data, numbers) == {i: i for i in numbers}


def sync_table(data: bytes) -> tuple[int, list[int]]:
    """(byte position of the entry count, sample numbers) of an MP4's table of sync samples."""
    at = data.index(b"stss") + 8
    (count,) = struct.unpack_from(">I", data, at)
    return at, list(struct.unpack_from(f">{count}I", data, at + 4))


def with_sync_samples(data: bytes, samples: list[int]) -> bytes:
    """The file with a shorter table; what is left over of the box is zeros."""
    at, old = sync_table(data)
    table = struct.pack(f">I{len(samples)}I", len(samples), *samples) + bytes(4 * (len(old) - len(samples)))
    return data[:at] + table + data[at + len(table) :]


@pytest.mark.parametrize("kept", [[0], [0, 3], [0, 1, 2, 5]])
def test_key_pictures_that_the_index_leaves_out_do_no_harm(make, kept):
    data = make(frames=60, options={"g": "10", "bf": "0", "keyint_min": "10", "sc_threshold": "0"})
    _, samples = sync_table(data)
    assert samples == [1, 11, 21, 31, 41, 51]
    broken = with_sync_samples(data, [samples[i] for i in kept])
    numbers = list(range(0, 60, 4))
    assert sparse(broken, numbers) == {i: i for i in numbers}
    assert np.array_equal(
        read_frames(broken, k=16).pixels, decode(broken, [FrameRequest(k=16)]).samples[0].pixels
    )


def test_an_index_that_calls_every_picture_a_key_picture_gives_the_right_frames(make):
    data = make(frames=40, options={"g": "10", "bf": "2"})
    at = data.index(b"stss")
    without = data[:at] + b"free" + data[at + 4 :]  # no table: every sample is a sync sample
    frames = read_frames(without, k=9)
    assert [read_number(p) for p in frames.pixels] == [0, 5, 10, 15, 20, 24, 29, 34, 39]


def test_decord_is_misled_where_the_index_leaves_out_key_pictures(make):
    """The reason not to use decord. If this fails, decord has learned to use timestamps."""
    decord = pytest.importorskip("decord")
    data = make(frames=60, options={"g": "10", "bf": "0", "keyint_min": "10", "sc_threshold": "0"})
    reader = decord.VideoReader(io.BytesIO(with_sync_samples(data, [1, 31])), num_threads=1)
    numbers = [0, 15, 25, 55]
    assert [read_number(reader[i].asnumpy()) for i in numbers] != numbers


def test_containers_without_an_exact_index_are_left_to_the_full_pass(make):
    for container in ("mpegts", "avi", "flv"):
        assert sparse(make(container=container, options={"g": "8"}), [3, 9]) is None


def test_a_picture_that_does_not_decode_is_left_to_the_full_pass(make):
    data = make(frames=30, options={"g": "10", "bf": "0", "sc_threshold": "0"})
    with av.open(io.BytesIO(data)) as container:
        packet = next(p for i, p in enumerate(container.demux(video=0)) if i == 14)
    broken = data[: packet.pos] + b"\x7f\xff" + data[packet.pos + 2 :]  # the length of its first NAL unit
    assert sparse(broken, [3, 9, 22]) == {3: 3, 9: 9, 22: 22}
    assert sparse(broken, [16]) is None


def disposable_packets(data: bytes) -> np.ndarray:
    """The numbers of the packets, in decoding order, whose pictures no other one refers to."""
    return np.flatnonzero(scan(open_source(data, LIMITS), LIMITS).packets.disposable)


@pytest.mark.parametrize("codec", ["libx264", "libx265"])
def test_pictures_that_no_requested_one_needs_are_not_decoded(make, codec):
    data = make(
        frames=30,
        noise=12.0,
        codec=codec,
        options={"x264-params": "bframes=3"} if codec == "libx264" else {"x265-params": f"{X265}:bframes=3"},
    )
    with av.open(io.BytesIO(data)) as container:
        packets = [p for p in container.demux(video=0) if p.size]
        packet = packets[int(disposable_packets(data)[1])]
        number = round(packet.pts * packet.time_base * 10)
        middle = packet.pos + packet.size // 2
    broken = data[:middle] + bytes(b ^ 0x5A for b in data[middle : middle + 40]) + data[middle + 40 :]
    others = [i for i in range(30) if i != number]
    assert not np.array_equal(pixels_of(broken, [number]), pixels_of(data, [number]))
    assert np.array_equal(pixels_of(broken, others), pixels_of(data, others))
    assert sparse(broken, others) == {i: i for i in others}


def pixels_of(data: bytes, numbers: list[int]) -> np.ndarray:
    """uint8 [T, H, W, 3] of frames at 10 frames a second, or an empty array if they are refused."""
    try:
        return decode(data, [FrameRequest(at=tuple(i / 10 for i in numbers))], strict=False).samples[0].pixels
    except MediaError:
        return np.empty(0)


def in_temporal_layers(data: bytes) -> bytes:
    """Declare the unreferenced pictures of an H.265 MP4 a layer of their own: TRAIL_N with TemporalId 1.

    The B pictures that only these refer to then are TRAIL_N of layer 0. The coded pictures stay.
    """
    out, last = bytearray(data), -1
    with av.open(io.BytesIO(data)) as container:
        for packet in (p for p in container.demux(video=0) if p.size):
            at = packet.pos
            while (out[at + 4] >> 1 & 0x3F) >= 32:  # parameter sets and messages
                at += 4 + int.from_bytes(out[at : at + 4], "big")
            kind = out[at + 4] >> 1 & 0x3F
            if kind == 0:
                out[at + 5] += 1  # nuh_temporal_id_plus1
            elif kind == 1 and packet.pts < last:
                out[at + 4] = 0  # TRAIL_N
            last = max(last, packet.pts)
    return bytes(out)


def test_a_lower_temporal_layer_is_needed_by_the_higher_ones(make):
    options = {"x265-params": f"{X265}:keyint=60:bframes=7:b-pyramid=1"}
    data = make(frames=60, noise=6.0, codec="libx265", options=options)
    layered = in_temporal_layers(data)
    assert disposable_packets(layered).tolist() == disposable_packets(data).tolist()
    numbers = [3, 25, 41, 58]
    assert np.array_equal(pixels_of(layered, numbers), pixels_of(data, numbers))
    assert sparse(layered, numbers) == {i: i for i in numbers}


def remuxed(data: bytes, change: Callable[[int, bytes], bytes], container: str) -> bytes:
    """Copy the packets of a video as `change(number, packet)`; those that become empty are left out."""
    out = io.BytesIO()
    with av.open(io.BytesIO(data)) as source, av.open(out, "w", format=container) as target:
        stream = target.add_stream_from_template(source.streams.video[0])
        for number, packet in enumerate(p for p in source.demux(video=0) if p.size):
            if content := change(number, bytes(packet)):
                copy = av.Packet(content)
                copy.pts, copy.dts, copy.duration = packet.pts, packet.dts, packet.duration
                copy.time_base, copy.is_keyframe, copy.stream = packet.time_base, packet.is_keyframe, stream
                target.mux(copy)
    return out.getvalue()


def not_coded(packet: bytes) -> bytes:
    """An MPEG-4 P picture at 10 frames a second, up to its vop_coded, as 0 (ISO/IEC 14496-2, 6.2.5)."""
    header = packet.index(b"\0\0\1\xb6") + 4
    bits = "".join(f"{byte:08b}" for byte in packet[header : header + 4])
    coded = bits.index("0", 2) + 1 + 1 + 4 + 1  # after seconds, marker, increment, marker
    bits = bits[:coded] + "00"
    bits += "1" * (-len(bits) % 8)
    return packet[:header] + int(bits, 2).to_bytes(len(bits) // 8, "big")


@pytest.mark.parametrize("container", ["mp4", "matroska"])
def test_packets_that_show_nothing_are_no_frames(make, container):
    data = make(frames=40, codec="mpeg4", options={"g": "10", "bf": "0"})
    broken = remuxed(data, lambda i, packet: not_coded(packet) if i in (13, 14, 25) else packet, container)
    for settings in ({}, {"sampled": True}, {"strict": False}):
        result = decode(broken, [FrameRequest(k=2)], **settings)
        assert (result.info.total_frames, result.info.duration) == (37, pytest.approx(4.0))
        assert result.samples[0].indices.tolist() == [0, 36]


def test_leading_pictures_without_their_references_are_no_frames(make):
    data = make(frames=60, noise=6.0, **GROUPS["h265, open"])
    keys = np.flatnonzero(scan(open_source(data, LIMITS), LIMITS).packets.keyframe)
    later = remuxed(data, lambda i, packet: packet if i >= keys[2] else b"", "matroska")
    first, last = (read_number(p) for p in decode(later, [FrameRequest(k=2)]).samples[0].pixels)
    for settings in ({}, {"sampled": True}, {"strict": False}):
        result = decode(later, lambda info: [FrameRequest(at=(info.end,))], **settings)
        assert result.info.total_frames == last - first + 1
        assert result.samples[0].indices.tolist() == [last - first]


def test_interlaced_pictures_are_left_to_the_full_pass(make):
    data = make(frames=20, options={"x264-params": "tff=1:keyint=5"})
    assert sparse(data, [3, 12]) is None


def test_times_that_run_backwards_do_not_reorder_pictures(make):
    data = make(frames=12, codec="libvpx-vp9", container="webm", options={"cpu-used": "8"})
    block = data.index(b"\x00\x64\x00")  # the time of frame 1, 100 ms, and its flags
    for settings in ({}, {"sampled": True}, {"strict": False}):
        broken = data[:block] + b"\x03\x85" + data[block + 2 :]  # 901 ms
        frames = decode(broken, [FrameRequest(k=12)], **settings).samples[0]
        assert [read_number(p) for p in frames.pixels] == list(range(12))
