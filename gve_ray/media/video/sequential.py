"""The strict engine: one pass over the whole stream that checks every frame and keeps the requested ones.

Decoders conceal damage, and this pass detects it. A file passes only if no packet or frame is
marked as corrupt, no decoder call fails, every packet that should give a frame gives one, and no
picture depends on bytes that cannot belong to it. Damage inside one entropy-coded slice that still
decodes to the right length remains undetected, because H.264 and similar codecs have no checksums;
benchmarks/media.py measures how often that happens.
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

# Every coded picture of these is shown, so a packet without a frame is damage. Other codecs have
# packets that show nothing by design (VP8's alternate references, MPEG-4's "not coded" pictures).
ALWAYS_SHOWN = frozenset({"h264", "hevc", "av1", "vp9", "mjpeg"})

# Replaces doubtful bytes. It has no zeros, so it cannot form a start code.
_FILLER = b"\xb5\x6b\xd3\x9a"

Finish = Callable[[np.ndarray], np.ndarray]  # full-size RGB -> the frame that is kept


@dataclass
class Deadline:
    """The wall-clock time for one file, checked between frames."""

    seconds: float
    started: float = field(default_factory=time.monotonic)

    def check(self) -> None:
        """Raise MediaError("timeout") if the time is over."""
        if time.monotonic() - self.started > self.seconds:
            raise MediaError(Reason.TIMEOUT, f"not done after {self.seconds:g} s")


@dataclass(frozen=True, kw_only=True, eq=False)
class Pass:
    """The result of one sequential pass.

    frames: number -> uint8 [H, W, 3]. pts: ticks of every frame in output order, None if the
    decoder gave none. interlaced: whether any frame was interlaced.
    """

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

    A frame's number is its position in `timeline.pts`, or in the decoder's output if there is no
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
    """Yield decoded frames in output order. Raises MediaError("corrupt") at the first sign of damage."""
    n_packets = n_frames = 0
    try:
        for packet in packets:
            if packet.size == 0 and packet.dts is not None:
                continue  # a placeholder inside the stream, which would mean the end to the decoder
            for frame in video.decode(packet):
                if frame.is_corrupt:
                    raise MediaError(Reason.CORRUPT, f"frame {n_frames}: damaged, the decoder conceals it")
                yield frame
                n_frames += 1
            n_packets += 1
    except av.error.FFmpegError as error:
        raise media_error(error, f"packet {n_packets}") from error


def check_doubtful_bytes(scan: Scan, deadline: Deadline) -> None:
    """Raise MediaError("corrupt") if a picture depends on bytes that cannot belong to a coded picture.

    The file is decoded twice in parallel, once unchanged and once with those bytes replaced. If the
    slice ended before them (for example, if they are padding), the pictures are the same. If they
    are a gap that was filled with zeros, the pictures differ.
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
                    f"packet {at}: a picture depends on bytes that cannot belong to it, such as a gap of zeros",
                )


def _replaced(packet: "av.Packet[VideoStream]", ranges: list[slice]) -> "av.Packet[VideoStream]":
    """Return a copy of a packet with filler in these ranges."""
    data = bytearray(bytes(packet))
    for part in ranges:
        n = part.stop - part.start
        data[part] = (_FILLER * (n // len(_FILLER) + 1))[:n]
    copy: av.Packet[VideoStream] = av.Packet(bytes(data))
    copy.pts, copy.dts, copy.time_base, copy.stream = packet.pts, packet.dts, packet.time_base, packet.stream
    copy.is_keyframe = packet.is_keyframe
    return copy


def _pictures(video: OpenVideo, packet: "av.Packet[VideoStream]") -> list[bytes] | str:
    """Return the samples of the frames that a packet completes, or the message of the decoder's error."""
    try:
        frames = video.decode(packet)
    except MemoryError:
        raise
    except av.error.FFmpegError as error:
        return str(error)
    return [_samples(plane, frame) for frame in frames for plane in frame.planes]


def _samples(plane: VideoPlane, frame: VideoFrame) -> bytes:
    """Return a plane without the padding at the end of its lines, which decoders leave undefined."""
    width = plane.width * (1 if frame.format.components[0].bits <= 8 else 2)
    lines = np.frombuffer(memoryview(plane), np.uint8)[: plane.height * plane.line_size]
    return lines.reshape(plane.height, plane.line_size)[:, :width].tobytes()


def lost_frames(seen: Pass, scan: Scan, timeline: Timeline) -> int:
    """Count the frames that packets announce but the decoder did not give, if only damage explains that.

    Frames before the first key frame are not counted if the stream does not start with a key frame,
    and neither are those of interlaced streams, which may have one field per packet.
    """
    if timeline.pts is None or seen.interlaced or scan.info.codec not in ALWAYS_SHOWN:
        return 0
    decoded = {p for p in seen.pts if p is not None}
    if not decoded:
        return len(timeline)
    keys = scan.packets.pts[scan.packets.keyframe & scan.packets.shown]
    first = min(decoded) if scan.packets.keyframe[0] or not len(keys) else max(min(decoded), int(keys[0]))
    return int(sum(int(p) not in decoded and p > first for p in timeline.pts))


def observed_timeline(seen: Pass, scan: Scan) -> Timeline:
    """Return the timeline of the decoded frames, in output order.

    The timestamps are those of the decoder if they ascend; else frame number / fps (25 if unknown),
    from the start that the file states.
    """
    ticks = np.array([p for p in seen.pts if p is not None], dtype=np.int64)
    n = len(seen.pts)
    gap = 1.0 / (scan.info.fps or 25.0)
    if len(ticks) == n and n and np.all(np.diff(ticks) > 0):
        seconds = (ticks - min(scan.zero, int(ticks[0]))) * float(scan.packets.time_base)
        return Timeline(seconds=seconds, pts=ticks, end=float(seconds[-1] + gap))
    return Timeline(seconds=scan.info.start + np.arange(n) * gap, pts=None, end=scan.info.start + n * gap)
