"""Encode and decode the JPEG pictures that assets.lance stores."""

import io

import numpy as np
from PIL import Image

from gve_ray.media.limits import MediaError, Reason


def encode_jpeg(pixels: np.ndarray, quality: int = 90) -> bytes:
    """Encode uint8 [H, W, 3] RGB.

    Chroma keeps its full resolution (4:4:4): frames within the pixel budget are small, and halved
    chroma would blur coloured details of a few pixels.
    """
    if pixels.dtype != np.uint8 or pixels.ndim != 3 or pixels.shape[2] != 3:
        raise ValueError(f"pixels: {pixels.dtype} {pixels.shape}; a picture is uint8 [H, W, 3]")
    out = io.BytesIO()
    Image.fromarray(pixels).save(out, "JPEG", quality=quality, subsampling=0)
    return out.getvalue()


def decode_jpeg(data: bytes) -> np.ndarray:
    """Decode to uint8 [H, W, 3] RGB. Raises MediaError("corrupt") for bytes that do not decode."""
    try:
        with Image.open(io.BytesIO(data), formats=("JPEG",)) as picture:
            return np.array(picture.convert("RGB"))
    except (OSError, SyntaxError, ValueError) as error:
        raise MediaError(Reason.CORRUPT, f"JPEG of {len(data)} bytes: {error}") from error
