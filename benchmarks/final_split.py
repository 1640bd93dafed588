"""Retrieval on videos that no decision about this project has seen; to be run once for a version.

    make paper && python benchmarks/final_split.py --runs runs/paper [more folders of paper runs]

The 400 held-out videos of `make paper` and its miniature of UVRB guided many decisions. This script
draws 400 other scenes of the held-out split whose objects (colour, shape, size, background and
place) occur in neither, with the same shares of one, two and three objects as the 400. It searches
them with the adapter of each run, and prints recall by kind of query as one JSON object.
"""

import argparse
import json
import statistics
from collections import Counter
from collections.abc import Iterator
from itertools import count
from pathlib import Path
from typing import Any

from gve_ray.demo.benchmark_plan import Video
from gve_ray.demo.corpus import read_truth
from gve_ray.demo.language import Writer
from gve_ray.demo.retrieval import Benchmark, queries_of, recall
from gve_ray.demo.scenes import Combination, Scene, draw_scene
from gve_ray.demo.tiny_vl import MODEL
from gve_ray.embedder import Embedder

SEED = 2027  # not used before


def combinations(scene: Scene) -> Iterator[Combination]:
    """Yield what identifies each object of a scene."""
    for chapter in scene.chapters:
        for thing in chapter.things:
            yield thing.colour, thing.shape, thing.size, chapter.background, thing.column, thing.row


def final_scenes(development: list[Scene], others: list[Scene], *, seed: int) -> list[Scene]:
    """Draw as many scenes as there are development videos, without their objects and those of `others`."""
    seen = {found for scene in (*development, *others) for found in combinations(scene)}
    left = Counter(_kind(scene) for scene in development)
    chosen: list[Scene] = []
    descriptions = set()
    for number in count(seed * 1_000_000):
        if not left.total():
            return chosen
        scene = draw_scene(number, "heldout")
        if not left[_kind(scene)] or seen & set(combinations(scene)):
            continue
        description = Writer().captions(scene)["2"]
        if description not in descriptions:
            descriptions.add(description)
            left[_kind(scene)] -= 1
            chosen.append(scene)
    raise AssertionError("count() does not end")


def _kind(scene: Scene) -> tuple[int, int]:
    return len(scene.chapters), len(scene.chapters[0].things)


def write_benchmark(folder: Path, scenes: list[Scene], *, seed: int) -> Benchmark:
    """Render the scenes, and return them with a query of each kind."""
    folder.mkdir(parents=True, exist_ok=True)
    videos = []
    for number, scene in enumerate(scenes):
        path = folder / f"f{number:03d}.mp4"
        if not path.exists():
            part = path.with_name(f".{path.name}")
            Video(name=path.stem, scene=scene).write(part)
            part.replace(path)
        videos.append(str(path))
    by_video = [queries_of(scene, seed) for scene in scenes]
    return Benchmark(queries={name: [q[name] for q in by_video] for name in by_video[0]}, videos=videos)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument(
        "--runs", type=Path, nargs="+", default=[Path("runs/paper")], help="the first is the one of seed 42"
    )
    parser.add_argument("--work", type=Path, default=Path("runs/final"))
    args = parser.parse_args()
    first = args.runs[0]
    development = [entry.scene for entry in read_truth(first / "heldout")]
    lines = (first / "uvrb" / "truth.jsonl").read_text(encoding="utf-8").splitlines()
    scenes = final_scenes(
        development, [Scene.from_dict(json.loads(line)["scene"]) for line in lines], seed=SEED
    )
    benchmark = write_benchmark(args.work, scenes, seed=SEED)
    kinds = tuple(benchmark.queries)
    adapters: dict[str, Any] = {str(run): run / "training" / "adapter" for run in args.runs}
    settings = Embedder.from_pretrained(MODEL, adapters[str(first)]).settings
    scores = {"base": recall(Embedder.from_pretrained(MODEL, settings=settings), benchmark, abilities=kinds)}
    for name, adapter in adapters.items():
        scores[name] = recall(Embedder.from_pretrained(MODEL, adapter), benchmark, abilities=kinds)
    summary = {
        kind: {
            f"R@{k}": {
                "mean": round(statistics.mean(scores[name][kind][k] for name in adapters), 4),
                "seeds": [round(scores[name][kind][k], 4) for name in adapters],
                "before": round(scores["base"][kind][k], 4),
            }
            for k in (1, 10)
        }
        for kind in kinds
    }
    objects = Counter(sum(len(c.things) for c in scene.chapters) for scene in scenes)
    print(json.dumps({"videos": len(scenes), "objects": dict(objects), **summary}, indent=1))


if __name__ == "__main__":
    main()
