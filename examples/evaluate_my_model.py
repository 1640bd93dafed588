"""Score a model of your own on retrieval data sets: any function from items to vectors.

    python examples/evaluate_my_model.py                       # renders a small data set
    python examples/evaluate_my_model.py uvrb/MSRVTT uvrb/VATEX

Replace `FrameAverage` by your model. It needs a method `embed`, which takes items (text, image, video
and any mix of them) and returns a vector for each. Data sets are folders in UVRB's layout. Models of
the usual kinds (GVE, Hugging Face, sentence-transformers, endpoints) need no code: name them in the
config of `gve evaluate`, which also runs on many machines and writes a report.
"""

import argparse
import json
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np

from gve_ray.demo.retrieval import write_heldout
from gve_ray.embedder import Embedder
from gve_ray.evaluation.data.layouts import load
from gve_ray.evaluation.data.retrieval_set import RetrievalSet
from gve_ray.evaluation.data.uvrb import UVRB
from gve_ray.evaluation.scores import metrics
from gve_ray.evaluation.scores.bootstrap import bootstrap_mean, compare
from gve_ray.evaluation.scores.clusters import join_queries
from gve_ray.evaluation.scores.ranking import rank
from gve_ray.media import read_frames
from gve_ray.schema import Frames, Item

Embed = Callable[[Sequence[Item]], np.ndarray]
TINY = ("package://demo/tiny_vl/model", "package://demo/tiny_vl/adapter")


class FrameAverage:
    """A baseline that ignores time: the vector of a video is the mean of those of its frames."""

    def __init__(self, embedder: Embedder, frames: int = 4) -> None:
        self._embedder, self._frames = embedder, frames

    def embed(self, items: Sequence[Item]) -> np.ndarray:
        """Return unit vectors, float32 [n, d]."""
        vectors = [
            self._embedder.embed([item] if item.video is None else self._pictures(item)).mean(axis=0)
            for item in items
        ]
        stacked = np.stack(vectors)
        return np.asarray(stacked / np.linalg.norm(stacked, axis=1, keepdims=True), dtype=np.float32)

    def _pictures(self, item: Item) -> list[Item]:
        """Return an item with one picture for each sampled frame of the item's video."""
        assert isinstance(item.video, str)
        video = read_frames(item.video, k=self._frames, max_pixels=self._embedder.settings.max_pixels)
        return [replace(item, video=None, image=_still(picture)) for picture in video.pixels]


def _still(picture: np.ndarray) -> Frames:
    """Return a picture, uint8 [H, W, 3], as the frames of a still."""
    return Frames(
        pixels=picture[None], timestamps=np.zeros(1), indices=np.zeros(1, int), fps=0, duration=0, total_frames=1
    )  # fmt: skip


def score(data: RetrievalSet, embed: Embed, metric: str = "hit@1", prompt: str | None = None) -> np.ndarray:
    """Return the metric of each query, float64 [queries].

    prompt: the instruction of the queries; the corpus never has one (arXiv:2510.27571, section 2).
    """
    queries = embed([replace(query, instruction=prompt) for query in data.queries])
    corpus = embed(data.corpus)
    ranking = rank(data, queries, corpus, depth=100)
    return metrics.per_query(metric, ranking.ids, data.positives)


def clusters_of(data: RetrievalSet) -> np.ndarray:
    """Return the cluster of each query, int64 [queries]: queries that share a file or a positive are joined."""
    shared = [
        {*data.positives[name], *filter(None, (query.image, query.video))}
        for name, query in zip(data.query_ids, data.queries, strict=True)
    ]
    return join_queries({data.name: shared})[data.name]


def render_data_set(folder: Path, *, n: int = 12) -> Path:
    """Write a data set of `n` rendered videos in UVRB's layout, and return its folder."""
    rendered = write_heldout(folder / "videos", n=n, seed=11, workers=1)
    tables: dict[str, list[dict[str, object]]] = {
        "corpus": [
            {"id": f"v{i}", "video": str(Path(video).relative_to(folder))}
            for i, video in enumerate(rendered.videos)
        ],
        "queries": [{"id": f"q{i}", "text": query.text} for i, query in enumerate(rendered.queries["fine"])],
        "instances": [{"qid": f"q{i}", "pos": [f"v{i}"]} for i in range(n)],
    }
    (folder / "jsonl").mkdir(parents=True, exist_ok=True)
    for name, rows in tables.items():
        (folder / "jsonl" / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return folder


def main(args: Sequence[str] | None = None) -> None:
    """Score `FrameAverage` and the model whose frames it averages, and compare them."""
    parser = argparse.ArgumentParser(description="Score a model of your own on retrieval data sets.")
    parser.add_argument("folders", nargs="*", type=Path, help="default: a small rendered data set")
    folders = parser.parse_args(args).folders
    embedder = Embedder.from_pretrained(*TINY)
    mine = FrameAverage(embedder)
    with tempfile.TemporaryDirectory() as scratch:
        for folder in folders or [render_data_set(Path(scratch, "rendered"))]:
            data = load(folder)
            spec = UVRB.get(data.name)  # None unless the folder is named like one of UVRB's data sets
            metric, prompt = (spec.metric, spec.prompt) if spec else ("hit@1", None)
            own, whole = (score(data, model, metric, prompt) for model in (mine.embed, embedder.embed))
            clusters = clusters_of(data)
            difference = compare(own, whole, clusters=clusters).difference
            print(f"{data.name}: {len(own)} queries, {len(data.skipped)} faults in the data")
            print(f"  frame average  {metric} {bootstrap_mean(own, clusters=clusters)}")
            print(f"  whole video    {metric} {bootstrap_mean(whole, clusters=clusters)}")
            print(f"  difference     {difference}")


if __name__ == "__main__":
    main()
