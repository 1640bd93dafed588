"""The pixel budget: Qwen2.5-VL's resize rule, and the resize itself.

Resizing is Pillow's bicubic (Keys, a = -0.5), antialiased when it shrinks. The Hugging Face
processor uses torchvision's antialiased bicubic, which has the same kernel; on uint8 the two differ
by at most two grey levels. The resized frames satisfy the rule, so the model's processor does not
resize them again.
"""

import math

import numpy as np
from PIL import Image

from gve_ray.config import VideoSettings

FACTOR = 28  # patch 14 x spatial merge 2: one LLM token is 28 x 28 pixels
MAX_PIXELS = VideoSettings.max_pixels
MIN_PIXELS = VideoSettings.min_pixels
MAX_ASPECT = 200
RESAMPLING = Image.Resampling.BICUBIC


def fit_pixels(
    height: int,
    width: int,
    *,
    max_pixels: int = MAX_PIXELS,
    min_pixels: int = MIN_PIXELS,
    factor: int = FACTOR,
) -> tuple[int, int]:
    """Return (height, width) of a picture within the budget, by the rule of Qwen2-VL's smart_resize.

    Both sides are multiples of `factor`, the area lies within [min_pixels, max_pixels] where whole
    multiples allow it, and the aspect ratio is kept as closely as those two permit. Raises
    ValueError for an empty picture, a budget smaller than one patch, or an aspect ratio above 200.
    """
    if height < 1 or width < 1:
        raise ValueError(f"picture of {width}x{height} pixels; both sides must be at least 1")
    if not factor * factor <= max_pixels >= min_pixels > 0:
        raise ValueError(
            f"max_pixels={max_pixels}, min_pixels={min_pixels}: need max_pixels >= {factor}*{factor} "
            "and max_pixels >= min_pixels > 0"
        )
    if max(height, width) > MAX_ASPECT * min(height, width):
        raise ValueError(f"picture of {width}x{height} pixels; sides may differ at most {MAX_ASPECT}-fold")
    new_height = round(height / factor) * factor
    new_width = round(width / factor) * factor
    if new_height * new_width > max_pixels:
        shrink = math.sqrt(height * width / max_pixels)
        new_height = max(factor, math.floor(height / shrink / factor) * factor)
        new_width = max(factor, math.floor(width / shrink / factor) * factor)
    elif new_height * new_width < min_pixels:
        grow = math.sqrt(min_pixels / (height * width))
        new_height = math.ceil(height * grow / factor) * factor
        new_width = math.ceil(width * grow / factor) * factor
    return new_height, new_width


def resize(pixels: np.ndarray, height: int, width: int) -> np.ndarray:
    """Resize uint8 [H, W, 3] to uint8 [height, width, 3] by antialiased bicubic interpolation."""
    if pixels.shape[:2] == (height, width):
        return pixels
    picture = Image.fromarray(pixels).resize((width, height), RESAMPLING)
    return np.array(picture)  # a copy, because Pillow's memory is read-only
