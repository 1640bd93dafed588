"""Text-to-video retrieval on held-out videos: what training is for, measured before and after it.

    benchmark = write_heldout(Path("runs/demo-heldout"), seed=42)
    recall(Embedder.from_pretrained(base, adapter), benchmark)  # {1: 0.61, 10: 0.97}

The videos are of split `heldout`: no object of theirs was seen by the tiny model or synthesized into pairs.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from gve_ray.config import resolve_model
from gve_ray.demo.corpus import read_truth, write_corpus
from gve_ray.demo.language import Writer
from gve_ray.demo.plan import CorpusShares
from gve_ray.embedder import Embedder
from gve_ray.schema import Item
from gve_ray.training.runlog import read_log

HELDOUT = 400
RICH = "2"  # the caption that says all there is


@dataclass(frozen=True, kw_only=True)
class Benchmark:
    """One text for each video; text i belongs to video i and to no other."""

    texts: list[str]
    videos: list[str]  # paths of mp4 files


def write_heldout(folder: Path, *, n: int = HELDOUT, seed: int, workers: int = 2) -> Benchmark:
    """Render `n` clean held-out videos into `folder` (those that are there are kept) and describe each."""
    clean = CorpusShares(**dict.fromkeys(asdict(CorpusShares()), 0.0))
    write_corpus(folder, n=n, seed=seed, split="heldout", shares=clean, workers=workers)
    entries = read_truth(folder)
    texts = [Writer().captions(entry.scene)[RICH] for entry in entries]
    if len(set(texts)) < n:
        raise ValueError(f"{folder}: two of {n} videos have one description; use another seed")
    return Benchmark(texts=texts, videos=[str(folder / entry.file) for entry in entries])


def recall(embedder: Embedder, benchmark: Benchmark, ranks: Sequence[int] = (1, 10)) -> dict[int, float]:
    """Share of texts whose video is among the first k, for each k of `ranks`."""
    texts = embedder.embed([Item(text=text) for text in benchmark.texts])
    videos = embedder.embed([Item(video=video) for video in benchmark.videos], progress=True)
    scores = texts @ videos.T  # [n, n]
    better = (scores > np.diag(scores)[:, None]).sum(1)
    return {k: float((better < k).mean()) for k in ranks}


def score_training(run_folder: Path, benchmark: Benchmark) -> dict[str, Any]:
    """What summary.json holds under `training`: the run's figures, recall of its base and of its adapter.

    data_wait: share of the steps' time spent waiting for data, after the first step.
    """
    facts = json.loads((run_folder / "run.json").read_text(encoding="utf-8"))
    steps = list(read_log(run_folder / "steps.jsonl"))
    base, adapter = resolve_model(facts["config"]["model"]), run_folder / "adapter"
    trained = Embedder.from_pretrained(base, adapter)
    before = recall(Embedder.from_pretrained(base, settings=trained.settings), benchmark)
    after = recall(trained, benchmark)
    return {
        "seconds": round(sum(one["ended"] - one["started"] for one in facts["runs"] if one["ended"]), 1),
        "steps": len(steps),
        "n": len(benchmark.videos),
        "r1_before": before[1],
        "r1_after": after[1],
        "r10_before": before[10],
        "r10_after": after[10],
        "data_wait": sum(one["data_wait"] for one in steps[1:]) / sum(one["seconds"] for one in steps[1:]),
    }


def format_training(summary: Mapping[str, Any]) -> str:
    """The summary as a table for people."""
    lines = [
        f"trained {summary['steps']} steps in {summary['seconds']:.0f} s, "
        f"{100 * summary['data_wait']:.1f} % of the time waiting for data",
        f"{'text -> video, ' + str(summary['n']) + ' held out':<32}{'R@1':>8}{'R@10':>8}",
    ]
    for name in ("before", "after"):
        scores = (summary[f"{measure}_{name}"] for measure in ("r1", "r10"))
        lines += [f"{name:<32}" + "".join(f"{score:>8.3f}" for score in scores)]
    return "\n".join(lines)
