"""Crop the borders off the stored frames of a video."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from PIL import Image

from gve_ray.media import decode_jpeg, encode_jpeg, fit_pixels
from gve_ray.synthesis.config import MediaConfig


def cropped(row: Mapping[str, Any], box: Sequence[int], media: MediaConfig) -> dict[str, Any]:
    """Return a row of `INGEST_SCHEMA` with all frames cropped: uniform frames, reference frames and clips.

    box: top, bottom, left and right of the part that stays, in pixels of the stored frames, which all have one
    size. The frames then have the sides that a video of this part would have, multiples of a visual
    token, and are encoded again. Width and height of the row stay those of the file.
    """
    top, bottom, left, right = box
    height, width = fit_pixels(
        bottom - top, right - left, max_pixels=media.max_pixels, min_pixels=media.min_pixels
    )

    def crop(jpegs: Sequence[bytes]) -> list[bytes]:
        return [
            _crop(jpeg, (left, top, right, bottom), (width, height), media.jpeg_quality) for jpeg in jpegs
        ]

    return {
        **row,
        "frames": crop(row["frames"]),
        "reference_frames": crop(row["reference_frames"]),
        "clips": [{**clip, "frames": crop(clip["frames"])} for clip in row["clips"]],
    }


def _crop(jpeg: bytes, box: tuple[int, int, int, int], size: tuple[int, int], quality: int) -> bytes:
    picture = Image.fromarray(decode_jpeg(jpeg))
    return encode_jpeg(np.asarray(picture.resize(size, Image.Resampling.BICUBIC, box=box)), quality)
