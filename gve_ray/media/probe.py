"""Open a container safely and list its packets: facts, and the timeline of frames, before any decode.

The timeline is what makes sampling exact: frame i is the packet with the i-th smallest presentation
timestamp, and every engine must hand back the frame with that very timestamp.
"""

import io
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from fractions import Fraction

import av
import numpy as np
from av.container import InputContainer
from av.video.frame import VideoFrame
from av.video.stream import VideoStream

from gve_ray.media.container import is_fragmented, missing_bytes, structural_damage, why_not_opened
from gve_ray.media.limits import Limits, MediaError, Reason
from gve_ray.media.nal import is_valid, length_size
from gve_ray.media.source import Blob

# Containers of self-contained video. Playlists (HLS, DASH, concat) would make FFmpeg open other files,
# and FFmpeg reads text as ANSI art ("tty") and any JPEG as a one-frame video.
_DEMUXERS = "mov,mp4,m4a,3gp,3g2,mj2,matroska,webm,avi,mpegts,mpeg,flv,live_flv,asf,ogg,mxf,nut,gif,apng,ivf,rm,dv,wtv"
_SHORT_NAMES = {"mov,mp4,m4a,3gp,3g2,mj2": "mp4", "matroska,webm": "matroska"}


@dataclass(frozen=True, kw_only=True)
class VideoInfo:
    """Facts about the best video stream of a file.

    width, height: pixels as stored (no sample aspect ratio), rotation applied. fps: mean frames a second.
    duration: seconds from the first frame's start to the last frame's end. rotation: degrees clockwise that
    were applied (0, 90, 180, 270).
    """

    container: str
    codec: str
    width: int
    height: int
    fps: float
    duration: float
    total_frames: int
    rotation: int = 0


@dataclass(frozen=True, kw_only=True, eq=False)
class Timeline:
    """When each frame is shown. seconds: float64 [n] from the first frame, ascending. pts: int64 [n], the
    container's own ticks, unique and ascending; None where the container has no usable ones, and frames
    are then known by their number in decoding output alone. end: seconds at which the last frame ends."""

    seconds: np.ndarray
    pts: np.ndarray | None
    end: float

    def __len__(self) -> int:
        return len(self.seconds)


@dataclass(frozen=True, kw_only=True, eq=False)
class Packets:
    """The video packets of a file in decoding order, one entry each.

    pts, dts: int64 [n] in ticks of `time_base`, with `has_pts`/`has_dts` False where missing.
    keyframe, shown: bool [n]; shown is False for packets an edit list cuts away.
    damage: what the container or the packets' syntax shows to be wrong; "" if nothing.
    """

    pts: np.ndarray
    dts: np.ndarray
    duration: np.ndarray
    keyframe: np.ndarray
    shown: np.ndarray
    time_base: Fraction
    has_pts: bool
    has_dts: bool
    damage: str

    def __len__(self) -> int:
        return len(self.pts)


@dataclass(frozen=True, kw_only=True, eq=False)
class Scan:
    """What one look at a file without decoding it (but for its first frame) tells."""

    info: VideoInfo
    packets: Packets
    timeline: Timeline | None  # None: timestamps are missing or repeat


@contextmanager
def open_video(
    blob: Blob, limits: Limits, *, examine: bool = False
) -> Iterator[tuple[InputContainer, VideoStream]]:
    """The container and its best video stream (av_find_best_stream), set to one thread. With `examine`,
    the container's framing is checked first.

    Raises MediaError: not_a_video, truncated, corrupt, no_video_stream, unsupported_codec, too_many_pixels.
    """
    target = f"file:{blob.path.absolute()}" if blob.path is not None else io.BytesIO(blob.read())
    options = {"format_whitelist": _DEMUXERS, "protocol_whitelist": "file"}
    try:
        container = av.open(target, container_options=options, metadata_errors="replace")
    except MemoryError:
        raise
    except (av.error.FFmpegError, ValueError) as error:
        raise MediaError(why_not_opened(blob), f"{blob.name}: {error}") from error
    with container:
        if examine:
            _check_complete(blob, container)
        stream = _best_stream(container)
        context = stream.codec_context
        limits.check_picture(context.width, context.height)
        context.thread_count = 1  # many processes with one thread each beat many threads a video
        context.options = {"max_pixels": str(limits.max_side_pixels)} | _strictness(context.name)
        yield container, stream


def _strictness(codec: str) -> dict[str, str]:
    """Decoder options that turn silent concealment into errors.

    H.264, MPEG-4 and MPEG-2 mark concealed frames as corrupt by themselves; "aggressive" makes H.264 (CAVLC)
    look at bits left over after a slice, while "explode" would refuse the stale reference commands of many
    healthy cut-and-joined files. HEVC marks nothing; it checks picture hashes where the encoder wrote them.
    """
    if codec == "h264":
        return {"err_detect": "aggressive"}
    return {} if codec in ("mpeg4", "mpeg2video", "mpeg1video") else {"err_detect": "crccheck+explode"}


def _best_stream(container: InputContainer) -> VideoStream:
    pictures = [s for s in container.streams.video if not s.disposition & av.stream.Disposition.attached_pic]
    if not pictures:
        kinds = sorted({s.type for s in container.streams})
        raise MediaError(Reason.NO_VIDEO_STREAM, f"streams: {', '.join(kinds) or 'none'}")
    best = container.streams.best("video")
    if best is None or best.codec_context is None:
        raise MediaError(Reason.UNSUPPORTED_CODEC, f"no decoder for codec tag {pictures[0].codec_tag!r}")
    return best if best in pictures else pictures[0]


def scan(blob: Blob, limits: Limits) -> Scan:
    """List the packets, decode the first frame, check limits and completeness.

    Raises MediaError: those of `open_video`, truncated, corrupt, too_few_frames, too_long, too_many_frames.
    """
    with open_video(blob, limits, examine=True) as (container, stream):
        _check_stated(container, stream, limits)
        packets, first = _read_packets(container, stream, limits)
        container_name = _SHORT_NAMES.get(container.format.name, container.format.name)
        rotation = 0 if first is None else round(-first.rotation / 90) * 90 % 360
        context = stream.codec_context
        width, height = (first.width, first.height) if first else (context.width, context.height)
        codec, stated_fps = context.name, float(stream.average_rate or 0)
    codec = _CODEC_NAMES.get(codec, codec)
    limits.check_picture(width, height)
    total = int(packets.shown.sum())
    if total < limits.min_frames:
        raise MediaError(Reason.TOO_FEW_FRAMES, f"{total} frames; at least {limits.min_frames} are needed")
    timeline = timeline_of(packets)
    duration = timeline.end if timeline else (total / stated_fps if stated_fps else 0.0)
    limits.check_length(duration, total)
    info = VideoInfo(
        container=container_name,
        codec=codec,
        width=height if rotation % 180 else width,
        height=width if rotation % 180 else height,
        fps=stated_fps or (total / duration if duration else 0.0),
        duration=duration,
        total_frames=total,
        rotation=rotation,
    )
    return Scan(info=info, packets=packets, timeline=timeline)


_CODEC_NAMES = {"libdav1d": "av1", "libvpx": "vp8", "libvpx-vp9": "vp9"}  # decoder name -> codec name


def _check_stated(container: InputContainer, stream: VideoStream, limits: Limits) -> None:
    """Refuse by what the header states, before reading on."""
    if stream.duration is not None and stream.time_base is not None:
        duration = float(stream.duration * stream.time_base)
    else:
        duration = (container.duration or 0) / av.time_base
    limits.check_length(duration, stream.frames)


def _check_complete(blob: Blob, container: InputContainer) -> None:
    """Raises MediaError("truncated") where the index or the box sizes point beyond the end of the file."""
    ends: list[int] = []
    if container.format.name.startswith("mov"):
        ends = [entry.pos + entry.size for s in container.streams for entry in s.index_entries]
        if lost := sum(end > blob.size for end in ends):
            raise MediaError(
                Reason.TRUNCATED, f"{lost} of {len(ends)} samples lie beyond the file's {blob.size} bytes"
            )
    # The sample table outranks the size of the box around the samples: recorders that were interrupted,
    # and then mended, leave that wrong while all samples are there. Fragments have no such table.
    ignore = frozenset({b"mdat"}) if ends and not is_fragmented(blob) else frozenset()
    if missing := missing_bytes(blob, ignore=ignore):
        raise MediaError(Reason.TRUNCATED, f"{missing} bytes short of what its container states")
    if damage := structural_damage(blob):
        raise MediaError(Reason.CORRUPT, damage)


def _read_packets(
    container: InputContainer, stream: VideoStream, limits: Limits
) -> tuple[Packets, VideoFrame | None]:
    rows: list[tuple[int, int, int, bool, bool]] = []
    has_pts = has_dts = True
    damage = ""
    first: VideoFrame | None = None
    indexed = sum(entry.size > 0 for entry in stream.index_entries)
    nal_length = length_size(stream.codec_context.name, stream.codec_context.extradata)
    try:
        for packet in container.demux(stream):
            if packet.size == 0:  # end of stream, or a placeholder some writers use for a repeated frame
                continue
            if first is None:
                first = _first_frame(packet)
            has_pts &= packet.pts is not None
            has_dts &= packet.dts is not None
            # A transport stream's counters also break where sound pieces were joined; there the decoder,
            # which sees what is missing, has the last word.
            if packet.is_corrupt and container.format.name != "mpegts":
                damage = damage or f"packet {len(rows)}: the demuxer marks it as corrupt"
            if nal_length and not is_valid(bytes(packet), nal_length):
                damage = damage or f"packet {len(rows)}: impossible bytes"
            rows.append(
                (
                    packet.pts or 0,
                    packet.dts or 0,
                    packet.duration or 0,
                    packet.is_keyframe,
                    not packet.is_discard,
                )
            )
            if len(rows) > limits.max_frames:
                limits.check_length(0.0, len(rows))
    except MemoryError:
        raise
    except av.error.FFmpegError as error:
        raise MediaError(Reason.CORRUPT, f"after {len(rows)} packets: {error}") from error
    if len(rows) < indexed:
        damage = damage or f"{indexed - len(rows)} of {indexed} indexed packets cannot be read"
    table = np.array(rows, dtype=np.int64).reshape(-1, 5)
    packets = Packets(
        pts=table[:, 0],
        dts=table[:, 1],
        duration=table[:, 2],
        keyframe=table[:, 3].astype(bool),
        shown=table[:, 4].astype(bool),
        time_base=stream.time_base or Fraction(1, 1000),
        has_pts=has_pts,
        has_dts=has_dts,
        damage=damage,
    )
    return packets, first


def _first_frame(packet: "av.Packet[VideoStream]") -> VideoFrame | None:
    """The first decodable frame tells rotation and true size; damage is judged later, in the full pass."""
    try:
        return next(iter(packet.decode()), None)
    except MemoryError:
        raise
    except av.error.FFmpegError:
        return None


def timeline_of(packets: Packets) -> Timeline | None:
    """The timeline of the shown packets, or None where timestamps are missing or repeat."""
    if not packets.has_pts:
        return None
    order = np.argsort(packets.pts[packets.shown], kind="stable")
    pts = packets.pts[packets.shown][order]
    if len(pts) == 0 or np.any(np.diff(pts) <= 0):
        return None
    tick = float(packets.time_base)
    seconds = (pts - pts[0]) * tick
    last = packets.duration[packets.shown][order][-1] * tick
    if last <= 0:  # some containers state no durations
        last = seconds[-1] / (len(pts) - 1) if len(pts) > 1 else 0.0
    return Timeline(seconds=seconds, pts=pts, end=float(seconds[-1] + last))
