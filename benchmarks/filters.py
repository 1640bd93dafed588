"""Precision, recall and cost of the content filters of synthesis on rendered videos.

    python benchmarks/filters.py [--seeds 7 123] [--of_each 20] [--processes 2] [--folder videos]

For each seed, renders videos with each defect and videos that only resemble one
(gve_ray/demo/content.py), decodes them as `gve synthesize` does, and applies each filter with its default
threshold to all of them. The thresholds were chosen on seed 1. --folder: also counts the videos of a folder that
each filter rejects. Prints one JSON object.
"""

import argparse
import json
import tempfile
import time
from collections.abc import Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
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


def score_example(example: Example, folder: Path) -> tuple[Example, dict[str, float], dict[str, float]]:
    """Render an example and score it."""
    path = folder / f"{example.seed}-{example.name}.mp4"
    write_example(path, example)
    scored = score(example.name, str(path))
    path.unlink()
    return example, *scored


def quality(name: str, scored: Sequence[tuple[Example, Mapping[str, float], Any]]) -> dict[str, Any]:
    """Return precision, recall and F1 of a filter, and what it has missed and rejected by mistake."""
    threshold = CONTENT_THRESHOLDS[name]
    rejected = {(e.seed, e.name): e for e, scores, _ in scored if scores[name] > threshold}
    defective = {(e.seed, e.name): e for e, _, _ in scored if name in e.defects}
    right = len(rejected.keys() & defective.keys())
    precision, recall = right / max(1, len(rejected)), right / max(1, len(defective))
    wrong = [e.name for key, e in rejected.items() if key not in defective]
    missed = [e.name for key, e in defective.items() if key not in rejected]
    return {
        "threshold": threshold,
        "precision": round(precision, 3),
        "recall": round(recall, 3),
        "f1": round(2 * right / max(1, len(rejected) + len(defective)), 3),
        "wrongly_rejected": sorted(wrong),
        "missed": sorted(missed),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seeds", type=int, nargs="+", default=[7, 123])
    parser.add_argument("--of_each", type=int, default=20)
    parser.add_argument("--processes", type=int, default=2)
    parser.add_argument("--folder")
    args = parser.parse_args()
    result: dict[str, Any] = {"media": "rendered world", "by_seed": {}}
    costs: list[Mapping[str, float]] = []
    with tempfile.TemporaryDirectory() as folder, ProcessPoolExecutor(args.processes) as pool:
        for seed in args.seeds:
            every = examples(seed=seed, of_each=args.of_each)
            scored = list(pool.map(partial(score_example, folder=Path(folder)), every, chunksize=4))
            result["by_seed"][seed] = {name: quality(name, scored) for name in DEFECTS}
            costs += [spent for _, _, spent in scored]
        result["videos"] = len(costs)
        if args.folder:
            uris = video_uris(args.folder)
            found = list(pool.map(score, [Path(uri).stem for uri in uris], uris))
            result["folder"] = {
                name: {
                    Path(uri).name: round(scores[name], 3)
                    for uri, (scores, _) in zip(uris, found, strict=True)
                    if scores[name] > CONTENT_THRESHOLDS[name]
                }
                for name in DEFECTS
            } | {"videos": len(uris)}
    result["cpu_milliseconds_per_video"] = {
        name: round(mean(spent[name] for spent in costs), 1) for name in ("frames", *DEFECTS)
    }
    print(json.dumps(result, indent=1))


if __name__ == "__main__":
    main()
