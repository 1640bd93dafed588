"""Compute the segments of a video from its duration and its cuts."""

import hashlib
import json
import math
from collections.abc import Mapping, Sequence
from typing import Any

import pyarrow as pa

from gve_ray.indexing.config import SegmentsConfig
from gve_ray.media.video.scenes import Span, scene_spans

PENDING_SEGMENTS = pa.schema(
    [
        ("segment", pa.string()),
        ("uri", pa.string()),
        ("fingerprint", pa.string()),
        ("start", pa.float64()),  # seconds; null to start with the first frame
        ("end", pa.float64()),  # seconds; null to end with the last frame
    ]
)


def spans_of(config: SegmentsConfig, duration: float, cuts: Sequence[float]) -> list[Span]:
    """Return the segments of a video in order; together they cover the video.

    cuts: start of each scene except the first. All times are seconds from the first frame.
    """
    if config.mode == "windows":
        return windows(duration, config.seconds, config.overlap, config.shortest)
    if config.mode == "scenes":
        return scene_spans(duration, cuts, shortest=config.shortest, longest=config.longest)
    return [(0.0, duration)]


def windows(duration: float, seconds: float, overlap: float, shortest: float) -> list[Span]:
    """Return windows of `seconds`, each overlapping the one before by `overlap` seconds.

    A last window shorter than `shortest` is merged into the one before.
    """
    step = seconds - overlap
    count = 1 + max(0, math.ceil((duration - seconds) / step - 1e-9))
    spans = [(i * step, min(i * step + seconds, duration)) for i in range(count)]
    if count > 1 and spans[-1][1] - spans[-1][0] < shortest:
        spans[-2:] = [(spans[-2][0], duration)]
    return spans


def segment_id(video_id: str, fingerprint: str, start: float, end: float) -> str:
    """Return 24 hex digits that identify a part of a file with this content and video id."""
    return hashlib.sha256(json.dumps([video_id, fingerprint, start, end]).encode()).hexdigest()[:24]


def pending_segments(video_id: str, uri: str, video: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Return the rows of `PENDING_SEGMENTS` for one video. video: a row of `probe.VIDEO_SCHEMA`."""
    rows = []
    spans = list(zip(video["starts"], video["ends"], strict=True))
    for number, (start, end) in enumerate(spans):
        # The frame at `end` belongs to the next segment, so stop half a frame before it.
        last = max(end - 0.5 / video["fps"], start + 1e-3) if video["fps"] > 0 else end
        rows.append(
            {
                "segment": segment_id(video_id, video["fingerprint"], start, end),
                "uri": uri,
                "fingerprint": video["fingerprint"],
                "start": start if number else None,
                "end": last if number < len(spans) - 1 else None,
            }
        )
    return rows
