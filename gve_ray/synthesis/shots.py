"""Split long videos at their cuts, so that each shot is a video of its own in all later stages.

The stage "shots" looks at each video of the manifest, and decodes one that is longer than
`shots.longer_than` as a whole: this pass checks it and finds its cuts. The result is one row with the list
of its spans, so either all shots of a video become visible or none. `with_shots` makes the rows of the later
stages, whose ids derive from that of the video in the manifest, its parent: `film#0000`, `film#0001`, ...
"""

import re
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from gve_ray.job import PreflightError
from gve_ray.media import DecodeProcess, FrameRequest, MediaError
from gve_ray.media.signature import signature
from gve_ray.media.video.scenes import scene_spans
from gve_ray.stage import Reject, row_finished
from gve_ray.store import Store, StoreError, fingerprint
from gve_ray.synthesis.config import MediaConfig, ShotsConfig

PARENT_SCHEMA = pa.schema(
    [
        ("video_id", pa.string()),
        ("uri", pa.string()),
        ("content_hash", pa.string()),  # sha256 of the file's bytes
        ("duration", pa.float64()),  # seconds
        ("signature", pa.binary()),  # null if the video is not long
        ("starts", pa.list_(pa.float64())),  # seconds on the file's clock; one if the video stays whole
        ("ends", pa.list_(pa.float64())),
    ]
)
# What the later stages work on. parent_id, start and end are null for a whole video.
LISTED_SCHEMA = pa.schema(
    [
        ("video_id", pa.string()),
        ("uri", pa.string()),
        ("parent_id", pa.string()),
        ("start", pa.float64()),
        ("end", pa.float64()),
    ]
)
_FORMAT = 1  # increase when the same video and config give different rows
_SHOT = r"#\d{4,}$"


def parents_fingerprint(shots: ShotsConfig, media: MediaConfig) -> str:
    """Return a hash of the settings that determine the rows; it names the store of parents."""
    return fingerprint({"format": _FORMAT, "shots": shots, "frames": media.frames, "limits": media.limits})


def shot_id(parent_id: str, number: int) -> str:
    """Return the id of a shot. number: from 0, in the order of the video."""
    return f"{parent_id}#{number:04d}"


def check_ids(ids: pa.ChunkedArray) -> None:
    """Raise PreflightError if a video of the manifest has the id of a possible shot of another one."""
    like_shots = ids.filter(pc.match_substring_regex(ids, _SHOT))
    parents = pc.replace_substring_regex(like_shots, _SHOT, "")
    taken = like_shots.filter(pc.is_in(parents, value_set=ids.combine_chunks()))
    if len(taken):
        video_id = taken[0].as_py()
        raise PreflightError(
            f"input: video_id {video_id!r} could be that of a shot of {re.sub(_SHOT, '', video_id)!r}; give it "
            "another id, or set shots.longer_than to null"
        )


def parents_of(keys: pa.Array, manifest: pa.Array) -> pa.Array:
    """Return the id in the manifest of each video or shot; one that is not in it stays as it is.

    manifest: ids of videos, for which `check_ids` passes.
    """
    parents = pc.replace_substring_regex(keys, _SHOT, "")
    is_shot = pc.and_(pc.invert(pc.is_in(keys, value_set=manifest)), pc.is_in(parents, value_set=manifest))
    return pc.if_else(is_shot, parents, keys)


class ShotsWorker:
    """Worker of the stage "shots": rows of video_id and uri -> rows of `PARENT_SCHEMA`.

    Of a video that is not long only the packets are read and a frame is decoded.
    """

    def __init__(self, shots: ShotsConfig, media: MediaConfig) -> None:
        self._shots, self._media = shots, media
        self._process = DecodeProcess(replace(media.limits, wall_clock_s=shots.wall_clock_s))

    def __call__(self, rows: Sequence[Mapping[str, Any]]) -> list[dict[str, Any] | Reject]:
        results = []
        for row in rows:
            results.append(self._one(row["video_id"], row["uri"]))
            row_finished()
        return results

    def _one(self, video_id: str, uri: str) -> dict[str, Any] | Reject:
        config, frames = self._shots, self._media.frames
        assert config.longer_than is not None
        try:
            decoded = self._process.decode(uri, [FrameRequest(k=1)], strict=False, keep_open=True)
            if is_long := decoded.info.duration > config.longer_than:
                decoded = self._process.decode(
                    uri, [FrameRequest(k=frames)], scenes=config.threshold, keep_open=True
                )
        except MediaError as error:
            return Reject(str(error.reason), error.detail)
        info = decoded.info
        spans = [(0.0, info.duration)]
        if is_long:
            cuts = [cut - info.start for cut in decoded.cuts]
            spans = scene_spans(info.duration, cuts, shortest=config.shortest, longest=config.longest)
        return {
            "video_id": video_id,
            "uri": uri,
            "content_hash": decoded.content_hash,
            "duration": info.duration,
            "signature": signature(decoded.samples[0].pixels) if is_long else None,
            "starts": [info.start + start for start, _ in spans],
            "ends": [info.start + end for _, end in spans],
        }


def with_shots(manifest: pa.Table, parents: Store) -> pa.Table:
    """Return the videos of the later stages, rows of `LISTED_SCHEMA`, sorted by id.

    They are those videos of the manifest that are in `parents`, with the shots of each that has several in
    its place. Raises StoreError if an id now names another file.
    """
    uris = dict(zip(manifest["video_id"].to_pylist(), manifest["uri"].to_pylist(), strict=True))
    columns: dict[str, list[Any]] = {name: [] for name in LISTED_SCHEMA.names}
    for batch in parents.select(manifest["video_id"], ["video_id", "uri", "starts", "ends"]):
        for row in batch.to_pylist():
            parent_id, uri = row["video_id"], row["uri"]
            if uris[parent_id] != uri:
                raise StoreError(
                    f"{parents.uri}: {parent_id!r} was split from {uri}, the manifest now says "
                    f"{uris[parent_id]}; give it another video_id, or use a new work folder"
                )
            spans = list(zip(row["starts"], row["ends"], strict=True))
            for number, (start, end) in enumerate(spans):
                shot = (shot_id(parent_id, number), uri, parent_id, start, end)
                whole = (parent_id, uri, None, None, None)
                for name, value in zip(columns, shot if len(spans) > 1 else whole, strict=True):
                    columns[name].append(value)
    return pa.table(columns, LISTED_SCHEMA).sort_by("video_id")
