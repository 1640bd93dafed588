"""`make demo`: render a small world, submit the jobs to a Ray head of our own, score them by the truth."""

import json
import logging
import os
import time
from dataclasses import asdict
from pathlib import Path
from typing import Any

from gve_ray.config import load_config
from gve_ray.demo.corpus import write_corpus
from gve_ray.demo.ray_head import LocalHead
from gve_ray.demo.retrieval import format_training, score_training, write_heldout
from gve_ray.demo.score import format_summary, score_synthesis
from gve_ray.training.config import TrainingJobConfig

log = logging.getLogger(__name__)

CORES = 2  # the recipes' pools fit on two cores; more are used by what runs beside them


def run_demo(repository: Path, folder: Path, *, videos: int, seed: int) -> dict[str, Any]:
    """The demo's jobs on `videos` rendered files; returns what summary.json holds.

    repository: uploaded as the jobs' working directory. folder: gets `demo-raw/` (the raw corpus), `demo/`
    (what synthesis made of it), `demo-train/` (the adapter) and `demo-heldout/` (what scores it).
    Raises HeadError when Ray does not start or a job does not succeed, ValueError when the folder holds a
    corpus of other arguments.
    """
    raw, output, trained = folder / "demo-raw", folder / "demo", folder / "demo-train"
    cores = len(os.sched_getaffinity(0))
    manifest = write_corpus(raw, n=videos, seed=seed, workers=cores)
    heldout = write_heldout(folder / "demo-heldout", seed=seed, workers=cores)
    log.info("demo: %d videos in %s; starting Ray", videos, raw)
    with LocalHead(num_cpus=max(CORES, cores)) as head:
        synthesize = ["python", "jobs/synthesize.py", "--config", "demo.yaml", "--seed", str(seed)]
        _submit(head, [*synthesize, "--input", str(manifest), "--output", str(output)], repository)
        synthesis = score_synthesis(output, raw)
        write_summary(output / "summary.json", synthesis=synthesis)
        print(format_summary(synthesis), flush=True)
        train = ["python", "jobs/train.py", "--config", "demo.yaml", "--loop.seed", str(seed)]
        train += ["--data", _mixture(output / "uvrd"), "--assets", str(output / "assets.lance")]
        _submit(head, [*train, "--output", str(trained)], repository)
    training = score_training(trained, heldout)
    write_summary(output / "summary.json", training=training)
    print(f"{format_training(training)}\n")
    print(f"report   {output / 'report.html'}\ncurves   {trained / 'training.png'}")
    print(f"adapter  {trained / 'adapter'}\nsummary  {output / 'summary.json'}")
    return {"synthesis": synthesis, "training": training}


def _mixture(uvrd: Path) -> str:
    """The recipe's data sets, read from `uvrd`, as JSON."""
    recipe = load_config(TrainingJobConfig, ["--config", "demo.yaml"])
    return json.dumps([{**asdict(one), "uri": str(uvrd)} for one in recipe.data])


def _submit(head: LocalHead, entrypoint: list[str], repository: Path) -> None:
    begun = time.monotonic()
    head.submit(entrypoint, working_dir=repository)
    log.info("demo: %s took %.0f s", entrypoint[1], time.monotonic() - begun)


def write_summary(path: Path, **parts: Any) -> None:
    """Put the parts of some jobs into summary.json beside those of others, atomically."""
    found = json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}
    part = path.with_name(path.name + ".part")
    part.write_text(json.dumps({**found, **parts}, indent=1) + "\n", encoding="utf-8")
    os.replace(part, path)
