"""Read an animated WebP file as a video. FFmpeg reads only still WebP pictures, so Pillow decodes it.

The times come from the file's chunks, so they are available before any frame is decoded.
"""

import io
from collections.abc import Iterator

import numpy as np
from PIL import Image

from gve_ray.media.container.framing import missing_bytes
from gve_ray.media.limits import MIN_FRAMES, Limits, MediaError, Reason
from gve_ray.media.picture.still import rgb_on_white
from gve_ray.media.source import Blob
from gve_ray.media.video.probe import Timeline, VideoInfo

_SHORTEST_MS, _DEFAULT_MS = 10, 100  # browsers show frames of 10 ms or less for 100 ms


def is_animated_webp(blob: Blob) -> bool:
    """Return whether this is a WebP file whose header declares an animation."""
    with blob.open() as file:
        head = file.read(21)
    return head[:4] == b"RIFF" and head[8:16] == b"WEBPVP8X" and len(head) > 20 and head[20] & 2 != 0


def scan_animated_webp(blob: Blob, limits: Limits) -> tuple[VideoInfo, Timeline]:
    """Return facts and timeline.

    Raises MediaError: truncated, corrupt, too_few_frames, too_many_frames, too_long,
    too_many_pixels.
    """
    if missing := missing_bytes(blob):
        raise MediaError(Reason.TRUNCATED, f"{missing} bytes short of what its container states")
    data = blob.read()
    width, height = (1 + int.from_bytes(data[at : at + 3], "little") for at in (24, 27))
    limits.check_picture(width, height)
    milliseconds = [
        int.from_bytes(data[at + 12 : at + 15], "little") for kind, at in _chunks(data) if kind == b"ANMF"
    ]
    shown = np.array([ms if ms > _SHORTEST_MS else _DEFAULT_MS for ms in milliseconds]) / 1000.0
    if len(shown) < MIN_FRAMES:
        raise MediaError(Reason.TOO_FEW_FRAMES, f"{len(shown)} frames; at least {MIN_FRAMES} are needed")
    ends = np.cumsum(shown)
    duration = float(ends[-1])
    limits.check_length(duration, len(shown))
    info = VideoInfo(
        container="webp",
        codec="webp",
        width=width,
        height=height,
        fps=len(shown) / duration,
        duration=duration,
        total_frames=len(shown),
    )
    return info, Timeline(seconds=ends - shown, pts=None, end=duration)


def animated_webp_frames(blob: Blob) -> Iterator[np.ndarray]:
    """Yield every frame in order: uint8 [H, W, 3], composited on white. Raises MediaError("corrupt")."""
    number = 0
    try:
        with Image.open(io.BytesIO(blob.read()), formats=("WEBP",)) as picture:
            for number in range(getattr(picture, "n_frames", 1)):
                picture.seek(number)
                yield np.array(rgb_on_white(picture))
    except (OSError, SyntaxError, ValueError, EOFError, Image.DecompressionBombError) as error:
        raise MediaError(Reason.CORRUPT, f"frame {number}: {error}") from error


def _chunks(data: bytes) -> Iterator[tuple[bytes, int]]:
    """Yield (type, start of its content) of each chunk in a WebP file. Raises MediaError("corrupt")."""
    at = 12
    while at + 8 <= len(data):
        kind = data[at : at + 4]
        if not (kind.isascii() and kind.decode("ascii").isprintable()):
            raise MediaError(Reason.CORRUPT, f"chunk at byte {at}: its type is {kind!r}")
        yield kind, at + 8
        size = int.from_bytes(data[at + 4 : at + 8], "little")
        at += 8 + size + size % 2
