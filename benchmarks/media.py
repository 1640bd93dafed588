"""What reading a video costs, compared with plain PyAV and decord, and how much damage is found.

    python benchmarks/media.py [FOLDER_OR_FILE ...] [--repeats 9] [--measure rendered named corpus noise]

Prints JSON. All runs have one thread, and rounds are interleaved, so that other load affects all
equally.

`rendered` and `named` are the cost of rendered files and of those on the command line, as medians of
CPU milliseconds. `pyav` does what a short script would do: it
decodes all frames in order, converts and resizes the eight sampled ones with Pillow, and checks
nothing. `decord` reads the same eight frames by random access; it checks nothing and identifies
frames by counting. `full`, `sampled` and `needed` are our decoder: with a full check, with a sampled
check, and without any (`read_frames`). `ingest full` and `ingest sampled` make the row of
`gve synthesize` with 26 frames, a signature and a motion score. `ratio` is the CPU time divided by
that of `pyav`: below 1 is cheaper.

`corpus` is the share of files that each check refuses in a corpus of the demo, by their true kind.
`noise` is the share of copies that each check refuses, by the number of bytes that are overwritten with
noise in the coded pictures.
"""

import argparse
import io
import json
import statistics
import tempfile
import time
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any, Literal

import av
import decord
import numpy as np
from PIL import Image

from gve_ray.demo.corpus import read_truth, write_corpus
from gve_ray.demo.plan import CorpusShares
from gve_ray.media import FrameRequest, MediaError, decode, fit_pixels, read_frames, uniform_indices
from gve_ray.synthesis.config import MediaConfig
from gve_ray.synthesis.ingest import asset_row, sampling_plan

X265 = "log-level=none:pools=none:frame-threads=1"
HD: dict[str, Any] = {"size": (1280, 720), "fps": 30, "seconds": 10}
FILES: dict[str, dict[str, Any]] = {
    "h264 224x168 12 fps 5 s, groups of 48": {
        "size": (224, 168),
        "fps": 12,
        "seconds": 5,
        "options": {"g": "48"},
    },
    "h264 1280x720 30 fps 10 s, groups of 60": HD | {"options": {"g": "60"}},
    "h264 1280x720 30 fps 10 s, groups of 250": HD | {"options": {}},
    "h265 1280x720 30 fps 10 s, groups of 250": HD
    | {"codec": "libx265", "options": {"x265-params": f"{X265}:keyint=250"}},
    "h264 480x270 30 fps 120 s, groups of 250": {
        "size": (480, 270),
        "fps": 30,
        "seconds": 120,
        "options": {},
    },
}
PLAN = [FrameRequest(k=8)]
Check = Literal["full", "sampled"]
CHECKS: tuple[Check, ...] = ("full", "sampled")
MEASURES = ("rendered", "named", "corpus", "noise")
KINDS = CorpusShares(
    static=0.0, near_duplicate=0.0, exact_duplicate=0.0, junk_caption=0.0, mismatched_caption=0.0,
    no_caption=0.0, truncated=0.2, corrupt=0.2, empty=0.02, zero_frame=0.02, one_frame=0.02,
    audio_only=0.02, not_a_video=0.02, rotated=0.05, odd_size=0.05,
)  # fmt: skip


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
    ground = rng.normal(110, 20, (height, width, 3)).astype(np.int16)
    # More pictures of grain than the encoder looks back.
    grains = [rng.normal(0, grain, (height, width, 1)).astype(np.int16) for _ in range(16)]
    out = io.BytesIO()
    with av.open(out, "w", format="mp4") as container:
        stream = container.add_stream(codec, rate=fps, options={"preset": "veryfast"} | options)
        stream.width, stream.height, stream.pix_fmt = width, height, "yuv420p"
        stream.codec_context.thread_count = 1
        for i in range(int(fps * seconds)):
            pixels = ground + grains[i % len(grains)]
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


def by_pyav(path: Path) -> np.ndarray:
    """Decode all frames with PyAV, and convert and resize the eight sampled ones."""
    frames = []
    with av.open(str(path)) as container:
        stream = container.streams.best("video")
        stream.thread_type, stream.codec_context.thread_count = "NONE", 1
        total = stream.frames  # 0 if the container does not state it
        numbers = set(uniform_indices(total, 8).tolist()) if total else None
        for number, frame in enumerate(container.decode(stream)):
            if numbers is None:
                frames.append(frame)
            elif number in numbers:
                frames.append(frame.to_ndarray(format="rgb24", threads=1))
    if not total:
        chosen = uniform_indices(len(frames), 8)
        frames = [frames[i].to_ndarray(format="rgb24", threads=1) for i in chosen]
    return resized(frames)


def by_decord(path: Path) -> np.ndarray:
    """Read the eight sampled frames with decord and resize them."""
    reader = decord.VideoReader(str(path), num_threads=1)
    return resized([reader[int(i)].asnumpy() for i in uniform_indices(len(reader), 8)])


def resized(frames: Sequence[np.ndarray]) -> np.ndarray:
    """Resize frames to the pixel budget with Pillow. Returns uint8 [T, H, W, 3]."""
    height, width = fit_pixels(*frames[0].shape[:2])
    return np.stack(
        [np.asarray(Image.fromarray(f).resize((width, height), Image.Resampling.BICUBIC)) for f in frames]
    )


def ingest(source: Path | bytes, check: Check) -> dict[str, object]:
    """Make the row of a video as the integrity stage of `gve synthesize` does. Raises MediaError."""
    media = MediaConfig(check=check)
    plan = partial(sampling_plan, video_id="v", media=media, seed=1)
    decoded = decode(source, plan, sampled=check == "sampled")
    return asset_row("v", "uri", decoded, media=media, seed=1)


def cpu_ms(path: Path, repeats: int) -> dict[str, float | None]:
    """Return the median CPU time of each way to read a file; None where it does not read the file."""
    runs: dict[str, Callable[[], object]] = {
        "pyav": lambda: by_pyav(path),
        "decord": lambda: by_decord(path),
        "full": lambda: decode(path, PLAN),
        "sampled": lambda: decode(path, PLAN, sampled=True),
        "needed": lambda: read_frames(path, k=8),
        "ingest full": lambda: ingest(path, "full"),
        "ingest sampled": lambda: ingest(path, "sampled"),
    }
    times: dict[str, list[float]] = {name: [] for name in runs}
    for _ in range(repeats):
        for name, run in runs.items():
            started = time.process_time()
            try:
                run()
            except (MediaError, RuntimeError, av.error.FFmpegError):
                continue
            times[name].append(1000 * (time.process_time() - started))
    return {name: statistics.median(values) if values else None for name, values in times.items()}


def cost(files: dict[str, Path], repeats: int) -> dict[str, object]:
    """Return CPU milliseconds and ratios for each file, and sums over the files that all ways read."""
    report: dict[str, object] = {}
    sums: defaultdict[str, float] = defaultdict(float)
    for name, path in files.items():
        times = cpu_ms(path, repeats)
        report[name] = {
            "cpu_ms": {run: ms and round(ms, 1) for run, ms in times.items()},
            "ratio": ratios(times),
        }
        if None not in times.values():
            for run, ms in times.items():
                sums[run] += ms or 0.0
            sums["files"] += 1
    count = sums.pop("files", 0)
    return {
        "mean": {
            "files": count,
            "cpu_ms": {run: round(ms / count, 1) for run, ms in sums.items()},
            "ratio": ratios(sums),
        },
        "by file": report,
    }


def ratios(times: Mapping[str, float | None]) -> dict[str, float]:
    """Return each time divided by that of PyAV, and that of a sampled by that of a full check."""
    base = times["pyav"]
    found = {run: round(ms / base, 3) for run, ms in times.items() if ms and base}
    if times["ingest full"] and times["ingest sampled"]:
        found["ingest sampled / full"] = round(times["ingest sampled"] / times["ingest full"], 3)
    return found


def refusal(source: Path | bytes, check: Check) -> str:
    """Return the reason for which a file is refused; "" if it is not."""
    try:
        ingest(source, check)
    except MediaError as error:
        return str(error.reason)
    return ""


def refused_in_corpus(folder: Path, files: int) -> dict[str, object]:
    """Return by true kind the number of files, how many each check refuses, and the reasons."""
    write_corpus(folder, n=files, seed=42, shares=KINDS)
    kinds: defaultdict[str, dict[str, int]] = defaultdict(
        lambda: {"files": 0, "other reason": 0} | dict.fromkeys(CHECKS, 0)
    )
    for entry in read_truth(folder):
        reasons = [refusal(folder / entry.file, check) for check in CHECKS]
        row = kinds[entry.kind if entry.broken else f"undamaged: {entry.kind}"]
        row["files"] += 1
        row["other reason"] += all(reasons) and len(set(reasons)) > 1
        for check, reason in zip(CHECKS, reasons, strict=True):
            row[check] += bool(reason)
    return dict(sorted(kinds.items()))


def refused_with_noise(data: bytes, length: int, trials: int = 40) -> dict[str, float]:
    """Return by check the share of copies with `length` noise bytes in their pictures that it refuses."""
    start = data.index(b"mdat") + 4
    end = start - 8 + int.from_bytes(data[start - 8 : start - 4], "big")
    refused = dict.fromkeys(CHECKS, 0)
    for seed in range(trials):
        rng = np.random.default_rng(seed)
        at = start + int((end - start - length) * rng.uniform(0.05, 0.95))
        noise = rng.integers(0, 256, length, dtype=np.uint8).tobytes()
        for check in CHECKS:
            refused[check] += bool(refusal(data[:at] + noise + data[at + length :], check))
    return {check: count / trials for check, count in refused.items()}


def named_files(path: Path) -> dict[str, Path]:
    """Return the file, or the files of a folder, that are undamaged videos."""
    files = sorted(path.iterdir()) if path.is_dir() else [path]
    return {file.name: file for file in files if file.is_file() and not refusal(file, "full")}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("paths", type=Path, nargs="*", help="files, or folders of files, to read as well")
    parser.add_argument("--repeats", type=int, default=9, help="rounds (default: %(default)s)")
    parser.add_argument("--measure", nargs="+", choices=MEASURES, default=MEASURES)
    parser.add_argument("--files", type=int, default=160, help="size of the corpus (default: %(default)s)")
    arguments = parser.parse_args()
    measure = {
        "rendered": measure_rendered,
        "named": lambda settings: {
            path.name: cost(named_files(path), settings.repeats) for path in settings.paths
        },
        "corpus": measure_corpus,
        "noise": measure_noise,
    }
    report = {name: measure[name](arguments) for name in arguments.measure}
    print(json.dumps(report, indent=2))


def measure_rendered(arguments: argparse.Namespace) -> dict[str, object]:
    """Render `FILES` and return their `cost`."""
    with tempfile.TemporaryDirectory() as folder:
        files = {}
        for number, (name, settings) in enumerate(FILES.items()):
            files[name] = Path(folder) / f"{number}.mp4"
            files[name].write_bytes(render(**settings))
        return cost(files, arguments.repeats)


def measure_corpus(arguments: argparse.Namespace) -> dict[str, object]:
    """Render a corpus and return `refused_in_corpus`."""
    with tempfile.TemporaryDirectory() as folder:
        return refused_in_corpus(Path(folder) / "corpus", arguments.files)


def measure_noise(_: argparse.Namespace) -> dict[str, object]:
    """Return `refused_with_noise` of 20 s in groups of 48 pictures, by content and length."""
    plain: dict[str, Any] = {"size": (224, 168), "fps": 12, "seconds": 20, "options": {"g": "48"}}
    contents = {"flat pictures": render(**plain, grain=0.0), "grainy pictures": render(**plain, grain=6.0)}
    return {
        content: {f"{length} bytes": refused_with_noise(data, length) for length in (64, 512, 4096)}
        for content, data in contents.items()
    }


if __name__ == "__main__":
    main()
