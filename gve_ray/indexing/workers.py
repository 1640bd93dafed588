"""What runs beside the files: a look through each of them, and the embedding of its segments.

Both decode in child processes, which may crash, hang or run out of memory: that is a reject with its reason.
"""

import hashlib
import json
import queue
import threading
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import asdict
from itertools import groupby
from typing import Any

import numpy as np
import pyarrow as pa

from gve_ray.config import LimitsConfig, ModelConfig
from gve_ray.embedder import EmbedderSettings
from gve_ray.embedder.models import embed_readable, open_model
from gve_ray.indexing.config import PicturesConfig, ReadingConfig, SegmentsConfig
from gve_ray.indexing.segments import spans_of
from gve_ray.media import DecodeProcess, FrameRequest, Limits, MediaError, encode_jpeg, uniform_indices
from gve_ray.media.budget import resize
from gve_ray.schema import Frames, Item
from gve_ray.stage import Reject

VIDEO_SCHEMA = pa.schema(
    [
        ("version", pa.string()),  # of a file: another one once it is written anew
        ("fingerprint", pa.string()),  # sha256 of its bytes
        ("size", pa.int64()),  # bytes
        ("width", pa.int32()),  # rotation applied
        ("height", pa.int32()),
        ("fps", pa.float64()),
        ("duration", pa.float64()),  # seconds
        ("starts", pa.list_(pa.float64())),  # of its segments, seconds
        ("ends", pa.list_(pa.float64())),
    ]
)
PENDING_VIDEOS = pa.schema([("version", pa.string()), ("uri", pa.string())])
PENDING_SEGMENTS = pa.schema(
    [
        ("segment", pa.string()),
        ("uri", pa.string()),
        ("fingerprint", pa.string()),
        ("start", pa.float64()),  # of the frames wanted; null: from the first
        ("end", pa.float64()),  # null: to the last
    ]
)


def segment_id(video_id: str, fingerprint: str, start: float, end: float) -> str:
    """24 hex digits: the same for the same part of the same file under the same id."""
    return hashlib.sha256(json.dumps([video_id, fingerprint, start, end]).encode()).hexdigest()[:24]


def pending_segments(video_id: str, uri: str, video: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Rows of `PENDING_SEGMENTS` for a row of `VIDEO_SCHEMA`."""
    rows = []
    spans = list(zip(video["starts"], video["ends"], strict=True))
    for number, (start, end) in enumerate(spans):
        # The frame at `end` is the first of what follows: half a frame earlier is the last of this segment.
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


class ProbeWorker:
    """Worker of the first stage: rows of `PENDING_VIDEOS` -> rows of `VIDEO_SCHEMA`."""

    def __init__(self, segments: SegmentsConfig, media: ReadingConfig) -> None:
        self._segments, self._strict = segments, media.strict or segments.mode == "scenes"
        self._process = DecodeProcess(_limits(media.limits))

    def __call__(self, rows: Sequence[Mapping[str, Any]]) -> list[dict[str, Any] | Reject]:
        return [self._one(row["version"], row["uri"]) for row in rows]

    def _one(self, version: str, uri: str) -> dict[str, Any] | Reject:
        scenes = self._segments.threshold if self._segments.mode == "scenes" else None
        try:
            decoded = self._process.decode(uri, [FrameRequest(k=1)], strict=self._strict, scenes=scenes)
        except MediaError as error:
            return Reject(str(error.reason), error.detail)
        info = decoded.info
        spans = spans_of(self._segments, info.duration, decoded.cuts)
        return {
            "version": version,
            "fingerprint": decoded.content_hash,
            "size": decoded.size,
            "width": info.width,
            "height": info.height,
            "fps": info.fps,
            "duration": info.duration,
            "starts": [start for start, _ in spans],
            "ends": [end for _, end in spans],
        }


class SegmentWorker:
    """Worker of the second stage: rows of `PENDING_SEGMENTS` -> rows of `library.SEGMENT_SCHEMA`.

    Rows of one file that come together are decoded together. Thread-safe: with `concurrency` above 1, a batch
    is decoded while another one is in the model. readers: decoding processes.
    """

    def __init__(
        self,
        model: ModelConfig,
        settings: EmbedderSettings,
        facts: Mapping[str, Any],
        pictures: PicturesConfig,
        limits: LimitsConfig,
        readers: int,
    ) -> None:
        self._settings, self._pictures = settings, pictures
        self._model = open_model(model, settings, facts)
        self._lock = threading.Lock()
        self._pool = ThreadPoolExecutor(readers, thread_name_prefix="gve-read")
        self._processes: queue.SimpleQueue[DecodeProcess] = queue.SimpleQueue()
        for _ in range(readers):
            self._processes.put(DecodeProcess(_limits(limits)))

    def __call__(self, rows: Sequence[Mapping[str, Any]]) -> list[dict[str, Any] | Reject]:
        groups = [list(group) for _, group in groupby(rows, key=lambda row: (row["uri"], row["fingerprint"]))]
        read = [one for group in self._pool.map(self._read, groups) for one in group]
        items = [one if isinstance(one, Reject) else Item(video=one) for one in read]
        embedded = embed_readable(self._model, items, self._lock)
        return [
            one if isinstance(one, Reject) else self._result(row["segment"], frames, one[0])
            for row, frames, one in zip(rows, read, embedded, strict=True)
        ]

    def _read(self, rows: Sequence[Mapping[str, Any]]) -> list[Frames | Reject]:
        """Frames of segments of one file. Where they cannot be had together, each is tried by itself."""
        try:
            with self._process() as process:
                decoded = process.decode(
                    rows[0]["uri"],
                    [
                        FrameRequest(k=self._settings.frames, start=row["start"], end=row["end"])
                        for row in rows
                    ],
                    max_pixels=self._settings.max_pixels,
                    min_pixels=self._settings.min_pixels,
                    strict=False,
                )
        except MediaError as error:
            if len(rows) == 1:
                return [Reject(str(error.reason), error.detail)]
        except ValueError as error:  # a segment in which no frame begins
            if len(rows) == 1:
                return [Reject("no_frames", str(error))]
        else:
            if decoded.content_hash == rows[0]["fingerprint"]:
                return list(decoded.samples)
            return [Reject(*CHANGED)] * len(rows)
        return [one for row in rows for one in self._read([row])]

    @contextmanager
    def _process(self) -> Iterator[DecodeProcess]:
        process = self._processes.get()
        try:
            yield process
        finally:
            self._processes.put(process)

    def _result(self, segment: str, frames: Frames | Reject, vector: np.ndarray) -> dict[str, Any]:
        assert isinstance(frames, Frames)
        config = self._pictures
        chosen = frames.pixels[uniform_indices(len(frames.pixels), config.strip_frames)]
        strip = np.concatenate([within_side(picture, config.strip) for picture in chosen], axis=1)
        poster = within_side(frames.pixels[len(frames.pixels) // 2], config.poster)
        return {
            "segment": segment,
            "vector": vector.tolist(),
            "poster": encode_jpeg(poster, quality=config.quality),
            "strip": encode_jpeg(strip, quality=config.quality),
            "strip_frames": config.strip_frames,
        }


CHANGED = ("changed", "the file was written anew while it was being indexed; run again")


def within_side(pixels: np.ndarray, side: int) -> np.ndarray:
    """uint8 [H, W, 3] made so small that no side is longer; never larger than it was."""
    height, width = pixels.shape[:2]
    scale = min(1.0, side / max(height, width))
    return resize(pixels, max(1, round(height * scale)), max(1, round(width * scale)))


def _limits(config: LimitsConfig) -> Limits:
    return Limits(**asdict(config))
