"""Both ways of decoding return the right frames, according to the numbers painted into them."""

import hashlib
import io
import struct
import sys

import av
import numpy as np
import pytest

from gve_ray.media import FrameRequest, Limits, MediaError, decode, read_frames, uniform_indices
from gve_ray.media.budget import resize
from tests.media.videos import media_files, picture, read_number, sequential, turn

X265 = "log-level=none:pools=none:frame-threads=1"

CLIPS = {
    "h264, long GOP, B frames": {},
    "h264, short closed GOPs": {"options": {"g": "8", "bf": "3"}},
    "h264, no B frames": {"options": {"g": "5", "bf": "0"}},
    "h264, key frames only": {"options": {"g": "1"}},
    "h264, open GOPs": {
        "frames": 60,
        "options": {"x264-params": "open-gop=1:keyint=8:min-keyint=4:b-pyramid=normal"},
    },
    "h264, intra refresh": {"frames": 60, "options": {"x264-params": "intra-refresh=1:keyint=10"}},
    "h264, fragmented": {"options": {"g": "8"}, "mux": {"movflags": "frag_keyframe+empty_moov"}},
    "h264, late start": {"ticks": [5000 + i * 100 for i in range(30)]},
    "h264, odd size, 4:4:4": {"width": 141, "height": 97, "pix_fmt": "yuv444p"},
    "h264, 10 bit": {"pix_fmt": "yuv420p10le"},
    "h264, Matroska": {"container": "matroska", "options": {"g": "8"}},
    "h264, transport stream": {"container": "mpegts", "options": {"g": "8"}},
    "h264, interlaced": {"container": "mpegts", "options": {"x264-params": "interlaced=1"}},
    "h264, AVI without times": {"container": "avi", "options": {"bf": "2"}},
    "h265, open GOPs": {
        "codec": "libx265",
        "frames": 60,
        "options": {"x265-params": f"{X265}:keyint=10:min-keyint=5:open-gop=1:bframes=4"},
    },
    "h265, closed GOPs": {
        "codec": "libx265",
        "frames": 60,
        "options": {"x265-params": f"{X265}:keyint=10:min-keyint=5:open-gop=0:bframes=4"},
    },
    "h265, key frame every second": {
        "codec": "libx265",
        "options": {"x265-params": f"{X265}:keyint=2:min-keyint=1:open-gop=0:bframes=2"},
    },
    "av1": {"codec": "libsvtav1", "options": {"preset": "12", "g": "10"}},
    "vp9, hidden references": {
        "codec": "libvpx-vp9",
        "container": "webm",
        "options": {"lag-in-frames": "16", "cpu-used": "8", "deadline": "realtime"},
    },
    "vp8, hidden references": {
        "codec": "libvpx",
        "container": "webm",
        "options": {"lag-in-frames": "16", "auto-alt-ref": "1", "cpu-used": "8"},
    },
    "mpeg4, B frames, AVI": {"codec": "mpeg4", "container": "avi", "options": {"bf": "2"}},
    "mpeg2, transport stream": {
        "codec": "mpeg2video",
        "container": "mpegts",
        "fps": 25,
        "options": {"bf": "2"},
    },
    "mpeg1, program stream": {"codec": "mpeg1video", "container": "mpeg", "fps": 25},
    "gif": {"codec": "gif", "container": "gif", "pix_fmt": "rgb8"},
}


# Seconds at which a browser shows the first frame, where that is not 0: an empty edit; and two
# frames of reordering delay that this muxer writes no edit list for.
START = {"h264, late start": 5.0, "h264, fragmented": 0.2}


@pytest.mark.parametrize("name", CLIPS)
def test_both_paths_give_the_frames_asked_for(make, name):
    settings = CLIPS[name]
    data = make(**settings)
    n = settings.get("frames", 30)
    fps = settings.get("fps", 10)
    expected = uniform_indices(n, 9).tolist()
    strict = decode(data, [FrameRequest(k=9)])
    sparse = read_frames(data, k=9)
    assert [read_number(p) for p in strict.samples[0].pixels] == expected
    assert [read_number(p) for p in sparse.pixels] == expected
    assert np.array_equal(strict.samples[0].pixels, sparse.pixels)
    for frames in (strict.samples[0], sparse):
        assert frames.indices.tolist() == expected
        assert frames.timestamps == pytest.approx(START.get(name, 0.0) + np.array(expected) / fps, abs=2e-3)
        assert frames.total_frames == n
        assert frames.duration == pytest.approx(n / fps, abs=0.05)
        assert frames.fps == pytest.approx(fps, rel=0.01)
    assert not strict.repaired


def test_uneven_frames_keep_their_own_times(make):
    ticks = [i * 40 + (i % 3) * 11 + (i > 20) * 2000 for i in range(30)]
    data = make(ticks=ticks)
    seconds = np.array(ticks) / 1000
    for frames in (decode(data, [FrameRequest(k=30)]).samples[0], read_frames(data, k=30)):
        assert frames.timestamps == pytest.approx(seconds, abs=1e-3)
        assert [read_number(p) for p in frames.pixels] == list(range(30))
    # 0.9 s to 3 s holds the frames after the gap from number 21 (2.84 s) on, none in the gap itself
    span = read_frames(data, k=2, start=0.9, end=2.9)
    assert [read_number(p) for p in span.pixels] == [21, 22]


def test_one_decode_serves_every_request(make):
    data = make(frames=40)
    plan = [
        FrameRequest(k=3),
        FrameRequest(k=2, start=1.0, end=2.0),
        FrameRequest(at=(0.35, 3.9)),
        FrameRequest(k=4, start=3.75, end=3.8),
    ]
    samples = decode(data, plan).samples
    numbers = [[read_number(p) for p in frames.pixels] for frames in samples]
    assert numbers == [[0, 20, 39], [10, 20], [3, 39], [38, 38, 38, 38]]


def test_a_plan_may_be_made_from_the_facts(make):
    seen = []

    def plan(info):
        seen.append(info)
        return [FrameRequest(k=1, start=info.duration / 2)]

    samples = decode(make(frames=40), plan).samples
    assert read_number(samples[0].pixels[0]) == 20
    assert (seen[0].total_frames, seen[0].codec, seen[0].container) == (40, "h264", "mp4")
    assert (seen[0].width, seen[0].height, seen[0].fps) == (140, 112, 10.0)


def test_a_short_video_repeats_frames(make):
    frames = read_frames(make(frames=3), k=8)
    assert [read_number(p) for p in frames.pixels] == [0, 0, 1, 1, 1, 1, 2, 2]


def test_the_budget_holds_and_keeps_the_picture(make):
    frames = read_frames(make(frames=4, width=448, height=252), k=2, max_pixels=16 * 784)
    assert frames.pixels.shape == (2, 84, 140, 3)  # root(448*252 / (16*784)) = 3: 252/3 and 448/3 down
    assert [read_number(p) for p in frames.pixels] == [0, 3]


@pytest.mark.parametrize("degrees", [90, 180, 270])
@pytest.mark.parametrize("strict", [True, False])
def test_rotation_is_applied(make, degrees, strict):
    frames, width, height = 12, 140, 112
    data = turn(make(frames=frames, width=width, height=height, options={"g": "4"}), degrees)
    result = decode(data, [FrameRequest(k=4)], strict=strict)
    sideways = degrees in (90, 270)
    assert result.info.rotation == degrees
    assert (result.info.width, result.info.height) == ((height, width) if sideways else (width, height))
    for number, pixels in zip([0, 4, 7, 11], result.samples[0].pixels, strict=True):
        # a display rotated by `degrees` clockwise shows the stored picture turned that way
        expected = np.rot90(picture(number, width, height), -degrees // 90)
        assert pixels.shape == expected.shape
        assert np.abs(pixels.astype(int) - expected).mean() < 8


def test_frames_cut_away_by_an_edit_list_are_not_counted(make):
    data = bytearray(make(frames=30, options={"g": "6", "bf": "0"}))
    at = data.index(b"elst") + 4 + 8  # version/flags, entry count, then duration, media time
    scale = 10240  # ticks a second that FFmpeg's muxer picks for 10 fps
    struct.pack_into(">Ii", data, at, 2000, scale)  # start one second in, for two seconds (of 1/1000 s)
    result = decode(bytes(data), [FrameRequest(k=3)])
    assert [read_number(p) for p in result.samples[0].pixels] == [10, 20, 29]
    assert [read_number(p) for p in sequential_pictures(bytes(data), 3)] == [10, 20, 29]
    assert result.info.total_frames == 20
    frames = read_frames(bytes(data), k=3)
    assert [read_number(p) for p in frames.pixels] == [10, 20, 29]
    assert frames.timestamps == pytest.approx([0.0, 1.0, 1.9])


@pytest.mark.parametrize("path", media_files(), ids=lambda path: path.name)
def test_real_files_equal_a_sequential_decode(path):
    truth = sequential(path.read_bytes())
    n = len(truth)
    roomy = 4096 * 784
    for k in (2, 4, 8, 17):
        strict = decode(path, [FrameRequest(k=k)], max_pixels=roomy).samples[0]
        sparse = read_frames(path, k=k, max_pixels=roomy)
        assert strict.indices.tolist() == sparse.indices.tolist() == uniform_indices(n, k).tolist()
        assert np.array_equal(strict.pixels, sparse.pixels)
        for index, pixels in zip(strict.indices, strict.pixels, strict=True):
            # The truth's scaler interpolates 10-bit chroma another way; neighbours differ by far
            # more.
            distance = [
                np.abs(pixels.astype(int) - resize(truth[i], *pixels.shape[:2])).mean()
                for i in range(max(0, index - 2), min(n, index + 3))
            ]
            assert np.argmin(distance) == min(index, 2)
            assert min(distance) < 4.0


def test_the_best_video_stream_is_taken():
    path = next((p for p in media_files() if p.name == "nasa_13013.mp4"), None)
    if path is None:
        pytest.skip("GVE_MEDIA_DIR has no nasa_13013.mp4, the file with two video streams")
    result = decode(path, [FrameRequest(k=2)])
    assert (result.info.total_frames, result.info.width, result.info.height) == (390, 480, 270)


@pytest.mark.parametrize("full_range", [False, True])
@pytest.mark.parametrize("matrix", ["bt601", "bt709", "bt2020"])
@pytest.mark.parametrize("pix_fmt", ["yuv420p", "yuv420p10le"])
def test_colours_are_right_for_every_matrix_and_range(matrix, full_range, pix_fmt):
    """Against the defining equations (BT.601-7, BT.709-6, BT.2020-2), not another converter."""
    colour = np.array([200.0, 60.0, 30.0])
    data = tagged_clip(colour, matrix, full_range, pix_fmt)
    for frames in (decode(data, [FrameRequest(k=2)]).samples[0], read_frames(data, k=2)):
        middle = frames.pixels[0, 20:90, 20:90].reshape(-1, 3).mean(axis=0)
        assert np.abs(middle - colour).max() < 4


@pytest.mark.parametrize("k", [0, -2])
def test_no_frames_asked_is_an_error(make, k):
    with pytest.raises(ValueError, match=f"k={k}"):
        read_frames(make(), k=k)


def test_a_backward_span_is_an_error(make):
    with pytest.raises(ValueError, match=r"start=2.0, end=1.0"):
        read_frames(make(), k=2, start=2.0, end=1.0)


@pytest.mark.parametrize(
    "limits, reason",
    [
        (Limits(max_duration=2.0), "too_long"),
        (Limits(max_frames=20), "too_many_frames"),
        (Limits(max_side_pixels=10_000), "too_many_pixels"),
        (Limits(wall_clock_s=1e-9), "timeout"),
    ],
)
def test_limits_have_reasons(make, limits, reason):
    with pytest.raises(MediaError) as caught:
        decode(make(), [FrameRequest(k=2)], limits=limits)
    assert caught.value.reason == reason


def sequential_pictures(data: bytes, k: int) -> list[np.ndarray]:
    pictures = sequential(data)
    return [pictures[i] for i in np.round(np.linspace(0, len(pictures) - 1, k)).astype(int)]


def tagged_clip(colour: np.ndarray, matrix: str, full_range: bool, pix_fmt: str) -> bytes:
    """Two frames of one colour, turned into YCbCr here by the standard's equations and tagged as such."""
    kr, kb, tag = {"bt601": (0.299, 0.114, 5), "bt709": (0.2126, 0.0722, 1), "bt2020": (0.2627, 0.0593, 9)}[
        matrix
    ]
    red, green, blue = colour / 255
    luma = kr * red + (1 - kr - kb) * green + kb * blue
    cb, cr = (blue - luma) / (2 * (1 - kb)), (red - luma) / (2 * (1 - kr))
    bits = 10 if "10" in pix_fmt else 8
    scale = 1 << (bits - 8)
    if full_range:
        top = (1 << bits) - 1
        codes = [luma * top, cb * top + 128 * scale, cr * top + 128 * scale]
    else:
        codes = [(219 * luma + 16) * scale, (224 * cb + 128) * scale, (224 * cr + 128) * scale]
    out = io.BytesIO()
    with av.open(out, "w", format="mp4") as container:
        stream = container.add_stream("libx264", rate=10, options={"qp": "1"})
        stream.width = stream.height = 112
        stream.pix_fmt = pix_fmt
        stream.codec_context.colorspace = tag
        stream.codec_context.color_range = 2 if full_range else 1
        for _ in range(2):
            frame = av.VideoFrame(112, 112, pix_fmt)
            frame.colorspace, frame.color_range = tag, 2 if full_range else 1
            for plane, code in zip(frame.planes, codes, strict=True):
                dtype = np.uint16 if bits > 8 else np.uint8
                plane.update(np.full(plane.buffer_size // dtype().itemsize, round(code), dtype).tobytes())
            container.mux(stream.encode(frame))
        container.mux(stream.encode())
    return out.getvalue()


def test_a_file_that_is_kept_open_is_read_once_until_it_changes(make, tmp_path, monkeypatch):
    reads = []
    module = sys.modules["gve_ray.media.decode"]  # its name in the package is that of the function
    scan = module.scan
    monkeypatch.setattr(module, "scan", lambda blob, limits: reads.append(blob.name) or scan(blob, limits))
    one, two = tmp_path / "one.mp4", tmp_path / "two.mp4"
    one.write_bytes(make(frames=12))
    two.write_bytes(make(frames=20))

    def frames_of(path, **settings):
        decoded = decode(path, [FrameRequest(k=2, start=0.0)], strict=False, **settings)
        assert decoded.content_hash == hashlib.sha256(path.read_bytes()).hexdigest()
        return decoded.info.total_frames

    assert [frames_of(one, keep_open=True) for _ in range(3)] == [12, 12, 12]
    assert reads == [str(one)]
    assert [frames_of(path, keep_open=True) for path in (two, two, one)] == [20, 20, 12]
    assert reads == [str(one), str(two), str(one)]
    one.write_bytes(two.read_bytes())
    assert frames_of(one, keep_open=True) == 20
    assert [frames_of(two), frames_of(two)] == [20, 20]
    assert len(reads) == 6
    for unreadable in (tmp_path / "gone.mp4", "nowhere://gone.mp4", "a\0b"):
        with pytest.raises(MediaError, match="unreadable"):
            decode(unreadable, [FrameRequest(k=1)], keep_open=True)
