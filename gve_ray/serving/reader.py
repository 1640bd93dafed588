"""Decode the images and clips of requests into the frames that the batch embedder would read, in
separate processes.

A damaged file can crash a decoder; in a separate process that ends one request only.

reader = MediaReader(2, limits)
frames = await reader.read_video(data, settings)
"""

import asyncio
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

from gve_ray.embedder import EmbedderSettings
from gve_ray.media import DecodePool, DecodeProcess, FrameRequest, Limits, MediaError, Reason
from gve_ray.schema import Frames
from gve_ray.serving.frame_sequence import FrameSequence

_STATUS = {
    Reason.EMPTY: 400,
    Reason.TOO_LARGE: 413,
    Reason.TOO_LONG: 413,
    Reason.TOO_MANY_PIXELS: 413,
    Reason.TOO_MANY_FRAMES: 413,
    Reason.OUT_OF_MEMORY: 413,  # the file needs more memory than a decoder may use
    Reason.NOT_A_VIDEO: 415,
    Reason.NOT_A_PICTURE: 415,
    Reason.NO_VIDEO_STREAM: 415,
    Reason.UNSUPPORTED_CODEC: 415,
    Reason.ENCRYPTED: 415,
    Reason.TRUNCATED: 422,
    Reason.CORRUPT: 422,
    Reason.TOO_FEW_FRAMES: 422,
    Reason.UNUSABLE_SHAPE: 422,
    Reason.CRASHED: 500,
    Reason.UNREADABLE: 500,
    Reason.TIMEOUT: 504,
}


def http_status(reason: Reason) -> int:
    """Return the HTTP status of the reply if an image or clip is refused for this reason.

    400: empty. 413: too large. 415: unsupported format. 422: damaged or unusable. 500: the decoder
    failed. 504: decoding took too long.
    """
    return _STATUS[reason]


class MediaReader:
    """A pool of `readers` decoding processes, each started when it is first needed.

    Any number of tasks may use it; they wait in a queue while all processes are busy. When a task
    is cancelled, its process returns to the pool once it has finished decoding.
    """

    def __init__(self, readers: int, limits: Limits) -> None:
        self._processes = DecodePool(limits, readers, reads_uris=False)  # it gets bytes only
        self._threads = ThreadPoolExecutor(readers, thread_name_prefix="gve-read")

    async def read_image(self, data: bytes, settings: EmbedderSettings) -> Frames:
        """Decode an image as `gve_ray.media.read_image` does. Raises MediaError."""
        return await self._run(
            lambda process: process.read_image(
                data, max_pixels=settings.max_pixels, min_pixels=settings.min_pixels
            )
        )

    async def read_sequence(self, sequence: FrameSequence, settings: EmbedderSettings) -> Frames:
        """Decode the frames of a video that were sent as pictures; none is left out or added.

        Raises MediaError, and ApiError if their sizes differ.
        """
        return await self._run(
            lambda process: sequence.frames(
                [
                    process.read_image(
                        picture, max_pixels=settings.max_pixels, min_pixels=settings.min_pixels
                    ).pixels[0]
                    for picture in sequence.pictures
                ]
            )
        )

    async def read_video(self, data: bytes, settings: EmbedderSettings) -> Frames:
        """Decode settings.frames uniformly sampled frames as `gve_ray.media.read_frames` does.

        Raises MediaError.
        """

        def read(process: DecodeProcess) -> Frames:
            try:
                return process.decode(
                    data,
                    [FrameRequest(k=settings.frames)],
                    max_pixels=settings.max_pixels,
                    min_pixels=settings.min_pixels,
                    strict=False,
                ).samples[0]
            except ValueError as error:  # no frame starts within the clip
                raise MediaError(Reason.TOO_FEW_FRAMES, str(error)) from error

        return await self._run(read)

    def close(self) -> None:
        """Stop the processes after what they are decoding; waiting tasks are cancelled."""
        self._threads.shutdown(wait=True, cancel_futures=True)
        self._processes.close()

    async def _run(self, read: Callable[[DecodeProcess], Frames]) -> Frames:
        def work() -> Frames:
            with self._processes.lend() as process:
                return read(process)

        return await asyncio.get_running_loop().run_in_executor(self._threads, work)
