"""Read the sound of a video piece by piece, as samples for speech recognition: mono, 16 kHz.

    piece = read_sound("film.mp4", seconds=300.0, limits=limits)
    piece.samples, piece.start, piece.following      # `following` is the start of the next piece

`DecodeProcess.read_sound` does this in a child process.
"""

import io
import wave
from collections.abc import Iterator
from dataclasses import dataclass

import av
import numpy as np
from av.audio.frame import AudioFrame
from av.audio.stream import AudioStream
from av.container import InputContainer

from gve_ray.media.limits import Limits, MediaError, Reason
from gve_ray.media.source import Source, raise_storage_fault
from gve_ray.media.video.open_video import open_container

RATE = 16_000  # samples per second
_LEAD_SECONDS = 1.0  # before a piece, which decoders need to begin
_TAIL_SECONDS = 10.0  # of a piece, in which it is cut at the quietest moment
_BLOCK_SECONDS = 0.2  # of such a moment
_GAP_SECONDS = 0.1  # a gap in the sound this long or longer is filled with silence
_LONGEST_GAP_SECONDS = 30.0  # at a longer one, the piece ends


@dataclass(frozen=True, kw_only=True)
class Sound:
    """A piece of sound. start: seconds on the file's own clock. samples: int16 [n], at `RATE`, empty if there are
    no more. following: start of the next piece; None if this is the last.
    """

    start: float
    samples: np.ndarray
    following: float | None

    def as_wav(self) -> bytes:
        """Return the samples as a WAV file."""
        file = io.BytesIO()
        with wave.open(file, "wb") as out:
            out.setnchannels(1)
            out.setsampwidth(2)
            out.setframerate(RATE)
            out.writeframes(self.samples.astype("<i2").tobytes())
        return file.getvalue()


def read_sound(source: Source, *, start: float | None = None, seconds: float, limits: Limits) -> Sound:
    """Return at most `seconds` of the best sound track, from `start`, None for its beginning.

    A longer track is cut in the quietest moment of the last 10 s of the piece, or at a gap of more than 30 s.
    Packets that are damaged are left out. Raises MediaError if the file or its track cannot be opened, and OSError if
    an object store fails.
    """
    try:
        with open_container(source) as container:
            track = container.streams.best("audio")
            if not isinstance(track, AudioStream):
                return Sound(start=start or 0.0, samples=np.empty(0, np.int16), following=None)
            if start is not None and track.time_base:
                moment = max(0.0, start - _LEAD_SECONDS)
                container.seek(round(moment / track.time_base), stream=track, backward=True)
            return _read(container, track, start, seconds)
    except (av.error.FFmpegError, ValueError, OSError) as error:
        raise_storage_fault(error)
        raise MediaError(Reason.CORRUPT, f"{source!s:.200}: sound: {error}") from error


def _read(container: InputContainer, track: AudioStream, start: float | None, seconds: float) -> Sound:
    resampler = av.AudioResampler(format="s16", layout="mono", rate=RATE)
    parts: list[np.ndarray] = []
    begin, length, following = start or 0.0, 0, None  # length: samples in `parts`
    is_first = True
    for frame in _frames(container, track):
        # Where the frame belongs; one without a time follows the one before.
        place = length if frame.time is None else round((frame.time - begin) * RATE)
        if start is not None and place + frame.samples * RATE / frame.sample_rate <= 0:
            continue  # it is from before the piece, because not every packet can be sought
        if is_first and (place > 0 or start is None):
            begin, place = frame.time or begin, 0
        if place - length > _LONGEST_GAP_SECONDS * RATE:
            following = begin + place / RATE
            break
        if place - length > _GAP_SECONDS * RATE:
            parts.append(np.zeros(place - length, np.int16))
            length = place
        resampled = [part.to_ndarray()[0] for part in resampler.resample(frame)]
        if is_first and place < 0 and resampled:
            resampled[0] = resampled[0][-place:]
        is_first = False
        parts += resampled
        length += sum(map(len, resampled))
        if length >= seconds * RATE:
            break
    else:
        parts += [part.to_ndarray()[0] for part in resampler.resample(None)]
    samples = np.concatenate([np.empty(0, np.int16), *parts])
    if len(samples) >= seconds * RATE:
        samples = samples[: _quietest(samples[: round(seconds * RATE)])]
        following = begin + len(samples) / RATE
    return Sound(start=begin, samples=samples, following=following)


def _frames(container: InputContainer, track: AudioStream) -> Iterator[AudioFrame]:
    """Yield the frames of a track, without those that are damaged."""
    for packet in container.demux(track):
        try:
            yield from packet.decode()
        except av.error.InvalidDataError:
            continue


def _quietest(samples: np.ndarray) -> int:
    """Return the place in the last part of the samples where they are the quietest."""
    block = round(_BLOCK_SECONDS * RATE)
    tail = min(round(_TAIL_SECONDS * RATE), len(samples) // 2)
    blocks = max(1, tail // block)
    loudness = np.abs(samples[-blocks * block :].astype(np.int32)).reshape(blocks, block).sum(axis=1)
    return int(len(samples) - (blocks - int(loudness.argmin())) * block + block // 2)
