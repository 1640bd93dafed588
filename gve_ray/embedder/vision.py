"""Split frames into patches as the Qwen-VL processors do, but in one pass over uint8 data.

Patches stay uint8 until they are on the model's device, which needs a quarter of the memory and
transfer. There, `normalise` gives the processor's `pixel_values` up to rounding.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F

from gve_ray.config import check_frame_count
from gve_ray.embedder.settings import EmbedderSettings
from gve_ray.media import fit_pixels
from gve_ray.schema import Frames


@dataclass(frozen=True, kw_only=True)
class PatchSpec:
    """Geometry and colour normalisation of a vision tower, read from the checkpoint's processor."""

    patch: int
    merge: int
    temporal: int
    mean: tuple[float, ...]
    std: tuple[float, ...]

    @property
    def factor(self) -> int:
        """The sides of an image are multiples of this; factor**2 pixels are one visual token."""
        return self.patch * self.merge

    @classmethod
    def from_processor(cls, image_processor: Any) -> "PatchSpec":
        """Read the values from a Hugging Face image processor."""
        return cls(
            patch=int(image_processor.patch_size),
            merge=int(image_processor.merge_size),
            temporal=int(image_processor.temporal_patch_size),
            mean=tuple(float(v) for v in image_processor.image_mean),
            std=tuple(float(v) for v in image_processor.image_std),
        )


@dataclass(frozen=True, kw_only=True)
class Patches:
    """One video or image, split into patches.

    pixels: uint8 [N, 3 * temporal * patch * patch]. grid: (t, h, w) in patches, N = t*h*w.
    """

    pixels: torch.Tensor
    grid: tuple[int, int, int]


def check_media(frames: Frames, slot: str) -> None:
    """Raise ValueError for a still as a video, a clip as an image, or an odd frame count."""
    count = len(frames.pixels)
    if slot == "image" and count != 1:
        raise ValueError(f"Item.image has {count} frames; an image is one frame, give the clip as Item.video")
    if slot == "video" and count == 1:
        raise ValueError("Item.video has 1 frame; give a still picture as Item.image")
    if slot == "video":
        check_frame_count(count)


def resize(pixels: np.ndarray, settings: EmbedderSettings, factor: int) -> torch.Tensor:
    """Resize frames to the pixel budget, with sides that are multiples of `factor`.

    pixels: uint8 [T, H, W, 3]. Returns uint8 [T, 3, H', W']. Resizing is bicubic with antialiasing,
    as in the processors. Frames that have the right size already are returned unchanged.
    """
    frames = torch.from_numpy(np.ascontiguousarray(pixels)).permute(0, 3, 1, 2)  # [T, 3, H, W]
    height, width = pixels.shape[1:3]
    size = fit_pixels(
        height, width, max_pixels=settings.max_pixels, min_pixels=settings.min_pixels, factor=factor
    )
    if size == (height, width):
        return frames
    return F.interpolate(frames, size=size, mode="bicubic", antialias=True)


def to_patches(frames: Frames, settings: EmbedderSettings, spec: PatchSpec) -> Patches:
    """Resize frames if necessary and split them into patches.

    The patches of each merge*merge square follow each other. A still image (T = 1) is repeated to
    fill its temporal patch.
    """
    pixels = resize(frames.pixels, settings, spec.factor)  # [T, 3, H, W]
    if len(pixels) == 1:
        pixels = pixels.expand(spec.temporal, -1, -1, -1)
    count, channels, height, width = pixels.shape
    t, h, w = count // spec.temporal, height // spec.patch, width // spec.patch
    m, p = spec.merge, spec.patch
    cells = pixels.reshape(t, spec.temporal, channels, h // m, m, p, w // m, m, p)
    # -> [t, h/m, w/m, m, m, channels, temporal, p, p]
    cells = cells.permute(0, 3, 6, 4, 7, 2, 1, 5, 8)
    return Patches(pixels=cells.reshape(t * h * w, -1), grid=(t, h, w))


def normalise(patches: torch.Tensor, spec: PatchSpec) -> torch.Tensor:
    """Return (x / 255 - mean) / std per channel. patches: uint8 [N, 3*K]; returns float32 [N, 3*K]."""
    mean = torch.tensor(spec.mean, device=patches.device).view(1, -1, 1)
    std = torch.tensor(spec.std, device=patches.device).view(1, -1, 1)
    values = patches.view(len(patches), len(spec.mean), -1).to(torch.float32)
    return values.sub_(mean * 255).div_(std * 255).view(len(patches), -1)
