"""The entry points of the package: decode a file, bytes, a folder of frames or a URI to checked frames.

`decode` with `strict=True` (the default, used at ingest) decodes the whole stream once: one pass
both checks the file and yields the sampled frames. With `sampled=True` it decodes only what the
frames need, unless the container or a packet shows damage. `read_frames` (serving, evaluation)
reads only the frames it needs. All give the same pixels.
"""

from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from functools import cached_property

import av
import numpy as np

from gve_ray.media.budget import MAX_ASPECT, MAX_PIXELS, MIN_PIXELS, fit_pixels, resize
from gve_ray.media.limits import MIN_FRAMES, Limits, MediaError, Reason
from gve_ray.media.picture.animated_webp import animated_webp_frames, is_animated_webp, scan_animated_webp
from gve_ray.media.picture.folder import scan_folder
from gve_ray.media.picture.still import read_picture
from gve_ray.media.sampling import FrameRequest
from gve_ray.media.source import Blob, Source, file_facts, is_folder, open_source
from gve_ray.media.video.open_video import media_error
from gve_ray.media.video.probe import Scan, Timeline, VideoInfo, mean_fps, scan
from gve_ray.media.video.repair import cut_leading_rubbish, has_broken_timestamps, remux, without_trailer
from gve_ray.media.video.scenes import SceneCuts
from gve_ray.media.video.sequential import (
    Deadline,
    Finish,
    check_doubtful_bytes,
    lost_frames,
    observed_timeline,
    read_sequential,
)
from gve_ray.media.video.sparse import read_sparse
from gve_ray.schema import Frames

Plan = Sequence[FrameRequest] | Callable[[VideoInfo], Sequence[FrameRequest]]
DEFAULT_LIMITS = Limits()


@dataclass(frozen=True, kw_only=True, eq=False)
class Decoded:
    """One checked video. content_hash: sha256 hex of the file's bytes, `size` of them. repaired:
    the frames come from a remuxed copy. samples: one Frames for each request of the plan, in its
    order. cuts: seconds on the file's clock at which a new scene begins, if they were requested."""

    info: VideoInfo
    content_hash: str
    size: int
    repaired: bool
    samples: list[Frames]
    cuts: tuple[float, ...] = ()


@dataclass(frozen=True, kw_only=True)
class _Job:
    """The arguments of one decode call."""

    plan: Plan
    max_pixels: int
    min_pixels: int
    limits: Limits
    strict: bool
    sampled: bool
    deadline: Deadline
    scenes: float | None

    def finish(self, info: VideoInfo) -> Finish:
        """Return the function that resizes this video's pictures to the pixel budget.

        Raises MediaError if one side is too long for the other.
        """
        height, width = _fit(info.height, info.width, self.max_pixels, self.min_pixels)
        return lambda pixels: resize(pixels, height, width)


def decode(
    source: Source,
    plan: Plan,
    *,
    max_pixels: int = MAX_PIXELS,
    min_pixels: int = MIN_PIXELS,
    limits: Limits = DEFAULT_LIMITS,
    strict: bool = True,
    sampled: bool = False,
    scenes: float | None = None,
    keep_open: bool = False,
) -> Decoded:
    """Check one video and take all frames the plan asks for, in one decode.

    source: local path, pyarrow/fsspec URI, bytes, or a folder of frames. plan: requests, or a
    function of the probed facts that returns them. max_pixels, min_pixels: area of a returned frame
    (see `fit_pixels`). strict: decode every frame and refuse damage anywhere; without it only what
    the requested frames need is decoded, and damage elsewhere is not noticed. sampled: the strict
    pass decodes only what the requested frames need, and checks the other pictures by the structure
    of the container and of their packets; where that shows damage, everything is decoded. Frames
    are RGB, as displayed (upright, square pixels, transparency on white), from the best video
    stream. All seconds are on the file's own clock (`VideoInfo`).

    scenes: find cuts whose score is above it (`scenes.SceneCuts`); needs the full strict pass.
    keep_open: keep the packets and the hash of the file, and the bytes of a remote one, until this process
    keeps another file; the next call for it only decodes.

    Raises MediaError with one of `Reason`; ValueError for a request that is invalid for this video.
    """
    if scenes is not None and (sampled or not strict):
        raise ValueError("scenes: cuts are found by decoding everything; leave strict=True and sampled=False")
    job = _Job(
        plan=plan,
        max_pixels=max_pixels,
        min_pixels=min_pixels,
        limits=limits,
        strict=strict,
        sampled=sampled,
        deadline=Deadline(limits.wall_clock_s),
        scenes=scenes,
    )
    if is_folder(source):
        return _decode_folder(source, job)
    file = _kept_file(str(source), limits) if keep_open else _File(source, limits)
    blob = file.blob
    try:
        if is_animated_webp(blob):
            result, repaired = _decode_animated_webp(blob, job), False
        else:
            result, repaired = _decode_or_repair(file, job)
    except MemoryError as error:
        raise MediaError(Reason.OUT_OF_MEMORY, f"{blob.name}: {error}") from error
    except av.error.FFmpegError as error:  # from a call that does not expect one
        raise media_error(error, blob.name) from error
    return Decoded(
        info=result.info,
        content_hash=file.content_hash,
        size=blob.size,
        repaired=repaired,
        samples=result.samples,
        cuts=result.cuts,
    )


def read_frames(
    source: Source,
    *,
    k: int = 8,
    start: float | None = None,
    end: float | None = None,
    max_pixels: int = MAX_PIXELS,
    min_pixels: int = MIN_PIXELS,
    limits: Limits = DEFAULT_LIMITS,
) -> Frames:
    """Read k uniform frames of the whole video, or of [start, end] seconds on the file's clock.

    The first and last frame are included. Only what is needed is decoded (`decode(...,
    strict=False)`). If there are fewer than k frames, some repeat. Raises MediaError; ValueError
    for k < 1 or start >= end.
    """
    request = FrameRequest(k=k, start=start, end=end)
    return decode(
        source, [request], max_pixels=max_pixels, min_pixels=min_pixels, limits=limits, strict=False
    ).samples[0]


def read_image(
    source: Source,
    *,
    max_pixels: int = MAX_PIXELS,
    min_pixels: int = MIN_PIXELS,
    limits: Limits = DEFAULT_LIMITS,
) -> Frames:
    """Read a still picture as Frames with T = 1, fps 0 and duration 0; of an animation, the first picture.

    Raises MediaError; ValueError for a budget smaller than one patch.
    """
    blob = open_source(source, limits)
    try:
        pixels = read_picture(blob, limits, lambda height, width: _fit(height, width, max_pixels, min_pixels))
    except MemoryError as error:
        raise MediaError(Reason.OUT_OF_MEMORY, f"{blob.name}: {error}") from error
    return Frames(
        pixels=pixels[None],
        timestamps=np.zeros(1),
        indices=np.zeros(1, dtype=np.int64),
        fps=0.0,
        duration=0.0,
        total_frames=1,
    )


@dataclass(frozen=True, kw_only=True, eq=False)
class _Result:
    """The frames of one file."""

    info: VideoInfo
    samples: list[Frames]
    cuts: tuple[float, ...] = ()


class _File:
    """The bytes of one file; its packets and its hash are read when they are first needed."""

    def __init__(self, source: Source, limits: Limits) -> None:
        self.blob, self._limits = open_source(source, limits), limits

    @cached_property
    def scanned(self) -> Scan:
        return scan(without_trailer(self.blob), self._limits)

    @cached_property
    def content_hash(self) -> str:
        return self.blob.sha256()


_kept: dict[tuple[str, tuple[int, int], Limits], _File] = {}  # one file at most


def _kept_file(source: str, limits: Limits) -> _File:
    """Return the file that is kept open, if it is this one and has not changed; otherwise keep this one."""
    try:
        key = source, file_facts(source), limits
    except (OSError, ValueError, ImportError):
        return _File(source, limits)  # which says what is wrong
    if key not in _kept:
        _kept.clear()  # before another file is in memory, too
        _kept[key] = _File(source, limits)
    return _kept[key]


class _Selection:
    """The frames that a job requests from one video.

    numbers: those of the frames. cuts: finds the scenes, if they are requested.
    """

    def __init__(self, job: _Job, info: VideoInfo, timeline: Timeline) -> None:
        requests = job.plan(info) if callable(job.plan) else job.plan
        self._info, self._timeline = info, timeline
        self._indices = [request.indices(timeline.seconds) for request in requests]
        self.numbers = {int(i) for indices in self._indices for i in indices}
        self.cuts = None if job.scenes is None else SceneCuts(job.scenes)

    def result(self, pixels: dict[int, np.ndarray]) -> _Result:
        """Arrange the frames by request. pixels: frame number -> uint8 [H, W, 3]."""
        info, seconds = self._info, self._timeline.seconds
        samples = [
            Frames(
                pixels=np.stack([pixels[int(i)] for i in indices]),
                timestamps=seconds[indices].astype(np.float64),
                indices=indices,
                fps=info.fps,
                duration=info.duration,
                total_frames=info.total_frames,
            )
            for indices in self._indices
        ]
        cuts = () if self.cuts is None else self.cuts.numbers
        return _Result(
            info=info, samples=samples, cuts=tuple(float(seconds[i]) for i in cuts if i < len(seconds))
        )


def _decode_or_repair(file: _File, job: _Job) -> tuple[_Result, bool]:
    """Return the result and whether the file was repaired.

    A file that is still broken after the repair keeps its first reason. A repaired file is always
    decoded as a whole: whether the repair was right shows only there.
    """
    checked = replace(job, strict=True, sampled=False)
    try:
        scanned = file.scanned
    except MediaError as error:
        repaired = (
            cut_leading_rubbish(without_trailer(file.blob)) if error.reason == Reason.NOT_A_VIDEO else None
        )
        if repaired is None:
            raise
        try:
            return _decode_scanned(scan(repaired, job.limits), checked), True
        except MediaError as second:
            raise error from second
    if has_broken_timestamps(scanned) and not scanned.packets.damage:
        # If a remux fails or repairs nothing, the original file is judged.
        with suppress(MediaError):
            rescanned = scan(remux(scanned), job.limits, start=scanned.info.start)
            if not has_broken_timestamps(rescanned):
                again = _decode_scanned(rescanned, checked)
                return replace(again, info=replace(again.info, container=scanned.info.container)), True
    return _decode_scanned(scanned, job), False


def _decode_scanned(scanned: Scan, job: _Job) -> _Result:
    job.limits.check_length(scanned.info.duration, scanned.info.total_frames)
    try:
        result = _decode_frames(scanned, job)
    except MediaError as error:
        if scanned.protected and error.reason == Reason.CORRUPT:
            raise MediaError(Reason.ENCRYPTED, f"decrypt the file first ({error.detail})") from error
        raise
    if scanned.packets.doubtful:
        check_doubtful_bytes(scanned, job.deadline)
    return result


def _decode_frames(scanned: Scan, job: _Job) -> _Result:
    timeline, finish = scanned.timeline, job.finish(scanned.info)
    if timeline is not None and timeline.pts is not None:
        selection = _Selection(job, scanned.info, timeline)
        if not job.strict or (job.sampled and not scanned.packets.may_be_damaged):
            frames = read_sparse(scanned, timeline, selection.numbers, finish, job.deadline)
            if frames is not None:
                return selection.result(frames)
        seen = read_sequential(
            scanned, timeline, selection.numbers, finish, job.deadline, cuts=selection.cuts
        )
        if seen.pts == timeline.pts.tolist():
            return selection.result(seen.frames)
        if lost := lost_frames(seen, scanned, timeline):
            raise MediaError(Reason.CORRUPT, f"{lost} of {len(timeline)} frames do not decode")
    return _decode_observed(scanned, job, finish)


def _decode_observed(scanned: Scan, job: _Job, finish: Finish) -> _Result:
    """Decode twice, for files whose packets and frames do not correspond one to one.

    Such files have one field a packet, no timestamps, or pictures that are not shown. The first
    pass learns the timeline from the decoder, the second takes the frames.
    """
    first = read_sequential(scanned, None, set(), finish, job.deadline)
    if len(first.pts) < MIN_FRAMES:
        raise MediaError(
            Reason.TOO_FEW_FRAMES,
            f"{len(first.pts)} frames decode; at least {MIN_FRAMES} are needed",
        )
    timeline = observed_timeline(first, scanned)
    info = replace(
        scanned.info,
        total_frames=len(timeline),
        start=float(timeline.seconds[0]),
        duration=timeline.duration,
        fps=mean_fps(scanned.info.fps, len(timeline), timeline.duration),
    )
    job.limits.check_length(info.duration, info.total_frames)
    selection = _Selection(job, info, timeline)
    seen = read_sequential(scanned, None, selection.numbers, finish, job.deadline, cuts=selection.cuts)
    return selection.result(seen.frames)


def _decode_animated_webp(blob: Blob, job: _Job) -> _Result:
    info, timeline = scan_animated_webp(blob, job.limits)
    finish = job.finish(info)
    selection = _Selection(job, info, timeline)
    frames = {}
    for number, pixels in enumerate(animated_webp_frames(blob)):
        job.deadline.check()
        if selection.cuts is not None:
            selection.cuts.see(av.VideoFrame.from_ndarray(pixels, format="rgb24"))
        if number in selection.numbers:
            frames[number] = finish(pixels)
    if missing := selection.numbers - frames.keys():
        raise MediaError(Reason.CORRUPT, f"{len(missing)} of {len(timeline)} frames do not decode")
    return selection.result(frames)


def _decode_folder(source: Source, job: _Job) -> Decoded:
    blobs, info, timeline, digest = scan_folder(source, job.limits)
    selection = _Selection(job, info, timeline)
    size = _fit(info.height, info.width, job.max_pixels, job.min_pixels)
    frames = {}
    for number in sorted(selection.numbers):
        job.deadline.check()
        frames[number] = read_picture(blobs[number], job.limits, lambda *_: size)
    return Decoded(
        info=info,
        content_hash=digest,
        size=sum(blob.size for blob in blobs),
        repaired=False,
        samples=selection.result(frames).samples,
    )


def _fit(height: int, width: int, max_pixels: int, min_pixels: int) -> tuple[int, int]:
    """Call `fit_pixels`; raise MediaError for a picture that is too long and narrow."""
    try:
        return fit_pixels(height, width, max_pixels=max_pixels, min_pixels=min_pixels)
    except ValueError as error:
        if max(height, width) > MAX_ASPECT * min(height, width):
            raise MediaError(Reason.UNUSABLE_SHAPE, str(error)) from error
        raise
