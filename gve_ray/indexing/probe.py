"""Check each video file and find its segments: the first stage of the index job.

Videos are decoded in a child process. If it crashes, hangs or runs out of memory, the file is
rejected with the reason. These workers load no model, so they start quickly.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import pyarrow as pa

from gve_ray.indexing.config import ReadingConfig, SegmentsConfig
from gve_ray.indexing.segments import spans_of
from gve_ray.media import DecodeProcess, FrameRequest, MediaError
from gve_ray.stage import Reject, row_finished

VIDEO_SCHEMA = pa.schema(
    [
        ("version", pa.string()),  # changes when the file is rewritten (catalog.version_of)
        ("fingerprint", pa.string()),  # sha256 of the file
        ("size", pa.int64()),  # bytes
        ("width", pa.int32()),  # as displayed
        ("height", pa.int32()),
        ("fps", pa.float64()),
        ("duration", pa.float64()),  # seconds, including the last frame
        ("starts", pa.list_(pa.float64())),  # of the segments, seconds on the file's own clock
        ("ends", pa.list_(pa.float64())),
    ]
)
PENDING_VIDEOS = pa.schema([("version", pa.string()), ("uri", pa.string())])


class ProbeWorker:
    """Stage worker: takes rows of `PENDING_VIDEOS`, returns rows of `VIDEO_SCHEMA`."""

    def __init__(self, segments: SegmentsConfig, media: ReadingConfig) -> None:
        self._segments, self._strict = segments, media.strict or segments.mode == "scenes"
        self._process = DecodeProcess(media.limits)

    def __call__(self, rows: Sequence[Mapping[str, Any]]) -> list[dict[str, Any] | Reject]:
        results = []
        for row in rows:
            results.append(self._probe(row["version"], row["uri"]))
            row_finished()
        return results

    def _probe(self, version: str, uri: str) -> dict[str, Any] | Reject:
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
