"""Whether the miniature UVRB measures what its abilities are named after: take away what an ability is about.

    python benchmarks/diagnosis.py [--model M] [--adapter A] [--root runs/demo-uvrb]

    everything      the data sets of CMP, T and S as they are
    text alone      CMP without the image or video of the query: seven of its ten candidates do what it says
    picture alone   CMP without the text: four of ten show that object
    shuffled        all videos with their frames in another order, each in an order of its own

Prints one JSON object. `chance` is the score of a ranking at random; `left` that of whoever knows all that is
left and guesses the rest, from the truth of the rendered scenes. An ability falls when the interval of its
paired difference lies above 0, and is near chance when its interval reaches down to `left`. Of CRB-T's videos 12
show the same frames but for a resting object, 3 of them in the order asked for; of CMRB's, all.
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
from gve_ray.demo.claims import timeless
from gve_ray.demo.scenes import Scene
from gve_ray.embedder import Embedder, EmbedderSettings
from gve_ray.evaluation.data.layouts import RetrievalSet, load
from gve_ray.evaluation.data.uvrb import UVRB
from gve_ray.evaluation.scores import metrics
from gve_ray.evaluation.scores.ranking import rank, usable
from gve_ray.evaluation.scores.statistics import Interval, bootstrap_weighted
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
    """Frames by path, each read once, as they are or shuffled."""

    def __init__(self) -> None:
        self._read: dict[str, Frames] = {}

    def item(self, item: Item, *, shuffled: bool) -> Item:
        """The item with its media in memory."""
        video = self._get(item.video, read_frames, k=SETTINGS.frames) if item.video else None
        image = self._get(item.image, read_image) if item.image else None
        if video is not None and shuffled:
            # A seed from the name: the same order in every run and every data set that has the video.
            rng = np.random.default_rng(zlib.crc32(Path(str(item.video)).name.encode()))
            video = replace(video, pixels=video.pixels[rng.permutation(len(video.pixels))])
        return replace(item, video=video, image=image)

    def _get(self, path: Any, read: Callable[..., Frames], **options: int) -> Frames:
        if path not in self._read:
            budget = {"max_pixels": SETTINGS.max_pixels, "min_pixels": SETTINGS.min_pixels}
            self._read[path] = read(path, **options, **budget)
        return self._read[path]


@dataclass(frozen=True, kw_only=True)
class Found:
    """One data set. values: of its metric, float64 [queries] by condition. left: by condition."""

    ability: str
    metric: str
    values: dict[str, NDArray[np.float64]]
    chance: float
    left: dict[str, float]


def conditions(ability: str) -> dict[str, Callable[[Item], Item]]:
    """What each condition does to a query."""
    parts: dict[str, Callable[[Item], Item]] = {
        "everything": lambda item: item,
        "shuffled": lambda item: item,
    }
    if ability == "CMP":
        parts["text alone"] = lambda item: replace(item, image=None, video=None)
        parts["picture alone"] = lambda item: replace(item, text=None)
    return parts


def measure(data: RetrievalSet, truth: Truth, embedder: Embedder, media: Media) -> Found:
    """All conditions of one data set."""
    spec = UVRB[data.name]
    part = usable(data, [True] * len(data.queries), [True] * len(data.corpus))
    corpora = {
        shuffled: embedder.embed([media.item(one, shuffled=shuffled) for one in data.corpus])
        for shuffled in (False, True)
    }
    values = {}
    for name, change in conditions(spec.ability).items():
        shuffled = name == "shuffled"
        asked = [replace(change(one), instruction=spec.prompt) for one in data.queries]
        queries = embedder.embed([media.item(one, shuffled=shuffled) for one in asked])
        ranking = rank(data, part, queries, corpora[shuffled], depth=100)
        values[name] = metrics.per_query(spec.metric, ranking.ids, part.positives)
    k = int(spec.metric.partition("@")[2])
    chances = [by_chance(k, len(data.positives[q]), len(_ranked(data, q))) for q in data.query_ids]
    return Found(
        ability=spec.ability,
        metric=spec.metric,
        values=values,
        chance=float(np.mean(chances)),
        left={name: left(data, truth, name, k) for name in values if name != "everything"},
    )


def by_chance(k: int, right: int, among: int) -> float:
    """Probability that a random order of `among` items has one of `right` in its first k."""
    return 1 - math.comb(among - right, k) / math.comb(among, k)


def left(data: RetrievalSet, truth: Truth, condition: str, k: int) -> float:
    """Expected score of whoever knows all that the condition leaves, and guesses among what that fits."""
    told: Callable[[str], Any] = {
        "shuffled": lambda name: timeless(truth[name]),
        "text alone": lambda name: truth[name].chapters[0].things[0].motions,
        "picture alone": lambda name: _looks(truth[name]),
    }[condition]
    scores = []
    for query in data.query_ids:
        fitting = {told(name) for name in data.positives[query]}
        among = sum(told(name) in fitting for name in _ranked(data, query))
        scores.append(by_chance(min(k, among), len(data.positives[query]), among))
    return float(np.mean(scores))


def _ranked(data: RetrievalSet, query: str) -> Sequence[str]:
    return data.candidates[query] if data.candidates is not None else data.corpus_ids


def _looks(scene: Scene) -> tuple[str, str, str]:
    thing = scene.chapters[0].things[0]
    return thing.colour, thing.shape, thing.size


def ability(found: Sequence[Found]) -> dict[str, Any]:
    """The mean of an ability's data sets by condition, and what each condition takes away, with intervals."""
    shares = [1 / len(found)] * len(found)

    def mean(values: Sequence[NDArray[np.float64]]) -> Interval:
        return bootstrap_weighted(list(values), shares)

    scores = {name: mean([one.values[name] for one in found]) for name in found[0].values}
    falls = {
        name: mean([one.values["everything"] - one.values[name] for one in found])
        for name in scores
        if name != "everything"
    }
    return {
        "chance": float(np.mean([one.chance for one in found])),
        "left": {name: float(np.mean([one.left[name] for one in found])) for name in falls},
        "scores": scores,
        "falls_by": falls,
    }


def verdict(name: str, facts: Mapping[str, Any]) -> dict[str, Any]:
    """One line of what is to be shown."""
    condition, claim = LINES[name]
    full, score, fall = (
        facts["scores"]["everything"],
        facts["scores"][condition],
        facts["falls_by"][condition],
    )
    falls, left_over = fall.low > 0, facts["left"][condition]
    if name == "S":
        holds = not falls and full.low > facts["chance"]
        why = f"{full} with all, {score} shuffled, chance {facts['chance']:.3f}; difference {fall}"
    else:
        holds = falls and score.low <= left_over
        why = f"{full} with all, {score} {condition}, difference {fall}; {left_over:.3f} is left to know, "
        why += f"chance {facts['chance']:.3f}"
    return {"ability": name, "claim": claim, "holds": bool(holds), "why": why}


def plain(value: Any) -> Any:
    """Intervals as JSON."""
    if isinstance(value, Interval):
        return {"score": round(value.estimate, 4), "interval": [round(value.low, 4), round(value.high, 4)]}
    if isinstance(value, dict):
        return {key: plain(one) for key, one in value.items()}
    return round(value, 4) if isinstance(value, float) else value


def read_truth(root: Path) -> Truth:
    """Scenes by corpus id, which is the file's name without its ending."""
    rows = map(json.loads, (root / "truth.jsonl").read_text(encoding="utf-8").splitlines())
    return {Path(row["file"]).stem: Scene.from_dict(row["scene"]) for row in rows}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", default="package://demo/tiny_vl/model")
    parser.add_argument("--adapter", default="package://demo/tiny_vl/adapter", help="'' for none")
    parser.add_argument("--root", type=Path, default=Path("runs/demo-uvrb"), help="rendered if not there")
    parser.add_argument("--seed", type=int, default=42, help="of the scenes, if they are rendered")
    args = parser.parse_args()
    if not (args.root / "truth.jsonl").exists():
        write_benchmark(args.root, seed=args.seed, workers=2)
    begun = time.monotonic()
    adapter = resolve_model(args.adapter) if args.adapter else None
    embedder = Embedder.from_pretrained(resolve_model(args.model), adapter).with_settings(**vars(SETTINGS))
    truth, media = read_truth(args.root), Media()
    found: dict[str, Found] = {}
    for name, spec in UVRB.items():
        if spec.ability in ABILITIES:
            found[name] = measure(load(args.root / name), truth, embedder, media)
            print(f"{name}: {time.monotonic() - begun:.0f} s", file=sys.stderr)
    abilities = {name: ability([one for one in found.values() if one.ability == name]) for name in ABILITIES}
    datasets = {
        name: {"ability": one.ability, "metric": one.metric, "n": len(one.values["everything"])}
        | ability([one])
        for name, one in found.items()
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
