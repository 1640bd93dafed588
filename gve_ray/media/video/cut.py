"""Copy a moment of a video into a separate mp4 file, with its sound.

    cut("film.mkv", "moment.mp4", 60.0, 70.0, 1 << 30, limits=limits)

Pictures and sound are copied and not encoded again, so this takes little time and loses nothing. A
picture can be decoded only from a key frame on, so the file also has the pictures from the last key
frame before the moment. An edit list (ISO/IEC 14496-12, section 8.6.6) makes players begin with the
picture that is on screen at the start of the moment, and end with the last one of the moment. Only
pictures of a codec that mp4 cannot hold (GIF, VP8, ProRes) are encoded again, as H.264. Of the source,
only the parts that are needed are read.
"""

import math
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from fractions import Fraction
from itertools import islice
from typing import Any

import av
from av.audio.stream import AudioStream
from av.codec.codec import UnknownCodecError
from av.container import InputContainer, OutputContainer
from av.packet import Packet
from av.video.frame import VideoFrame
from av.video.stream import VideoStream

from gve_ray.media.container.edit_list import shorten
from gve_ray.media.limits import Limits, MediaError, Reason
from gve_ray.media.source import Source, raise_storage_fault
from gve_ray.media.video.encode import Encoder
from gve_ray.media.video.open_video import (
    best_stream,
    container_name,
    decoder_of,
    media_error,
    open_container,
)
from gve_ray.media.video.probe import SQUARE_PIXELS, clock_zero
from gve_ray.media.video.sequential import Deadline
from gve_ray.media.video.sparse import INDEXED

_EARLIER = (0.0, 10.0, 60.0)  # seconds before the moment at which a key frame is searched for
_LEADING = 64  # packets, among which is the first picture that is shown
_NEAR = 0.001  # seconds; many containers round their times
_PREROLL = 0.1  # seconds of sound before the moment, with which a decoder starts
_APART = 5.0  # seconds by which sound may be stored away from the pictures that it belongs to
_JUMP = 10.0  # seconds; a longer step in a transport stream is a new clock
_TIMESCALE = 90_000  # ticks per second of the edit lists


@dataclass(frozen=True, kw_only=True)
class _Film:
    """A file and its clock. base: seconds of a tick. first: ticks of the first picture. zero: ticks at
    which the clock reads 0. is_indexed: whether a key frame can be found without reading the file.
    """

    source: Source
    base: Fraction
    first: int
    zero: int
    is_indexed: bool

    def ticks(self, seconds: float) -> Fraction:
        return self.zero + Fraction(seconds) / self.base

    def seconds(self, ticks: int | Fraction) -> float:
        return float((ticks - self.zero) * self.base)

    @contextmanager
    def opened(self, ticks: Fraction) -> Iterator[tuple[InputContainer, VideoStream]]:
        """Open the file at a key frame not after `ticks`, or at its beginning."""
        with open_container(self.source) as container:
            stream = best_stream(container)
            if self.is_indexed and ticks > self.first:
                container.seek(math.floor(ticks), stream=stream, backward=True)
            yield container, stream


@dataclass(frozen=True, kw_only=True)
class _Part:
    """The packets of a moment, from a key frame on. All times are in ticks.

    pts: of each packet, in decoding order. origin: pts of the first picture that is shown. end: when the
    last one ends. durations: pts -> duration of the pictures that are shown.
    """

    pts: list[int]
    origin: int
    end: Fraction
    durations: dict[int, int]

    @property
    def dts(self) -> list[int]:
        """Decoding times, which some files leave out: the times of the pictures in order, early enough
        for each to be decoded before it is shown."""
        ordered = sorted(self.pts)
        delay = max(time - pts for time, pts in zip(ordered, self.pts, strict=True))
        return [time - delay for time in ordered]


@dataclass(frozen=True, kw_only=True)
class Cut:
    """What an mp4 of a moment has.

    start, end: seconds on the source's clock at which its first picture begins (that is, when it came on
    screen, less than a frame before the moment) and its last one ends. sound: "copied", "none" if there
    is none at that time, or "left out" if mp4 cannot hold its codec.
    """

    start: float
    end: float
    sound: str


def cut(source: Source, target: str, start: float, end: float, most: int, *, limits: Limits) -> Cut:
    """Write the moment [start, end] of a video to the file `target`.

    start, end: seconds on the file's clock. most: bytes of the pictures and the sound.

    Raises MediaError: unreadable, no_video_stream, unsupported_codec, encrypted, corrupt, timeout,
    too_large; and too_few_frames if no picture is shown in the moment. Raises OSError if an object store fails.
    """
    deadline = Deadline(limits.wall_clock_s)
    try:
        film = _film(source)
        part = _part(film, start, end, deadline)
        sound = _write(film, part, target, most, limits, deadline)
    except av.error.FFmpegError as error:
        raise media_error(error, "the file") from error
    except (OSError, ValueError, ImportError) as error:
        raise_storage_fault(error)
        raise MediaError(Reason.UNREADABLE, f"the file: {error}") from error
    shorten(target, math.floor((part.end - part.origin) * film.base * _TIMESCALE))
    return Cut(start=film.seconds(part.origin), end=film.seconds(part.end), sound=sound)


def _film(source: Source) -> _Film:
    with open_container(source) as container:
        stream = best_stream(container)
        assert stream.time_base is not None
        leading = islice(filter(_is_shown, container.demux(stream)), _LEADING)
        first = min((packet.pts for packet in leading if packet.pts is not None), default=None)
        if first is None:
            raise _no_times()
        return _Film(
            source=source,
            base=stream.time_base,
            first=first,
            zero=clock_zero(container, stream, first),
            is_indexed=container_name(container) in INDEXED,
        )


def _is_shown(packet: "Packet[VideoStream]") -> bool:
    return packet.size > 0 and not packet.is_discard


def _part(film: _Film, start: float, end: float, deadline: Deadline) -> _Part:
    """Find the packets of a moment."""
    for earlier in _EARLIER if film.is_indexed else ():
        part = _read_part(film, film.ticks(start - earlier), start, end, deadline)
        if part is not None and part.pts[0] <= film.ticks(start + _NEAR):
            return part
    part = _read_part(film, Fraction(film.first), start, end, deadline)
    if part is None:
        raise MediaError(Reason.TOO_FEW_FRAMES, f"no picture is shown from {start:g} s to {end:g} s")
    return part


def _read_part(film: _Film, at: Fraction, start: float, end: float, deadline: Deadline) -> _Part | None:
    """Find the packets of a moment in those after the key frame before `at`; None if there are none.

    The moment begins with the picture that is on screen at `start` and has those that begin before
    `end`. The packets begin with the last key frame that is not shown after `start`, or else with the
    first key frame.
    """
    first, after, until = film.ticks(start + _NEAR), film.ticks(end - _NEAR), film.ticks(end)
    rows: list[tuple[int, int, bool]] = []  # pts, duration, whether it is shown
    last: int | None = None
    with film.opened(at) as (container, stream):
        for packet in container.demux(stream):
            deadline.check()
            if packet.size == 0:
                continue
            if packet.has_sidedata("encryption_info"):
                raise MediaError(Reason.ENCRYPTED, "its pictures are encrypted; decrypt the file first")
            if packet.pts is None:
                raise _no_times()
            if not film.is_indexed and last is not None and packet.dts is not None:
                _check_step(container, float((packet.dts - last) * film.base))
            last = packet.dts
            if packet.is_keyframe and (packet.pts <= first or not rows):
                rows = []
            if rows or packet.is_keyframe:
                rows.append((packet.pts, packet.duration or 0, not packet.is_discard))
            if packet.dts is not None and packet.dts >= after:  # none of those that follow is shown before
                break
        times = [pts for pts, _, _ in rows]
        # An AVI file has no times, and FFmpeg's are wrong if those of reordered pictures ascend.
        if (
            container_name(container) == "avi"
            and stream.codec_context.has_b_frames
            and times == sorted(times)
        ):
            raise _no_times()
    shown = [(pts, duration) for pts, duration, is_shown in rows if is_shown and pts < after]
    if not shown:
        return None
    count = max(number for number, (pts, _, _) in enumerate(rows, 1) if pts < after)
    origin = max((pts for pts, _ in shown if pts <= first), default=min(shown)[0])
    final, duration = max(shown)
    later = [pts for pts, _, _ in rows if pts >= after]
    if later or duration:
        until = min(until, Fraction(min(later) if later else final + duration))
    return _Part(
        pts=[pts for pts, _, _ in rows[:count]],
        origin=origin,
        end=until,
        durations={pts: duration for pts, duration in shown if pts >= origin},
    )


def _check_step(container: InputContainer, seconds: float) -> None:
    if seconds < 0 or (container_name(container) == "mpegts" and seconds > _JUMP):
        raise MediaError(Reason.CORRUPT, "the times of its pictures jump; download the whole file")


def _no_times() -> MediaError:
    return MediaError(Reason.CORRUPT, "it does not say when its pictures are shown; download the whole file")


class _Copier:
    """Copies packets. origin: ticks of the source's stream that become 0."""

    def __init__(self, out: OutputContainer, stream: VideoStream | AudioStream, origin: int) -> None:
        self._copy, self._origin = out.add_stream_from_template(stream, opaque=True), origin
        if stream.codec_context.name == "hevc":
            self._copy.codec_context.codec_tag = "hvc1"  # Apple's players know no other

    def packets(self, packet: "Packet[Any] | None") -> "Iterator[Packet[Any]]":
        """Return the packets of the mp4 that a packet of the source gives. None: the last one was given."""
        if packet is not None:
            assert packet.pts is not None
            assert packet.dts is not None
            packet.pts, packet.dts = packet.pts - self._origin, packet.dts - self._origin
            packet.stream = self._copy
            yield packet


def _first_picture(film: _Film, part: _Part, limits: Limits) -> VideoFrame:
    with film.opened(Fraction(part.pts[0])) as (container, stream):
        decoder = decoder_of(stream, limits)
        for packet in container.demux(stream):
            for frame in decoder.decode(packet):
                return frame
    raise MediaError(Reason.CORRUPT, "its first picture does not decode")


def _write(film: _Film, part: _Part, target: str, most: int, limits: Limits, deadline: Deadline) -> str:
    """Write the mp4, whose edit lists do not end yet where the part ends. Return `Cut.sound`."""
    options = {"movflags": "+faststart", "movie_timescale": str(_TIMESCALE)}
    length, has_sound, is_sound_over = (part.end - part.origin) * film.base, False, False
    done, written, decoding = 0, 0, part.dts
    with (
        film.opened(part.pts[0] - Fraction(_APART) / film.base) as (container, stream),
        av.open(target, "w", format="mp4", options=options) as out,
    ):
        pictures = _pictures(out, container, stream, film, part, limits)
        sound = container.streams.best("audio", related=stream)
        sounds = _sounds(out, sound, part.origin * film.base) if isinstance(sound, AudioStream) else None
        for packet in container.demux([stream, sound] if sound and sounds else [stream]):
            deadline.check()
            if packet.size == 0 or packet.pts is None:
                continue
            if packet.stream.index == stream.index:
                if done == len(part.pts):
                    if sounds is None or (packet.pts - part.end) * film.base > _APART:
                        break
                elif done or (packet.is_keyframe and packet.pts == part.pts[0]):
                    packet.dts = decoding[done]
                    if done + 1 == len(part.pts):  # an edit list must not be longer than the packets
                        packet.duration = math.ceil(part.end) - packet.dts
                    written += _mux(out, pictures.packets(packet))
                    done += 1
            elif sounds is not None:
                seconds = packet.pts * packet.time_base - part.origin * film.base
                is_sound_over = seconds >= length
                if -_PREROLL <= seconds < length:
                    packet.dts = packet.pts
                    written += _mux(out, sounds.packets(packet))
                    has_sound = has_sound or seconds + (packet.duration or 0) * packet.time_base > 0
            if written > most:
                raise MediaError(Reason.TOO_LARGE, f"more than {most} bytes; download the whole file")
            if done == len(part.pts) and is_sound_over:
                break
        _mux(out, pictures.packets(None))
    if done < len(part.pts):
        raise MediaError(Reason.CORRUPT, f"{len(part.pts) - done} of its pictures cannot be read again")
    return "left out" if sound is not None and sounds is None else "copied" if has_sound else "none"


def _pictures(
    out: OutputContainer,
    container: InputContainer,
    stream: VideoStream,
    film: _Film,
    part: _Part,
    limits: Limits,
) -> _Copier | Encoder:
    """Return what copies the pictures, or encodes them if mp4 cannot hold their codec."""
    try:
        return _Copier(out, stream, part.origin)
    except ValueError as error:
        aspect = stream.sample_aspect_ratio if container_name(container) not in SQUARE_PIXELS else None
        try:
            return Encoder(
                out,
                decoder_of(stream, limits),
                _first_picture(film, part, limits),
                shown=part.durations,
                base=film.base,
                rate=stream.average_rate or Fraction(25),
                aspect=aspect or Fraction(1),
            )
        except UnknownCodecError:
            detail = f"{error}, and there is no H.264 encoder here; download the whole file"
            raise MediaError(Reason.UNSUPPORTED_CODEC, detail) from error


def _sounds(out: OutputContainer, sound: AudioStream, origin: Fraction) -> _Copier | None:
    """Return what copies the sound; None if mp4 cannot hold its codec. origin: seconds that become 0."""
    if sound.codec_context is None or sound.time_base is None:
        return None
    try:
        return _Copier(out, sound, round(origin / sound.time_base))
    except ValueError:
        return None


def _mux(out: OutputContainer, packets: "Iterable[Packet[Any]]") -> int:
    """Write packets, and return the number of their bytes."""
    size = 0
    for packet in packets:
        size += packet.size
        out.mux(packet)
    return size
