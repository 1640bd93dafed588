"""Decode each video once, check its integrity, and store as JPEG the frames that later stages need.

A row of the ingest store is a row of assets.lance without caption and consistency. It holds uniformly
sampled frames, reference frames between them, clips with their frames, and the scores that filters
use. Changing a threshold therefore never opens a video again.

A shot of a long video (shots.py) is read from within its span. The pass that found the shots has checked the
whole file, so only what the frames need is decoded.
"""

import hashlib
import random
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from functools import partial
from itertools import groupby, islice, pairwise
from typing import Any

import pyarrow as pa

from gve_ray.media import (
    DecodeProcess,
    FrameRequest,
    MediaError,
    Reason,
    VideoInfo,
    encode_jpeg,
    uniform_indices,
)
from gve_ray.media.decode import Decoded
from gve_ray.media.signature import signature
from gve_ray.media.video.scenes import Span
from gve_ray.schema import ASSET_SCHEMA, Frames
from gve_ray.stage import Reject, row_finished
from gve_ray.store import Store, fingerprint
from gve_ray.synthesis.config import MediaConfig, ShotsConfig
from gve_ray.synthesis.motion import motion_score

INGEST_SCHEMA = pa.schema([field for field in ASSET_SCHEMA if field.name not in ("caption", "consistency")])
_FORMAT = 2  # increase when the same video and config give different rows
_LONGEST_SHARE = 0.75  # of a video: a clip is not the video itself
_CHANGED = ("changed", "the file was rewritten after its shots were found; use a new work folder")
_SHOTS_BYTES = 128 * 2**20  # of the frames of shots that are decoded together
_BEFORE = 2e-6  # seconds; a request takes frames up to 1e-6 s after its end, and the next shot begins there


def ingest_fingerprint(media: MediaConfig, seed: int, shots: ShotsConfig | None = None) -> str:
    """Return a hash of the settings that determine the rows; it names the ingest store."""
    identity = {"format": _FORMAT, "media": media.identity(), "seed": seed}
    return fingerprint(identity | ({"shots": shots} if shots and shots.is_on else {}))


def seeded(seed: int, video_id: str, purpose: str) -> random.Random:
    """Return a random generator for one choice about one video, independent of all other choices."""
    digest = hashlib.sha256(f"{seed}/{video_id}/{purpose}".encode()).digest()
    return random.Random(int.from_bytes(digest[:16], "big"))


def reference_moments(info: VideoInfo, media: MediaConfig, rng: random.Random) -> tuple[float, ...]:
    """Moments of the reference frames on the file's clock, ascending.

    They lie between the uniform frames, in different gaps as long as there are any.
    A frame is named by the middle of the time it is shown. Where there are fewer frames off the grid than
    asked for there are fewer reference frames; a video with none off its grid gives one from on it.
    """
    if not media.reference_frames:
        return ()
    grid = uniform_indices(info.total_frames, media.frames).tolist()
    gaps = [list(range(a + 1, b)) for a, b in pairwise(grid) if b - a > 1]
    rng.shuffle(gaps)
    chosen: list[int] = []
    while gaps and len(chosen) < media.reference_frames:
        chosen += [gap.pop(rng.randrange(len(gap))) for gap in gaps[: media.reference_frames - len(chosen)]]
        gaps = [gap for gap in gaps if gap]
    if not chosen:
        chosen = [rng.choice(grid)]
    frame_seconds = info.duration / info.total_frames
    return tuple(info.start + (index + 0.5) * frame_seconds for index in sorted(chosen))


def clip_spans(
    duration: float, media: MediaConfig, rng: random.Random, *, start: float = 0.0
) -> list[tuple[float, float]]:
    """(start, end) of the clips in seconds on the file's clock, ascending and apart from each other.

    duration: seconds of the video. start: what the clock shows at its first frame.

    A clip is as long as `media.clip_seconds` allows and at most three quarters of the video, so a video
    shorter than 4/3 of the shortest clip has none; one that cannot hold all of them side by side has one.
    """
    shortest, longest = media.clip_seconds
    if not media.clips or duration * _LONGEST_SHARE < shortest:
        return []
    count = media.clips if duration >= media.clips * shortest / _LONGEST_SHARE else 1
    slot = duration / count
    spans = []
    for i in range(count):
        length = rng.uniform(shortest, min(longest, slot if count > 1 else duration * _LONGEST_SHARE))
        begin = start + i * slot + rng.uniform(0.0, slot - length)
        spans.append((begin, begin + length))
    return spans


def sampling_plan(
    info: VideoInfo, *, video_id: str, media: MediaConfig, seed: int, span: Span | None = None
) -> list[FrameRequest]:
    """Return the frame requests of one video: uniform frames, then reference frames if any, then the clips.

    span: of a shot, seconds on the file's clock; its end belongs to the next shot.
    """
    whole = FrameRequest(k=media.frames)
    if span is not None:
        info = shot_info(info, span)
        whole = FrameRequest(k=media.frames, start=span[0], end=span[1] - _BEFORE)
    moments = reference_moments(info, media, seeded(seed, video_id, "reference frames"))
    spans = clip_spans(info.duration, media, seeded(seed, video_id, "clips"), start=info.start)
    return [
        whole,
        *([FrameRequest(at=moments)] if moments else []),
        *(FrameRequest(k=media.frames, start=start, end=end) for start, end in spans),
    ]


def shot_info(info: VideoInfo, span: Span) -> VideoInfo:
    """Return the facts about a part of a video; its frames are counted by the mean frame rate."""
    start, end = span
    total = max(1, round((end - start) * info.fps))
    return replace(info, start=start, duration=end - start, total_frames=total)


def shots_plan(
    info: VideoInfo, *, shots: Sequence[tuple[str, Span]], media: MediaConfig, seed: int
) -> list[FrameRequest]:
    """Return the frame requests of several shots of one video, given by id and span, one after the other."""
    plans = [
        sampling_plan(info, video_id=video_id, media=media, seed=seed, span=span) for video_id, span in shots
    ]
    return [request for plan in plans for request in plan]


class IngestWorker:
    """Worker of the integrity stage: rows of video_id and uri -> rows of `INGEST_SCHEMA`.

    The decoder runs in a child process. If the child crashes, hangs or runs out of memory, the video
    is rejected with that reason (`media.Reason`) and the child is replaced.

    parents: a store of `shots.PARENT_SCHEMA`, if there are shots among the rows; the rows then are those of
    `shots.LISTED_SCHEMA`. Adjacent shots of one video are decoded together.
    """

    def __init__(self, media: MediaConfig, seed: int, parents: Store | None = None) -> None:
        self._media, self._seed, self._parents = media, seed, parents
        self._process = DecodeProcess(media.limits)
        frames = media.frames * (1 + media.clips) + media.reference_frames
        self._shots_at_once = max(1, _SHOTS_BYTES // (frames * media.max_pixels * 3))

    def __call__(self, rows: Sequence[Mapping[str, Any]]) -> list[dict[str, Any] | Reject]:
        results: list[dict[str, Any] | Reject] = []
        for parent_id, group in groupby(rows, key=lambda row: row.get("parent_id")):
            together = list(group)
            size = 1 if parent_id is None else self._shots_at_once
            for start in range(0, len(together), size):
                some = together[start : start + size]
                if parent_id is None:
                    results.append(self._one(some[0]["video_id"], some[0]["uri"]))
                else:
                    results += self._shots(some)
                for _ in some:
                    row_finished()
        return results

    def _one(self, video_id: str, uri: str) -> dict[str, Any] | Reject:
        plan = partial(sampling_plan, video_id=video_id, media=self._media, seed=self._seed)
        try:
            decoded = self._process.decode(
                uri,
                plan,
                max_pixels=self._media.max_pixels,
                min_pixels=self._media.min_pixels,
                sampled=self._media.check == "sampled",
            )
        except MediaError as error:
            return Reject(str(error.reason), error.detail)
        return asset_row(video_id, uri, decoded, media=self._media, seed=self._seed)

    def _shots(self, rows: Sequence[Mapping[str, Any]]) -> list[dict[str, Any] | Reject]:
        """Read shots of one video; if that fails, read each separately, unless it took too long already."""
        assert self._parents is not None
        columns = ["content_hash", "duration", "signature"]
        (parent,) = self._parents.take([rows[0]["parent_id"]], columns).to_pylist()
        content_hash = parent.pop("content_hash")
        shots = [(row["video_id"], (row["start"], row["end"])) for row in rows]
        try:
            decoded = self._process.decode(
                rows[0]["uri"],
                partial(shots_plan, shots=shots, media=self._media, seed=self._seed),
                max_pixels=self._media.max_pixels,
                min_pixels=self._media.min_pixels,
                strict=False,
                keep_open=True,
            )
        except MediaError as error:
            if len(rows) == 1 or error.reason == Reason.TIMEOUT:
                return [Reject(str(error.reason), error.detail)] * len(rows)
            return [result for row in rows for result in self._shots([row])]
        except ValueError:  # it is shorter now than a span
            return [Reject(*_CHANGED)] * len(rows)
        if decoded.content_hash != content_hash:
            return [Reject(*_CHANGED)] * len(rows)
        samples = iter(decoded.samples)
        return [self._shot(row, decoded, samples, parent) for row in rows]

    def _shot(
        self,
        row: Mapping[str, Any],
        decoded: Decoded,
        samples: Iterator[Frames],
        parent: Mapping[str, Any],
    ) -> dict[str, Any]:
        """A row of `INGEST_SCHEMA` of a shot. samples: those of `shots_plan` from this shot on."""
        video_id, span = row["video_id"], (row["start"], row["end"])
        plan = sampling_plan(decoded.info, video_id=video_id, media=self._media, seed=self._seed, span=span)
        own = list(islice(samples, len(plan)))
        first, *_, last = own[0].indices.tolist()
        info = replace(shot_info(decoded.info, span), total_frames=last - first + 1)
        shot = replace(decoded, info=info, samples=own)
        return {
            **asset_row(video_id, row["uri"], shot, media=self._media, seed=self._seed),
            "shot": {"parent_id": row["parent_id"], "start": row["start"], "end": row["end"]},
            "parent": parent,
        }


def asset_row(video_id: str, uri: str, decoded: Decoded, *, media: MediaConfig, seed: int) -> dict[str, Any]:
    """A row of `INGEST_SCHEMA` from a video that was decoded by `sampling_plan`."""
    info, (uniform, *others) = decoded.info, decoded.samples
    spans = clip_spans(info.duration, media, seeded(seed, video_id, "clips"), start=info.start)
    references, clips = others[: len(others) - len(spans)], others[len(others) - len(spans) :]

    def jpegs(frames: Frames) -> list[bytes]:
        return [encode_jpeg(picture, quality=media.jpeg_quality) for picture in frames.pixels]

    return {
        "video_id": video_id,
        "uri": uri,
        "content_hash": decoded.content_hash,
        "repaired": decoded.repaired,
        "container": info.container,
        "codec": info.codec,
        "width": info.width,
        "height": info.height,
        "fps": info.fps,
        "duration": info.duration,
        "total_frames": info.total_frames,
        "frames": jpegs(uniform),
        "timestamps": uniform.timestamps.tolist(),
        "indices": uniform.indices.tolist(),
        "reference_frames": [jpeg for frames in references for jpeg in jpegs(frames)],
        "reference_timestamps": [second for frames in references for second in frames.timestamps.tolist()],
        "clips": [
            {
                "start": start,
                "end": end,
                "frames": jpegs(frames),
                "timestamps": frames.timestamps.tolist(),
                "indices": frames.indices.tolist(),
            }
            for (start, end), frames in zip(spans, clips, strict=True)
        ],
        "signature": signature(uniform.pixels),
        "motion": motion_score(uniform.pixels),
        "shot": None,
        "parent": None,
    }
