"""A folder of frames, or one picture, as a video: the layout UVRB is published in."""

import hashlib
import io

import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError

from gve_ray.media.container import missing_bytes
from gve_ray.media.limits import Limits, MediaError, Reason
from gve_ray.media.probe import Timeline, VideoInfo
from gve_ray.media.source import Blob, Source, folder_blobs

FRAMES_PER_SECOND = 1.0  # the paper's frame folders are extracted at 1 FPS (section 5)

# What browsers and cameras write. Pillow knows dozens more, one of which (EPS) runs another program.
_FORMATS = ("JPEG", "PNG", "WEBP", "GIF", "BMP", "AVIF")
_MAGIC = (b"\xff\xd8", b"\x89PNG", b"GIF8", b"BM")


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
    """uint8 [H, W, 3] RGB, EXIF orientation applied; transparency is laid on white. JPEG, PNG, WebP, GIF, BMP
    and AVIF; of an animation the first picture.

    Raises MediaError: not_a_picture, truncated, corrupt; too_many_pixels before any pixel is decoded.
    """
    try:
        with Image.open(io.BytesIO(blob.read()), formats=_FORMATS) as picture:
            limits.check_picture(*picture.size)
            return rgb_of(ImageOps.exif_transpose(picture))
    except (MediaError, MemoryError):
        raise
    except Image.DecompressionBombError as error:
        raise MediaError(Reason.TOO_MANY_PIXELS, f"{blob.name}: {error}") from error
    except UnidentifiedImageError as error:
        raise MediaError(_why_not_opened(blob), f"{blob.name}: not {', '.join(_FORMATS)}") from error
    except Exception as error:  # damage sets off whatever error the parser happens to run into
        raise MediaError(_damage(blob, str(error)), f"{blob.name}: {error}") from error


def rgb_of(picture: Image.Image) -> np.ndarray:
    """uint8 [H, W, 3] RGB of a Pillow picture, transparency on white."""
    if picture.mode.startswith("I;16"):  # Pillow's own conversion makes all above 255 white
        picture = Image.fromarray((np.asarray(picture) >> 8).astype(np.uint8))
    if picture.has_transparency_data:
        rgba = picture.convert("RGBA")
        white = Image.new("RGBA", rgba.size, "white")
        picture = Image.alpha_composite(white, rgba)
    return np.array(picture.convert("RGB"))


def _why_not_opened(blob: Blob) -> Reason:
    """The reason behind a picture without a legible head: cut off, damaged, or never a picture."""
    with blob.open() as file:
        head = file.read(16)
    known = head.startswith(_MAGIC) or head[8:12] == b"WEBP" or head[4:12] == b"ftypavif"
    return _damage(blob, "") if known else Reason.NOT_A_PICTURE


def _damage(blob: Blob, message: str) -> Reason:
    cut = "truncated" in message.lower() or missing_bytes(blob) > 0
    return Reason.TRUNCATED if cut else Reason.CORRUPT
