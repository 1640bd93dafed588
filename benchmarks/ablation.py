"""What UVRD and the curriculum add, in miniature: an experiment whose endpoints are fixed below.

    make paper && python benchmarks/ablation.py [--run runs/paper] [--work runs/ablation] [--processes 2]

Trains each arm with each seed in one single-threaded process, scores all adapters on the miniature
of UVRB, and prints one JSON object. Finished runs are kept in the
work folder and not repeated. It takes about an hour on two cores.

    i, i+        the initial data: the described videos and the raw corpus with its noisy captions,
                 drawn by number of pairs; 80 and 120 steps
    s            the initial data and UVRD, drawn by number of pairs, so that the initial pairs get
                 about the steps of i
    P0           the same data with the curriculum of before: each data set a task, raw cosines, and
                 the described pairs counted 40 times
    P1           each format a task, raw cosines, no prior (the paper's formula)
    P2           P1 with P(k) multiplied by the number of pairs; seed 0 only
    P3           P2 with centred scores
    s-constant, P1-constant   with a constant learning rate, so that early steps count no more than late ones

Endpoints, chosen before the first run: the differences below, of the average over seeds, paired by
query, with a bootstrap over clusters of videos (queries that share a positive or a query medium).

    H1   s - i and s - i+ on CMP are above 0
    H2   (the better of P1 and P3) - s on the average over abilities is above 0, and TXT falls by at
         most 0.03
"""

import argparse
import csv
import dataclasses
import json
import logging
import math
import multiprocessing
import os
import sys
import time
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np

from gve_ray.config import load_config
from gve_ray.demo.corpus import read_truth
from gve_ray.demo.tiny_vl import MODEL
from gve_ray.evaluation.scores.abilities import ABILITIES, weights
from gve_ray.evaluation.scores.bootstrap import ClusterBootstrap
from gve_ray.evaluation.scores.clusters import join_queries
from gve_ray.schema import Task
from gve_ray.synthesis.pairs import INSTRUCTIONS
from gve_ray.training.config import (
    DataSetConfig,
    LoopConfig,
    TrainingConfig,
    TrainingJobConfig,
    ValidationConfig,
)
from gve_ray.training.curriculum import HISTORY_FILE, Curriculum, History
from gve_ray.training.runlog import read_log
from gve_ray.training.validation import load_validation, query_scores

EPOCHS = 3
BATCH = 24
SEEDS = (0, 1, 2)
RESAMPLES = 10_000
TXT_TOLERANCE = 0.03
log = logging.getLogger("ablation")
Values = Mapping[str, np.ndarray]  # by data set: float64 [queries]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Arm:
    """One variant of the experiment. described_weight: how often a described pair counts."""

    curriculum: Mapping[str, Any]
    uvrd: bool = True
    steps: int = 120
    decay: Literal["cosine", "constant"] = "cosine"
    described_weight: float = 1.0
    seeds: Sequence[int] = SEEDS


PROPORTIONAL = {"kind": "proportional"}
P1 = {"kind": "pyramid", "tasks": "format", "prior": "none", "scores": "raw"}
ARMS = {
    "i": Arm(curriculum=PROPORTIONAL, uvrd=False, steps=80),
    "i+": Arm(curriculum=PROPORTIONAL, uvrd=False),
    "s": Arm(curriculum=PROPORTIONAL),
    "P0": Arm(curriculum={**P1, "tasks": "dataset"}, described_weight=40.0),
    "P1": Arm(curriculum=P1),
    "P2": Arm(curriculum={**P1, "prior": "size"}, seeds=(0,)),
    "P3": Arm(curriculum={"kind": "pyramid", "tasks": "format", "prior": "size", "scores": "centred"}),
    "s-constant": Arm(curriculum=PROPORTIONAL, decay="constant"),
    "P1-constant": Arm(curriculum=P1, decay="constant"),
}
PYRAMIDS = ("P1", "P3")  # candidates of H2
# Differences that are reported: first minus second.
COMPARED = (
    ("s", "i"),
    ("s", "i+"),
    ("P0", "s"),
    ("P1", "s"),
    ("P2", "s"),
    ("P3", "s"),
    ("P3", "P1"),
    ("s-constant", "s"),
    ("P1-constant", "s-constant"),
)


def raw_captions(corpus: Path, work: Path) -> Path:
    """Write the captions of the raw corpus (true, junk or mismatched) whose videos decode to a CSV file."""
    path = work / "raw.csv"
    with path.open("w", newline="", encoding="utf-8") as file:
        rows = csv.writer(file)
        rows.writerow(("videoid", "page_dir", "name"))
        for entry in read_truth(corpus):
            if entry.caption and not entry.broken:
                rows.writerow((entry.video_id, "videos", entry.caption))
    return path


def config_of(arm: Arm, run: Path, work: Path, seed: int) -> TrainingConfig:
    """Return the demo's recipe with the data, curriculum and steps of an arm, without mined negatives."""
    demo = load_config(TrainingJobConfig, ["--config", "demo.yaml"])
    described, raw = run / "described", run / "raw"
    initial: dict[str, Any] = {
        "format": "webvid",
        "instruction": INSTRUCTIONS[Task.T2V],
        "batch_size": BATCH,
        "negatives": 0,
    }
    data = [
        DataSetConfig(
            name="described",
            uri=str(described / "results.csv"),
            root=str(described),
            weight=arm.described_weight,
            **initial,
        ),
        DataSetConfig(name="raw", uri=str(work / "raw.csv"), root=str(raw), **initial),
    ]
    if arm.uvrd:
        folder = str(run / "synthesis" / "uvrd")
        data.append(DataSetConfig(name="uvrd", uri=folder, batch_size=BATCH, negatives=0))
    optimiser = dataclasses.replace(demo.loop.optimiser, decay=arm.decay)
    # Several epochs with the steps of one arm in all; 80 steps are not divisible by 3.
    epochs = EPOCHS if arm.steps % EPOCHS == 0 else 2
    return TrainingConfig(
        model=demo.model,
        data=tuple(data),
        assets=str(run / "synthesis" / "assets.lance"),
        dtype=demo.dtype,
        attention=demo.attention,
        frames=demo.frames,
        max_pixels=demo.max_pixels,
        min_pixels=demo.min_pixels,
        curriculum=Curriculum(epochs=epochs, **arm.curriculum),
        prober=dataclasses.replace(demo.prober, mine=False),
        lora=demo.lora,
        loop=LoopConfig(seed=seed, steps=arm.steps // epochs, optimiser=optimiser, save_steps=10**6),
        trackers=(),
    )


def train(name: str, seed: int, run: Path, work: Path) -> None:
    """Train one arm with one seed in this process; a finished run is not repeated."""
    import torch

    from gve_ray.training.fit import fit

    torch.set_num_threads(1)
    folder = work / "training" / f"{name}-{seed}"
    if not (folder / "adapter" / HISTORY_FILE).exists():
        fit(config_of(ARMS[name], run, work, seed), folder)


def work_in_processes(
    train: Callable[[str, int, Path, Path], None],
    runs: Sequence[tuple[str, int]],
    run: Path,
    work: Path,
    *,
    processes: int,
) -> None:
    """Call `train` with each name and seed, in processes of one thread each."""
    os.environ |= {"OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1"}
    begun = time.monotonic()
    with multiprocessing.get_context("spawn").Pool(processes, maxtasksperchild=1) as pool:
        waiting = [(pair, pool.apply_async(train, (*pair, run, work))) for pair in runs]
        for done, ((name, seed), result) in enumerate(waiting, 1):
            result.get()
            left = (time.monotonic() - begun) / done * (len(runs) - done) / 60
            log.info("%s, seed %d: done; %d of %d runs, %.0f min left", name, seed, done, len(runs), left)


def score(name: str, seed: int, run: Path, work: Path) -> None:
    """Write the metric of each query of the miniature of UVRB under one adapter; "base" has none."""
    import torch

    from gve_ray.embedder import Embedder, EmbedderSettings

    target = work / "scores" / f"{name}-{seed}.json"
    if target.exists():
        return
    torch.set_num_threads(1)
    demo = load_config(TrainingJobConfig, ["--config", "demo.yaml"])
    adapter = None if name == "base" else work / "training" / f"{name}-{seed}" / "adapter"
    embedder = Embedder.from_pretrained(MODEL, adapter, settings=EmbedderSettings(**demo.sequence_settings))
    scores = {
        each.data.name: query_scores(
            each, embedder.embed(each.data.queries), embedder.embed(each.data.corpus)
        )
        for each in load_validation(ValidationConfig(root=str(run / "uvrb")), work, seed=0)
    }
    target.parent.mkdir(exist_ok=True)
    part = target.with_suffix(".part")
    part.write_text(json.dumps(scores))
    part.replace(target)


def per_query(
    run: Path, work: Path, runs: Sequence[tuple[str, int]], *, processes: int
) -> dict[str, dict[str, dict[str, float]]]:
    """Score the untrained model and all adapters on the miniature of UVRB, by run, data set and query."""
    everyone = [("base", 0), *runs]
    work_in_processes(score, everyone, run, work, processes=processes)
    return {
        f"{name}-{seed}": json.loads((work / "scores" / f"{name}-{seed}.json").read_text())
        for name, seed in everyone
    }


def shared_names(uvrb: Path, dataset: str, queries: Sequence[str]) -> list[set[str]]:
    """Return what each query may share with others: the names of its positives and of its media.

    A clip counts as its video, which it was cut from.
    """
    folder = uvrb / dataset / "jsonl"
    names: defaultdict[str, set[str]] = defaultdict(set)
    for line in (folder / "queries.jsonl").read_text().splitlines():
        query = json.loads(line)
        names[query["id"]] |= {Path(query[part]).stem for part in ("image", "video") if part in query}
    for line in (folder / "instances.jsonl").read_text().splitlines():
        instance = json.loads(line)
        names[instance["qid"]] |= set(instance["pos"])
    return [{name.split("-clip")[0] for name in names[query]} for query in queries]


class Scores:
    """Scores of all runs on the same queries, and a bootstrap over clusters of videos."""

    def __init__(self, scores: Mapping[str, Mapping[str, Mapping[str, float]]], uvrb: Path) -> None:
        datasets = sorted(next(iter(scores.values())))
        queries = {name: sorted(scores["base-0"][name]) for name in datasets}
        self.rows = {
            model: {name: np.array([found[name][query] for query in queries[name]]) for name in datasets}
            for model, found in scores.items()
        }
        clusters = join_queries({name: shared_names(uvrb, name, queries[name]) for name in datasets})
        self.queries = sum(map(len, queries.values()))
        self.clusters = len({number for numbers in clusters.values() for number in numbers.tolist()})
        self._bootstrap = ClusterBootstrap(clusters, resamples=RESAMPLES)

    def of_arm(self, name: str, seeds: Sequence[int]) -> Values:
        """Return the mean over seeds, by data set: float64 [queries]."""
        rows = [self.rows[f"{name}-{seed}"] for seed in seeds]
        return {dataset: np.mean([row[dataset] for row in rows], axis=0) for dataset in rows[0]}

    def ability(self, values: Values, ability: str) -> float:
        """Return the mean of an ability."""
        return sum(share * float(values[name].mean()) for name, share in weights(ability).items())

    def intervals(self, values: Values, abilities: Sequence[str]) -> dict[str, list[float]]:
        """Return the mean of each ability and the bounds of its 95 % interval."""
        means = self._bootstrap.means({name: row[None] for name, row in values.items()})
        found = {}
        for ability in abilities:
            shares = weights(ability)
            draws = np.sum([share * means[name][:, 0] for name, share in shares.items()], axis=0)
            interval = self._bootstrap.interval(self.ability(values, ability), draws, shares)
            found[ability] = [round(value, 4) for value in (interval.estimate, interval.low, interval.high)]
        return found


def curriculum_facts(work: Path, name: str, seeds: Sequence[int]) -> dict[str, Any]:
    """Return R_k, P(k), its entropy, steps and the sum of learning rates by format and epoch, over the seeds."""
    records = [
        History.load(work / "training" / f"{name}-{seed}" / "adapter" / HISTORY_FILE) for seed in seeds
    ]
    steps = [
        step for seed in seeds for step in read_log(work / "training" / f"{name}-{seed}" / "steps.jsonl")
    ]
    facts: dict[str, Any] = {"epochs": []}
    for epoch in zip(*(history.epochs for history in records), strict=True):
        shares = {
            task: float(np.mean([r.probabilities[task] for r in epoch])) for task in epoch[0].probabilities
        }
        facts["epochs"].append(
            {
                "R_k": {
                    task: round(float(np.mean([r.scores[task] for r in epoch])), 3)
                    for task in epoch[0].scores
                },
                "P_k": {task: round(share, 3) for task, share in shares.items()},
                "entropy": round(-sum(p * math.log(p) for p in shares.values() if p > 0), 3),
            }
        )
    whole = sum(step["learning_rate"] for step in steps)
    for key, value in (
        ("steps", lambda step: 1 / len(seeds)),
        ("lr_share", lambda step: step["learning_rate"] / whole),
    ):
        sums: dict[str, float] = defaultdict(float)
        for step in steps:
            sums[_format_of(step["dataset"])] += value(step)
        facts[key] = {task: round(total, 3) for task, total in sorted(sums.items())}
    return facts


def _format_of(dataset: str) -> str:
    return dataset.rpartition("-")[2] if dataset.startswith("uvrd-") else f"T2V ({dataset})"


def report(scores: Scores, work: Path) -> dict[str, Any]:
    """Return the tables of the experiment and the verdict on each hypothesis."""
    arms = {name: scores.of_arm(name, arm.seeds) for name, arm in ARMS.items()}
    table: dict[str, dict[str, Any]] = {
        "base": {
            ability: round(scores.ability(scores.rows["base-0"], ability), 4)
            for ability in (*ABILITIES, "average")
        }
    }
    for name, arm in ARMS.items():
        table[name] = {
            ability: {
                "mean": round(scores.ability(arms[name], ability), 4),
                "seeds": [
                    round(scores.ability(scores.rows[f"{name}-{seed}"], ability), 4) for seed in arm.seeds
                ],
            }
            for ability in (*ABILITIES, "average")
        }
    differences = {}
    for first, second in COMPARED:
        seeds = [seed for seed in ARMS[first].seeds if seed in ARMS[second].seeds]
        one, other = scores.of_arm(first, seeds), scores.of_arm(second, seeds)
        gap = {name: one[name] - other[name] for name in one}
        differences[f"{first} - {second}"] = scores.intervals(gap, ("TXT", "CMP", "VIS", "average"))
    best = max(PYRAMIDS, key=lambda name: scores.ability(arms[name], "average"))
    h1 = [differences[f"s - {other}"]["CMP"] for other in ("i", "i+")]
    average, txt = (differences[f"{best} - s"][ability] for ability in ("average", "TXT"))
    return {
        "queries": scores.queries,
        "clusters": scores.clusters,
        "scores": table,
        "differences": differences,
        "H1": {"s - i on CMP": h1[0], "s - i+ on CMP": h1[1], "holds": all(low > 0 for _, low, _ in h1)},
        "H2": {
            "pyramid": best,
            "average": average,
            "TXT": txt,
            "holds": average[1] > 0 and txt[0] >= -TXT_TOLERANCE,
        },
        "curricula": {name: curriculum_facts(work, name, arm.seeds) for name, arm in ARMS.items()},
    }


def prepare(description: str, *, work: str) -> argparse.Namespace:
    """Parse the arguments that the experiments on a paper run share, and make their work folder."""
    parser = argparse.ArgumentParser(description=description)
    parser.add_argument("--run", type=Path, default=Path("runs/paper"), help="folder of `make paper`")
    parser.add_argument("--work", type=Path, default=Path(work))
    parser.add_argument("--processes", type=int, default=2)
    args = parser.parse_args()
    args.run, args.work = args.run.resolve(), args.work.resolve()
    if not (args.run / "synthesis" / "uvrd").is_dir():
        parser.error(f"--run {args.run}: has no synthesis/uvrd; run `make paper` first")
    logging.basicConfig(level=logging.INFO, format="%(message)s", stream=sys.stderr)
    args.work.mkdir(parents=True, exist_ok=True)
    raw_captions(args.run / "raw", args.work)
    return args


def main() -> None:
    args = prepare(__doc__.splitlines()[0], work="runs/ablation")
    run, work = args.run, args.work
    # By seed, so that a comparison of all arms exists early.
    runs = sorted(
        ((name, seed) for name, arm in ARMS.items() for seed in arm.seeds), key=lambda pair: pair[1]
    )
    begun = time.monotonic()
    work_in_processes(train, runs, run, work, processes=args.processes)
    scores = Scores(per_query(run, work, runs, processes=args.processes), run / "uvrb")
    print(json.dumps({"seconds": round(time.monotonic() - begun), **report(scores, work)}, indent=1))


if __name__ == "__main__":
    main()
