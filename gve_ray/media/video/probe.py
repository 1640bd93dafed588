"""List the packets of a video: facts about it and the time of every frame, before it is decoded.

The timeline makes sampling exact: frame i is the packet with the i-th smallest presentation
timestamp, and the decoder must return the frame with that timestamp.

All seconds are on the file's presentation clock, as a player shows it: a picture that starts 3 s
after the sound starts at 3.0 (`VideoInfo.start`). `clock_zero` determines where that clock starts.
"""

from contextlib import AbstractContextManager
from dataclasses import dataclass
from fractions import Fraction

import av
import numpy as np
from av.container import InputContainer
from av.video.frame import VideoFrame
from av.video.stream import VideoStream

from gve_ray.media.container.framing import is_protected
from gve_ray.media.limits import MIN_FRAMES, Limits, MediaError, Reason
from gve_ray.media.source import Blob
from gve_ray.media.video.nal import inspect, length_size
from gve_ray.media.video.open_video import OpenVideo, container_name, media_error, open_video
from gve_ray.media.video.orientation import Orientation

_OWN_TIMELINE = frozenset({"mp4", "matroska", "ogg"})
_MAX_SPAN = 1e9  # seconds; timestamps further apart are damage
_CODEC_NAMES = {"libdav1d": "av1", "libvpx": "vp8", "libvpx-vp9": "vp9"}  # decoder name -> codec name
# Their pixel aspect ratio does not affect the display: encoders write any number, and browsers
# ignore it.
SQUARE_PIXELS = frozenset({"gif", "apng"})


@dataclass(frozen=True, kw_only=True)
class VideoInfo:
    """Facts about the best video stream of a file.

    width, height: of the displayed picture: mirrored and rotated, and stretched in width where
    pixels are not square. fps: mean frames a second. start: seconds on the file's clock at which
    the first frame is shown. duration: seconds from there to the end of the last frame. mirrored,
    rotation: how the stored picture was turned for display (see `Orientation`).
    """

    container: str
    codec: str
    width: int
    height: int
    fps: float
    duration: float
    total_frames: int
    start: float = 0.0
    rotation: int = 0
    mirrored: bool = False

    @property
    def end(self) -> float:
        """Seconds on the file's clock at which the last frame ends."""
        return self.start + self.duration

    @property
    def orientation(self) -> Orientation:
        return Orientation(rotation=self.rotation, mirrored=self.mirrored)


@dataclass(frozen=True, kw_only=True, eq=False)
class Timeline:
    """When each frame is shown.

    seconds: float64 [n] on the file's clock, ascending. pts: int64 [n], the container's ticks,
    unique and ascending; None if the container has no usable ones, so that a frame is identified
    only by its number in the decoder's output. end: seconds at which the last frame ends.
    """

    seconds: np.ndarray
    pts: np.ndarray | None
    end: float

    def __len__(self) -> int:
        return len(self.seconds)

    @property
    def duration(self) -> float:
        """Seconds from the first frame's start to the last frame's end."""
        return self.end - float(self.seconds[0]) if len(self) else 0.0


@dataclass(frozen=True, kw_only=True, eq=False)
class Packets:
    """The video packets of a file in decoding order, one entry each.

    pts, dts: int64 [n] in ticks of `time_base`, with `has_pts`/`has_dts` False where missing.
    keyframe, shown: bool [n]; shown is False for packets that an edit list removes or that hold no
    picture. disposable: bool [n], True only for pictures that no other one refers to. damage: a
    description of what the demuxer reports, or "". fits: whether the syntax elements around the
    coded pictures of every packet fit together, as far as they are known. doubtful: packet number
    -> byte ranges that cannot belong to a coded picture by its syntax (see `nal.inspect`).
    """

    pts: np.ndarray
    dts: np.ndarray
    duration: np.ndarray
    keyframe: np.ndarray
    shown: np.ndarray
    disposable: np.ndarray
    time_base: Fraction
    has_pts: bool
    has_dts: bool
    damage: str
    fits: bool
    doubtful: dict[int, list[slice]]

    def __len__(self) -> int:
        return len(self.pts)

    @property
    def may_be_damaged(self) -> bool:
        """Whether the file looks damaged before any picture is decoded."""
        return bool(self.damage or self.doubtful) or not self.fits


@dataclass(frozen=True, kw_only=True, eq=False)
class Scan:
    """A file and the facts that its packets give; only the first frame is decoded.

    timeline: None if timestamps are missing or repeat. zero: ticks at which the file's clock reads
    0. reordered: whether the decoder outputs pictures in another order than that of the packets.
    intra_only: whether no picture of this codec refers to another one. protected: whether the
    container declares that some or all pictures are encrypted.
    """

    blob: Blob
    limits: Limits
    info: VideoInfo
    packets: Packets
    timeline: Timeline | None
    zero: int
    reordered: bool
    intra_only: bool
    protected: bool

    def open(self) -> AbstractContextManager[OpenVideo]:
        """Open the file. Raises as `open_video`."""
        return open_video(self.blob, self.limits)


def scan(blob: Blob, limits: Limits, *, start: float | None = None) -> Scan:
    """List the packets, decode the first frame, and check its size, the number of frames and completeness.

    The duration is not checked: what the container states, or a clock that jumps, may be wrong by
    hours although the frames are right. start: seconds on the file's clock of the first frame, for
    a copy without the other streams; None: take it from the container.

    Raises MediaError: those of `open_video`, truncated, corrupt, encrypted, too_few_frames,
    too_many_frames.
    """
    with open_video(blob, limits, examine=True) as video:
        packets, first = _read_packets(video, limits)
        stream, context = video.stream, video.stream.codec_context
        container = container_name(video.container)
        codec = _CODEC_NAMES.get(context.name, context.name)
        width, height = (first.width, first.height) if first else (context.width, context.height)
        limits.check_picture(width, height)
        aspect = Fraction(stream.sample_aspect_ratio or 1) if container not in SQUARE_PIXELS else Fraction(1)
        stated_fps = float(stream.average_rate or stream.guessed_rate or 0)
        zero = 0
        if packets.has_pts and packets.shown.any():
            zero = clock_zero(video.container, stream, int(packets.pts[packets.shown].min()), start)
        reordered, intra_only = bool(context.has_b_frames), context.codec.intra_only
    orientation = Orientation() if first is None else Orientation.of_frame(first)
    width = max(1, round(width * aspect)) if aspect > 0 else width
    total = int(packets.shown.sum())
    if total < MIN_FRAMES:
        raise MediaError(Reason.TOO_FEW_FRAMES, f"{total} frames; at least {MIN_FRAMES} are needed")
    timeline = _timeline(packets, zero)
    if packets.has_pts:
        start = float((packets.pts[packets.shown].min() - zero) * packets.time_base)
    duration = timeline.duration if timeline else (total / stated_fps if stated_fps else 0.0)
    info = VideoInfo(
        container=container,
        codec=codec,
        width=height if orientation.swaps_sides else width,
        height=width if orientation.swaps_sides else height,
        fps=mean_fps(stated_fps, total, duration),
        start=start or 0.0,
        duration=duration,
        total_frames=total,
        rotation=orientation.rotation,
        mirrored=orientation.mirrored,
    )
    return Scan(
        blob=blob,
        limits=limits,
        info=info,
        packets=packets,
        timeline=timeline,
        zero=zero,
        reordered=reordered,
        intra_only=intra_only,
        protected=is_protected(blob),
    )


def clock_zero(container: InputContainer, stream: VideoStream, first: int, start: float | None = None) -> int:
    """Return the ticks of a stream at which the file's clock reads 0.

    first: ticks of the first picture that is shown. start: seconds on that clock at which it is shown;
    None: take them from the container.

    MP4, Matroska and Ogg have a timeline whose start is tick 0, and browsers show exactly that. The
    ticks of other containers (a transport stream, a live recording) start anywhere; their clock
    starts with the earliest sound or picture. The clock never shows less than 0.
    """
    base = stream.time_base
    assert base is not None
    if start is None:
        if container_name(container) in _OWN_TIMELINE:
            return min(0, first)
        # FFmpeg only guesses the start of this stream if its first picture is far into the file.
        own = float(first * base)
        others = (
            float(s.start_time * s.time_base)
            for s in container.streams
            if s is not stream
            and s.type in ("audio", "video")
            and s.start_time is not None
            and s.time_base is not None
        )
        start = own - min([own, *others])
    return first - round(start / base)


def mean_fps(stated: float, total: int, duration: float) -> float:
    """Return the frames per second: the stated rate if it fits, else the mean.

    The rate that the container states is either exact, or far from the truth because the writer did
    not know it (1000 in many FLV and Matroska files) or dropped frames.
    """
    if duration <= 0:
        return stated
    mean = total / duration
    return stated if abs(stated - mean) < 0.01 * mean else mean


def _read_packets(video: OpenVideo, limits: Limits) -> tuple[Packets, VideoFrame | None]:
    rows: list[tuple[int, int, int, bool, bool]] = []
    layers: list[tuple[int, bool]] = []
    has_pts = has_dts = fits = True
    damage = ""
    doubtful: dict[int, list[slice]] = {}
    first: VideoFrame | None = None
    stream = video.stream
    codec = stream.codec_context.name
    indexed = sum(entry.size > 0 for entry in stream.index_entries)
    nal_length = length_size(codec, stream.codec_context.extradata)
    try:
        for packet in video.packets():
            if packet.size == 0:  # end of stream, or a placeholder some writers use for a repeated frame
                continue
            if packet.has_sidedata("encryption_info"):
                raise MediaError(Reason.ENCRYPTED, f"packet {len(rows)} is encrypted; decrypt the file first")
            if first is None:
                first = _first_frame(video, packet)
            has_pts &= packet.pts is not None
            has_dts &= packet.dts is not None
            # The counters of a transport stream also jump where undamaged recordings were joined,
            # so the decoder decides there.
            if packet.is_corrupt and video.container.format.name != "mpegts":
                damage = damage or f"packet {len(rows)}: the demuxer marks it as corrupt"
            has_picture = True
            if nal_length:
                content = inspect(bytes(packet), codec, nal_length)
                has_picture = content.has_picture
                layers.append((content.layer, content.disposable))
                fits &= content.fits
                if content.doubtful:
                    doubtful[len(rows)] = content.doubtful
            rows.append(
                (
                    packet.pts or 0,
                    packet.dts or 0,
                    packet.duration or 0,
                    packet.is_keyframe,
                    has_picture and not packet.is_discard,
                )
            )
            limits.check_length(0.0, len(rows))
    except av.error.FFmpegError as error:
        raise media_error(error, f"after {len(rows)} packets") from error
    if len(rows) < indexed:
        damage = damage or f"{indexed - len(rows)} of {indexed} indexed packets cannot be read"
    times = [row[0] for row in rows]
    span = float((max(times, default=0) - min(times, default=0)) * (stream.time_base or 0))
    if span > _MAX_SPAN:
        raise MediaError(Reason.CORRUPT, f"the frames' timestamps are {span:.0f} s apart")
    table = np.array(rows, dtype=np.int64).reshape(-1, 5)
    packets = Packets(
        pts=table[:, 0],
        dts=table[:, 1],
        duration=table[:, 2],
        keyframe=table[:, 3].astype(bool),
        shown=table[:, 4].astype(bool),
        disposable=_disposable(layers, len(rows)),
        time_base=stream.time_base or Fraction(1, 1000),
        has_pts=has_pts,
        has_dts=has_dts,
        damage=damage,
        fits=fits,
        doubtful=doubtful,
    )
    return packets, first


def _disposable(layers: list[tuple[int, bool]], packets: int) -> np.ndarray:
    """Return bool [packets] from (temporal layer, whether no picture of the layer refers to it).

    Pictures of a higher layer may still refer to it. The list is empty for codecs without NAL units.
    """
    if not layers:
        return np.zeros(packets, dtype=bool)
    layer, disposable = np.array(layers, dtype=np.int64).T
    return disposable.astype(bool) & (layer == layer.max())


def _first_frame(video: OpenVideo, packet: "av.Packet[VideoStream]") -> VideoFrame | None:
    """Decode the first frame, for its orientation and size; the full pass checks for damage later."""
    try:
        return next(iter(video.decode(packet)), None)
    except MemoryError:
        raise
    except av.error.FFmpegError:
        return None


def _timeline(packets: Packets, zero: int) -> Timeline | None:
    """Return the timeline of the shown packets; None if timestamps are missing or repeat."""
    if not packets.has_pts:
        return None
    order = np.argsort(packets.pts[packets.shown], kind="stable")
    pts = packets.pts[packets.shown][order]
    if len(pts) == 0 or np.any(np.diff(pts) <= 0):
        return None
    tick = float(packets.time_base)
    seconds = (pts - zero) * tick
    last = packets.duration[packets.shown][order][-1] * tick
    if last <= 0:  # some containers state no durations
        last = (seconds[-1] - seconds[0]) / (len(pts) - 1) if len(pts) > 1 else 0.0
    return Timeline(seconds=seconds, pts=pts, end=float(seconds[-1] + last))
