"""`make demo`: render the raw corpus, submit the jobs to a Ray head of our own, score them by the truth."""

import json
import logging
import os
import time
from pathlib import Path
from typing import Any

from gve_ray.demo.corpus import write_corpus
from gve_ray.demo.ray_head import LocalHead
from gve_ray.demo.score import format_summary, score_synthesis

log = logging.getLogger(__name__)

CORES = 2  # the recipe's pools fit on two cores; more are used by what runs beside them


def run_demo(repository: Path, folder: Path, *, videos: int, seed: int) -> dict[str, Any]:
    """The demo's jobs on `videos` rendered files; returns what summary.json holds.

    repository: uploaded as the jobs' working directory. folder: gets `demo-raw/` and `demo/`.
    Raises HeadError when Ray does not start or a job does not succeed, ValueError when the folder holds a
    corpus of other arguments.
    """
    raw, output = folder / "demo-raw", folder / "demo"
    cores = len(os.sched_getaffinity(0))
    manifest = write_corpus(raw, n=videos, seed=seed, workers=cores)
    log.info("demo: %d videos in %s; starting Ray", videos, raw)
    begun = time.monotonic()
    with LocalHead(num_cpus=max(CORES, cores)) as head:
        head.submit(
            [
                *("python", "jobs/synthesize.py", "--config", "demo.yaml", "--seed", str(seed)),
                *("--input", str(manifest), "--output", str(output)),
            ],
            working_dir=repository,
        )
    log.info("demo: the job took %.0f s, Ray's start and stop included", time.monotonic() - begun)
    summary = score_synthesis(output, raw)
    write_summary(output / "summary.json", synthesis=summary)
    print(format_summary(summary))
    print(f"report   {output / 'report.html'}\nsummary  {output / 'summary.json'}")
    return summary


def write_summary(path: Path, **parts: Any) -> None:
    """Put the parts of some jobs into summary.json beside those of others, atomically."""
    found = json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}
    part = path.with_name(path.name + ".part")
    part.write_text(json.dumps({**found, **parts}, indent=1) + "\n", encoding="utf-8")
    os.replace(part, path)
