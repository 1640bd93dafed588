"""The sparse engine: seek to the key frame before each wanted frame and decode from there.

Only containers with an exact index (MP4, Matroska) are read sparsely; the rest seek by guessing byte
positions or carry no presentation times (AVI), and are decoded from the start.

Every frame is identified by the presentation timestamp of the decoded picture itself, never by counting
from a place that an index names: an index may leave out key pictures, and a seek may land a group too far
back. Where a wanted timestamp does not come out, or the decoder reports damage, the caller decodes the
file from the start. decord counts, and so returns wrong frames without a word wherever its index of key
frames differs from the stream (open GOPs, incomplete sync tables, edit lists); benchmarks/media.py has its
speed in comparison.
"""

from itertools import chain

import av
import numpy as np
from av.video.frame import PictureType
from av.video.stream import VideoStream

from gve_ray.media.limits import MediaError, Reason
from gve_ray.media.video.open_video import OpenVideo
from gve_ray.media.video.probe import Packets, Scan, Timeline
from gve_ray.media.video.rgb import RgbConverter
from gve_ray.media.video.sequential import Deadline, Finish, strict_frames

_INDEXED = frozenset({"mp4", "matroska"})
_PREDICTED = frozenset({PictureType.P, PictureType.B, PictureType.S})


def read_sparse(
    scan: Scan, timeline: Timeline, numbers: set[int], finish: Finish, deadline: Deadline
) -> dict[int, np.ndarray] | None:
    """number -> `finish(rgb)` of the requested frames, without decoding what is not needed for them.

    None where only a full pass can tell: a container without an index, or a seek, a frame or a timestamp
    that does not come out. Raises MediaError("timeout").
    """
    deadline.check()
    if timeline.pts is None or not _can_seek(scan):
        return None
    convert = RgbConverter(scan.info.orientation)
    number_of = {int(timeline.pts[i]): i for i in numbers}
    frames: dict[int, np.ndarray] = {}
    with scan.open() as video:
        for key, targets in _runs(scan.packets, sorted(number_of)).items():
            left = set(targets)
            try:
                first = _seek(video, scan.packets, key)
                if first is None:
                    return None
                for frame in strict_frames(video, chain([first], video.packets())):
                    deadline.check()
                    if frame.pts == first.pts and frame.pict_type in _PREDICTED:
                        return None  # flagged as a key picture, but it needs what came before
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


def _can_seek(scan: Scan) -> bool:
    """True where a decoded picture's timestamp names it, wherever decoding starts.

    Not so if the packets are reordered but carry the same presentation and decoding times (writers that
    leave out composition offsets): the decoder then hands the times out in the wrong order. Nor in a stream
    that starts without a key frame, or that may be encrypted.
    """
    packets = scan.packets
    scrambled = scan.reordered and packets.has_dts and np.array_equal(packets.pts, packets.dts)
    return (
        scan.info.container in _INDEXED and not scrambled and bool(packets.keyframe[0]) and not scan.protected
    )


def _seek(video: OpenVideo, packets: Packets, key: int) -> "av.Packet[VideoStream] | None":
    """Go to key packet number `key`, or to an earlier key packet, and return it; None if neither is found.

    Indices go by presentation time (Matroska) or decoding time (MP4). Seeking to the former can lead past
    the key frame meant, which its timestamp shows; seeking to the latter never does, but may lead a group
    too far back.
    """
    for moment in (int(packets.pts[key]), int(packets.dts[key])):
        video.seek(moment)
        first = next(video.packets(), None)
        if (
            first is not None
            and first.is_keyframe
            and first.pts is not None
            and first.pts <= packets.pts[key]
        ):
            return first
    return None


def _runs(packets: Packets, targets: list[int]) -> dict[int, list[int]]:
    """Wanted pts by the packet number of the key frame to start from: the last one, in decoding order, that
    is shown no later than the target. The target is then no leading picture of it, and decodes right from
    there (H.265 section 8.3.3: trailing pictures never refer to what precedes their random access point)."""
    keys = np.flatnonzero(packets.keyframe)
    runs: dict[int, list[int]] = {}
    for target in targets:
        usable = keys[packets.pts[keys] <= target]
        runs.setdefault(int(usable[-1]) if len(usable) else 0, []).append(target)
    return runs
