"""Check that the miniature UVRB measures its abilities, by removing what each depends on.

    python benchmarks/diagnosis.py [--model M] [--adapter A] [--root runs/paper/uvrb]

    everything      the data sets of CMP, T and S unchanged
    text alone      CMP without the image or video of the query: seven of ten candidates match the text
    picture alone   CMP without the text: four of ten candidates show the object
    shuffled        all videos with their frames in random order

Prints one JSON object. `chance` is the expected score of a random ranking. `left` is the expected
score of a ranking that uses all remaining information and guesses the rest, computed from the
rendered scenes. An ability falls if the interval of its paired difference lies above 0, and is near
chance if its interval includes `left`. In CRB-T, groups of 12 videos show the same frames, 3 of
them in the order of the query; in CMRB, all videos do.
"""

import argparse
import json
import math
import sys
import time
import zlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from gve_ray.config import resolve_model
from gve_ray.demo.benchmark import write_benchmark
from gve_ray.demo.claims import order_free_content
from gve_ray.demo.scenes import Scene
from gve_ray.embedder import Embedder, EmbedderSettings
from gve_ray.evaluation.data.layouts import load
from gve_ray.evaluation.data.retrieval_set import RetrievalSet
from gve_ray.evaluation.data.uvrb import UVRB
from gve_ray.evaluation.scores import metrics
from gve_ray.evaluation.scores.bootstrap import bootstrap_weighted
from gve_ray.evaluation.scores.clusters import join_queries
from gve_ray.evaluation.scores.ranking import rank
from gve_ray.evaluation.scores.statistics import Interval
from gve_ray.media import read_frames, read_image
from gve_ray.schema import Frames, Item

SETTINGS = EmbedderSettings(frames=8, max_pixels=12544, min_pixels=3136)  # the demo's
ABILITIES = ("CMP", "T", "S")
LINES = {
    "CMP": ("text alone", "text-only CMP falls to near chance"),
    "T": ("shuffled", "frame-shuffled T falls to near its chance"),
    "S": ("shuffled", "S does not fall when frames are shuffled"),
}
Truth = Mapping[str, Scene]


class Media:
    """Reads each file once, and returns its frames in order or shuffled."""

    def __init__(self) -> None:
        self._read: dict[str, Frames] = {}

    def item(self, item: Item, *, shuffled: bool) -> Item:
        """Return the item with its media in memory."""
        video = self._get(item.video, read_frames, k=SETTINGS.frames) if item.video else None
        image = self._get(item.image, read_image) if item.image else None
        if video is not None and shuffled:
            # The seed depends on the name only, so the order is the same in every run and data set.
            rng = np.random.default_rng(zlib.crc32(Path(str(item.video)).name.encode()))
            video = replace(video, pixels=video.pixels[rng.permutation(len(video.pixels))])
        return replace(item, video=video, image=image)

    def _get(self, path: Any, read: Callable[..., Frames], **options: int) -> Frames:
        if path not in self._read:
            budget = {"max_pixels": SETTINGS.max_pixels, "min_pixels": SETTINGS.min_pixels}
            self._read[path] = read(path, **options, **budget)
        return self._read[path]


@dataclass(frozen=True, kw_only=True)
class Measurement:
    """Scores of one data set. values: float64 [queries] of its metric, by condition. left: by
    condition. shared: what each query may share with others: the names of its media and positives.
    """

    ability: str
    metric: str
    values: dict[str, NDArray[np.float64]]
    chance: float
    left: dict[str, float]
    shared: list[set[str]]


def conditions(ability: str) -> dict[str, Callable[[Item], Item]]:
    """Return the change that each condition makes to a query."""
    parts: dict[str, Callable[[Item], Item]] = {
        "everything": lambda item: item,
        "shuffled": lambda item: item,
    }
    if ability == "CMP":
        parts["text alone"] = lambda item: replace(item, image=None, video=None)
        parts["picture alone"] = lambda item: replace(item, text=None)
    return parts


def measure(data: RetrievalSet, truth: Truth, embedder: Embedder, media: Media) -> Measurement:
    """Measure one data set under all conditions."""
    spec = UVRB[data.name]
    corpora = {
        shuffled: embedder.embed([media.item(item, shuffled=shuffled) for item in data.corpus])
        for shuffled in (False, True)
    }
    values = {}
    for name, change in conditions(spec.ability).items():
        shuffled = name == "shuffled"
        changed = [replace(change(query), instruction=spec.prompt) for query in data.queries]
        queries = embedder.embed([media.item(query, shuffled=shuffled) for query in changed])
        ranking = rank(data, queries, corpora[shuffled], depth=100)
        values[name] = metrics.per_query(spec.metric, ranking.ids, data.positives)
    k = int(spec.metric.partition("@")[2])
    chances = [by_chance(k, len(data.positives[q]), len(_ranked(data, q))) for q in data.query_ids]
    return Measurement(
        ability=spec.ability,
        metric=spec.metric,
        values=values,
        chance=float(np.mean(chances)),
        left={name: left(data, truth, name, k) for name in values if name != "everything"},
        shared=[
            {*data.positives[name], *(Path(str(medium)).stem for medium in (q.image, q.video) if medium)}
            for name, q in zip(data.query_ids, data.queries, strict=True)
        ],
    )


def by_chance(k: int, positives: int, total: int) -> float:
    """Return the probability that one of `positives` is among the first k of `total` items in
    random order.
    """
    return 1 - math.comb(total - positives, k) / math.comb(total, k)


def left(data: RetrievalSet, truth: Truth, condition: str, k: int) -> float:
    """Return the expected score of a ranking that uses all information the condition leaves, and
    guesses the rest.
    """
    remaining: Callable[[str], Any] = {
        "shuffled": lambda name: order_free_content(truth[name]),
        "text alone": lambda name: truth[name].chapters[0].things[0].motions,
        "picture alone": lambda name: _looks(truth[name]),
    }[condition]
    scores = []
    for query in data.query_ids:
        matching = {remaining(name) for name in data.positives[query]}
        total = sum(remaining(name) in matching for name in _ranked(data, query))
        scores.append(by_chance(min(k, total), len(data.positives[query]), total))
    return float(np.mean(scores))


def _ranked(data: RetrievalSet, query: str) -> Sequence[str]:
    return data.candidates[query] if data.candidates is not None else data.corpus_ids


def _looks(scene: Scene) -> tuple[str, str, str]:
    thing = scene.chapters[0].things[0]
    return thing.colour, thing.shape, thing.size


def ability(datasets: Sequence[Measurement]) -> dict[str, Any]:
    """Return the mean score of an ability by condition, and the loss by each condition, with
    intervals.
    """
    shares = [1 / len(datasets)] * len(datasets)
    clusters = join_queries({str(number): d.shared for number, d in enumerate(datasets)})

    def mean(values: Sequence[NDArray[np.float64]]) -> Interval:
        return bootstrap_weighted(list(values), shares, clusters=list(clusters.values()))

    scores = {name: mean([d.values[name] for d in datasets]) for name in datasets[0].values}
    falls = {
        name: mean([d.values["everything"] - d.values[name] for d in datasets])
        for name in scores
        if name != "everything"
    }
    return {
        "chance": float(np.mean([d.chance for d in datasets])),
        "left": {name: float(np.mean([d.left[name] for d in datasets])) for name in falls},
        "scores": scores,
        "falls_by": falls,
    }


def verdict(name: str, facts: Mapping[str, Any]) -> dict[str, Any]:
    """Return whether the claim about an ability holds, with the scores it rests on."""
    condition, claim = LINES[name]
    full, score, fall = (
        facts["scores"]["everything"],
        facts["scores"][condition],
        facts["falls_by"][condition],
    )
    falls, left_over = fall.low > 0, facts["left"][condition]
    if name == "S":
        holds = not falls and full.low > facts["chance"]
        why = f"{full} with everything, {score} shuffled, chance {facts['chance']:.3f}; difference {fall}"
    else:
        holds = falls and score.low <= left_over
        why = f"{full} with everything, {score} {condition}, difference {fall}; "
        why += f"{left_over:.3f} with the remaining information, chance {facts['chance']:.3f}"
    return {"ability": name, "claim": claim, "holds": bool(holds), "why": why}


def plain(value: Any) -> Any:
    """Convert intervals to plain JSON values."""
    if isinstance(value, Interval):
        return {"score": round(value.estimate, 4), "interval": [round(value.low, 4), round(value.high, 4)]}
    if isinstance(value, dict):
        return {key: plain(item) for key, item in value.items()}
    return round(value, 4) if isinstance(value, float) else value


def read_truth(root: Path) -> Truth:
    """Return the scenes by corpus id, which is the name of the file without its suffix."""
    rows = map(json.loads, (root / "truth.jsonl").read_text(encoding="utf-8").splitlines())
    return {Path(row["file"]).stem: Scene.from_dict(row["scene"]) for row in rows}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", default="package://demo/tiny_vl/model")
    parser.add_argument(
        "--adapter", default="package://demo/tiny_vl/adapter", help="adapter; '' uses the model without one"
    )
    parser.add_argument(
        "--root", type=Path, default=Path("runs/paper/uvrb"), help="rendered if it does not exist"
    )
    parser.add_argument("--seed", type=int, default=42, help="seed of the scenes, if they are rendered")
    args = parser.parse_args()
    if not (args.root / "truth.jsonl").exists():
        write_benchmark(args.root, seed=args.seed, workers=2)
    begun = time.monotonic()
    adapter = resolve_model(args.adapter) if args.adapter else None
    embedder = Embedder.from_pretrained(resolve_model(args.model), adapter).with_settings(**vars(SETTINGS))
    truth, media = read_truth(args.root), Media()
    measured: dict[str, Measurement] = {}
    for name, spec in UVRB.items():
        if spec.ability in ABILITIES:
            measured[name] = measure(load(args.root / name), truth, embedder, media)
            print(f"{name}: {time.monotonic() - begun:.0f} s", file=sys.stderr)
    abilities = {name: ability([d for d in measured.values() if d.ability == name]) for name in ABILITIES}
    datasets = {
        name: {"ability": d.ability, "metric": d.metric, "n": len(d.values["everything"])} | ability([d])
        for name, d in measured.items()
    }
    print(
        json.dumps(
            {
                "model": args.model,
                "adapter": args.adapter,
                "seconds": round(time.monotonic() - begun, 1),
                "verdicts": [verdict(name, abilities[name]) for name in ABILITIES],
                "abilities": plain(abilities),
                "datasets": plain(datasets),
            },
            indent=1,
        )
    )


if __name__ == "__main__":
    main()
