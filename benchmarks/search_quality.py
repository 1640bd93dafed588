"""Measure what a search returns: whether it says that nothing matches, and how many films it shows.

    python benchmarks/search_quality.py [--seed 6] [--films 200] [--windowed 60] [--copies 20] [--min_confidence 0.9]

Renders scenes of the held-out split and embeds them with the packaged tiny model. Each scene has one
query, by turns its complete description and a clip of it. For the cut-off, half of the scenes are in
the index as whole films, as in the demo's recipe, so half of the queries have no answer. For the
films, the first 60 are in the index in windows of 4 s that overlap by 2 s, and 20 of them a second
time, in half the size and strongly compressed. Prints one JSON object:

cutoff_precision: of the queries with a confident hit, the share with an answer in the index.
cutoff_recall: of the queries with an answer, the share with a confident hit.
false_alarms: of the queries without an answer, the share with a confident hit.
right_first: of the queries with an answer and a confident hit, the share whose best hit is the right film.
curve: the same at other levels of confidence.
films_in_top10_before, films_in_top10_after: mean number of films among the ten best hits of a query:
moments apart from each other of files with other bytes; and each film once, with copies found.
copies_in_top10_before, copies_in_top10_after: of the queries about a film that is there twice, the
share with both files among the ten best.
copy_cosine: lowest and median cosine of a window with its copy.
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
from gve_ray.indexing.segments import Span, windows
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
LEVELS = (0.5, 0.7, 0.8, 0.9, 0.95, 0.99)
AT_ONCE = 64


class Corpus:
    """Films with the vectors and metadata of their segments."""

    def __init__(self, embedder: Embedder) -> None:
        self._embedder = embedder
        self.ids: list[str] = []
        self.metadata: list[dict[str, Any]] = []
        self._vectors: list[np.ndarray] = []
        self._waiting: list[Item] = []

    def add(self, film: str, scene: Scene, spans: Sequence[Span], copy: Path | None = None) -> None:
        """Add a film, rendered from its scene or read from the file `copy`."""
        for number, (start, end) in enumerate(spans):
            if copy is None:
                seen = drawn(scene, start, end)
            else:
                seen = read_frames(str(copy), k=FRAMES, start=start, end=end, max_pixels=10**6, min_pixels=1)
            self.ids.append(f"{film}/{number}")
            facts = {"video_id": film, "uri": film, "segment": number, "fingerprint": film}
            self.metadata.append({**facts, "start": start, "end": end, "duration": scene.duration})
            self._waiting.append(Item(video=seen))
        if len(self._waiting) >= AT_ONCE:
            self._flush()

    def _flush(self) -> None:
        if self._waiting:
            self._vectors.append(self._embedder.embed(self._waiting))
            self._waiting = []
            print(f"{sum(map(len, self._vectors))} segments", file=sys.stderr)

    def index(self, folder: Path) -> tuple[VectorIndex, Background]:
        """Return an index of the films, and its background."""
        self._flush()
        vectors = np.concatenate(self._vectors)
        spec = IndexSpec(dimension=vectors.shape[1], fields=dict(FIELDS))
        index = create_index(folder, spec, IndexOptions())
        index.add(self.ids, vectors, self.metadata)
        background = background_of(vectors, [row["fingerprint"] for row in self.metadata])
        assert background is not None
        return index, background


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


def measure_cutoff(
    folder: Path, scenes: Sequence[Scene], queries: np.ndarray, embedder: Embedder, least: float
) -> dict[str, Any]:
    """Measure the cut-off on whole films. queries: float32 [2 n, d]; the first n are about the scenes."""
    corpus = Corpus(embedder)
    for i, scene in enumerate(scenes):
        corpus.add(f"film{i}", scene, [(0.0, scene.duration)])
    index, background = corpus.index(folder / "whole")
    found = [search_moments(index, query[None], 1, background=background)[0] for query in queries]
    best = np.array([hit.confidence for hit in found])
    answered = len(scenes)
    kinds = np.arange(len(queries)) % len(KINDS)
    return {
        "min_confidence": least,
        **cutoff(best, answered, least),
        "right_first": share([number_of(found[i]) == i for i in range(answered) if best[i] >= least]),
        "by_kind": {
            name: {
                str(level): cutoff(best[kinds == kind], int((kinds[:answered] == kind).sum()), level)
                for level in LEVELS
            }
            for kind, name in enumerate(KINDS)
        },
        "curve": {str(level): cutoff(best, answered, level) for level in LEVELS},
    }


def measure_films(
    folder: Path, scenes: Sequence[Scene], queries: np.ndarray, embedder: Embedder, copies: int
) -> dict[str, Any]:
    """Measure which films are among the best hits, in an index of windows. queries: one for each scene."""
    corpus = Corpus(embedder)
    for i, scene in enumerate(scenes):
        spans = windows(scene.duration, WINDOW, OVERLAP, SHORTEST)
        corpus.add(f"film{i}", scene, spans)
        if i < copies:
            file = folder / f"copy{i}.mp4"
            half = replace(scene, width=scene.width // 4 * 2, height=scene.height // 4 * 2)
            write_mp4(file, half, crf=35)
            corpus.add(f"copy{i}", scene, spans, file)
    index, background = corpus.index(folder / "windows")
    before = [plain(index, query) for query in queries]
    after = [
        search_moments(index, query[None], TOP, by_video=True, background=background) for query in queries
    ]
    copied = [name for name in corpus.ids if name.startswith("copy")]
    originals = [name.replace("copy", "film") for name in copied]
    cosines = (index.get(copied)[0] * index.get(originals)[0]).sum(axis=1)
    return {
        "segments": index.count(),
        "films_in_top10_before": mean_films(before),
        "films_in_top10_after": mean_films(after),
        "copies_in_top10_before": share([is_twice(hits, i) for i, hits in enumerate(before[:copies])]),
        "copies_in_top10_after": share([is_twice(hits, i) for i, hits in enumerate(after[:copies])]),
        "copy_cosine": [round(float(np.quantile(cosines, q)), 4) for q in (0, 0.5)],
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
    parser.add_argument("--windowed", type=int, default=60)
    parser.add_argument("--copies", type=int, default=20)
    parser.add_argument("--min_confidence", type=float, default=MIN_CONFIDENCE)
    args = parser.parse_args()
    embedder = Embedder.from_pretrained("package://demo/tiny_vl/model", "package://demo/tiny_vl/adapter")
    scenes = [draw_scene(args.seed * 1_000_000 + i, "heldout") for i in range(2 * args.films)]
    items = [queries_of(scene, args.seed)[KINDS[i % len(KINDS)]] for i, scene in enumerate(scenes)]
    queries = embedder.embed(items)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        cut = measure_cutoff(folder, scenes[: args.films], queries, embedder, args.min_confidence)
        few = slice(args.windowed)
        films = measure_films(folder, scenes[few], queries[few], embedder, args.copies)
    print(json.dumps({**vars(args), **cut, **films}, indent=1))


if __name__ == "__main__":
    main()
