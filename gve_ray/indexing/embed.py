"""Embed segments and make their pictures: the second stage of the index job.

Videos are decoded in child processes. If one crashes, hangs or runs out of memory, the segment is
rejected with the reason. `EmbedderSettings.frames` frames are read from each segment, as
gve_ray.embedder reads them from a whole video.
"""

import threading
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from itertools import groupby
from typing import Any

import numpy as np

from gve_ray.config import ModelConfig
from gve_ray.embedder import EmbedderSettings
from gve_ray.embedder.backends import embed_readable, open_model
from gve_ray.indexing.config import PicturesConfig
from gve_ray.media import DecodePool, FrameRequest, Limits, MediaError, encode_jpeg, uniform_indices
from gve_ray.media.budget import resize
from gve_ray.schema import Frames, Item
from gve_ray.stage import Reject, report_status

CHANGED = ("changed", "the file was rewritten while it was being indexed; run the job again")


class SegmentWorker:
    """Stage worker from `segments.PENDING_SEGMENTS` to `library.SEGMENT_SCHEMA` rows.

    Adjacent rows of one file are decoded together. Thread-safe: if the stage's `concurrency` is
    above 1, one batch is decoded while the model embeds another. readers: number of decoding
    processes.
    """

    def __init__(
        self,
        model: ModelConfig,
        settings: EmbedderSettings,
        identity: Mapping[str, Any],
        pictures: PicturesConfig,
        limits: Limits,
        readers: int,
    ) -> None:
        self._settings, self._pictures = settings, pictures
        report_status(f"loading {model.name}")
        self._model = open_model(model, settings, identity)
        if why := self._model.refuses(Item(video="a segment")):
            raise ValueError(f"model={model.model!r}: {why}; an index needs a model that takes videos")
        self._lock = threading.Lock()
        self._pool = ThreadPoolExecutor(readers, thread_name_prefix="gve-read")
        self._processes = DecodePool(limits, readers)

    def __call__(self, rows: Sequence[Mapping[str, Any]]) -> list[dict[str, Any] | Reject]:
        groups = [list(group) for _, group in groupby(rows, key=lambda row: (row["uri"], row["fingerprint"]))]
        read = [frames for group in self._pool.map(self._read, groups) for frames in group]
        items = [frames if isinstance(frames, Reject) else Item(video=frames) for frames in read]
        embedded = embed_readable(self._model, items, self._lock)
        return [
            result if isinstance(result, Reject) else self._result(row["segment"], frames, result[0])
            for row, frames, result in zip(rows, read, embedded, strict=True)
        ]

    def _read(self, rows: Sequence[Mapping[str, Any]]) -> list[Frames | Reject]:
        """Read the frames of segments of one file; if that fails, read each segment separately."""
        try:
            with self._processes.lend() as process:
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
        except ValueError as error:  # no frame begins within the segment
            if len(rows) == 1:
                return [Reject("no_frames", str(error))]
        else:
            if decoded.content_hash == rows[0]["fingerprint"]:
                return list(decoded.samples)
            return [Reject(*CHANGED)] * len(rows)
        return [frames for row in rows for frames in self._read([row])]

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
        }


def within_side(pixels: np.ndarray, side: int) -> np.ndarray:
    """Reduce a picture, uint8 [H, W, 3], so that no side is longer than `side`; never enlarge it."""
    height, width = pixels.shape[:2]
    scale = min(1.0, side / max(height, width))
    return resize(pixels, max(1, round(height * scale)), max(1, round(width * scale)))
