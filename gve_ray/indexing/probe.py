"""A look through each file: is it sound, how long is it, where do its segments begin and end.

Decoding is done in a child process, which may crash, hang or run out of memory: that is a reject with its
reason. Nothing here loads a model, so these workers start in a moment.
"""

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any

import pyarrow as pa

from gve_ray.indexing.config import ReadingConfig, SegmentsConfig
from gve_ray.indexing.segments import spans_of
from gve_ray.media import DecodeProcess, FrameRequest, Limits, MediaError
from gve_ray.stage import Reject

VIDEO_SCHEMA = pa.schema(
    [
        ("version", pa.string()),  # of a file: another one once it is written anew
        ("fingerprint", pa.string()),  # sha256 of its bytes
        ("size", pa.int64()),  # bytes
        ("width", pa.int32()),  # of the displayed picture
        ("height", pa.int32()),
        ("fps", pa.float64()),
        ("duration", pa.float64()),  # seconds from the first frame to the end of the last
        ("starts", pa.list_(pa.float64())),  # of its segments, seconds on the file's own clock
        ("ends", pa.list_(pa.float64())),
    ]
)
PENDING_VIDEOS = pa.schema([("version", pa.string()), ("uri", pa.string())])


class ProbeWorker:
    """Worker of the first stage: rows of `PENDING_VIDEOS` -> rows of `VIDEO_SCHEMA`."""

    def __init__(self, segments: SegmentsConfig, media: ReadingConfig) -> None:
        self._segments, self._strict = segments, media.strict or segments.mode == "scenes"
        self._process = DecodeProcess(Limits(**asdict(media.limits)))

    def __call__(self, rows: Sequence[Mapping[str, Any]]) -> list[dict[str, Any] | Reject]:
        return [self._one(row["version"], row["uri"]) for row in rows]

    def _one(self, version: str, uri: str) -> dict[str, Any] | Reject:
        scenes = self._segments.threshold if self._segments.mode == "scenes" else None
        try:
            decoded = self._process.decode(uri, [FrameRequest(k=1)], strict=self._strict, scenes=scenes)
        except MediaError as error:
            return Reject(str(error.reason), error.detail)
        info = decoded.info
        cuts = [cut - info.start for cut in decoded.cuts]
        spans = spans_of(self._segments, info.duration, cuts)
        return {
            "version": version,
            "fingerprint": decoded.content_hash,
            "size": decoded.size,
            "width": info.width,
            "height": info.height,
            "fps": info.fps,
            "duration": info.duration,
            "starts": [info.start + start for start, _ in spans],
            "ends": [info.start + end for _, end in spans],
        }
