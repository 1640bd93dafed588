"""Read frames from assets.lance by asset reference."""

import io
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from gve_ray.schema import ASSET_SCHEMA, AssetRef, Frames
from gve_ray.store.dataset import Store


class AssetReader:
    """Reads frames from assets.lance by asset reference. Nothing is opened until the first read.

    The columns are those of `schema.ASSET_SCHEMA`. Reading raises KeyError for a video that does
    not exist, and IndexError for a reference frame or clip that the video does not have.
    """

    def __init__(self, uri: str) -> None:
        self.store = Store(uri, ASSET_SCHEMA)

    def frames(self, ref: AssetRef | str) -> Frames:
        """Return the uniform frames of a video, one reference frame, or the frames of a clip."""
        return self.frames_many([ref])[0]

    def frames_many(self, refs: Sequence[AssetRef | str]) -> list[Frames]:
        """Return the frames of each reference, in order, with one read per kind of reference."""
        parsed = [AssetRef.parse(ref) if isinstance(ref, str) else ref for ref in refs]
        results: list[Frames | None] = [None] * len(parsed)
        for part, columns in _PART_COLUMNS.items():
            indices = [i for i, ref in enumerate(parsed) if ref.part == part]
            ids = sorted({parsed[i].video_id for i in indices})
            if not ids:
                continue
            rows = self.store.take(ids, ["video_id", *_VIDEO_COLUMNS, *columns]).to_pylist()
            by_id = {row["video_id"]: row for row in rows}
            for i in indices:
                results[i] = frames_of_row(by_id[parsed[i].video_id], parsed[i])
        return [frames for frames in results if frames is not None]


_VIDEO_COLUMNS = ("fps", "duration", "total_frames")
_PART_COLUMNS = {
    "video": ("frames", "timestamps", "indices"),
    "frame": ("reference_frames", "reference_timestamps"),
    "clip": ("clips",),
}


def jpegs_of_row(row: Mapping[str, Any], ref: AssetRef) -> list[bytes]:
    """Return the frames of one part of a row of assets.lance as the JPEG files that are stored.

    row: the columns of the part. Raises IndexError for a reference frame or clip that the row does not have.
    """
    if ref.part == "video":
        return list(row["frames"])
    part = _part_of(row, ref)
    return [part] if ref.part == "frame" else list(part["frames"])


def frames_of_row(row: Mapping[str, Any], ref: AssetRef) -> Frames:
    """Decode one part of a row of assets.lance.

    row: the columns of the part, and fps, duration and total_frames. Raises IndexError for a
    reference frame or clip that the row does not have.
    """
    if ref.part == "video":
        return _frames(row["frames"], row["timestamps"], row["indices"], row)
    part = _part_of(row, ref)
    if ref.part == "frame":
        # A still picture has fps and duration 0, so that processors do not treat it as a video.
        still = {"fps": 0.0, "duration": 0.0, "total_frames": 1}
        return _frames([part], [0.0], [0], still)
    return _frames(part["frames"], part["timestamps"], part["indices"], row)


def _part_of(row: Mapping[str, Any], ref: AssetRef) -> Any:
    """Return the JPEG of a reference frame, or the record of a clip."""
    parts = row["reference_frames"] if ref.part == "frame" else row["clips"]
    if ref.index >= len(parts):
        raise IndexError(f"{ref}: this video has {len(parts)} {ref.part}s; give an index below that")
    return parts[ref.index]


def _frames(
    jpegs: Sequence[bytes], timestamps: Sequence[float], indices: Sequence[int], video: Mapping[str, Any]
) -> Frames:
    from PIL import Image

    pixels = np.stack([np.asarray(Image.open(io.BytesIO(jpeg)).convert("RGB")) for jpeg in jpegs])
    return Frames(
        pixels=pixels,  # uint8 [T, H, W, 3]
        timestamps=np.asarray(timestamps, dtype=np.float64),
        indices=np.asarray(indices, dtype=np.int64),
        fps=video["fps"],
        duration=video["duration"],
        total_frames=video["total_frames"],
    )
