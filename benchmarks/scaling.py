"""How the scores grow with the number of training pairs, in miniature (the paper's data scaling).

    make paper && python benchmarks/scaling.py [--run runs/paper] [--work runs/scaling] [--processes 2]

Trains on 1/16, 1/8, ... of the initial data and UVRD, one pass over each, with three seeds, and
evaluates all adapters on the miniature of UVRB. Fits score = a ln(pairs) + b and prints one JSON
object: the scores, and a and b with their 95 % intervals (Student's t over the 15 runs), with the
gain for ten times as many pairs, 2.3 a. The steps grow with the pairs, so the fit is about both.
"""

import dataclasses
import json
import math
import time
from pathlib import Path
from typing import Any

import numpy as np
from ablation import ARMS, BATCH, Scores, config_of, per_query, prepare, work_in_processes

from gve_ray.training.config import DataSetConfig, TrainingConfig
from gve_ray.training.curriculum import HISTORY_FILE
from gve_ray.training.mixture import count_pairs, named_tasks

PARTS = (16, 8, 4, 2, 1)  # the data are divided by these
SEEDS = (0, 1, 2)
T_975 = 2.160  # Student's t with 13 degrees of freedom: 15 runs, 2 parameters


def part_of(run: Path, work: Path, part: int, seed: int) -> tuple[TrainingConfig, int]:
    """Return the config of a run on 1 / `part` of every data set, and the number of its pairs."""
    config = config_of(ARMS["s"], run, work, seed)
    data: list[DataSetConfig] = []
    pairs = 0
    for source in config.data:
        sizes = count_pairs(source)
        assert sizes is not None
        for name, task in named_tasks(source).items():
            sample = max(1, round(sizes[name] / part))
            tasks = (task.value,) if source.format == "pairs" else ()
            data.append(dataclasses.replace(source, tasks=tasks, sample=sample))
            pairs += sample
    steps = max(1, round(pairs / BATCH))
    return (
        dataclasses.replace(
            config,
            data=tuple(data),
            curriculum=dataclasses.replace(config.curriculum, epochs=1),
            loop=dataclasses.replace(config.loop, steps=steps),
        ),
        pairs,
    )


def train(name: str, seed: int, run: Path, work: Path) -> None:
    """Train on a part of the data, whose name is its divisor, in this process; a finished run is not repeated."""
    import torch

    from gve_ray.training.fit import fit

    torch.set_num_threads(1)
    folder = work / "training" / f"{name}-{seed}"
    if not (folder / "adapter" / HISTORY_FILE).exists():
        fit(part_of(run, work, int(name), seed)[0], folder)


def fitted(pairs: np.ndarray, scores: np.ndarray) -> dict[str, Any]:
    """Fit score = a ln(pairs) + b by least squares, and give the 95 % interval of a."""
    x = np.log(pairs)
    slope, intercept = np.polyfit(x, scores, 1)
    rest = scores - (slope * x + intercept)
    error = math.sqrt((rest**2).sum() / (len(x) - 2) / ((x - x.mean()) ** 2).sum())
    interval = [slope - T_975 * error, slope + T_975 * error]
    return {
        "a": round(float(slope), 4),
        "a_interval": [round(float(bound), 4) for bound in interval],
        "b": round(float(intercept), 4),
        "gain_of_ten_times": round(float(slope) * math.log(10), 4),
        "r_squared": round(1 - float((rest**2).sum() / ((scores - scores.mean()) ** 2).sum()), 3),
    }


def main() -> None:
    args = prepare(__doc__.splitlines()[0], work="runs/scaling")
    run, work = args.run, args.work
    runs = [(str(part), seed) for part in PARTS for seed in SEEDS]
    begun = time.monotonic()
    work_in_processes(train, runs, run, work, processes=args.processes)
    scores = Scores(per_query(run, work, runs, processes=args.processes), run / "uvrb")
    pairs = {str(part): part_of(run, work, part, 0)[1] for part in PARTS}
    found: dict[str, Any] = {"pairs": pairs}
    for ability in ("average", "TXT", "CMP", "VIS"):
        values = [scores.ability(scores.rows[f"{name}-{seed}"], ability) for name, seed in runs]
        by_part = {
            name: [round(v, 4) for (n, _), v in zip(runs, values, strict=True) if n == name] for name in pairs
        }
        counts = np.array([pairs[name] for name, _ in runs], dtype=float)
        found[ability] = {"by_part": by_part, **fitted(counts, np.array(values))}
    print(json.dumps({"seconds": round(time.monotonic() - begun), **found}, indent=1))


if __name__ == "__main__":
    main()
