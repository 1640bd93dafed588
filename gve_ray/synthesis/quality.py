"""The filters of stage 1, as functions of stored captions, signatures and scores.

Filters run from cheapest to most expensive. Each takes a table and returns a `Verdict`: the videos
kept, and those rejected with the reason. Rerunning them with another threshold takes seconds.
"""

import logging
import time
from collections import deque
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from gve_ray.progress import Progress
from gve_ray.stage import Reject, StageCounts
from gve_ray.synthesis.dedup import find_duplicates
from gve_ray.synthesis.motion import is_static
from gve_ray.synthesis.rectify import Rectified, rectify

log = logging.getLogger(__name__)

_PART = 10_000  # captions per batch, which takes a few seconds


@dataclass(frozen=True, kw_only=True)
class Verdict:
    """What one filter decided. kept: video ids, in order. rejects: rows of `stage.REJECT_SCHEMA`."""

    stage: str
    kept: Sequence[str]
    rejects: Sequence[Mapping[str, Any]]
    seconds: float

    @property
    def counts(self) -> StageCounts:
        return StageCounts(
            name=self.stage,
            n_in=len(self.kept) + len(self.rejects),
            n_out=len(self.kept),
            n_rejected=len(self.rejects),
            seconds=self.seconds,
        )


def rectify_captions(manifest: pa.Table, *, on: bool = True) -> tuple[dict[str, str], Verdict]:
    """(cleaned captions by video id, verdict). Unit: captions; a video without one is not in the counts.

    manifest: columns video_id and caption (null where there is none). on: False keeps all as they are.
    """
    begun = time.monotonic()
    captions: dict[str, str] = {}
    rejects = []
    captioned = manifest.select(["video_id", "caption"]).filter(pc.is_valid(manifest["caption"]))
    done, progress = 0, Progress("rectify", captioned.num_rows, unit="captions")
    for part, verdicts in _rectified(captioned.to_batches(_PART), on=on):
        for video_id, caption, verdict in zip(
            *(item.to_pylist() for item in part.columns), verdicts, strict=True
        ):
            if verdict.text is None:
                reject = Reject(str(verdict.reason), detail=caption[:500])
                rejects.append(reject.row(video_id, stage="rectify", unit="caption"))
            else:
                captions[video_id] = verdict.text
        done += len(verdicts)
        progress.reach(done)
    seconds = time.monotonic() - begun
    return captions, Verdict(stage="rectify", kept=list(captions), rejects=rejects, seconds=seconds)


def _rectified(
    parts: Sequence[pa.RecordBatch], *, on: bool
) -> Iterator[tuple[pa.RecordBatch, Sequence[Rectified]]]:
    """Each part (video_id, caption) with its verdicts, in order. Several parts are judged by the whole cluster."""
    import ray

    if not on or len(parts) < 2 or not ray.is_initialized():
        yield from ((part, _judge(part, on=on)) for part in parts)
        return
    judge = ray.remote(_judge)
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


def drop_duplicates(
    videos: pa.Table, signatures: Iterable[pa.RecordBatch] | None = None, *, threshold: float
) -> Verdict:
    """Keep the best copy of each group and reject the others; `dedup.find_duplicates` lists the columns."""
    begun = time.monotonic()
    log.info("duplicates: looking for copies among %d videos", videos.num_rows)
    gone = {item.video_id: item for item in find_duplicates(videos, signatures, threshold=threshold)}
    rejects = [
        Reject(f"{item.kind}_duplicate", f"copy of {item.kept}", {"distance": item.distance}).row(
            item.video_id, stage="duplicates", unit="video"
        )
        for item in gone.values()
    ]
    kept = [video_id for video_id in videos["video_id"].to_pylist() if video_id not in gone]
    return Verdict(stage="duplicates", kept=kept, rejects=rejects, seconds=time.monotonic() - begun)


def drop_static(videos: pa.Table, *, threshold: float) -> Verdict:
    """Reject videos in which nothing moves. videos: columns video_id and motion; threshold 0 keeps all."""
    begun = time.monotonic()
    kept, rejects = [], []
    for video_id, motion in zip(videos["video_id"].to_pylist(), videos["motion"].to_pylist(), strict=True):
        if is_static(motion, threshold):
            reject = Reject("static", f"motion {motion:.4f} below {threshold:g}", {"motion": motion})
            rejects.append(reject.row(video_id, stage="dynamics", unit="video"))
        else:
            kept.append(video_id)
    return Verdict(stage="dynamics", kept=kept, rejects=rejects, seconds=time.monotonic() - begun)


def drop_inconsistent(
    video_ids: Sequence[str],
    scores: Mapping[str, float],
    failed: Mapping[str, Mapping[str, Any]],
    *,
    threshold: float,
    seconds: float = 0.0,
) -> Verdict:
    """Reject pairs whose cosine is below the threshold; videos without a caption are kept.

    failed: reject rows, by video id, of pairs that could not be scored, which are rejected too. seconds: of scoring.
    """
    begun = time.monotonic()
    kept, rejects = [], []
    for video_id in video_ids:
        score = scores.get(video_id)
        if video_id in failed:
            rejects.append(failed[video_id])
        elif score is not None and score < threshold:
            reject = Reject(
                "inconsistent",
                f"cosine {score:.4f} below {threshold:.4f}",
                {"consistency": score, "threshold": threshold},
            )
            rejects.append(reject.row(video_id, stage="consistency", unit="video"))
        else:
            kept.append(video_id)
    took = seconds + time.monotonic() - begun
    return Verdict(stage="consistency", kept=kept, rejects=rejects, seconds=took)
