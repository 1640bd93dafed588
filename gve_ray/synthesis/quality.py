"""The filters of stage 1, as functions of stored captions, signatures and scores.

Each returns the videos that it rejects, with the reason. Rerunning them with another threshold takes
seconds.
"""

import logging
from collections import deque
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from gve_ray.progress import Progress
from gve_ray.stage import Reject
from gve_ray.synthesis.dedup import KeptVideos, find_duplicates
from gve_ray.synthesis.rectify import Rectified, rectify

log = logging.getLogger(__name__)

_PART = 2_500  # captions per batch, which takes about a second


def rectify_captions(manifest: pa.Table, *, on: bool = True) -> tuple[dict[str, str], dict[str, Reject]]:
    """Return (cleaned captions, rejects), by video id; a video without a caption is in neither.

    manifest: columns video_id and caption (null where there is none). on: False keeps all as they are.
    """
    captions: dict[str, str] = {}
    rejects: dict[str, Reject] = {}
    captioned = manifest.select(["video_id", "caption"]).filter(pc.is_valid(manifest["caption"]))
    done, progress = 0, Progress("rectify", captioned.num_rows, unit="captions")
    for part, verdicts in _rectified(captioned.to_batches(_PART), on=on):
        for video_id, caption, verdict in zip(
            *(item.to_pylist() for item in part.columns), verdicts, strict=True
        ):
            if verdict.text is None:
                rejects[video_id] = Reject(str(verdict.reason), detail=caption[:500])
            else:
                captions[video_id] = verdict.text
        done += len(verdicts)
        progress.reach(done)
    return captions, rejects


def _rectified(
    parts: Sequence[pa.RecordBatch], *, on: bool
) -> Iterator[tuple[pa.RecordBatch, Sequence[Rectified]]]:
    """Each part (video_id, caption) with its verdicts, in order. Several parts are judged by the whole cluster."""
    import ray

    if not on or len(parts) < 2 or not ray.is_initialized():
        yield from ((part, _judge(part, on=on)) for part in parts)
        return
    judge = ray.remote(num_cpus=0)(_judge)  # the actors of other stages may have reserved all CPUs
    running: deque[tuple[pa.RecordBatch, Any]] = deque()
    window = 2 * max(1, int(ray.cluster_resources().get("CPU", 1)))  # what is in flight is in memory
    for part in parts:
        running.append((part, judge.remote(part)))
        if len(running) == window:
            first, verdicts = running.popleft()
            yield first, ray.get(verdicts)
    while running:
        first, verdicts = running.popleft()
        yield first, ray.get(verdicts)


def _judge(part: pa.RecordBatch, *, on: bool = True) -> list[Rectified]:
    return [rectify(item) if on else Rectified(item, None) for item in part["caption"].to_pylist()]


def duplicates(
    videos: pa.Table,
    signatures: Iterable[pa.RecordBatch] | None = None,
    *,
    threshold: float,
    earlier: KeptVideos | None = None,
) -> dict[str, Reject]:
    """Return a reject for each video but the best of each group of copies; see `dedup.find_duplicates`."""
    log.info("duplicates: looking for copies among %d videos", videos.num_rows)
    return {
        item.video_id: Reject(
            f"{item.kind}_duplicate",
            f"copy of {item.kept}",
            {"copy_of": item.kept, "distance": item.distance},
        )
        for item in find_duplicates(videos, signatures, threshold=threshold, earlier=earlier)
    }


def static_videos(videos: pa.Table, *, threshold: float) -> dict[str, Reject]:
    """Return a reject for each video in which nothing moves.

    videos: columns video_id and motion. A threshold of 0 rejects none.
    """
    scores = zip(videos["video_id"].to_pylist(), videos["motion"].to_pylist(), strict=True)
    return {
        video_id: Reject("static", f"motion {motion:.4f} below {threshold:g}", {"motion": motion})
        for video_id, motion in scores
        if motion < threshold
    }


def inconsistent_pairs(scores: Mapping[str, float], *, threshold: float) -> dict[str, Reject]:
    """Return a reject for each video whose caption has a cosine below the threshold with it."""
    return {
        video_id: Reject(
            "inconsistent",
            f"cosine {score:.4f} below {threshold:.4f}",
            {"consistency": score, "threshold": threshold},
        )
        for video_id, score in scores.items()
        if score < threshold
    }
