import gc
import json
import struct
import weakref

import numpy as np
import pytest

from gve_ray.media.decode import Decoded
from gve_ray.media.limits import MediaError, Reason
from gve_ray.media.reply import MalformedReplyError, decode_reply, encode_error, encode_result
from gve_ray.media.video.probe import VideoInfo
from gve_ray.schema import Frames


def frames(t: int) -> Frames:
    rng = np.random.default_rng(t)
    return Frames(
        pixels=rng.integers(0, 256, (t, 4, 6, 3), dtype=np.uint8)[:, ::2],  # not contiguous
        timestamps=np.linspace(0, 1, t),
        indices=np.arange(t),
        fps=float("nan"),
        duration=float("inf"),
        total_frames=9,
    )


def test_a_result_survives() -> None:
    info = VideoInfo(
        container="mp4",
        codec="h264",
        width=6,
        height=4,
        fps=25.0,
        duration=1.0,
        total_frames=9,
        mirrored=True,
    )
    sent = Decoded(
        info=info,
        content_hash="ab",
        size=7,
        repaired=False,
        samples=[frames(2), frames(3)],
        cuts=(0.5, np.float64(0.75)),
    )
    back = decode_reply(encode_result(sent))
    assert (back.info, back.content_hash, back.size, back.repaired) == (info, "ab", 7, False)
    assert back.cuts == (0.5, 0.75)
    for mine, theirs in zip(back.samples, sent.samples, strict=True):
        for name in ("pixels", "timestamps", "indices"):
            got, expected = getattr(mine, name), getattr(theirs, name)
            assert got.dtype == expected.dtype
            np.testing.assert_array_equal(got, expected)
            assert got.flags.writeable
        assert np.isnan(mine.fps)
        assert mine.duration == float("inf")


@pytest.mark.parametrize(
    "error",
    [
        MediaError("corrupt", "frame 3"),
        MediaError("empty"),
        ValueError("start=70"),
        FileNotFoundError(2, "No such file or directory", "a.mp4"),
        LookupError("no such shot"),
    ],
)
def test_an_error_survives(error: Exception) -> None:
    with pytest.raises(type(error)) as caught:
        decode_reply(encode_error(error))
    assert type(caught.value) is type(error)
    assert str(caught.value) == str(error)


def test_a_raised_error_is_freed_without_the_garbage_collector() -> None:
    """Its traceback refers to frames with the bytes of a file."""
    sent = encode_error(MediaError(Reason.NOT_A_VIDEO, "text"))
    gc.disable()
    try:
        with pytest.raises(MediaError) as caught:
            decode_reply(sent)
        error = weakref.ref(caught.value)
        del caught
        assert error() is None
    finally:
        gc.enable()


def test_an_error_of_another_class_keeps_its_name() -> None:
    class DecoderError(Exception):
        pass

    with pytest.raises(RuntimeError, match="DecoderError: bad"):
        decode_reply(encode_error(DecoderError("bad")))


def reply(header: object) -> bytes:
    text = json.dumps(header).encode()
    return struct.pack("<Q", len(text)) + text


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"short",
        struct.pack("<Q", 2**60) + b"{}",
        reply([]),
        reply({"result": {"class": "Popen", "fields": {"args": "true"}}}),
        reply({"result": {"class": "Frames", "fields": {}}}),
        reply({"result": {"array": "object", "shape": [1], "start": 0}}),
        reply({"result": {"array": "uint8", "shape": [100], "start": 0}}),
        reply({"result": {"array": "uint8", "shape": [-1], "start": -5}}),
        reply({"error": {"class": "SystemExit", "arguments": [0]}}),
        reply({"error": {"class": "MediaError", "arguments": ["no such reason"]}}),
        b"\x80\x04\x95" + bytes(40),
    ],
)
def test_other_bytes_are_malformed(data: bytes) -> None:
    with pytest.raises(MalformedReplyError):
        decode_reply(data)
