"""Measure the training schedule for 12.55 M instances, and check that ranks agree."""

import hashlib
import multiprocessing
import time
from collections.abc import Mapping
from typing import Any

import psutil

from gve_ray.schema import UVRD_PAIRS
from gve_ray.training.config import BATCH_SIZES
from gve_ray.training.curriculum import Curriculum, DataSetSize
from gve_ray.training.schedule import Schedule

RANKS = 32
# (instances, number of equal data sets, batch size) by kind, from arXiv:2510.27571; UVRD's are
# those of its Table 7.
OTHERS = {"text": (380_000, 2, 64), "image": (1_820_000, 6, 32), "video": (8_800_000, 12, 64)}


def sizes_of() -> tuple[dict[str, int], dict[str, int]]:
    """Return pairs and batch sizes by data set for the paper's 12.55 M instances."""
    sizes = {f"uvrd-{task}": count for task, count in UVRD_PAIRS.items()}
    batches = {f"uvrd-{task.value}": BATCH_SIZES[task] for task in UVRD_PAIRS}
    for kind, (instances, sets, batch) in OTHERS.items():
        for i in range(sets):
            sizes[f"{kind}-{i:02d}"] = instances // sets
            batches[f"{kind}-{i:02d}"] = batch
    return sizes, batches


def _one_rank(rank: int) -> dict[str, Any]:
    """Schedule three epochs as one rank, and return seconds, memory, and digests of all steps and
    of its rows.
    """
    sizes, batches = sizes_of()
    curriculum = Curriculum(kind="pyramid", tasks="dataset")
    rng = [hashlib.sha256(task.encode()).digest()[0] / 255 for task in sizes]
    scores = {task: 0.3 + 0.5 * share for task, share in zip(sizes, rng, strict=True)}  # R_k: 0.3 to 0.8
    process = psutil.Process()
    before, peak, steps, pairs = process.memory_info().rss, 0, 0, 0
    everyone, mine = hashlib.sha256(), hashlib.sha256()
    begun = time.monotonic()
    for epoch in range(1, curriculum.epochs + 1):
        schedule = _schedule(curriculum, epoch, sizes, batches, scores)
        for step in schedule.steps():
            everyone.update(step.dataset.encode() + step.rows.tobytes())
            mine.update(step.slice(rank).tobytes())
            steps, pairs = steps + 1, pairs + len(step.rows)
            if steps % 100 == 0:
                peak = max(peak, process.memory_info().rss)
    seconds = time.monotonic() - begun
    begun = time.monotonic()
    next(_schedule(curriculum, curriculum.epochs, sizes, batches, scores).steps(start=len(schedule) - 1))
    return {
        "all": everyone.hexdigest(),
        "mine": mine.hexdigest(),
        "steps": steps,
        "pairs": pairs,
        "seconds": seconds,
        "to_last_step": time.monotonic() - begun,
        "mb": (peak - before) / 1e6,
    }


def _schedule(
    curriculum: Curriculum,
    epoch: int,
    sizes: Mapping[str, int],
    batches: Mapping[str, int],
    scores: Mapping[str, float],
) -> Schedule:
    datasets = {name: DataSetSize(format=name, pairs=pairs) for name, pairs in sizes.items()}
    shares = curriculum.probabilities(epoch, datasets, scores=scores)
    return Schedule(
        seed=42, epoch=epoch, probabilities=shares, sizes=sizes, batch_sizes=batches, world_size=RANKS
    )


def measure_schedule() -> dict[str, Any]:
    """Run the first and the last of 32 ranks in separate processes, and check that they draw the
    same steps.
    """
    with multiprocessing.get_context("spawn").Pool(2) as pool:
        first, last = pool.map(_one_rank, (0, RANKS - 1))
    sizes, _ = sizes_of()
    return {
        "instances": sum(sizes.values()),
        "datasets": len(sizes),
        "ranks": RANKS,
        "epochs": Curriculum().epochs,
        "steps": first["steps"],
        "pairs_drawn": first["pairs"],
        "seconds_for_all_epochs": round(max(first["seconds"], last["seconds"]), 2),
        "seconds_to_resume_at_the_last_step": round(max(first["to_last_step"], last["to_last_step"]), 2),
        "memory_mb": round(max(first["mb"], last["mb"]), 1),
        "ranks_agree": first["all"] == last["all"] and first["mine"] != last["mine"],
    }
