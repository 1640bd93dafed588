"""Overhead of synthesis at full size: the real job on 1,550,000 rows, without models.

    python benchmarks/scale.py [--rows 1550000] [--part all] [--pipeline staged] [--folder DIR] [--plot PNG]

All code is that of the job (`gve_ray.synthesis.job.synthesize`, Ray, Lance), except the three classes
that decode, score and caption. These replay a small real run (scale_replay.py), with frames of one
pixel, because full frames take 660 kB per video. The results are therefore those of the control
plane: manifest, stages, commits, filters, pairs and report. Batches are larger than in a real run,
where rows take seconds; the cost of many small fragments is measured separately.

With `--pipeline streamed`, all stages run at the same time on parts of the manifest; seconds of stages then
overlap, and there is no projection.

Parts: synthesis (including pairs, with the quotas of Table 7 scaled to the rows), resume (of the
run that synthesis left in --folder), commits (to a store with as many fragments as the recipes'
batches of 16 produce), batches (the cost of a batch regardless of its content), and schedule (12.55
M training instances on two ranks). Prints one JSON object, including the results of other parts in
--folder.
"""

import argparse
import json
import logging
import math
import os
import shutil
import sys
import tempfile
import time
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
from scale_replay import (
    RECORDING,
    Nothing,
    ReplayedAnnotator,
    ReplayedConsistency,
    ReplayedIngest,
    record,
    video_id_at,
    write_manifest,
)
from scale_schedule import measure_schedule
from scale_watch import Watch, first_pairs

from gve_ray.config import load_config
from gve_ray.malloc import limit_arenas
from gve_ray.schema import UVRD_PAIRS, UVRD_TASKS
from gve_ray.stage import REJECT_SCHEMA, StageResources, run_stage
from gve_ray.store import Store, dataset
from gve_ray.synthesis.config import MediaConfig, SynthesisConfig
from gve_ray.synthesis.consistency import CONSISTENCY_SCHEMA
from gve_ray.synthesis.ingest import INGEST_SCHEMA
from gve_ray.synthesis.job import synthesize
from gve_ray.synthesis.pipeline import STAGES as PIPELINE
from gve_ray.synthesis.stages import decoded_store

PARTS = ("synthesis", "resume", "commits", "batches", "schedule")
FULL = 1_550_000
FEWEST = 100_000  # rows for a projection; with fewer, most of the time is the start of the actors
REAL_BYTES, TINY_BYTES = 660_000, 8_000  # size of a decoded video in a real run and here
WORKERS = {"integrity": ReplayedIngest, "consistency": ReplayedConsistency, "captions": ReplayedAnnotator}
REPLAYED = [replace(stage, worker=WORKERS.get(stage.name, stage.worker)) for stage in PIPELINE]
REAL_BATCH, FRAGMENTS_A_COMMIT, MOST_BATCHES = 16, 500, 10_000
# Costs of a video from docs/cluster.md: decoding and training are measured, captions estimated
# from FLOPs.
DECODE_CPU_S, CONSISTENCY_GPU_S, CAPTIONS_GPU_S, TRAINING_GPU_S = 2.05, 1 / 52, 0.230, 0.405
CORES_A_GPU = 16
# Seconds of a core or a GPU per video, and rows per batch in gve-7b.yaml. The driver does all else.
STAGES = {
    "integrity": DECODE_CPU_S,
    "consistency": CONSISTENCY_GPU_S,
    "captions": CAPTIONS_GPU_S,
}
RECIPE_BATCHES = {"integrity": 16, "consistency": 64, "captions": 128}


def config_of(folder: Path, rows: int, batch: int, pipeline: str) -> SynthesisConfig:
    """Return the demo's recipe with the shares of the paper, and the same batch size in all stages."""
    options = {
        "input": str(folder / f"manifest-{rows}.parquet"),
        "output": str(folder / f"run-{rows}"),
        "pipeline": pipeline,
        "quality.consistency.threshold": "null",
        "quality.consistency.percentile": "20",
        "assemble.scale": str(rows / FULL),
        "assemble.captions_per_video": "1",
        "resources.media": json.dumps({"actors": 2, "num_cpus": 0.3, "memory": 0, "batch_size": batch}),
        "resources.consistency": json.dumps(
            {"actors": 2, "num_cpus": 0.3, "memory": 0, "num_gpus": 0, "batch_size": 2 * batch}
        ),
        "resources.captioner": json.dumps(
            {"actors": 2, "num_cpus": 0.3, "memory": 0, "num_gpus": 0, "batch_size": batch}
        ),
        "commit_seconds": "10",
    }
    return load_config(
        SynthesisConfig, ["--config", "demo.yaml", *(f"--{k}={v}" for k, v in options.items())]
    )


def measure_synthesis(config: SynthesisConfig, rows: int, plot: Path | None) -> dict[str, Any]:
    """Run the job from the manifest to the report, then call it again on the finished run."""
    begun, clock = time.monotonic(), time.time()
    with Watch() as watch, first_pairs(Path(config.output, "uvrd")) as seen:
        result = synthesize(config, stages=REPLAYED)
    seconds = time.monotonic() - begun
    if plot:
        watch.plot(plot, f"{rows:,} videos through synthesis, answers from a recording: memory")
    begun = time.monotonic()
    assert synthesize(config, stages=REPLAYED).was_finished
    again = time.monotonic() - begun
    stages = {
        stage["name"]: {
            **{name: stage[name] for name in ("in", "out", "rejected", "seconds")},
            "rows_per_s": round(stage["in"] / stage["seconds"], 1) if stage["seconds"] else None,
        }
        for stage in result.stages
    }
    return {
        "seconds": round(seconds, 1),
        "videos_per_s": round(rows / seconds, 1),
        "first_pairs_s": round(seen["at"] - clock, 1),
        "stages": stages,
        "finished_again_s": round(again, 2),
        "driver_mb": watch.driver_by_fifths(),
        "memory": watch.memory(),
        "commits": watch.commits(),
        "pairs": pairs_of(config, result.pairs),
    }


def pairs_of(config: SynthesisConfig, counted: Mapping[str, int]) -> dict[str, Any]:
    """Return the number of pairs in the files and the quota, by task, and the bytes of all files."""
    by_task, size = {}, 0
    for task in UVRD_TASKS:
        parts = sorted(Path(config.output, "uvrd", f"task={task.value}").glob("part-*.parquet"))
        size += sum(part.stat().st_size for part in parts)
        pairs = sum(pq.read_metadata(part).num_rows for part in parts)
        assert pairs == counted[task.value], (task, pairs, counted)
        quota = math.ceil(UVRD_PAIRS[task] * (config.assemble.scale or 1) - 1e-9)
        by_task[task.value] = {"quota": quota, "pairs": pairs}
    return {
        "by_task": by_task,
        "quotas_met": all(row["pairs"] == row["quota"] for row in by_task.values()),
        "pairs": sum(counted.values()),
        "bytes": size,
    }


def measure_resume(config: SynthesisConfig, rows: int, batch: int) -> dict[str, Any]:
    """Measure the time from the start of an almost finished stage (1 % more rows) to its first new
    row and its end.

    The parts of the wait are also measured separately.
    """
    ingest = decoded_store(config)
    broken = Store(ingest.uri.removesuffix(".lance") + "-rejects.lance", REJECT_SCHEMA)
    took = {}
    parts: dict[str, Callable[[], object]] = {
        "clean": ingest.clean,
        "keys": lambda: ingest.table([ingest.key]),
    }
    for name, part in parts.items():
        begun = time.monotonic()
        part()
        took[f"{name}_s"] = round(time.monotonic() - begun, 2)
    more = max(batch, rows // 100)
    ids = [video_id_at(i) for i in range(ingest.count() + broken.count() + more)]
    before = {entry.name for entry in os.scandir(Path(ingest.uri, "data"))}
    begun, clock = time.monotonic(), time.time()
    counts = run_stage(
        "integrity",
        pending=pa.table({"video_id": ids, "uri": [f"s3://crawl/{video_id}.mp4" for video_id in ids]}),
        worker=ReplayedIngest,
        worker_args={"media": config.media, "seed": config.seed},
        out=ingest,
        rejects=broken,
        resources=StageResources(actors=2, num_cpus=0.5, batch_size=batch),
    )
    seconds = time.monotonic() - begun
    new = [e.stat().st_mtime for e in os.scandir(Path(ingest.uri, "data")) if e.name not in before]
    return {
        "committed": counts.n_in - more,
        "more": more,
        "first_new_row_s": round(min(new) - clock, 2),
        "end_s": round(seconds, 2),
        **took,
    }


def measure_batches(folder: Path, rows: int) -> dict[str, Any]:
    """Measure the engine's overhead per batch: batches per second, and bytes that the driver keeps
    for each.

    A recipe's batch of 16 is a 97,000th of 1.55 M rows; here batches of one row, at most 10,000 of
    them.
    """
    n = min(rows, MOST_BATCHES)
    shutil.rmtree(folder / f"batches-{n}.lance", ignore_errors=True)
    out = Store(str(folder / f"batches-{n}.lance"), CONSISTENCY_SCHEMA)
    rejects = Store(str(folder / f"batches-{n}-rejects.lance"), REJECT_SCHEMA)
    with Watch() as watch:
        counts = run_stage(
            "batches",
            pending=pa.table({"video_id": [video_id_at(i) for i in range(n)]}),
            worker=Nothing,
            worker_args={},
            out=out,
            rejects=rejects,
            resources=StageResources(actors=2, num_cpus=0.5, batch_size=1),
        )
    return {
        "batches": n,
        "batches_per_s": round(n / counts.seconds, 1),
        "rows_per_s_in_batches_of_16": round(n * REAL_BATCH / counts.seconds, 1),
        "memory": watch.memory()["by_phase"]["batches"],
    }


def measure_commits(folder: Path, rows: int) -> dict[str, Any]:
    """Measure the time of a commit and of a restart in a store that grows by fragments of 16
    decoded videos.

    At the end: `clean` and the keys, with which a resumed run begins; the first read by key of a
    worker, which looks up all keys, and the next ones.
    """
    shutil.rmtree(folder / f"commits-{rows}.lance", ignore_errors=True)
    store = Store(str(folder / f"commits-{rows}.lance"), INGEST_SCHEMA).create()
    ids = [video_id_at(i) for i in range(rows)]
    worker = ReplayedIngest(MediaConfig(), 0)
    outcomes = worker([{"video_id": item, "uri": "s3://crawl/video.mp4"} for item in ids[:64]])
    rest = pa.Table.from_pylist(
        [item for item in outcomes if isinstance(item, dict)][:REAL_BATCH], schema=INGEST_SCHEMA
    )
    waiting: list[Any] = []
    sizes: list[int] = []
    seconds: list[float] = []
    for start in range(0, rows - rows % REAL_BATCH, REAL_BATCH):
        some = pa.array(ids[start : start + REAL_BATCH])
        waiting.append(store.write(rest.set_column(0, INGEST_SCHEMA.field(0), some)))
        if len(waiting) == FRAGMENTS_A_COMMIT or start + 2 * REAL_BATCH > rows:
            begun = time.monotonic()
            store.commit(waiting)
            seconds.append(time.monotonic() - begun)
            sizes.append((sizes[-1] if sizes else 0) + len(waiting))
            waiting = []
    took = {}
    chosen = ids[:: max(1, rows // REAL_BATCH)][:REAL_BATCH]
    parts: dict[str, Callable[[], object]] = {
        "clean": store.clean,
        "keys": lambda: store.table([store.key]),
        "first_take": lambda: store.take(chosen),
        "next_take": lambda: store.take(chosen),
    }
    for name, part in parts.items():
        begun = time.monotonic()
        part()
        took[f"{name}_s"] = round(time.monotonic() - begun, 3)
    manifests = Path(store.uri, "_versions").glob("*.manifest")
    return {
        "fragments": sizes[-1],
        "fragments_a_commit": FRAGMENTS_A_COMMIT,
        "commit_s": {
            f"{sizes[i]} fragments": round(seconds[i], 3)
            for i in sorted({round(share * (len(sizes) - 1)) for share in (0, 0.1, 0.25, 0.5, 1)})
        },
        "manifest_bytes": max(path.stat().st_size for path in manifests),
        **took,
    }


def project(synthesis: Mapping[str, Any], rows: int, batch: int, batches_per_s: float) -> dict[str, Any]:
    """Project the hours for 1.55 M videos on N GPUs with 16 cores each: work / machines, or the
    overhead if longer.

    Bookkeeping is measured here, where two cores are driver and workers in one: a stage's seconds,
    and those in which the driver works alone (manifest, filters, copying the assets, pairs,
    report), both scaled by rows; and a stage's further batches, for a recipe's are smaller than
    those here.
    """
    stages, scale = synthesis["stages"], FULL / rows
    share = {name: stages[name]["in"] / rows for name in STAGES}
    used = {"integrity": batch, "consistency": 2 * batch, "captions": batch}
    books = {
        name: stages[name]["seconds"] * scale
        + FULL * share[name] * (1 / RECIPE_BATCHES[name] - 1 / used[name]) / batches_per_s
        for name in STAGES
    }
    alone = (synthesis["seconds"] - sum(stages[name]["seconds"] for name in STAGES)) * scale
    projection: dict[str, Any] = {
        "bookkeeping_hours": {name: round(value / 3600, 2) for name, value in books.items()}
    }
    for gpus in (8, 32, 64, 512):
        machines = {"integrity": gpus * CORES_A_GPU, "consistency": gpus, "captions": gpus}
        needs = {name: FULL * share[name] * STAGES[name] / machines[name] for name in STAGES}
        hours = {name: max(needs[name], books[name]) / 3600 for name in STAGES} | {
            "driver alone": alone / 3600
        }
        projection[str(gpus)] = {
            "cores": gpus * CORES_A_GPU,
            "hours": {name: round(value, 2) for name, value in hours.items()},
            "synthesis_hours": round(sum(hours.values()), 2),
            "bound_by_bookkeeping": [name for name in STAGES if books[name] > needs[name]],
            "training_hours": round(FULL * TRAINING_GPU_S / gpus / 3600, 2),
        }
    return projection


def main() -> None:
    import ray

    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rows", type=int, default=FULL)
    parser.add_argument("--part", choices=["all", *PARTS], default="all")
    parser.add_argument(
        "--folder", type=Path, help="folder to keep and resume from; by default a temporary one"
    )
    parser.add_argument("--pipeline", choices=["staged", "streamed"], default="staged")
    parser.add_argument("--batch", type=int, default=256, help="videos per batch of the integrity stage")
    parser.add_argument("--plot", type=Path, help="write a PNG of the memory by rows")
    args = parser.parse_args()
    logging.basicConfig(format="%(asctime)s %(message)s", stream=sys.stderr)
    logging.getLogger("gve_ray").setLevel(logging.INFO)
    limit_arenas()  # as `gve synthesize` does
    # Merging small fragments is right for small rows, but real rows are not small.
    dataset._COMPACT_BELOW_BYTES = dataset._COMPACT_BELOW_BYTES * TINY_BYTES // REAL_BYTES
    with tempfile.TemporaryDirectory() as temporary:
        folder = (args.folder or Path(temporary)).resolve()
        folder.mkdir(parents=True, exist_ok=True)
        figures = folder / f"figures-{args.rows}.json"
        report: dict[str, Any] = json.loads(figures.read_text()) if figures.exists() else {}
        for part in PARTS if args.part == "all" else [args.part]:
            if part != "schedule" and not ray.is_initialized():
                config = prepare(folder, args.rows, args.batch, args.pipeline)
            if part == "synthesis":
                report["batch"] = args.batch
                report[part] = measure_synthesis(config, args.rows, args.plot)
            elif part == "resume":
                report[part] = measure_resume(config, args.rows, args.batch)
            elif part == "commits":
                report[part] = measure_commits(folder, args.rows)
            elif part == "batches":
                report[part] = measure_batches(folder, args.rows)
            else:
                ray.shutdown()
                report[part] = measure_schedule()
            figures.write_text(json.dumps(report))
    if {"synthesis", "batches"} <= set(report) and args.rows >= FEWEST and args.pipeline == "staged":
        rate = report["batches"]["batches_per_s"]
        report["projection"] = project(report["synthesis"], args.rows, report["batch"], rate)
    print(json.dumps({"rows": args.rows, "cores": os.cpu_count(), **report}, indent=1))


def prepare(folder: Path, rows: int, batch: int, pipeline: str) -> SynthesisConfig:
    """Start Ray, and prepare the recording and the manifest."""
    import ray

    os.environ[RECORDING] = str(folder / "recorded" / "recording.json")
    ray.init(
        num_cpus=2,
        include_dashboard=False,
        object_store_memory=2 * 2**30,
        log_to_driver=False,
        runtime_env={"env_vars": {RECORDING: os.environ[RECORDING]}},
    )
    recording = record(folder / "recorded")
    config = config_of(folder, rows, batch, pipeline)
    if not Path(config.input).exists():
        write_manifest(Path(config.input), rows, recording)
    return config


if __name__ == "__main__":
    main()
