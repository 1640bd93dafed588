"""Ablation of the method in miniature: recall of held-out videos by ability, over several seeds.

    make paper && python benchmarks/ablation.py [--work runs/ablation] [--seeds 3] [--steps 60]

    raw           without synthesis: the described videos, and the raw corpus with its noisy captions
                  (called initial data in the paper)
    uvrd          raw and the synthesized pairs of all seven tasks, sampled uniformly
    pyramid       the same pairs with the Modality Pyramid (the full method)
    proportional, easy_to_hard   the same pairs with other schedulers

Every run starts from the same base model, has the same number of steps with the same batch size,
and is scored on held-out videos. Finished runs are kept in the work folder and not repeated. Prints
one JSON object: mean and standard deviation of R@1 by variant and ability, and the gain over `raw`.
"""

import argparse
import csv
import dataclasses
import json
import logging
import statistics
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from gve_ray.config import load_config, resolve_model
from gve_ray.demo.corpus import read_truth
from gve_ray.demo.retrieval import Benchmark, recall, write_heldout
from gve_ray.training.config import DataSetConfig, LoopConfig, TrainingConfig, TrainingJobConfig
from gve_ray.training.curriculum import Curriculum

SCHEDULERS = {
    "uvrd": "uniform",
    "pyramid": "pyramid",
    "proportional": "proportional",
    "easy_to_hard": "easy_to_hard",
}
VARIANTS = ("raw", *SCHEDULERS)
log = logging.getLogger("ablation")


def raw_pairs(corpus: Path, work: Path) -> DataSetConfig:
    """Return the captions of the raw corpus (true, junk or mismatched) with their videos, if these
    decode.
    """
    path = work / "raw.csv"
    with path.open("w", newline="", encoding="utf-8") as file:
        rows = csv.writer(file)
        rows.writerow(("videoid", "page_dir", "name"))
        for entry in read_truth(corpus):
            if entry.caption and not entry.broken:
                rows.writerow((entry.video_id, "videos", entry.caption))
    return DataSetConfig(name="raw", uri=str(path), format="webvid", root=str(corpus), negatives=0)


def described_pairs(folder: Path) -> DataSetConfig:
    """Return the demo's videos with descriptions."""
    table = folder / "results.csv"
    return DataSetConfig(name="described", uri=str(table), format="webvid", root=str(folder), negatives=0)


def config_of(
    variant: str, initial: Sequence[DataSetConfig], run: Path, *, seed: int, steps: int, batch: int
) -> TrainingConfig:
    """Return the demo's recipe with the data and scheduler of the variant, and without mined
    negatives.
    """
    demo = load_config(TrainingJobConfig, ["--config", "demo.yaml"])
    uvrd = DataSetConfig(name="uvrd", uri=str(run / "uvrd"), negatives=0)
    data = initial if variant == "raw" else (*initial, uvrd)
    kind: Any = SCHEDULERS.get(variant, "uniform")
    epochs = 3
    return TrainingConfig(
        model=demo.model,
        data=tuple(dataclasses.replace(dataset, batch_size=batch) for dataset in data),
        assets=str(run / "assets.lance"),
        dtype=demo.dtype,
        attention=demo.attention,
        frames=demo.frames,
        max_pixels=demo.max_pixels,
        min_pixels=demo.min_pixels,
        curriculum=Curriculum(kind=kind, epochs=epochs),
        prober=demo.prober,
        loop=LoopConfig(
            seed=seed, steps=max(1, steps // epochs), optimiser=demo.loop.optimiser, save_steps=10**6
        ),
        trackers=(),
    )


def first(benchmark: Benchmark, n: int) -> Benchmark:
    """Return the benchmark reduced to its first n videos."""
    queries = {name: items[:n] for name, items in benchmark.queries.items()}
    return Benchmark(queries=queries, videos=benchmark.videos[:n])


def score(config: TrainingConfig, folder: Path, heldout: Benchmark) -> dict[str, float]:
    """Train, and return R@1 by ability. Adapter and scores are kept in the folder."""
    from gve_ray.embedder import Embedder
    from gve_ray.training.fit import fit

    scores_path = folder / "recall.json"
    if not scores_path.exists():
        fit(config, folder)
        embedder = Embedder.from_pretrained(resolve_model(config.model), folder / "adapter")
        by_ability = recall(embedder, heldout, abilities=tuple(heldout.queries), ranks=(1,))
        scores_path.write_text(json.dumps({name: ranks[1] for name, ranks in by_ability.items()}))
    scores: dict[str, float] = json.loads(scores_path.read_text())
    return scores


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument(
        "--run", type=Path, default=Path("runs/paper/synthesis"), help="output folder of jobs/synthesize.py"
    )
    parser.add_argument(
        "--corpus", type=Path, default=Path("runs/paper/raw"), help="the raw corpus of that run"
    )
    parser.add_argument("--described", type=Path, default=Path("runs/paper/described"))
    parser.add_argument("--heldout", type=Path, default=Path("runs/paper/heldout"))
    parser.add_argument("--videos", type=int, default=200, help="held-out videos that are searched")
    parser.add_argument("--work", type=Path, default=Path("runs/ablation"))
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--steps", type=int, default=60)
    parser.add_argument("--batch", type=int, default=24)
    args = parser.parse_args()
    if not (args.run / "uvrd").is_dir():
        parser.error(f"--run {args.run}: has no uvrd/; run `make paper` first")
    logging.basicConfig(level=logging.INFO, format="%(message)s", stream=sys.stderr)
    args.work.mkdir(parents=True, exist_ok=True)
    heldout = first(write_heldout(args.heldout, seed=42), args.videos)
    initial = [described_pairs(args.described.resolve()), raw_pairs(args.corpus.resolve(), args.work)]
    scores: dict[str, list[dict[str, float]]] = {variant: [] for variant in VARIANTS}
    begun, total = time.monotonic(), args.seeds * len(VARIANTS)
    for seed in range(args.seeds):
        for variant in VARIANTS:
            config = config_of(variant, initial, args.run, seed=seed, steps=args.steps, batch=args.batch)
            scores[variant].append(score(config, args.work / f"{variant}-{seed}", heldout))
            done = sum(map(len, scores.values()))
            left = (time.monotonic() - begun) / done * (total - done) / 60
            log.info("%s, seed %d: %s; %.0f min left", variant, seed, scores[variant][-1], left)
    abilities = list(heldout.queries)
    table = {
        variant: {
            name: {
                "mean": round(statistics.mean(row[name] for row in rows), 4),
                "std": round(statistics.stdev(row[name] for row in rows), 4) if len(rows) > 1 else None,
            }
            for name in abilities
        }
        for variant, rows in scores.items()
    }
    gain = {
        variant: {
            name: round(table[variant][name]["mean"] - table["raw"][name]["mean"], 4) for name in abilities
        }
        for variant in VARIANTS[1:]
    }
    settings = {"seeds": args.seeds, "steps": args.steps, "batch": args.batch, "n": len(heldout.videos)}
    print(json.dumps({**settings, "recall_at_1": table, "gain_over_raw": gain}, indent=1))


if __name__ == "__main__":
    main()
