"""The sparse engine: decord reads just the wanted frames, PyAV where decord could be wrong.

Only containers with an exact index (MP4, Matroska) are read sparsely; the rest seek by guessing byte
positions or carry no presentation times (AVI), and are decoded from the start.

decord numbers key frames in decoding order and its frames in display order. The two agree only if no
frame of a group is shown before the group's key frame (closed GOPs); where they differ (x265's default,
open-GOP H.264) decord silently returns neighbours of the frame asked for. It also counts frames that an
edit list hides. `decord_is_exact` tells from the packet list when neither can happen; everything else
goes to PyAV, which seeks to a key frame and matches presentation timestamps exactly. What either engine
refuses is decoded from the start before anyone calls it damaged.
"""

import io
from collections.abc import Iterator
from itertools import chain

import av
import numpy as np
from av.container import InputContainer
from av.video.stream import VideoStream

from gve_ray.media.limits import Limits, MediaError, Reason
from gve_ray.media.probe import Packets, Scan, Timeline, open_video
from gve_ray.media.rgb import RgbConverter
from gve_ray.media.sequential import Deadline, Finish, strict_frames
from gve_ray.media.source import Blob

_INDEXED = frozenset({"mp4", "matroska"})

# decord replaces a frame it cannot decode by the one before; this share of such frames makes it raise.
_DECORD_FAULTS = 1e-9


def decord_is_exact(packets: Packets) -> bool:
    """True where decord's random access returns the frames asked for.

    Every packet is shown, the stream starts with a key frame, and at each key frame the frames decoded
    before it are exactly those shown before it. And no key frame is decoded by the time the one before it
    is shown: decord seeks by presentation time in an index of decoding times, and would land on it.
    """
    complete = packets.has_pts and packets.has_dts and len(packets) > 0
    if not (complete and packets.shown.all() and packets.keyframe[0]):
        return False
    shown_before = np.argsort(np.argsort(packets.pts, kind="stable"), kind="stable")
    latest = np.maximum.accumulate(shown_before)
    keys = np.flatnonzero(packets.keyframe)
    # At key packet i: it is the i-th frame shown, and so all i packets before it are shown before it.
    closed = np.all(shown_before[keys] == keys) and np.all(latest[keys] == keys)
    apart = np.all(packets.dts[keys[1:]] > packets.pts[keys[:-1]])
    return bool(closed and apart)


def read_decord(
    blob: Blob, timeline: Timeline, wanted: list[int], finish: Finish
) -> dict[int, np.ndarray] | None:
    """Frames by decord with one thread; None where its frame table differs from ours or it gives up.

    decord fails on some sound files (its decoder thread cannot take a packet back after a seek).
    """
    import decord
    from decord._ffi.base import DECORDLimitReachedError

    decord.logging.set_level(decord.logging.QUIET)
    target = f"file:{blob.path.absolute()}" if blob.path is not None else io.BytesIO(blob.read())
    try:
        reader = decord.VideoReader(target, num_threads=1, fault_tol=_DECORD_FAULTS)
        if len(reader) != len(timeline):
            return None
        starts = reader.get_frame_timestamp(wanted)[:, 0]
        # decord keeps float32 seconds: its own resolution at the end of the file is the tolerance.
        if not np.allclose(starts, timeline.seconds[wanted], rtol=1e-6, atol=1e-3):
            return None
        frames = {}
        for i in wanted:
            pixels = reader[i].asnumpy()
            if pixels.shape[2] != 3:  # seen on a few sound yuv420p files; what it holds then is not RGB
                return None
            frames[i] = finish(pixels)
        return frames
    except (decord.DECORDError, DECORDLimitReachedError, RuntimeError, StopIteration):
        return None


def read_sparse(
    blob: Blob,
    scan: Scan,
    timeline: Timeline,
    wanted: set[int],
    finish: Finish,
    *,
    limits: Limits,
    deadline: Deadline,
) -> dict[int, np.ndarray] | None:
    """number -> `finish(rgb)` of the wanted frames, without decoding what is not needed for them.

    None where only a full pass can tell. Raises MediaError("timeout").
    """
    deadline.check()
    if timeline.pts is None or scan.info.container not in _INDEXED:
        return None
    order = sorted(wanted)
    if decord_is_exact(scan.packets):
        frames = read_decord(blob, timeline, order, finish)
        if frames is not None:
            return frames
    return _read_seeking(blob, scan, timeline, order, finish, limits=limits, deadline=deadline)


def _read_seeking(
    blob: Blob,
    scan: Scan,
    timeline: Timeline,
    wanted: list[int],
    finish: Finish,
    *,
    limits: Limits,
    deadline: Deadline,
) -> dict[int, np.ndarray] | None:
    """PyAV: seek to the key frame before each run of wanted frames, decode on, match timestamps.

    None where a seek, a frame or a timestamp does not come out.
    """
    assert timeline.pts is not None
    convert = RgbConverter(scan.info.rotation)
    number_of = {int(timeline.pts[i]): i for i in wanted}
    frames: dict[int, np.ndarray] = {}
    with open_video(blob, limits) as (container, stream):
        for key, targets in _runs(scan.packets, timeline.pts[wanted]).items():
            left = set(targets)
            try:
                for frame in strict_frames(_seek(container, stream, scan.packets, key)):
                    deadline.check()
                    if frame.pts in left:
                        left.remove(frame.pts)
                        frames[number_of[frame.pts]] = finish(convert(frame))
                    if not left:
                        break
            except MemoryError:
                raise
            except av.error.FFmpegError:  # the seek itself
                return None
            except MediaError as error:
                if error.reason != Reason.CORRUPT:
                    raise
                return None
            if left:
                return None
    return frames


def _seek(
    container: InputContainer, stream: VideoStream, packets: Packets, key: int
) -> "Iterator[av.Packet[VideoStream]]":
    """The packets from key packet number `key` on, or from an earlier key frame; none if neither is found.

    Indices go by presentation time (Matroska) or decoding time (MP4). Seeking to the former can lead past
    the key frame meant, which its timestamp shows; seeking to the latter never does, but may lead a group
    too far back.
    """
    for moment in (int(packets.pts[key]), int(packets.dts[key])):
        container.seek(moment, stream=stream, backward=True)
        found = container.demux(stream)
        first = next(found, None)
        if (
            first is not None
            and first.is_keyframe
            and first.pts is not None
            and first.pts <= packets.pts[key]
        ):
            return chain([first], found)
    return iter(())


def _runs(packets: Packets, targets: np.ndarray) -> dict[int, list[int]]:
    """Wanted pts by the packet number of the key frame to start from: the last one, in decoding order, that
    is shown no later than the target. The target is then no leading picture of it, and decodes right from
    there (H.265 section 8.3.3: trailing pictures never refer to what precedes their random access point)."""
    keys = np.flatnonzero(packets.keyframe)
    runs: dict[int, list[int]] = {}
    for target in targets.tolist():
        usable = keys[packets.pts[keys] <= target]
        runs.setdefault(int(usable[-1]) if len(usable) else 0, []).append(int(target))
    return runs
