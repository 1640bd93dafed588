"""Frames out of assets.lance by reference."""

import io
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from gve_ray.schema import ASSET_SCHEMA, AssetRef, Frames
from gve_ray.store.dataset import Store


class AssetReader:
    """Frames out of assets.lance by asset reference; nothing is opened until the first read.

    A row's columns are those of `schema.ASSET_SCHEMA`. Raises KeyError for a video that is not there,
    IndexError for a reference frame or clip that its row does not have.
    """

    def __init__(self, uri: str, *, storage_options: Mapping[str, str] | None = None) -> None:
        self.store = Store(uri, ASSET_SCHEMA, storage_options=storage_options)

    def frames(self, ref: AssetRef | str) -> Frames:
        """The frames of one reference: the uniform frames of the video, one reference frame, or a clip."""
        return self.frames_many([ref])[0]

    def frames_many(self, refs: Sequence[AssetRef | str]) -> list[Frames]:
        """Frames of many references by one read a part kind; same length and order."""
        parsed = [AssetRef.parse(ref) if isinstance(ref, str) else ref for ref in refs]
        found: list[Frames | None] = [None] * len(parsed)
        for part, columns in _PART_COLUMNS.items():
            at = [i for i, ref in enumerate(parsed) if ref.part == part]
            ids = sorted({parsed[i].video_id for i in at})
            if not ids:
                continue
            rows = self.store.take(ids, ["video_id", *_FACT_COLUMNS, *columns]).to_pylist()
            by_id = {row["video_id"]: row for row in rows}
            for i in at:
                found[i] = frames_of_row(by_id[parsed[i].video_id], parsed[i])
        return [one for one in found if one is not None]


_FACT_COLUMNS = ("fps", "duration", "total_frames")
_PART_COLUMNS = {
    "video": ("frames", "timestamps", "indices"),
    "frame": ("reference_frames", "reference_timestamps"),
    "clip": ("clips",),
}


def frames_of_row(row: Mapping[str, Any], ref: AssetRef) -> Frames:
    """Decode one part of an assets row (columns of its part, plus fps, duration and total_frames)."""
    if ref.part == "video":
        return _frames(row["frames"], row["timestamps"], row["indices"], row)
    parts = row["reference_frames"] if ref.part == "frame" else row["clips"]
    if ref.index >= len(parts):
        raise IndexError(f"{ref}: this video has {len(parts)} {ref.part}s; give an index below that")
    if ref.part == "frame":
        # A still picture: fps and duration 0, so that no processor reads time into it.
        still = {"fps": 0.0, "duration": 0.0, "total_frames": 1}
        return _frames([parts[ref.index]], [0.0], [0], still)
    clip = parts[ref.index]
    return _frames(clip["frames"], clip["timestamps"], clip["indices"], row)


def _frames(
    jpegs: Sequence[bytes], timestamps: Sequence[float], indices: Sequence[int], facts: Mapping[str, Any]
) -> Frames:
    from PIL import Image

    pixels = np.stack([np.asarray(Image.open(io.BytesIO(jpeg)).convert("RGB")) for jpeg in jpegs])
    return Frames(
        pixels=pixels,  # uint8 [T, H, W, 3]
        timestamps=np.asarray(timestamps, dtype=np.float64),
        indices=np.asarray(indices, dtype=np.int64),
        fps=facts["fps"],
        duration=facts["duration"],
        total_frames=facts["total_frames"],
    )
