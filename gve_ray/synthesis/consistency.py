"""Score how well a raw caption matches its video: the cosine under a pretrained embedder.

A separate stage computes and stores the scores; the threshold is chosen afterwards
(arXiv:2510.27571, section 4).
"""

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import fields
from typing import Any

import numpy as np
import pyarrow as pa

from gve_ray.config import EmbedderModel
from gve_ray.schema import AssetRef, Item
from gve_ray.stage import Reject, report_status, row_finished
from gve_ray.store import Store, fingerprint, frames_of_row
from gve_ray.synthesis.config import ConsistencyConfig

CONSISTENCY_SCHEMA = pa.schema(
    [("video_id", pa.string()), ("caption_hash", pa.string()), ("consistency", pa.float64())]
)
_COLUMNS = ["video_id", "frames", "timestamps", "indices", "fps", "duration", "total_frames"]


def scores_fingerprint(config: ConsistencyConfig, ingest: str) -> str:
    """Return a hash of the settings that affect scores; the threshold is not part of it."""
    model = {name: getattr(config, name) for name in ("model", "adapter", "revision", "engine", "dtype")}
    # The other options only where they are set, so that scores of earlier versions stay valid.
    for option in fields(EmbedderModel):
        value = getattr(config, option.name)
        if option.name not in model and value not in (option.default, {}):
            model[option.name] = value
    return fingerprint({"embedder": model, "ingest": ingest})


def caption_hash(caption: str) -> str:
    """Return 16 hex digits of the caption's sha256, which link a stored score to its caption."""
    return hashlib.sha256(caption.encode()).hexdigest()[:16]


def calibrate(scores: Sequence[float], percentile: float) -> float:
    """The threshold below which `percentile` % of the scores lie; -1, which rejects nothing, without scores.

    It is one of the scores, so the share rejected does not depend on the scale of the cosines.
    """
    if not 0 <= percentile < 100:
        raise ValueError(f"percentile={percentile}: use 0 to below 100")
    if not len(scores):
        return -1.0
    return float(np.percentile(np.asarray(scores, dtype=np.float64), percentile, method="higher"))


def threshold_of(config: ConsistencyConfig, scores: Sequence[float]) -> float:
    """The configured threshold, or the one its percentile gives on these scores."""
    if config.threshold is not None:
        return config.threshold
    assert config.percentile is not None, "the config demands one of the two"
    return calibrate(scores, config.percentile)


class ConsistencyWorker:
    """Worker of the consistency stage: rows of video_id and caption -> rows of `CONSISTENCY_SCHEMA`.

    Frames are read from the ingest store. Both sides are embedded as documents, without an instruction:
    the filter asks whether a caption belongs to its video, not which video a query wants.
    """

    def __init__(self, config: ConsistencyConfig, ingest: Store) -> None:
        assert config.model is not None, "without a model there is no consistency stage"
        report_status(f"loading {config.model}")
        from gve_ray.embedder.backends import open_as_saved

        self._ingest = ingest
        self._model, _ = open_as_saved(config.embedder)
        for item in (Item(text="a caption"), Item(video="a video")):
            if why := self._model.refuses(item):
                raise ValueError(f"quality.consistency.model={config.model!r}: {why}; use a video-text model")

    def __call__(self, rows: Sequence[Mapping[str, Any]]) -> list[dict[str, Any] | Reject]:
        ids = [row["video_id"] for row in rows]
        stored = self._ingest.take(ids, _COLUMNS).to_pylist()
        videos = [Item(video=frames_of_row(row, AssetRef(row["video_id"]))) for row in stored]
        captions = [Item(text=row["caption"]) for row in rows]
        texts = self._model.embed(captions).vectors  # float32 [n, d], unit length
        vectors = self._model.embed(videos, row_finished).vectors  # float32 [n, d]
        cosines = (texts * vectors).sum(axis=1)  # [n]
        return [
            {
                "video_id": row["video_id"],
                "caption_hash": caption_hash(row["caption"]),
                "consistency": float(cosine),
            }
            for row, cosine in zip(rows, cosines, strict=True)
        ]
