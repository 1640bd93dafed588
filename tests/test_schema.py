"""Tests items, frames and asset references."""

import numpy as np
import pytest

from gve_ray.schema import AssetRef, Frames, Item


@pytest.mark.parametrize(
    ("ref", "text"),
    [
        (AssetRef("a"), "asset://a/video"),
        (AssetRef("a/b c", "frame", 2), "asset://a%2Fb%20c/frame/2"),
        (AssetRef("ü", "clip", 0), "asset://%C3%BC/clip/0"),
    ],
)
def test_asset_reference_round_trip(ref: AssetRef, text: str) -> None:
    assert str(ref) == text
    assert AssetRef.parse(text) == ref


@pytest.mark.parametrize(
    "text", ["asset:///video", "asset://a", "asset://a/frame", "asset://a/frame/-1", "a/video"]
)
def test_bad_asset_reference(text: str) -> None:
    with pytest.raises(ValueError, match="asset reference"):
        AssetRef.parse(text)


def test_empty_item() -> None:
    with pytest.raises(ValueError, match="empty"):
        Item(text="")


def test_frames_check_shape_and_lengths() -> None:
    good = np.zeros((2, 4, 4, 3), np.uint8)
    times, indices = np.zeros(2), np.zeros(2, np.int64)
    with pytest.raises(ValueError, match="uint8"):
        Frames(
            pixels=good.astype(np.float32),
            timestamps=times,
            indices=indices,
            fps=1,
            duration=1,
            total_frames=2,
        )
    with pytest.raises(ValueError, match="1 timestamps"):
        Frames(pixels=good, timestamps=times[:1], indices=indices, fps=1, duration=1, total_frames=2)
