"""A folder of frames, or one picture, as a video: the layout UVRB is published in."""

import hashlib
import io

import numpy as np
from PIL import Image, ImageOps

from gve_ray.media.limits import Limits, MediaError, Reason
from gve_ray.media.probe import Timeline, VideoInfo
from gve_ray.media.source import Blob, Source, folder_blobs

FRAMES_PER_SECOND = 1.0  # the paper's frame folders are extracted at 1 FPS (section 5)


def scan_folder(source: Source, limits: Limits) -> tuple[list[Blob], VideoInfo, Timeline, str]:
    """(pictures by name, facts, timeline at 1 FPS, sha256 over the pictures' own digests).

    Raises MediaError: empty, too_large, too_many_frames, corrupt.
    """
    blobs = list(folder_blobs(source))
    if not blobs:
        raise MediaError(Reason.EMPTY, f"{source!r}: no pictures in this folder")
    limits.check_bytes(sum(blob.size for blob in blobs))
    n = len(blobs)
    timeline = Timeline(seconds=np.arange(n) / FRAMES_PER_SECOND, pts=None, end=n / FRAMES_PER_SECOND)
    limits.check_length(timeline.end, n)
    height, width = read_picture(blobs[0], limits).shape[:2]
    info = VideoInfo(
        container="folder",
        codec=blobs[0].name.rsplit(".", 1)[-1].lower(),
        width=width,
        height=height,
        fps=FRAMES_PER_SECOND,
        duration=timeline.end,
        total_frames=n,
    )
    digest = hashlib.sha256("".join(blob.sha256() for blob in blobs).encode()).hexdigest()
    return blobs, info, timeline, digest


def read_picture(blob: Blob, limits: Limits) -> np.ndarray:
    """uint8 [H, W, 3] RGB, EXIF orientation applied; transparency is laid on white.

    Raises MediaError: corrupt, too_many_pixels.
    """
    try:
        with Image.open(io.BytesIO(blob.read())) as picture:
            limits.check_picture(*picture.size)
            upright = ImageOps.exif_transpose(picture)
            if upright.has_transparency_data:
                rgba = upright.convert("RGBA")
                white = Image.new("RGBA", rgba.size, "white")
                upright = Image.alpha_composite(white, rgba)
            return np.array(upright.convert("RGB"))
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
        raise MediaError(Reason.CORRUPT, f"{blob.name}: {error}") from error
