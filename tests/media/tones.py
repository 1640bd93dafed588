"""Videos with tones, and an ear that says when it hears which: every word has a frequency of its own."""

from collections.abc import Sequence
from fractions import Fraction
from pathlib import Path

import av
import numpy as np

# Hz; far from each other, and below half of every sample rate here
WORDS = {"treasure": 600.0, "island": 1000.0, "parrot": 1600.0, "lantern": 2400.0}
FPS = 5
_BLOCK = 0.05  # seconds

# start and end in seconds, and a word
Spoken = tuple[float, float, str]


def write_speaking(
    path: Path,
    seconds: float,
    spoken: Sequence[Spoken],
    *,
    rate: int = 44_100,
    layout: str = "stereo",
    codec: str = "aac",
    begin: float = 0.0,
    silent: Sequence[tuple[float, float]] = (),
) -> str:
    """Write a video in which words are spoken, each as its tone, and return its path.

    begin: start of the sound. silent: spans in which the track has no packets at all.
    """
    times = np.arange(round((seconds - begin) * rate)) / rate + begin
    wave = np.zeros(len(times), np.float32)
    for start, end, word in spoken:
        inside = (times >= start) & (times < end)
        wave[inside] += 0.4 * np.sin(2 * np.pi * WORDS[word] * times[inside])
    with av.open(str(path), "w") as container:
        video = container.add_stream("libx264", rate=FPS)
        video.width, video.height, video.pix_fmt = 64, 64, "yuv420p"
        sound = container.add_stream(codec, rate=rate, layout=layout)
        for number in range(round(seconds * FPS)):
            picture = np.full((64, 64, 3), 8 * number % 256, np.uint8)
            container.mux(video.encode(av.VideoFrame.from_ndarray(picture, "rgb24")))
        container.mux(video.encode())
        for at in range(0, len(wave), 1024):
            if any(start <= times[at] < end for start, end in silent):
                continue
            channels = 2 if layout == "stereo" else 1
            part = np.repeat(wave[None, at : at + 1024], channels, axis=0)
            frame = av.AudioFrame.from_ndarray(np.ascontiguousarray(part), "fltp", layout)
            frame.sample_rate, frame.time_base = rate, Fraction(1, rate)
            frame.pts = round(times[at] * rate)
            container.mux(sound.encode(frame))
        container.mux(sound.encode())
    return str(path)


def hear(samples: np.ndarray, rate: int) -> list[Spoken]:
    """Return the words in samples, int16 [n], with start and end in seconds from their beginning."""
    size = round(_BLOCK * rate)
    words: list[str | None] = []
    for at in range(0, len(samples) - size + 1, size):
        block = samples[at : at + size].astype(np.float64) / 2**15
        if np.sqrt((block**2).mean()) < 0.05:
            words.append(None)
            continue
        loudest = np.abs(np.fft.rfft(block * np.hanning(size))).argmax() / _BLOCK
        words.append(min(WORDS, key=lambda word: abs(WORDS[word] - loudest)))
    spoken: list[Spoken] = []
    for number, word in enumerate(words):
        start, end = number * _BLOCK, (number + 1) * _BLOCK
        if word is None:
            continue
        if spoken and spoken[-1][2] == word and abs(spoken[-1][1] - start) < 1e-6:
            spoken[-1] = (spoken[-1][0], end, word)
        else:
            spoken.append((start, end, word))
    return spoken
