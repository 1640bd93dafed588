"""Measure what a search returns: whether it says that nothing matches, and how many films it shows.

    python benchmarks/search_quality.py [--seed 6] [--films 200] [--copies 40] [--min_confidence 0.9]

Renders scenes of the held-out split and embeds them with the packaged tiny model, in windows of 4 s
that overlap by 2 s. Half of the scenes are in the index, 40 of them a second time in half the size and
strongly compressed. Each scene has one query, by turns its complete description and a clip of it, so
half of the queries have no answer. Prints one JSON object:

cutoff_precision: of the queries with a confident hit, the share with an answer in the index.
cutoff_recall: of the queries with an answer, the share with a confident hit.
right_first: of those, the share whose best hit shows the right film.
curve: precision and recall at other levels of confidence.
films_in_top10_before, films_in_top10_after: mean number of films among the ten best hits of a query
with an answer: moments apart from each other of files with other bytes, and films with copies found.
copies_in_top10_before, copies_in_top10_after: of the queries whose film is there twice, the share
with both among the ten best.
"""

import argparse
import json
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from gve_ray.demo.render import frames, write_mp4
from gve_ray.demo.retrieval import queries_of
from gve_ray.demo.scenes import Scene, draw_scene
from gve_ray.embedder import Embedder
from gve_ray.indexing.segments import windows
from gve_ray.media import read_frames
from gve_ray.schema import Frames, Item
from gve_ray.search import (
    Background,
    IndexOptions,
    IndexSpec,
    Moment,
    VectorIndex,
    create_index,
    search_moments,
)
from gve_ray.search.confidence import background_of
from gve_ray.search.library import FIELDS
from gve_ray.search.moments import distinct
from gve_ray.serving.hits import MIN_CONFIDENCE

FRAMES = 8
WINDOW, OVERLAP, SHORTEST = 4.0, 2.0, 1.0  # seconds
TOP = 10
KINDS = ("fine", "clip")
LEVELS = (0.5, 0.7, 0.8, 0.9, 0.95, 0.99, 0.999)
AT_ONCE = 64


class Corpus:
    """The windows of films with their vectors and metadata."""

    def __init__(self, embedder: Embedder) -> None:
        self._embedder = embedder
        self.ids: list[str] = []
        self.metadata: list[dict[str, Any]] = []
        self.vectors: list[np.ndarray] = []
        self._waiting: list[Item] = []

    def add(self, film: str, scene: Scene, copy: Path | None = None) -> None:
        """Add a film, rendered from its scene or read from the file `copy`."""
        for number, (start, end) in enumerate(windows(scene.duration, WINDOW, OVERLAP, SHORTEST)):
            if copy is None:
                seen = drawn(scene, start, end)
            else:
                seen = read_frames(str(copy), k=FRAMES, start=start, end=end, max_pixels=10**6, min_pixels=1)
            self.ids.append(f"{film}/{number}")
            facts = {"video_id": film, "uri": film, "segment": number, "fingerprint": film}
            self.metadata.append({**facts, "start": start, "end": end, "duration": scene.duration})
            self._waiting.append(Item(video=seen))
        if len(self._waiting) >= AT_ONCE:
            self.flush()

    def flush(self) -> None:
        """Embed the windows that wait for it."""
        if self._waiting:
            self.vectors.append(self._embedder.embed(self._waiting))
            self._waiting = []


def drawn(scene: Scene, start: float, end: float) -> Frames:
    """Return frames of a span of a scene, as if they had been read from its file."""
    seconds = np.linspace(start, end, FRAMES, endpoint=False)
    times = (seconds / scene.duration).tolist()
    return Frames(
        pixels=np.stack(list(frames(scene, times, scene.width, scene.height))),
        timestamps=seconds,
        indices=np.arange(FRAMES),
        fps=scene.fps,
        duration=end - start,
        total_frames=FRAMES,
    )


def fill(
    folder: Path, scenes: Sequence[Scene], copies: int, embedder: Embedder
) -> tuple[VectorIndex, Background | None]:
    """Return an index of the scenes, of which the first are there twice, and its background."""
    corpus = Corpus(embedder)
    for i, scene in enumerate(scenes):
        corpus.add(f"film{i}", scene)
        if i < copies:
            file = folder / f"copy{i}.mp4"
            half = replace(scene, width=scene.width // 4 * 2, height=scene.height // 4 * 2)
            write_mp4(file, half, crf=35)
            corpus.add(f"copy{i}", scene, file)
        if i % 20 == 0:
            print(f"{i} of {len(scenes)} films", file=sys.stderr)
    corpus.flush()
    vectors = np.concatenate(corpus.vectors)
    spec = IndexSpec(dimension=vectors.shape[1], fields=dict(FIELDS))
    index = create_index(folder / "index", spec, IndexOptions())
    index.add(corpus.ids, vectors, corpus.metadata)
    return index, background_of(vectors, [row["fingerprint"] for row in corpus.metadata])


def measure(
    index: VectorIndex, background: Background, queries: np.ndarray, copies: int, least: float
) -> Any:
    """Return the measurements. queries: float32 [2 n, d]; the first n are about the films, in order."""
    answered = len(queries) // 2
    found = [
        search_moments(index, query[None], TOP, by_video=True, background=background) for query in queries
    ]
    best = np.array([hits[0].confidence for hits in found])
    kinds = np.arange(len(queries)) % len(KINDS)
    before = [plain(index, query) for query in queries[:answered]]
    after = found[:answered]
    confident = [i for i in range(answered) if best[i] >= least]
    return {
        "min_confidence": least,
        **cutoff(best, answered, least),
        "right_first": share([number_of(found[i][0]) == i for i in confident]),
        "by_kind": {
            name: cutoff(best[kinds == kind], int((kinds[:answered] == kind).sum()), least)
            for kind, name in enumerate(KINDS)
        },
        "curve": {level: cutoff(best, answered, level) for level in LEVELS},
        "films_in_top10_before": mean_films(before),
        "films_in_top10_after": mean_films(after),
        "copies_in_top10_before": share([is_twice(hits, i) for i, hits in enumerate(before[:copies])]),
        "copies_in_top10_after": share([is_twice(hits, i) for i, hits in enumerate(after[:copies])]),
    }


def plain(index: VectorIndex, query: np.ndarray) -> list[Moment]:
    """Return moments apart from each other, of which those of copies count as well."""
    (hits,) = index.search(query[None], index.count())
    return distinct(hits, {})[:TOP]


def cutoff(best: np.ndarray, answered: int, level: float) -> dict[str, float]:
    """Return precision and recall of the cut-off. best: confidences, first of queries with an answer."""
    right, wrong = int((best[:answered] >= level).sum()), int((best[answered:] >= level).sum())
    return {
        "cutoff_precision": round(right / max(1, right + wrong), 3),
        "cutoff_recall": round(right / answered, 3),
        "false_alarms": round(wrong / (len(best) - answered), 3),
    }


def share(values: Sequence[bool]) -> float:
    return round(float(np.mean(values)), 3) if values else 0.0


def mean_films(results: Sequence[Sequence[Moment]]) -> float:
    return round(float(np.mean([len({number_of(hit) for hit in hits}) for hits in results])), 2)


def is_twice(hits: Sequence[Moment], film: int) -> bool:
    return len({hit.metadata["fingerprint"] for hit in hits if number_of(hit) == film}) == 2


def number_of(hit: Moment) -> int:
    """Return the number of the film that a hit shows, whichever file it is in."""
    return int(str(hit.metadata["fingerprint"])[4:])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seed", type=int, default=6)
    parser.add_argument("--films", type=int, default=200)
    parser.add_argument("--copies", type=int, default=40)
    parser.add_argument("--min_confidence", type=float, default=MIN_CONFIDENCE)
    args = parser.parse_args()
    embedder = Embedder.from_pretrained("package://demo/tiny_vl/model", "package://demo/tiny_vl/adapter")
    scenes = [draw_scene(args.seed * 1_000_000 + i, "heldout") for i in range(2 * args.films)]
    items = [queries_of(scene, args.seed)[KINDS[i % len(KINDS)]] for i, scene in enumerate(scenes)]
    queries = embedder.embed(items)
    with tempfile.TemporaryDirectory() as folder:
        index, background = fill(Path(folder), scenes[: args.films], args.copies, embedder)
        assert background is not None
        facts = {"seed": args.seed, "films": args.films, "copies": args.copies, "segments": index.count()}
        print(
            json.dumps(
                facts | measure(index, background, queries, args.copies, args.min_confidence), indent=1
            )
        )


if __name__ == "__main__":
    main()
