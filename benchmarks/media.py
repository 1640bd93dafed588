"""Time to decode a video: our two decode paths compared with plain PyAV and decord.

    python benchmarks/media.py [--repeats 9]

Prints JSON. The baseline does what a short script would do: decode all frames in order with PyAV,
convert each to RGB, and resize the eight sampled frames with Pillow, without any checks. `ratio` is
our median time divided by the baseline's in the same run, with interleaved rounds and one thread
each: below 1 is faster. decord reads the same eight frames by random access; it checks nothing and
identifies frames by counting. `found` is the share of damaged copies that the strict pass refuses,
by the number of bytes overwritten with noise in the coded pictures.
"""

import argparse
import io
import json
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import av
import decord
import numpy as np
from PIL import Image

from gve_ray.media import (
    DecodeProcess,
    FrameRequest,
    MediaError,
    decode,
    fit_pixels,
    read_frames,
    uniform_indices,
)

X265 = "log-level=none:pools=none:frame-threads=1"
FILES: dict[str, dict] = {
    "h264 224x168 12 fps 5 s": {"size": (224, 168), "fps": 12, "seconds": 5, "options": {"g": "48"}},
    "h264 480x270 30 fps 10 s": {"size": (480, 270), "fps": 30, "seconds": 10, "options": {"g": "60"}},
    "h264 1280x720 30 fps 4 s": {"size": (1280, 720), "fps": 30, "seconds": 4, "options": {"g": "60"}},
    "h265 480x270 30 fps 10 s": {
        "size": (480, 270),
        "fps": 30,
        "seconds": 10,
        "codec": "libx265",
        "options": {"x265-params": f"{X265}:keyint=60"},
    },
}
PLAN = [FrameRequest(k=8)]


def render(
    *,
    size: tuple[int, int],
    fps: int,
    seconds: float,
    codec: str = "libx264",
    options: dict[str, str],
    grain: float = 6,
) -> bytes:
    """Encode a video of a disc that crosses a grainy background."""
    width, height = size
    rng = np.random.default_rng(0)
    y, x = np.mgrid[:height, :width]
    ground = rng.normal(110, 20, (height, width, 3))
    out = io.BytesIO()
    with av.open(out, "w", format="mp4") as container:
        stream = container.add_stream(codec, rate=fps, options={"preset": "veryfast"} | options)
        stream.width, stream.height, stream.pix_fmt = width, height, "yuv420p"
        stream.codec_context.thread_count = 1
        for i in range(int(fps * seconds)):
            pixels = ground + rng.normal(0, grain, (height, width, 1))
            pixels[(x - width * (i % 90) / 90) ** 2 + (y - height / 2) ** 2 < (height / 6) ** 2] = (
                220,
                50,
                40,
            )
            container.mux(
                stream.encode(av.VideoFrame.from_ndarray(pixels.clip(0, 255).astype(np.uint8), "rgb24"))
            )
        container.mux(stream.encode())
    return out.getvalue()


def baseline(path: Path) -> np.ndarray:
    """Decode all frames with PyAV and resize the eight sampled frames with Pillow."""
    with av.open(str(path)) as container:
        stream = container.streams.best("video")
        stream.thread_type, stream.codec_context.thread_count = "NONE", 1
        frames = [frame.to_ndarray(format="rgb24", threads=1) for frame in container.decode(stream)]
    height, width = fit_pixels(*frames[0].shape[:2])
    chosen = [frames[i] for i in uniform_indices(len(frames), 8)]
    return np.stack([np.asarray(Image.fromarray(f).resize((width, height), Image.BICUBIC)) for f in chosen])


def by_decord(path: Path) -> np.ndarray:
    """Read the eight sampled frames with decord and resize them with Pillow."""
    reader = decord.VideoReader(str(path), num_threads=1)
    frames = [reader[int(i)].asnumpy() for i in uniform_indices(len(reader), 8)]
    height, width = fit_pixels(*frames[0].shape[:2])
    return np.stack([np.asarray(Image.fromarray(f).resize((width, height), Image.BICUBIC)) for f in frames])


def median_ms(runs: dict[str, Callable[[], object]], repeats: int) -> dict[str, float]:
    """Return the median wall time of each run; rounds are interleaved so that other load affects
    all equally.
    """
    times: dict[str, list[float]] = {name: [] for name in runs}
    for run in runs.values():
        run()
    for _ in range(repeats):
        for name, run in runs.items():
            started = time.perf_counter()
            run()
            times[name].append(1000 * (time.perf_counter() - started))
    return {name: statistics.median(values) for name, values in times.items()}


def refused_share(data: bytes, length: int, trials: int = 40) -> float:
    """Return the share of copies with `length` noise bytes in their pictures that `decode` refuses."""
    start = data.index(b"mdat") + 4
    end = start - 8 + int.from_bytes(data[start - 8 : start - 4], "big")
    refused = 0
    for seed in range(trials):
        rng = np.random.default_rng(seed)
        at = start + int((end - start - length) * rng.uniform(0.05, 0.95))
        noise = rng.integers(0, 256, length, dtype=np.uint8).tobytes()
        try:
            decode(data[:at] + noise + data[at + length :], PLAN)
        except MediaError:
            refused += 1
    return refused / trials


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--repeats", type=int, default=9)
    repeats = parser.parse_args().repeats
    report: dict[str, object] = {"baseline": baseline.__doc__, "repeats": repeats}
    with tempfile.TemporaryDirectory() as folder, DecodeProcess() as process:
        for name, settings in FILES.items():
            path = Path(folder) / "clip.mp4"
            path.write_bytes(render(**settings))
            times = median_ms(
                {
                    "baseline": lambda path=path: baseline(path),
                    "decord": lambda path=path: by_decord(path),
                    "strict": lambda path=path: decode(path, PLAN),
                    "sparse": lambda path=path: read_frames(path, k=8),
                    "process": lambda path=path: process.decode(path, PLAN),
                },
                repeats,
            )
            report[name] = {
                "bytes": path.stat().st_size,
                "ms": {run: round(value, 1) for run, value in times.items()},
                "ratio": {
                    run: round(times[run] / times["baseline"], 3)
                    for run in ("decord", "strict", "sparse", "process")
                },
            }
    plain = {"size": (224, 168), "fps": 12, "seconds": 5, "options": {"g": "48"}}
    report["found"] = {
        kind: {
            f"{length} bytes": refused_share(render(**plain, grain=grain), length)
            for length in (64, 512, 4096)
        }
        for kind, grain in (("flat pictures", 0.0), ("grainy pictures", 6.0))
    }
    print(json.dumps(report, indent=2))


if __name__ == "__main__":
    main()
