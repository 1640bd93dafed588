"""Precision, recall and cost of the content filters of synthesis on rendered videos.

    python benchmarks/filters.py [--seeds 7 31] [--of_each 12] [--results filters.jsonl] [--folder videos]

For each seed, renders videos with each defect and videos that only resemble one
(gve_ray/demo/content.py), decodes them as `gve synthesize` does, and applies each filter with its default
threshold to all of them. The thresholds were chosen on seeds 1 and 123. --folder: also counts the videos
of a folder that each filter rejects. Scores are appended to --results, so a run that was interrupted goes
on. Prints one JSON object.
"""

import argparse
import json
import tempfile
import time
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from functools import partial
from pathlib import Path
from statistics import mean
from typing import Any

from gve_ray.demo.content import DEFECTS, Example, examples, write_example
from gve_ray.inputs.manifest import video_uris
from gve_ray.media.decode import decode
from gve_ray.synthesis.config import CONTENT_THRESHOLDS, MediaConfig
from gve_ray.synthesis.content.score import MEASURES, Pictures
from gve_ray.synthesis.ingest import asset_row, sampling_plan

MEDIA = MediaConfig()
SEED = 42  # of clips and reference frames
Scored = dict[str, Any]  # name, kind and seed of an example; its scores and CPU milliseconds by filter


def score(video_id: str, uri: str) -> tuple[dict[str, float], dict[str, float]]:
    """Decode a video; return its scores, and the milliseconds of CPU time of each and of decoding the stored frames."""
    plan = partial(sampling_plan, video_id=video_id, media=MEDIA, seed=SEED)
    decoded = decode(uri, plan, max_pixels=MEDIA.max_pixels, min_pixels=MEDIA.min_pixels)
    row = asset_row(video_id, uri, decoded, media=MEDIA, seed=SEED)
    started = time.process_time()
    pictures = Pictures.of_row(row)
    spent = {"frames": time.process_time() - started}
    scores = {}
    for name, measure in MEASURES.items():
        started = time.process_time()
        scores[name] = measure(pictures)
        spent[name] = time.process_time() - started
    return scores, {name: 1000 * seconds for name, seconds in spent.items()}


def score_example(example: Example, folder: Path) -> Scored:
    """Render an example and score it."""
    path = folder / f"{example.seed}-{example.name}.mp4"
    write_example(path, example)
    scores, spent = score(example.name, str(path))
    path.unlink()
    return {
        "name": example.name,
        "kind": example.kind,
        "seed": example.seed,
        "scores": scores,
        "spent": spent,
    }


def score_examples(every: Sequence[Example], results: Path, pool: ProcessPoolExecutor) -> list[Scored]:
    """Score examples, and append each to a file of JSON lines; those that it has already are not rendered again."""
    lines = results.read_text().splitlines() if results.exists() else []
    scored = {(row["seed"], row["name"]): row for row in map(json.loads, lines)}
    todo = [example for example in every if (example.seed, example.name) not in scored]
    with tempfile.TemporaryDirectory() as folder, results.open("a") as file:
        for future in as_completed(pool.submit(score_example, example, Path(folder)) for example in todo):
            row = future.result()
            scored[row["seed"], row["name"]] = row
            file.write(json.dumps(row) + "\n")
            file.flush()
    return [scored[example.seed, example.name] for example in every]


def quality(name: str, scored: Sequence[Scored]) -> dict[str, Any]:
    """Return precision, recall and F1 of a filter, and what it has missed and rejected by mistake."""
    threshold = CONTENT_THRESHOLDS[name]
    rejected = [row for row in scored if row["scores"][name] > threshold]
    defective = [row for row in scored if row["kind"] == name]
    right = [row for row in rejected if row["kind"] == name]
    return {
        "threshold": threshold,
        "precision": round(len(right) / max(1, len(rejected)), 3),
        "recall": round(len(right) / max(1, len(defective)), 3),
        "f1": round(2 * len(right) / max(1, len(rejected) + len(defective)), 3),
        "wrongly_rejected": sorted(row["name"] for row in rejected if row["kind"] != name),
        "missed": sorted(row["name"] for row in defective if row not in right),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seeds", type=int, nargs="+", default=[7, 31])
    parser.add_argument("--of_each", type=int, default=12)
    parser.add_argument("--processes", type=int, default=2)
    parser.add_argument("--results", type=Path, default=Path("filters.jsonl"))
    parser.add_argument("--folder")
    args = parser.parse_args()
    every = [example for seed in args.seeds for example in examples(seed=seed, of_each=args.of_each)]
    with ProcessPoolExecutor(args.processes) as pool:
        scored = score_examples(every, args.results, pool)
        uris = video_uris(args.folder) if args.folder else []
        found = dict(zip(uris, pool.map(score, [Path(uri).stem for uri in uris], uris), strict=True))
    of_seed = {seed: [row for row in scored if row["seed"] == seed] for seed in args.seeds}
    result: dict[str, Any] = {
        "media": "rendered world",
        "videos": len(scored),
        "all": {name: quality(name, scored) for name in DEFECTS},
        "f1_by_seed": {
            seed: {name: quality(name, rows)["f1"] for name in DEFECTS} for seed, rows in of_seed.items()
        },
        "cpu_milliseconds_per_video": {
            name: round(mean(row["spent"][name] for row in scored), 1) for name in ("frames", *DEFECTS)
        },
    }
    if args.folder:
        result["folder"] = {"videos": len(uris)} | {
            name: {
                Path(uri).name: round(scores[name], 3)
                for uri, (scores, _) in found.items()
                if scores[name] > CONTENT_THRESHOLDS[name]
            }
            for name in DEFECTS
        }
    print(json.dumps(result, indent=1))


if __name__ == "__main__":
    main()
