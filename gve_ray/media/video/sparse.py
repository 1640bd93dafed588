"""The sparse engine: seek to the key frame before each requested frame and decode from there.

Only containers with an exact index (MP4, Matroska) are read sparsely. The others guess byte
positions in a seek or have no presentation times (AVI), so they are decoded from the start. So are
files in which a packet may show no picture: there, only decoding shows how many frames there are.

Every frame is identified by the presentation timestamp of the decoded picture, never by counting
from a position in the index: an index may leave out key pictures, and a seek may end a group too
early. If a requested timestamp does not come out, or the decoder reports damage, the caller decodes
the file from the start. decord counts, so it silently returns wrong frames if its index of key
frames differs from the stream (open GOPs, incomplete sync tables, edit lists); benchmarks/media.py
compares the speed.
"""

from collections.abc import Collection, Iterable, Iterator
from itertools import chain

import av
import numpy as np
from av.video.frame import PictureType
from av.video.stream import VideoStream

from gve_ray.media.limits import MediaError, Reason
from gve_ray.media.video.open_video import OpenVideo
from gve_ray.media.video.probe import Packets, Scan, Timeline
from gve_ray.media.video.rgb import RgbConverter
from gve_ray.media.video.sequential import ALWAYS_SHOWN, Deadline, Finish, strict_frames

INDEXED = frozenset({"mp4", "matroska"})  # containers with an exact index
_PREDICTED = frozenset({PictureType.P, PictureType.B, PictureType.S})


def read_sparse(
    scan: Scan, timeline: Timeline, numbers: set[int], finish: Finish, deadline: Deadline
) -> dict[int, np.ndarray] | None:
    """Return number -> `finish(rgb)` of the requested frames, and decode only what they need.

    Returns None if a full pass is needed: the container has no index, the packets do not tell which
    frames there are, a seek fails, or a frame or its timestamp does not come out. Raises
    MediaError("timeout").
    """
    deadline.check()
    if timeline.pts is None or not _can_seek(scan) or not _packets_are_frames(scan, timeline):
        return None
    convert = RgbConverter(scan.info.orientation)
    number_of = {int(timeline.pts[i]): i for i in numbers}
    unneeded = set(scan.packets.pts[scan.packets.disposable].tolist()) - number_of.keys()
    frames: dict[int, np.ndarray] = {}
    with scan.open() as video:
        for key, targets in _runs(scan.packets, sorted(number_of)).items():
            left = set(targets)
            try:
                first = _seek(video, scan.packets, key)
                if first is None:
                    return None
                for frame in strict_frames(video, _needed(video, chain([first], video.packets()), unneeded)):
                    deadline.check()
                    if frame.pts == first.pts and frame.pict_type in _PREDICTED:
                        return None  # flagged as a key picture, but it needs what came before
                    if frame.interlaced_frame:
                        return None  # a packet may hold one of its fields only
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
    """Return whether its timestamp identifies a decoded picture, wherever decoding starts.

    It does not if packets are reordered but have the same presentation and decoding times (from
    writers that leave out composition offsets), since the decoder then assigns the times in the
    wrong order. Streams that start without a key frame or may be encrypted are excluded as well.
    """
    packets = scan.packets
    scrambled = scan.reordered and packets.has_dts and np.array_equal(packets.pts, packets.dts)
    return (
        scan.info.container in INDEXED and not scrambled and bool(packets.keyframe[0]) and not scan.protected
    )


def _packets_are_frames(scan: Scan, timeline: Timeline) -> bool:
    """Return whether each shown packet gives one frame, in the order of their times, unless the file is damaged.

    Packets of MPEG-4 and VP8 may show nothing. Leading pictures of the first key picture do not
    decode if what they refer to has been cut away. A decoder that does not reorder pictures gives
    them in the order of the packets, whatever times these have.
    """
    assert timeline.pts is not None
    pts = scan.packets.pts
    begins_with_key = int(pts[0]) <= int(timeline.pts[0])
    in_order = scan.reordered or bool(np.all(np.diff(pts) > 0))
    return begins_with_key and in_order and (scan.info.codec in ALWAYS_SHOWN or scan.intra_only)


def _seek(video: OpenVideo, packets: Packets, key: int) -> "av.Packet[VideoStream] | None":
    """Go to key packet number `key`, or to an earlier key packet, and return it; None if that fails.

    An index has presentation times (Matroska) or decoding times (MP4). Seeking to the presentation
    time may end after the key frame, which the timestamp shows; seeking to the decoding time never
    does, but may end a group too early.
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


def _needed(
    video: OpenVideo, packets: "Iterable[av.Packet[VideoStream]]", unneeded: Collection[int]
) -> "Iterator[av.Packet[VideoStream]]":
    """Yield all packets, and let the decoder skip the pictures with the pts in `unneeded`.

    It still reads the parameter sets in their packets. Nothing refers to these pictures, so the
    others are decoded as if nothing were skipped.
    """
    for packet in packets:
        video.decoder.skip_frame = "NONREF" if packet.pts in unneeded else "DEFAULT"
        yield packet


def _runs(packets: Packets, targets: list[int]) -> dict[int, list[int]]:
    """Group the requested pts by the packet number of the key frame to start from.

    That is the last one, in decoding order, that is not shown after the target. The target is then
    not one of its leading pictures, so decoding from there is correct (H.265 section 8.3.3:
    trailing pictures never refer to pictures before their random access point).
    """
    keys = np.flatnonzero(packets.keyframe)
    runs: dict[int, list[int]] = {}
    for target in targets:
        usable = keys[packets.pts[keys] <= target]
        runs.setdefault(int(usable[-1]) if len(usable) else 0, []).append(target)
    return runs
