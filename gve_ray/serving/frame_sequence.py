"""Read a video that a client sends as its sampled frames, in the form of vLLM.

The URL is `data:video/jpeg;base64,FRAME,FRAME,...`. `media_io_kwargs.video` of the request says when the
frames were shown: `fps` of the source, `frames_indices` and `total_num_frames`. The service uses exactly
these frames. Without the numbers, they count as consecutive frames at 1 a second, as in vLLM.
"""

import base64
import binascii
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from gve_ray.errors import shown
from gve_ray.schema import Frames
from gve_ray.serving.errors import ApiError

PREFIX = "data:video/jpeg;base64,"
_MOST_FRAMES = 1024  # all of them are in memory at once


@dataclass(frozen=True, kw_only=True)
class FrameSequence:
    """The frames of a video. pictures: JPEG files. fps: of the source. indices: numbers in the source."""

    pictures: tuple[bytes, ...]
    fps: float
    indices: tuple[int, ...]
    total_frames: int

    def frames(self, pictures: Sequence[np.ndarray]) -> Frames:
        """Return the decoded pictures, uint8 [H, W, 3] each, as frames. Raises ApiError if sizes differ."""
        sizes = {picture.shape for picture in pictures}
        if len(sizes) > 1:
            raise _error(f"frames of different sizes: {sorted(shape[:2] for shape in sizes)}; send one size")
        indices = np.array(self.indices, dtype=np.int64)
        return Frames(
            pixels=np.stack(pictures),
            timestamps=indices / self.fps,
            indices=indices,
            fps=self.fps,
            duration=self.total_frames / self.fps,
            total_frames=self.total_frames,
        )


def parse_frames(url: str, options: Mapping[str, Any]) -> FrameSequence:
    """Return the frames of a URL that starts with `PREFIX`.

    options: `media_io_kwargs.video` of the request. Raises ApiError(400).
    """
    if (count := url.count(",")) > _MOST_FRAMES:
        raise _error(f"{count} frames; send {_MOST_FRAMES} at most")
    try:
        pictures = tuple(
            base64.b64decode(part, validate=True) for part in url[len(PREFIX) :].split(",") if part
        )
    except binascii.Error as error:
        raise _error(f"a frame is not in base64 ({error})") from error
    if not pictures:
        raise _error("no frame; write data:video/jpeg;base64,FRAME,FRAME,...")
    indices = options.get("frames_indices", list(range(len(pictures))))
    if not isinstance(indices, list) or not all(type(index) is int and index >= 0 for index in indices):
        raise _error(f"frames_indices={shown(indices)}: give a list of frame numbers")
    if len(indices) != len(pictures) or indices != sorted(set(indices)):
        raise _error(
            f"frames_indices={shown(indices)}: give one increasing number for each of the {len(pictures)} frames"
        )
    fps, total = options.get("fps", 1.0), options.get("total_num_frames", indices[-1] + 1)
    if not isinstance(fps, int | float) or not 0 < fps < 10_000:
        raise _error(f"fps={shown(fps)}: give the frames a second of the source, above 0")
    if type(total) is not int or total <= indices[-1]:
        raise _error(
            f"total_num_frames={shown(total)}: give at least {indices[-1] + 1}, after the last frame number"
        )
    return FrameSequence(pictures=pictures, fps=float(fps), indices=tuple(indices), total_frames=total)


def _error(what: str) -> ApiError:
    return ApiError(400, f"video_url: {what}", "video_url", "bad_frames")
