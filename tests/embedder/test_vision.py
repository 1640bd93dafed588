"""Tests that patches equal those of the Qwen-VL processors."""

import numpy as np
import pytest
import torch
from PIL import Image
from transformers import AutoProcessor

from gve_ray.embedder.settings import EmbedderSettings
from gve_ray.embedder.vision import PatchSpec, check_media, normalise, resize, to_patches

SETTINGS = EmbedderSettings()


@pytest.fixture(scope="module")
def family(tiny_family):
    return AutoProcessor.from_pretrained(tiny_family)


def spec_of(processor) -> PatchSpec:
    return PatchSpec.from_processor(processor.image_processor)


# 300x250 is reduced, 40x30 is enlarged, 112x140 is a multiple of 28 but not of 32.
@pytest.mark.parametrize("height,width", [(112, 140), (720, 480), (300, 250), (40, 30)])
def test_video_patches_equal_the_processors(family, frames_like, height, width) -> None:
    frames = frames_like(4, height, width)
    total = len(frames.pixels) if family.video_processor.__class__.__name__.startswith("Qwen3") else 1
    expected = family.video_processor(
        videos=[torch.from_numpy(frames.pixels).permute(0, 3, 1, 2)],
        size={"shortest_edge": SETTINGS.min_pixels * total, "longest_edge": SETTINGS.max_pixels * total},
        do_sample_frames=False,
        return_tensors="pt",
    )
    spec = spec_of(family)
    ours = to_patches(frames, SETTINGS, spec)
    assert list(ours.grid) == expected["video_grid_thw"][0].tolist()
    torch.testing.assert_close(
        normalise(ours.pixels, spec), expected["pixel_values_videos"], atol=1e-6, rtol=0
    )


@pytest.mark.parametrize("height,width", [(112, 140), (301, 777)])
def test_image_patches_equal_the_processors(family, frames_like, height, width) -> None:
    frames = frames_like(1, height, width)
    expected = family.image_processor(
        images=[Image.fromarray(frames.pixels[0])],
        size={"shortest_edge": SETTINGS.min_pixels, "longest_edge": SETTINGS.max_pixels},
        return_tensors="pt",
    )
    spec = spec_of(family)
    ours = to_patches(frames, SETTINGS, spec)
    assert list(ours.grid) == expected["image_grid_thw"][0].tolist()
    torch.testing.assert_close(normalise(ours.pixels, spec), expected["pixel_values"], atol=1e-6, rtol=0)


def test_patch_order_by_hand() -> None:
    """Each pixel encodes its coordinates; patch 2, merge 2, one temporal patch of two frames."""
    spec = PatchSpec(patch=2, merge=2, temporal=2, mean=(0, 0, 0), std=(1, 1, 1))
    pixels = np.zeros((2, 8, 8, 3), dtype=np.uint8)
    t, y, x = np.meshgrid(np.arange(2), np.arange(8), np.arange(8), indexing="ij")
    pixels[..., 0] = t * 64 + y * 8 + x
    from gve_ray.schema import Frames

    frames = Frames(
        pixels=pixels, timestamps=np.arange(2.0), indices=np.arange(2), fps=1, duration=2, total_frames=2
    )
    settings = EmbedderSettings(min_pixels=16, max_pixels=64)
    patches = to_patches(frames, settings, spec)
    assert patches.grid == (1, 4, 4)
    red = patches.pixels.view(16, 3, 2, 2, 2)[:, 0]  # [patch, temporal, y, x]
    corners = [(int(p[0, 0, 0]) // 8, int(p[0, 0, 0]) % 8) for p in red]
    # The four patches of each 4x4 square follow each other; the squares are in row order.
    assert corners[:8] == [(0, 0), (0, 2), (2, 0), (2, 2), (0, 4), (0, 6), (2, 4), (2, 6)]
    assert corners[8] == (4, 0)
    assert (red[:, 1] == red[:, 0] + 64).all()


def test_a_still_fills_both_halves_of_its_temporal_patch(frames_like) -> None:
    spec = PatchSpec(patch=14, merge=2, temporal=2, mean=(0, 0, 0), std=(1, 1, 1))
    patches = to_patches(frames_like(1, 112, 112), SETTINGS, spec)
    halves = patches.pixels.view(-1, 3, 2, 14 * 14)
    assert patches.grid == (1, 8, 8)
    assert (halves[:, :, 0] == halves[:, :, 1]).all()


def test_frames_of_the_right_size_are_not_changed(frames_like) -> None:
    frames = frames_like(2, 112, 140)
    assert (resize(frames.pixels, SETTINGS, 28).permute(0, 2, 3, 1).numpy() == frames.pixels).all()


@pytest.mark.parametrize(
    "count,slot,message",
    [
        (7, "video", "frames=7: .*use 6 or 8"),
        (1, "video", "give a still picture as Item.image"),
        (2, "image", "Item.image has 2 frames"),
    ],
)
def test_media_in_the_wrong_slot_are_refused(frames_like, count, slot, message) -> None:
    with pytest.raises(ValueError, match=message):
        check_media(frames_like(count, 56, 56), slot)
