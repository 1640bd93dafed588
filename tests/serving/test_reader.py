"""Decoding images and clips of requests: same pixels as the batch embedder, errors with a status,
crashed decoders.
"""

import asyncio
import fcntl
import os
import signal
import stat
import struct
import sys
import termios
import zlib
from collections.abc import Awaitable, Callable, Iterator

import numpy as np
import psutil
import pytest

from gve_ray.embedder import EmbedderSettings
from gve_ray.embedder.load_media import load_media
from gve_ray.media import Limits, MediaError, Reason, encode_jpeg
from gve_ray.schema import Frames, Item
from gve_ray.serving.reader import MediaReader, http_status
from tests.media.videos import Clip, picture, read_number, render

SETTINGS = EmbedderSettings(frames=4, max_pixels=40 * 784, min_pixels=4 * 784)
LIMITS = Limits(max_bytes=2_000_000, max_duration=60.0, max_side_pixels=1000 * 1000, wall_clock_s=60.0)
PICTURE = encode_jpeg(picture(9, 420, 336))


@pytest.fixture(scope="module")
def clip() -> bytes:
    return render(Clip(frames=30))


@pytest.fixture(scope="module")
def reader() -> Iterator[MediaReader]:
    """Yield a reader with one process, so that a test sees the damage that the previous one has
    done to it.
    """
    reader = MediaReader(1, LIMITS)
    yield reader
    reader.close()


def run(coroutine: Awaitable[Frames]) -> Frames:
    async def main() -> Frames:
        return await coroutine

    return asyncio.run(main())


def refusal(coroutine: Awaitable[Frames]) -> MediaError:
    with pytest.raises(MediaError) as caught:
        run(coroutine)
    return caught.value


def children() -> list[psutil.Process]:
    """Return the decoding processes of this process."""
    mine = psutil.Process().children()
    return [child for child in mine if "gve_ray.media.child" in child.cmdline()]


async def request_waits() -> None:
    """Wait until a request is in the pipe, a socket of this process, of a suspended decoding process.

    The state of the suspended process says nothing: for a moment it may still be "running", though
    it executes no more of its program.
    """
    async with asyncio.timeout(60):
        while not any(unread_bytes(int(fd)) for fd in os.listdir("/proc/self/fd")):
            await asyncio.sleep(0.01)


def unread_bytes(fd: int) -> int:
    """Return how many bytes written to a socket its other end has not read; 0 for other files."""
    try:
        if not stat.S_ISSOCK(os.fstat(fd).st_mode):
            return 0
        return int.from_bytes(fcntl.ioctl(fd, termios.TIOCOUTQ, bytes(4)), sys.byteorder)
    except OSError:  # closed meanwhile
        return 0


def same(a: Frames, b: Frames) -> bool:
    arrays = ("pixels", "timestamps", "indices")
    equal = all(np.array_equal(getattr(a, name), getattr(b, name)) for name in arrays)
    facts = ("fps", "duration", "total_frames")
    return equal and all(getattr(a, name) == getattr(b, name) for name in facts)


@pytest.mark.parametrize(
    "settings", [SETTINGS, EmbedderSettings(), EmbedderSettings(frames=8, max_pixels=16 * 784)], ids="abc"
)
@pytest.mark.parametrize(
    "kind", [Clip(), Clip(codec="libx265"), Clip(container="matroska"), Clip(codec="mpeg4", container="avi")]
)
def test_a_clip_is_read_as_the_batch_embedder_reads_it(reader, tmp_path, kind, settings):
    data, path = render(kind), tmp_path / "clip"
    path.write_bytes(data)
    read = run(reader.read_video(data, settings))
    (batch,) = load_media([Item(video=str(path))], settings, None)
    assert isinstance(batch.video, Frames)
    assert same(read, batch.video)
    assert len(read.pixels) == settings.frames
    assert [read_number(p) for p in read.pixels] == read.indices.tolist()


@pytest.mark.parametrize("settings", [SETTINGS, EmbedderSettings()], ids="ab")
def test_a_picture_is_read_as_the_batch_embedder_reads_it(reader, tmp_path, settings):
    path = tmp_path / "picture"
    path.write_bytes(PICTURE)
    read = run(reader.read_image(PICTURE, settings))
    (batch,) = load_media([Item(image=str(path))], settings, None)
    assert isinstance(batch.image, Frames)
    assert same(read, batch.image)
    assert read_number(read.pixels[0]) == 9


def png(width: int, height: int, pixels: bytes = b"") -> bytes:
    """Return a greyscale PNG; without pixels, only the size in its header is valid."""
    chunks = [
        (b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0)),
        (b"IDAT", zlib.compress(pixels, 9)),
        (b"IEND", b""),
    ]
    return b"\x89PNG\r\n\x1a\n" + b"".join(
        struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))
        for name, data in chunks
    )


@pytest.mark.parametrize(
    "data,reason,status",
    [
        (b"", "empty", 400),
        (b"no picture", "not_a_picture", 415),
        (b"<svg/>", "not_a_picture", 415),
        (PICTURE[:3000], "truncated", 422),
        (png(900, 3, bytes(901 * 3)), "unusable_shape", 422),
        (png(50_000, 50_000), "too_many_pixels", 413),
        (png(1001, 1000, bytes(1002 * 1000)), "too_many_pixels", 413),  # 1 MB of zeros in 1 KB
        (PICTURE + bytes(2_000_000), "too_large", 413),
    ],
)
def test_pictures_that_are_refused(reader, data, reason, status):
    error = refusal(reader.read_image(data, SETTINGS))
    assert (error.reason, http_status(error.reason)) == (reason, status)
    assert read_number(run(reader.read_image(PICTURE, SETTINGS)).pixels[0]) == 9


def hls(target: str) -> bytes:
    return f"#EXTM3U\n#EXT-X-TARGETDURATION:9\n#EXTINF:9,\n{target}\n#EXT-X-ENDLIST\n".encode()


@pytest.mark.parametrize(
    "data,reason,status",
    [
        (b"", "empty", 400),
        (b"no clip" * 1000, "not_a_video", 415),
        (PICTURE, "not_a_video", 415),
        (png(16, 16, bytes(17 * 16)), "not_a_video", 415),
        (bytes(3_000_000), "too_large", 413),
    ],
)
def test_clips_that_are_refused(reader, clip, data, reason, status):
    error = refusal(reader.read_video(data, SETTINGS))
    assert (error.reason, http_status(error.reason)) == (reason, status)
    assert run(reader.read_video(clip, SETTINGS)).indices.tolist() == [0, 10, 19, 29]


def test_damaged_and_excessive_clips_are_refused(reader, clip):
    wide = render(Clip(frames=3, width=1120, height=1120))
    long = render(Clip(frames=65, fps=1))
    still = render(Clip(frames=1))
    for data, reason, status in (
        (clip[: len(clip) // 2], "truncated", 422),
        (clip[:100], "truncated", 422),
        (wide, "too_many_pixels", 413),
        (long, "too_long", 413),
        (still, "too_few_frames", 422),
    ):
        error = refusal(reader.read_video(data, SETTINGS))
        assert (error.reason, http_status(error.reason)) == (reason, status)


def test_a_clip_that_names_another_file_opens_none(reader, clip, tmp_path):
    """FFmpeg would read any file that a playlist names."""
    path = tmp_path / "private.mp4"
    path.write_bytes(clip)
    for data in (
        hls(f"file://{path}"),
        hls(str(path)),
        f"ffconcat version 1.0\nfile {path}\n".encode(),
        f"<MPD><BaseURL>{path}</BaseURL></MPD>".encode(),
        f"v=0\nc=IN IP4 127.0.0.1\nm=video 5004 RTP/AVP 96\na={path}\n".encode(),
    ):
        assert refusal(reader.read_video(data, SETTINGS)).reason == Reason.NOT_A_VIDEO


def test_no_frames_in_a_clip_is_a_media_error(reader, clip, monkeypatch):
    def decode(*_: object, **__: object) -> None:
        raise ValueError("no frame begins in it")

    monkeypatch.setattr("gve_ray.serving.reader.DecodeProcess.decode", decode)
    error = refusal(reader.read_video(clip, SETTINGS))
    assert (error.reason, http_status(error.reason)) == (Reason.TOO_FEW_FRAMES, 422)


@pytest.mark.parametrize("kind", ["image", "video"])
def test_a_decoder_killed_midway_is_replaced(clip, kind):
    reader = MediaReader(1, LIMITS)
    read: Callable[[], Awaitable[Frames]] = {
        "image": lambda: reader.read_image(PICTURE, SETTINGS),
        "video": lambda: reader.read_video(clip, SETTINGS),
    }[kind]

    async def main() -> None:
        before = {child.pid for child in children()}
        await read()
        (child,) = [child for child in children() if child.pid not in before]
        child.suspend()  # it receives the request but does not process it
        reading = asyncio.ensure_future(read())
        await request_waits()
        assert not reading.done()
        os.kill(child.pid, signal.SIGKILL)
        assert len((await reading).pixels) in (1, 4)  # by another child, for no file causes this signal
        assert child.pid not in {each.pid for each in children()}

    try:
        asyncio.run(main())
    finally:
        reader.close()


def test_a_stuck_decoder_blocks_neither_the_event_loop_nor_other_requests(clip):
    """With one of two decoders stuck, all other requests use the second."""
    reader = MediaReader(2, LIMITS)

    async def main() -> None:
        before = {child.pid for child in children()}
        await asyncio.gather(*(reader.read_video(clip, SETTINGS) for _ in range(4)))
        stuck, _ = [child for child in children() if child.pid not in before]
        stuck.suspend()
        waiting = {asyncio.ensure_future(reader.read_video(clip, SETTINGS)) for _ in range(6)}
        while len(waiting) > 1:
            done, waiting = await asyncio.wait(waiting, return_when=asyncio.FIRST_COMPLETED)
            assert all(len(task.result().pixels) == 4 for task in done)
        (last,) = waiting
        os.kill(stuck.pid, signal.SIGKILL)
        assert len((await last).pixels) == 4

    try:
        asyncio.run(main())
    finally:
        reader.close()


def test_a_cancelled_caller_gives_its_slot_back(clip):
    reader = MediaReader(1, LIMITS)

    async def main() -> None:
        before = {child.pid for child in children()}
        await reader.read_video(clip, SETTINGS)
        (child,) = [child for child in children() if child.pid not in before]
        child.suspend()
        reading = asyncio.ensure_future(reader.read_video(clip, SETTINGS))
        waiting = asyncio.ensure_future(
            reader.read_video(b"", SETTINGS)
        )  # waits for the process and never starts
        await request_waits()
        for task in (reading, waiting):
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task  # does not wait for the decoder, which is still suspended
        child.resume()
        assert len((await reader.read_video(clip, SETTINGS)).pixels) == 4
        assert [child.pid for child in children() if child.pid not in before] == [
            child.pid
        ]  # the process was not replaced

    try:
        asyncio.run(main())
    finally:
        reader.close()


def test_close_leaves_no_process():
    before = {child.pid for child in children()}
    reader = MediaReader(2, LIMITS)
    run(reader.read_image(PICTURE, SETTINGS))
    assert {child.pid for child in children()} - before
    reader.close()
    assert {child.pid for child in children()} <= before


def test_every_reason_has_a_status():
    assert {http_status(reason) for reason in Reason} == {400, 413, 415, 422, 500, 504}
    assert http_status(Reason.TIMEOUT) == 504
