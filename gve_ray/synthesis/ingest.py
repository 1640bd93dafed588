"""Decode each video once, check its integrity, and store as JPEG the frames that later stages need.

A row of the ingest store is a row of assets.lance without caption and consistency. It holds uniformly
sampled frames, reference frames between them, clips with their frames, and the scores that filters
use. Changing a threshold therefore never opens a video again.
"""

import hashlib
import random
from collections.abc import Mapping, Sequence
from functools import partial
from itertools import pairwise
from typing import Any

import pyarrow as pa

from gve_ray.media import (
    DecodeProcess,
    FrameRequest,
    MediaError,
    VideoInfo,
    encode_jpeg,
    uniform_indices,
)
from gve_ray.media.decode import Decoded
from gve_ray.media.signature import signature
from gve_ray.schema import ASSET_SCHEMA, Frames
from gve_ray.stage import Reject, row_finished
from gve_ray.store import fingerprint
from gve_ray.synthesis.config import MediaConfig
from gve_ray.synthesis.motion import motion_score

INGEST_SCHEMA = pa.schema([field for field in ASSET_SCHEMA if field.name not in ("caption", "consistency")])
_FORMAT = 2  # increase when the same video and config give different rows
_LONGEST_SHARE = 0.75  # of a video: a clip is not the video itself


def ingest_fingerprint(media: MediaConfig, seed: int) -> str:
    """Return a hash of the settings that determine the rows; it names the ingest store."""
    return fingerprint({"format": _FORMAT, "media": media.identity(), "seed": seed})


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


def sampling_plan(info: VideoInfo, *, video_id: str, media: MediaConfig, seed: int) -> list[FrameRequest]:
    """Return the frame requests of one video: uniform frames, then reference frames if any, then the clips."""
    moments = reference_moments(info, media, seeded(seed, video_id, "reference frames"))
    spans = clip_spans(info.duration, media, seeded(seed, video_id, "clips"), start=info.start)
    return [
        FrameRequest(k=media.frames),
        *([FrameRequest(at=moments)] if moments else []),
        *(FrameRequest(k=media.frames, start=start, end=end) for start, end in spans),
    ]


class IngestWorker:
    """Worker of the integrity stage: rows of video_id and uri -> rows of `INGEST_SCHEMA`.

    The decoder runs in a child process. If the child crashes, hangs or runs out of memory, the video
    is rejected with that reason (`media.Reason`) and the child is replaced.
    """

    def __init__(self, media: MediaConfig, seed: int) -> None:
        self._media, self._seed = media, seed
        self._process = DecodeProcess(media.limits)

    def __call__(self, rows: Sequence[Mapping[str, Any]]) -> list[dict[str, Any] | Reject]:
        results = []
        for row in rows:
            results.append(self._one(row["video_id"], row["uri"]))
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
    }
