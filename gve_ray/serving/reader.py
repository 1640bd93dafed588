"""The pictures and clips of requests -> frames, as the batch embedder reads them, in processes that may die.

reader = MediaReader(2, limits)
frames = await reader.read_video(data, settings)
"""

import asyncio
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

from gve_ray.embedder import EmbedderSettings
from gve_ray.media import DecodePool, DecodeProcess, FrameRequest, Limits, MediaError, Reason
from gve_ray.schema import Frames

_STATUS = {
    Reason.EMPTY: 400,
    Reason.TOO_LARGE: 413,
    Reason.TOO_LONG: 413,
    Reason.TOO_MANY_PIXELS: 413,
    Reason.TOO_MANY_FRAMES: 413,
    Reason.OUT_OF_MEMORY: 413,  # the file asks for more than a decoder may have
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
    """Of the reply to a request whose picture or clip was refused: 400 none there, 413 too much of it, 415 no
    kind that is read, 422 damaged or unusable, 500 the decoder died, 504 it took too long."""
    return _STATUS[reason]


class MediaReader:
    """`readers` decoding processes, each started when first needed. For any number of tasks at once: those that
    find no free one wait in line. A task that is cancelled gives its process back when that has finished."""

    def __init__(self, readers: int, limits: Limits) -> None:
        self._processes = DecodePool(limits, readers)
        self._threads = ThreadPoolExecutor(readers, thread_name_prefix="gve-read")

    async def read_image(self, data: bytes, settings: EmbedderSettings) -> Frames:
        """One picture as `gve_ray.media.read_image` gives it. Raises MediaError."""
        return await self._run(
            lambda process: process.read_image(
                data, max_pixels=settings.max_pixels, min_pixels=settings.min_pixels
            )
        )

    async def read_video(self, data: bytes, settings: EmbedderSettings) -> Frames:
        """settings.frames uniform frames as `gve_ray.media.read_frames` gives them. Raises MediaError."""

        def read(process: DecodeProcess) -> Frames:
            try:
                return process.decode(
                    data,
                    [FrameRequest(k=settings.frames)],
                    max_pixels=settings.max_pixels,
                    min_pixels=settings.min_pixels,
                    strict=False,
                ).samples[0]
            except ValueError as error:  # no frame begins in it
                raise MediaError(Reason.TOO_FEW_FRAMES, str(error)) from error

        return await self._run(read)

    def close(self) -> None:
        """End the processes once they have finished what they are reading; what waits is not read any more."""
        self._threads.shutdown(wait=True, cancel_futures=True)
        self._processes.close()

    async def _run(self, read: Callable[[DecodeProcess], Frames]) -> Frames:
        def work() -> Frames:
            with self._processes.lend() as process:
                return read(process)

        return await asyncio.get_running_loop().run_in_executor(self._threads, work)
