"""Damaged files are refused, and undamaged ones are not."""

import io
import zipfile

import av
import numpy as np
import pytest

from gve_ray.media import FrameRequest, MediaError, decode, encode_jpeg
from tests.media.videos import flip_bits, picture

X265 = {"x265-params": "log-level=none:pools=none:frame-threads=1"}
CONTAINERS = {
    "mp4": {"options": {"g": "12"}},
    "mp4 with sound": {"options": {"g": "12"}, "audio": True},
    "fragmented mp4": {"options": {"g": "12"}, "mux": {"movflags": "frag_keyframe+empty_moov"}},
    "matroska": {"container": "matroska", "options": {"g": "12"}},
    "webm": {
        "container": "webm",
        "codec": "libvpx-vp9",
        "options": {"cpu-used": "8", "deadline": "realtime"},
    },
    "transport stream": {"container": "mpegts", "options": {"g": "12"}},
    "avi": {"container": "avi", "options": {"g": "12"}},
    "flv": {"container": "flv", "options": {"g": "12"}},
    "asf": {"container": "asf", "codec": "wmv2"},
}


def refusal(data: bytes) -> str:
    """The reason `decode` refuses for, "" where it does not."""
    try:
        decode(data, [FrameRequest(k=8)])
    except MediaError as error:
        return error.reason
    return ""


def payload(data: bytes) -> tuple[int, int]:
    """Where the coded pictures lie: the first mdat of an MP4, all but the head of anything else."""
    if data[4:8] != b"ftyp":
        return len(data) // 10, int(len(data) * 0.95)
    start = data.index(b"mdat") - 4
    return start + 8, start + int.from_bytes(data[start : start + 4], "big")


def overwrite(data: bytes, length: int, seed: int, *, zeros: bool = False) -> bytes:
    """`length` bytes in the middle three fifths of the payload replaced by noise or by zeros."""
    rng = np.random.default_rng(seed)
    low, high = payload(data)
    at = low + int((high - low - length) * rng.uniform(0.2, 0.8))
    noise = bytes(length) if zeros else rng.integers(0, 256, length, dtype=np.uint8).tobytes()
    return data[:at] + noise + data[at + length :]


@pytest.mark.parametrize("settings", CONTAINERS.values(), ids=CONTAINERS)
def test_a_cut_file_is_truncated_wherever_it_is_cut(make, settings):
    data = make(frames=60, **settings)
    assert refusal(data) == ""
    for share in (0.2, 0.35, 0.5, 0.65, 0.8, 0.9, 0.97):
        cut = int(len(data) * share) // 188 * 188 + 100  # not between two packets of a transport stream
        assert refusal(data[:cut]) == "truncated", f"cut at {share}"
    for missing in (1, 50):
        assert refusal(data[:-missing]) == "truncated", f"{missing} bytes short"


def test_an_index_at_the_front_does_not_hide_missing_pictures(make, tmp_path):
    path = tmp_path / "front.mp4"
    with (
        av.open(io.BytesIO(make(frames=60))) as source,
        av.open(str(path), "w", options={"movflags": "faststart"}) as target,
    ):
        stream = target.add_stream_from_template(source.streams.video[0])
        for packet in source.demux(video=0):
            if packet.dts is not None:
                packet.stream = stream
                target.mux(packet)
    data = path.read_bytes()
    assert data.index(b"moov") < data.index(b"mdat")
    assert refusal(data) == ""
    # The first half plays in any player.
    assert refusal(data[: len(data) // 2]) == "truncated"
    assert refusal(data[:-1]) == "truncated"


FOUND_ALWAYS = {
    "h264": ({}, 256),
    "h264, much detail": ({"noise": 8.0}, 8192),
    "h264, CAVLC": ({"noise": 8.0, "options": {"x264-params": "cabac=0"}}, 64),
    "h264, Matroska": ({"container": "matroska"}, 256),
    "h264, transport stream": ({"container": "mpegts", "noise": 8.0}, 256),
    "h265": ({"codec": "libx265", "options": X265, "noise": 8.0}, 1024),
    "mpeg4": ({"codec": "mpeg4", "noise": 8.0}, 64),
    "av1": ({"codec": "libsvtav1", "options": {"preset": "12"}, "noise": 8.0}, 256),
    "vp9": ({"codec": "libvpx-vp9", "container": "webm", "noise": 8.0, "options": {"cpu-used": "8"}}, 8192),
}


@pytest.mark.parametrize("settings, length", FOUND_ALWAYS.values(), ids=FOUND_ALWAYS)
def test_a_damaged_middle_is_found(make, settings, length):
    data = make(frames=60, **settings)
    assert refusal(data) == ""
    reasons = [refusal(overwrite(data, length, seed)) for seed in range(12)]
    assert set(reasons) <= {"corrupt", "truncated"}, reasons


@pytest.mark.parametrize("codec, options", [("libx264", {}), ("libx265", X265)])
@pytest.mark.parametrize("container", ["mp4", "matroska"])
def test_a_hole_of_zeros_is_found_even_in_large_pictures(make, codec, options, container):
    data = make(
        frames=30, width=280, height=224, noise=12.0, codec=codec, options=options, container=container
    )
    assert refusal(data) == ""
    for length in (64, 512, 4096):
        reasons = [refusal(overwrite(data, length, seed, zeros=True)) for seed in range(4)]
        assert "" not in reasons, f"{length} zeros: {reasons}"


def test_damage_outside_the_sampled_frames_is_found_too(make):
    broken = flip_bits(make(frames=60, options={"g": "10", "bf": "0"}), number=30, skip=8)
    plan = [FrameRequest(at=(0.0, 0.5))]  # frames 0 and 5, five GOPs before the damage
    with pytest.raises(MediaError) as caught:
        decode(broken, plan)
    assert caught.value.reason == "corrupt"
    assert decode(broken, plan, strict=False).samples[0].indices.tolist() == [0, 5]


def test_a_sampled_check_finds_damage_in_what_it_decodes_and_in_the_structure(make):
    data = make(frames=60, options={"g": "10", "keyint_min": "10", "bf": "0", "sc_threshold": "0"})
    in_slice, in_structure = (flip_bits(data, number=30, skip=skip) for skip in (8, 0))
    elsewhere, there = ([FrameRequest(at=moments)] for moments in ((0.0, 0.5), (0.0, 3.4)))
    assert decode(in_slice, elsewhere, sampled=True).samples[0].indices.tolist() == [0, 5]
    for broken, plan in ((in_slice, there), (in_structure, elsewhere)):
        refusals = []
        for sampled in (False, True):
            with pytest.raises(MediaError) as caught:
                decode(broken, plan, sampled=sampled)
            refusals.append((caught.value.reason, caught.value.detail))
        assert refusals[0] == refusals[1]


def test_things_that_are_no_video_have_reasons(make):
    archive = io.BytesIO()
    with zipfile.ZipFile(archive, "w") as file:
        file.writestr("clip.mp4", b"x" * 1000)
    rng = np.random.default_rng(0)
    for data in (
        b"\0",
        bytes(5000),
        b"<!DOCTYPE html><html><body>404 Not Found</body></html>",
        b"subtitles, perhaps\n" * 200,
        archive.getvalue(),
        encode_jpeg(picture(3, 140, 112)),
        rng.integers(0, 256, 20_000, dtype=np.uint8).tobytes(),
    ):
        assert refusal(data) == "not_a_video", data[:20]
    assert refusal(b"") == "empty"
    assert refusal(make(frames=1)) == "too_few_frames"
    assert refusal(sound_only()) == "no_video_stream"
    assert refusal(no_frames()) in ("no_video_stream", "too_few_frames")


@pytest.mark.parametrize(
    "playlist",
    [
        b"#EXTM3U\n#EXT-X-TARGETDURATION:9\n#EXTINF:9,\nfile:///etc/hostname\n#EXT-X-ENDLIST\n",
        b"ffconcat version 1.0\nfile '/etc/hostname'\n",
    ],
)
def test_playlists_cannot_make_us_open_other_files(playlist, tmp_path):
    path = tmp_path / "list.mp4"
    path.write_bytes(playlist)
    assert refusal(path.read_bytes()) == "not_a_video"
    with pytest.raises(MediaError, match="not_a_video"):
        decode(path, [FrameRequest(k=2)])


def test_cover_art_is_no_video():
    out = io.BytesIO()
    with av.open(out, "w", format="mp4") as container:
        sound = container.add_stream("aac", rate=16000)
        cover = container.add_stream("mjpeg", rate=1)
        cover.width, cover.height, cover.pix_fmt = 140, 112, "yuvj420p"
        cover.disposition = av.stream.Disposition.attached_pic
        container.mux(cover.encode(av.VideoFrame.from_ndarray(picture(1, 140, 112), "rgb24")))
        container.mux(cover.encode())
        container.mux(sound.encode(silence()))
        container.mux(sound.encode())
    with av.open(io.BytesIO(out.getvalue())) as container:
        attached = [s for s in container.streams.video if s.disposition & av.stream.Disposition.attached_pic]
    assert attached
    assert refusal(out.getvalue()) == "no_video_stream"


def silence() -> av.AudioFrame:
    frame = av.AudioFrame.from_ndarray(np.zeros((1, 16000), np.float32), "fltp", "mono")
    frame.sample_rate = 16000
    return frame


def sound_only() -> bytes:
    out = io.BytesIO()
    with av.open(out, "w", format="mp4") as container:
        stream = container.add_stream("aac", rate=16000)
        container.mux(stream.encode(silence()))
        container.mux(stream.encode())
    return out.getvalue()


def no_frames() -> bytes:
    out = io.BytesIO()
    with av.open(out, "w", format="mp4") as container:
        stream = container.add_stream("libx264", rate=10)
        stream.width, stream.height, stream.pix_fmt = 64, 64, "yuv420p"
        container.start_encoding()
    return out.getvalue()
