"""Score how well a raw caption matches its video: the cosine under a pretrained embedder.

A separate stage computes and stores the scores; the threshold is chosen afterwards
(arXiv:2510.27571, section 4). The caption of another video is scored as well: how far these cosines
lie below those of the given captions says whether the embedder can judge this corpus (`Separation`).
"""

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from math import sqrt
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from gve_ray.config import EmbedderModel
from gve_ray.schema import AssetRef, Item
from gve_ray.stage import Reject, report_status, row_finished
from gve_ray.store import Store, fingerprint, frames_of_row
from gve_ray.synthesis.config import ConsistencyConfig

# mismatched: the cosine of the video with `mismatched_captions`; null where there is none
CONSISTENCY_SCHEMA = pa.schema(
    [
        ("video_id", pa.string()),
        ("caption_hash", pa.string()),
        ("consistency", pa.float64()),
        ("mismatched", pa.float64()),
    ]
)
_VIDEOS_FOR_AN_INTERVAL = 20
_COLUMNS = ["video_id", "frames", "timestamps", "indices", "fps", "duration", "total_frames"]


def scores_schema(*, vectors: bool) -> pa.Schema:
    """Return the schema of the scores. vectors: also with the vectors of the videos, for `semantic`."""
    return (
        CONSISTENCY_SCHEMA.append(pa.field("vector", pa.list_(pa.float32())))
        if vectors
        else CONSISTENCY_SCHEMA
    )


def scores_fingerprint(config: ConsistencyConfig, ingest: str, *, vectors: bool = False) -> str:
    """Return a hash of the settings that affect scores; the threshold is not part of it."""
    model = {name: getattr(config, name) for name in ("model", "adapter", "revision", "engine", "dtype")}
    # The other options only where they are set, so that a new option leaves earlier scores valid.
    for option in fields(EmbedderModel):
        value = getattr(config, option.name)
        if option.name not in model and value not in (option.default, {}):
            model[option.name] = value
    return fingerprint({"embedder": model, "ingest": ingest, "columns": scores_schema(vectors=vectors).names})


def caption_hash(caption: str | None) -> str | None:
    """Return 16 hex digits of the caption's sha256, which link a stored score to its caption."""
    return None if caption is None else hashlib.sha256(caption.encode()).hexdigest()[:16]


def mismatched_captions(captions: Mapping[str, str]) -> dict[str, str | None]:
    """Draw another video's caption for each video, as an example of a caption that does not match.

    captions: by video id. Returns a caption by video id, in the order of a hash of the ids: the next
    different caption in this order, the last video being followed by the first. It is None if all
    captions are equal. Consecutive videos share captions, so a batch has few texts to embed twice.
    """
    order = sorted(captions, key=lambda video_id: hashlib.sha256(video_id.encode()).digest())
    drawn: dict[str, str | None] = {}
    following = captions[order[0]] if order else ""
    other: str | None = None  # the next caption that is not `following`
    for video_id in [*reversed(order), *reversed(order)]:  # the first round finds `other` of the last video
        if captions[video_id] != following:
            following, other = captions[video_id], following
        drawn[video_id] = other
    return {video_id: drawn[video_id] for video_id in order}


def roc_auc(positive: Sequence[float], negative: Sequence[float]) -> float | None:
    """Return the probability that a positive scores above a negative, with ties counted half.

    Returns None if either is empty.
    """
    if not len(positive) or not len(negative):
        return None
    below = np.sort(np.asarray(negative, dtype=np.float64))
    ranks = sum(np.searchsorted(below, positive, side).sum() for side in ("left", "right"))
    return float(ranks) / (2 * len(positive) * len(negative))


@dataclass(frozen=True, kw_only=True)
class Separation:
    """How well an embedder tells the captions of a corpus from captions of other videos.

    videos: number of scored videos. auc: ROC-AUC of the given pairs against the mismatched ones; low,
    high: its 95 % interval. threshold: the cut. rejected, mismatched_rejected: share of the given and
    of the mismatched pairs below it. The given pairs include wrong captions, so the true ones are
    separated at least as well.
    """

    videos: int
    auc: float
    low: float
    high: float
    threshold: float
    rejected: float
    mismatched_rejected: float

    @property
    def is_chance(self) -> bool:
        """Whether the interval includes 0.5 although there are enough videos for an interval."""
        return self.low <= 0.5 and self.videos >= _VIDEOS_FOR_AN_INTERVAL

    def __str__(self) -> str:
        return (
            f"ROC-AUC {self.auc:.3f} [{self.low:.3f}, {self.high:.3f}] of {self.videos:,} captions against "
            f"those of other videos; below the cut {self.threshold:.3f}: {self.rejected:.1%} and "
            f"{self.mismatched_rejected:.1%}"
        )

    def to_dict(self) -> dict[str, float]:
        """Return plain values, for run.json."""
        return asdict(self)


def separation(given: Sequence[float], mismatched: Sequence[float], threshold: float) -> Separation | None:
    """Compare cosines of given pairs with those of mismatched pairs; None if either is empty.

    The interval is that of Hanley and McNeil, "The meaning and use of the area under a receiver
    operating characteristic (ROC) curve", Radiology 143(1), 1982.
    """
    auc = roc_auc(given, mismatched)
    if auc is None:
        return None
    n, m = len(given), len(mismatched)
    both_given, both_mismatched = auc / (2 - auc), 2 * auc**2 / (1 + auc)
    spread = (n - 1) * (both_given - auc**2) + (m - 1) * (both_mismatched - auc**2)
    margin = 1.96 * sqrt(max(0.0, auc * (1 - auc) + spread) / (n * m))
    return Separation(
        videos=n,
        auc=auc,
        low=max(0.0, auc - margin),
        high=min(1.0, auc + margin),
        threshold=threshold,
        rejected=float(np.mean(np.asarray(given) < threshold)),
        mismatched_rejected=float(np.mean(np.asarray(mismatched) < threshold)),
    )


class ConsistencyWorker:
    """Worker of the consistency stage: rows of video_id, caption, other -> rows of `scores_schema`.

    caption: None where there is none. other: a caption that does not match, or None. vectors: whether the rows
    have the vectors of the videos. Frames are read from the ingest store. Both sides are
    embedded as documents, without an instruction: the filter asks whether a caption belongs to its
    video, not which video a query wants.
    """

    def __init__(self, config: ConsistencyConfig, ingest: Store, *, vectors: bool = False) -> None:
        assert config.model is not None, "without a model there is no consistency stage"
        report_status(f"loading {config.model}")
        from gve_ray.embedder.backends import open_as_saved

        self._ingest, self._keeps_vectors = ingest, vectors
        self._model, _ = open_as_saved(config.embedder)
        for item in (Item(text="a caption"), Item(video="a video")):
            if why := self._model.refuses(item):
                raise ValueError(f"quality.consistency.model={config.model!r}: {why}; use a video-text model")

    def __call__(self, rows: Sequence[Mapping[str, Any]]) -> list[dict[str, Any] | Reject]:
        ids = [row["video_id"] for row in rows]
        stored = self._ingest.take(ids, _COLUMNS).to_pylist()
        videos = [Item(video=frames_of_row(row, AssetRef(row["video_id"]))) for row in stored]
        # A caption is often the other one of the next row; it is embedded once.
        texts = {text: n for n, text in enumerate(dict.fromkeys(_texts_of(rows)))}
        # float32 [t, d], unit length
        captions = self._model.embed([Item(text=text) for text in texts]).vectors if texts else None
        vectors = self._model.embed(videos, row_finished).vectors  # float32 [n, d]

        def cosine(caption: str | None, vector: NDArray[np.float32]) -> float | None:
            return None if caption is None or captions is None else float(captions[texts[caption]] @ vector)

        return [
            {
                "video_id": row["video_id"],
                "caption_hash": caption_hash(row["caption"]),
                "consistency": cosine(row["caption"], vector),
                "mismatched": cosine(row["other"], vector),
                **({"vector": vector.tolist()} if self._keeps_vectors else {}),
            }
            for row, vector in zip(rows, vectors, strict=True)
        ]


def _texts_of(rows: Sequence[Mapping[str, Any]]) -> list[str]:
    return [text for row in rows for text in (row["caption"], row["other"]) if text is not None]
