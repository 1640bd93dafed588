"""The strict engine: one pass over the whole stream that checks every frame and keeps the wanted ones.

Decoders conceal damage; this pass does not let them. A file passes only if no packet or frame is marked
corrupt, no decoder call fails, every packet that ought to give a frame gives it, and no picture depends on
bytes that cannot belong to it. Damage inside one entropy-coded slice that still decodes to something of
the right length cannot be seen, for H.264 and its kin carry no checksums; benchmarks/media.py measures how
often that happens.
"""

import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass, field

import av
import numpy as np
from av.video.frame import VideoFrame
from av.video.plane import VideoPlane
from av.video.stream import VideoStream

from gve_ray.media.limits import MediaError, Reason
from gve_ray.media.video.open_video import OpenVideo, media_error
from gve_ray.media.video.probe import Scan, Timeline
from gve_ray.media.video.rgb import RgbConverter
from gve_ray.media.video.scenes import SceneCuts

# Every coded picture of these is shown, so a packet without a frame is damage. Others have packets that
# show nothing by design (VP8's alternate references, MPEG-4's "not coded" pictures).
_ALWAYS_SHOWN = frozenset({"h264", "hevc", "av1", "vp9", "mjpeg"})

# Replaces doubtful bytes: it has no zeros, so it cannot form a start code.
_FILLER = b"\xb5\x6b\xd3\x9a"


Finish = Callable[[np.ndarray], np.ndarray]  # full-size RGB -> what is kept of it


@dataclass
class Deadline:
    """Seconds of wall clock left for one file, checked between frames."""

    seconds: float
    started: float = field(default_factory=time.monotonic)

    def check(self) -> None:
        """Raises MediaError("timeout")."""
        if time.monotonic() - self.started > self.seconds:
            raise MediaError(Reason.TIMEOUT, f"not done after {self.seconds:g} s")


@dataclass(frozen=True, kw_only=True, eq=False)
class Pass:
    """What one sequential pass saw. frames: number -> uint8 [H, W, 3]. pts: ticks of every frame in output
    order, None where the decoder gave none. interlaced: any frame was."""

    frames: dict[int, np.ndarray]
    pts: list[int | None]
    interlaced: bool


def read_sequential(
    scan: Scan,
    timeline: Timeline | None,
    numbers: set[int],
    finish: Finish,
    deadline: Deadline,
    *,
    cuts: SceneCuts | None = None,
) -> Pass:
    """Decode everything in order; keep `finish(rgb)` of the frames with these numbers. cuts: is shown every frame.

    A frame's number is its place in `timeline.pts`, or its place in output order where there is no
    timeline. Raises MediaError: corrupt, timeout, and those of `open_video`.
    """
    if scan.packets.damage:
        raise MediaError(Reason.CORRUPT, scan.packets.damage)
    number_of: dict[int, int] | None = None
    if timeline is not None and timeline.pts is not None:
        number_of = {int(p): i for i, p in enumerate(timeline.pts)}
    convert = RgbConverter(scan.info.orientation)
    frames: dict[int, np.ndarray] = {}
    pts: list[int | None] = []
    interlaced = False
    with scan.open() as video:
        for frame in strict_frames(video, video.packets()):
            deadline.check()
            if cuts is not None:
                cuts.see(frame)
            number = len(pts) if number_of is None or frame.pts is None else number_of.get(frame.pts, -1)
            pts.append(frame.pts)
            interlaced |= frame.interlaced_frame
            if number in numbers:
                frames[number] = finish(convert(frame))
    return Pass(frames=frames, pts=pts, interlaced=interlaced)


def strict_frames(video: OpenVideo, packets: "Iterator[av.Packet[VideoStream]]") -> Iterator[VideoFrame]:
    """Decoded frames in output order. Raises MediaError("corrupt") at the first sign of damage."""
    n_packets = n_frames = 0
    try:
        for packet in packets:
            if packet.size == 0 and packet.dts is not None:
                continue  # a placeholder inside the stream; to the decoder it would mean the end
            for frame in video.decode(packet):
                if frame.is_corrupt:
                    raise MediaError(Reason.CORRUPT, f"frame {n_frames}: damaged, the decoder conceals it")
                yield frame
                n_frames += 1
            n_packets += 1
    except MemoryError:
        raise
    except av.error.FFmpegError as error:
        raise media_error(error, f"packet {n_packets}") from error


def check_doubtful_bytes(scan: Scan, deadline: Deadline) -> None:
    """Raises MediaError("corrupt") if a picture depends on bytes that cannot belong to a coded picture.

    Decodes the file twice side by side, once as it is and once with those bytes replaced. A slice that ended
    before them (padding, say) gives the same pictures; one with a hole of zeros does not.
    """
    doubtful = scan.packets.doubtful
    with ExitStack() as stack:
        original, altered = (stack.enter_context(scan.open()) for _ in range(2))
        number = 0
        for left, right in zip(original.packets(), altered.packets(), strict=True):
            if left.size == 0 and left.dts is not None:
                continue
            if ranges := doubtful.get(number):
                right = _replaced(right, ranges)
            number += 1
            deadline.check()
            if _pictures(original, left) != _pictures(altered, right):
                at = min(doubtful)
                raise MediaError(
                    Reason.CORRUPT,
                    f"packet {at}: a picture depends on bytes that cannot belong to it, such as a hole of zeros",
                )


def _replaced(packet: "av.Packet[VideoStream]", ranges: list[slice]) -> "av.Packet[VideoStream]":
    """A copy of a packet with filler in these ranges."""
    data = bytearray(bytes(packet))
    for part in ranges:
        n = part.stop - part.start
        data[part] = (_FILLER * (n // len(_FILLER) + 1))[:n]
    copy: av.Packet[VideoStream] = av.Packet(bytes(data))
    copy.pts, copy.dts, copy.time_base, copy.stream = packet.pts, packet.dts, packet.time_base, packet.stream
    copy.is_keyframe = packet.is_keyframe
    return copy


def _pictures(video: OpenVideo, packet: "av.Packet[VideoStream]") -> list[bytes] | str:
    """The samples of the frames that come out for a packet, or what the decoder complains of."""
    try:
        frames = video.decode(packet)
    except MemoryError:
        raise
    except av.error.FFmpegError as error:
        return str(error)
    return [_samples(plane, frame) for frame in frames for plane in frame.planes]


def _samples(plane: VideoPlane, frame: VideoFrame) -> bytes:
    """A plane without the padding at the end of its lines, which decoders leave undefined."""
    width = plane.width * (1 if frame.format.components[0].bits <= 8 else 2)
    lines = np.frombuffer(memoryview(plane), np.uint8)[: plane.height * plane.line_size]
    return lines.reshape(plane.height, plane.line_size)[:, :width].tobytes()


def lost_frames(seen: Pass, scan: Scan, timeline: Timeline) -> int:
    """Frames the packets promise and the decoder did not give, where that can only be damage.

    Not counted: in a stream that starts in mid-GOP, frames before the first key frame; and interlaced
    streams, which may carry one field a packet.
    """
    if timeline.pts is None or seen.interlaced or scan.info.codec not in _ALWAYS_SHOWN:
        return 0
    decoded = {p for p in seen.pts if p is not None}
    if not decoded:
        return len(timeline)
    keys = scan.packets.pts[scan.packets.keyframe & scan.packets.shown]
    first = min(decoded) if scan.packets.keyframe[0] or not len(keys) else max(min(decoded), int(keys[0]))
    return int(sum(int(p) not in decoded and p > first for p in timeline.pts))


def observed_timeline(seen: Pass, scan: Scan) -> Timeline:
    """The timeline of what was in fact decoded, in output order.

    Timestamps are the decoder's where they ascend, else frame number / fps (25 where that is unknown) from
    the file's stated start on.
    """
    ticks = np.array([p for p in seen.pts if p is not None], dtype=np.int64)
    n = len(seen.pts)
    gap = 1.0 / (scan.info.fps or 25.0)
    if len(ticks) == n and n and np.all(np.diff(ticks) > 0):
        seconds = (ticks - min(scan.zero, int(ticks[0]))) * float(scan.packets.time_base)
        return Timeline(seconds=seconds, pts=ticks, end=float(seconds[-1] + gap))
    return Timeline(seconds=scan.info.start + np.arange(n) * gap, pts=None, end=scan.info.start + n * gap)
