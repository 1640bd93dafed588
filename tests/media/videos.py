"""Videos whose every frame carries its own number, so a test can identify the frames it gets."""

import io
import os
import struct
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from fractions import Fraction
from pathlib import Path

import av
import numpy as np

BITS = 10  # frame numbers up to 1023, one black or white block a bit along the top edge


@dataclass(frozen=True, kw_only=True)
class Clip:
    """What to render. Encoder options as FFmpeg spells them; `ticks` overrides the presentation times."""

    frames: int = 30
    width: int = 140
    height: int = 112
    fps: int = 10
    codec: str = "libx264"
    container: str = "mp4"
    pix_fmt: str = "yuv420p"
    options: dict[str, str] = field(default_factory=dict)
    mux: dict[str, str] = field(default_factory=dict)
    ticks: Sequence[int] | None = None  # of 1/1000 s
    noise: float = 0.0
    audio: bool = False


def picture(number: int, width: int, height: int, noise: float = 0.0) -> np.ndarray:
    """uint8 [height, width, 3]: the number in binary along the top, a moving square below."""
    pixels = np.empty((height, width, 3), np.uint8)
    pixels[:] = (70, 110, 150)
    block, tall = width // BITS, max(8, height // 4)
    for bit in range(BITS):
        pixels[:tall, bit * block : (bit + 1) * block] = 255 * (number >> bit & 1)
    x = 5 + number * 3 % max(1, width - 30)
    pixels[tall + 5 : tall + 25, x : x + 20] = (200, 40, 30)
    if noise:
        rng = np.random.default_rng(number)
        grain = rng.normal(0, noise, (height - tall, width, 1))
        pixels[tall:] = np.clip(pixels[tall:] + grain, 0, 255).astype(np.uint8)
    return pixels


def read_number(pixels: np.ndarray) -> int:
    """The number a frame carries. pixels: uint8 [H, W, 3] of any size, upright."""
    height, width = pixels.shape[:2]
    row = pixels[max(2, height // 10)].mean(axis=-1)
    centres = (np.arange(BITS) + 0.5) * (width * (BITS * (140 // BITS)) / 140) / BITS
    return int(sum(int(row[int(c)] > 127) << bit for bit, c in enumerate(centres)))


@contextmanager
def scheduling_kept() -> Iterator[None]:
    """To encode within: as root, SVT-AV1 puts the calling thread under real-time scheduling.

    All processes started later inherit that, and a whole Ray cluster of them starves the machine.
    """
    policy, priority = os.sched_getscheduler(0), os.sched_getparam(0)
    try:
        yield
    finally:
        os.sched_setscheduler(0, policy, priority)


def render(clip: Clip) -> bytes:
    """Encode a clip to a file's bytes, with one thread so that it is the same every time."""
    out = io.BytesIO()
    options = dict(clip.options)
    if clip.codec == "libx264":
        # x264's macroblock tree reads uninitialised memory, so the same pictures would give different files.
        options["x264-params"] = ":".join(filter(None, (options.get("x264-params"), "mbtree=0")))
    with scheduling_kept(), av.open(out, "w", format=clip.container, options=clip.mux) as container:
        stream = container.add_stream(clip.codec, rate=clip.fps, options=options)
        stream.width, stream.height, stream.pix_fmt = clip.width, clip.height, clip.pix_fmt
        stream.codec_context.thread_count = 1
        tick = Fraction(1, clip.fps) if clip.ticks is None else Fraction(1, 1000)
        stream.codec_context.time_base = tick
        sound = container.add_stream("aac", rate=16000) if clip.audio else None
        for number in range(clip.frames):
            frame = av.VideoFrame.from_ndarray(picture(number, clip.width, clip.height, clip.noise), "rgb24")
            frame = frame.reformat(format=clip.pix_fmt)
            frame.pts = number if clip.ticks is None else clip.ticks[number]
            frame.time_base = tick
            container.mux(stream.encode(frame))
        container.mux(stream.encode())
        if sound is not None:
            silence = av.AudioFrame.from_ndarray(np.zeros((1, 16000), np.float32), "fltp", "mono")
            silence.sample_rate = 16000
            container.mux(sound.encode(silence))
            container.mux(sound.encode())
    return out.getvalue()


def flip_bits(data: bytes, *, number: int, skip: int) -> bytes:
    """The file with other bytes in packet `number`, except for its first `skip` bytes."""
    with av.open(io.BytesIO(data)) as container:
        packet = next(p for i, p in enumerate(container.demux(video=0)) if i == number)
        start, end = packet.pos + skip, packet.pos + packet.size
    return data[:start] + bytes(b ^ 0x5A for b in data[start:end]) + data[end:]


def turn(data: bytes, degrees: int) -> bytes:
    """Write a rotation into an MP4's track header (ISO/IEC 14496-12 section 8.3.2: matrix a b u c d v x y w)."""
    a, b = {90: (0, 1), 180: (-1, 0), 270: (0, -1)}[degrees]
    at = data.index(b"tkhd") + 4 + 40  # version 0: the matrix starts 40 bytes into the box's content
    block = 1 << 16
    matrix = struct.pack(">9i", a * block, b * block, 0, -b * block, a * block, 0, 0, 0, 1 << 30)
    return data[:at] + matrix + data[at + 36 :]


def sequential(data: bytes) -> list[np.ndarray]:
    """Every frame of the best video stream as RGB, decoded in order: the truth all engines are held to."""
    with av.open(io.BytesIO(data)) as container:
        stream = container.streams.best("video")
        return [frame.to_ndarray(format="rgb24") for frame in container.decode(stream)]


def media_files() -> list[Path]:
    """Real files from elsewhere, where this machine has them."""
    default = Path(__file__).resolve().parents[3] / "shared" / "media"
    folder = Path(os.environ.get("GVE_MEDIA_DIR", default))
    return sorted(p for p in folder.glob("*") if p.suffix in {".mp4", ".mkv", ".webm", ".avi", ".ts", ".mov"})
