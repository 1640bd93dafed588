"""Synthesis staged and streamed: the real job with replayed answers that take as long as real ones.

    python benchmarks/stream.py [--short] [--rows 2400] [--folder DIR]

Decoding takes 2 s of a CPU slot and captioning 0.25 s of a GPU slot for each video, with 16 and 2
slots: about what a 7B captioner and 720p clips take. The workers sleep that long, and return what
scale_replay.py has recorded. All else is the real job. `--short` has fewer videos and takes less than
three minutes. Prints one JSON object:

staged_s, streamed_s: wall clock from the manifest to the report. speedup: their ratio. gpu_busy: the
share of the time that the GPU slots worked in the streamed run, from two minutes after its start (in
the short form, from the first captions) to the last captions; gpu_busy_staged: likewise over the whole
run. first_pairs_s: when the first pairs were in uvrd/. driver_mb: the median of the driver's private memory
in each fifth of the streamed run.
"""

import argparse
import json
import logging
import os
import sys
import tempfile
import time
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from scale_replay import (
    BUSY_FOLDER,
    CAPTION_SECONDS,
    DECODE_SECONDS,
    RECORDING,
    WaitingAnnotator,
    WaitingIngest,
    record_few,
    write_manifest,
)
from scale_watch import Watch, first_pairs

from gve_ray.config import load_config
from gve_ray.malloc import limit_arenas
from gve_ray.synthesis.config import SynthesisConfig
from gve_ray.synthesis.job import synthesize
from gve_ray.synthesis.pipeline import STAGES as PIPELINE

DECODE_S, CAPTION_S = 2.0, 0.25
CPU_SLOTS, GPU_SLOTS = 16, 2
WARM_UP_S = 120.0
FULL_ROWS, FULL_PARTS = 2400, 12
SHORT_ROWS, SHORT_PARTS = 320, 8
WORKERS = {"integrity": WaitingIngest, "captions": WaitingAnnotator}
WAITING = [replace(stage, worker=WORKERS.get(stage.name, stage.worker)) for stage in PIPELINE]


def config_of(folder: Path, manifest: Path, pipeline: str, part: int) -> SynthesisConfig:
    """Return the demo's recipe without the consistency filter, with the slots of this benchmark."""
    options = {
        "input": str(manifest),
        "output": str(folder / pipeline),
        "pipeline": pipeline,
        "part_videos": str(part),
        "quality.consistency.model": "null",
        "resources.media": slots(CPU_SLOTS, actors=2, batch_size=2),
        "resources.captioner": slots(GPU_SLOTS, actors=1, batch_size=8),
        "commit_seconds": "5",
    }
    return load_config(
        SynthesisConfig, ["--config", "demo.yaml", *(f"--{k}={v}" for k, v in options.items())]
    )


def slots(count: int, *, actors: int, batch_size: int) -> str:
    """Return the resources of so many slots: calls at the same time in few processes, since they only wait."""
    size = {"actors": actors, "concurrency": count // actors, "batch_size": batch_size}
    return json.dumps({**size, "num_cpus": 0.1, "num_gpus": 0, "memory": 0})


def measure(config: SynthesisConfig, busy_folder: Path, *, warm_up: float | None) -> dict[str, Any]:
    """Run the job. warm_up: seconds before the share of busy time counts; None: until the first captions."""
    begun, clock = time.monotonic(), time.time()
    with Watch() as watch, first_pairs(Path(config.output, "uvrd")) as seen:
        result = synthesize(config, stages=WAITING)
    seconds = time.monotonic() - begun
    batches = sorted(
        tuple(map(float, line.split())) for file in busy_folder.glob("*.txt") for line in file.open()
    )
    batches = [batch for batch in batches if batch[0] >= clock]
    start = clock + warm_up if warm_up is not None else batches[0][0]
    return {
        "seconds": round(seconds, 1),
        "gpu_busy": round(busy_share(batches, start), 4),
        "gpu_busy_whole_run": round(sum(end - begin for begin, end in batches) / (GPU_SLOTS * seconds), 4),
        "first_pairs_s": round(seen["at"] - clock, 1),
        "driver_mb": watch.driver_by_fifths(),
        "pairs": sum(result.pairs.values()),
        "stages": {
            stage["name"]: {name: stage[name] for name in ("in", "out", "rejected", "seconds")}
            for stage in result.stages
        },
    }


def busy_share(batches: list[tuple[float, ...]], start: float) -> float:
    """Return the share of the GPU slots' time from `start` to the end of the last batch in which they worked."""
    end = max(batch[1] for batch in batches)
    busy = sum(max(0.0, stop - max(start, begin)) for begin, stop in batches)
    return busy / (GPU_SLOTS * (end - start))


def start(folder: Path, rows: int) -> Path:
    """Start Ray, and write the recording and the manifest. Returns the path of the manifest."""
    import ray

    environment = {
        RECORDING: str(record_few(folder / "recording.json")),
        DECODE_SECONDS: str(DECODE_S),
        CAPTION_SECONDS: str(CAPTION_S),
        BUSY_FOLDER: str(folder / "busy"),
    }
    os.environ.update(environment)
    (folder / "busy").mkdir(exist_ok=True)
    ray.init(
        num_cpus=8,  # for the sum of the fractions; they mostly sleep
        include_dashboard=False,
        object_store_memory=2**30,
        log_to_driver=False,
        runtime_env={"env_vars": environment},
    )
    manifest = folder / f"manifest-{rows}.parquet"
    write_manifest(manifest, rows, Path(environment[RECORDING]))
    return manifest


def run(folder: Path, rows: int, parts: int, *, short: bool) -> Mapping[str, Any]:
    """Measure both pipelines on the same manifest."""
    manifest = start(folder, rows)
    part = -(-rows // parts)
    warm_up = None if short else WARM_UP_S
    figures = {
        name: measure(config_of(folder, manifest, name, part), folder / "busy", warm_up=warm_up)
        for name in ("streamed", "staged")
    }
    staged, streamed = figures["staged"]["seconds"], figures["streamed"]["seconds"]
    return {
        "rows": rows,
        "parts": parts,
        "staged_s": staged,
        "streamed_s": streamed,
        "speedup": round(staged / streamed, 3),
        "gpu_busy": figures["streamed"]["gpu_busy"],
        "gpu_busy_staged": figures["staged"]["gpu_busy_whole_run"],
        "first_pairs_s": figures["streamed"]["first_pairs_s"],
        "driver_mb": figures["streamed"]["driver_mb"],
        "runs": figures,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--short", action="store_true", help="less than three minutes")
    parser.add_argument("--rows", type=int, help=f"{FULL_ROWS}, or {SHORT_ROWS} with --short, by default")
    parser.add_argument("--parts", type=int, help=f"{FULL_PARTS}, or {SHORT_PARTS} with --short, by default")
    parser.add_argument("--folder", type=Path, help="folder to keep; by default a temporary one")
    args = parser.parse_args()
    logging.basicConfig(format="%(asctime)s %(message)s", stream=sys.stderr)
    logging.getLogger("gve_ray").setLevel(logging.INFO)
    rows = args.rows or (SHORT_ROWS if args.short else FULL_ROWS)
    parts = args.parts or (SHORT_PARTS if args.short else FULL_PARTS)
    limit_arenas()  # as `gve synthesize` does
    with tempfile.TemporaryDirectory() as temporary:
        folder = (args.folder or Path(temporary)).resolve()
        folder.mkdir(parents=True, exist_ok=True)
        figures = run(folder, rows, parts, short=args.short)
    print(json.dumps({"cores": os.cpu_count(), **figures}, indent=1))


if __name__ == "__main__":
    main()
