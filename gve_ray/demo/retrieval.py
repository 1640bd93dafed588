"""Measure the retrieval of held-out videos before and after training.

    benchmark = write_heldout(Path("runs/demo/heldout"), seed=42)
    recall(Embedder.from_pretrained(base, adapter), benchmark)["fine"]  # {1: 0.61, 10: 0.97}

The videos belong to the split `heldout`: neither the training data of the tiny model nor the
synthesized pairs contain any of their objects.
"""

import json
import random
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from gve_ray.demo.corpus import read_truth, write_corpus
from gve_ray.demo.language import Writer
from gve_ray.demo.plan import CorpusShares
from gve_ray.demo.render import frames
from gve_ray.demo.scenes import Scene
from gve_ray.embedder import Embedder
from gve_ray.schema import Frames, Item
from gve_ray.synthesis import prompts
from gve_ray.training.run import read_result

HELDOUT = 400
CLIP_FRAMES = 8
TEXT = "fine"  # the ability that the demo reports: retrieval by a complete description


@dataclass(frozen=True, kw_only=True)
class Benchmark:
    """Queries by ability, one for each video; query i belongs to video i.

    coarse, fine, partial: a short caption, a complete one, and one about a part of the video.
    composed_image, composed_clip: a text together with a frame or a clip of the video. clip: a clip
    of the video.
    """

    queries: dict[str, list[Item]]
    videos: list[str]  # paths of mp4 files


def write_heldout(folder: Path, *, n: int = HELDOUT, seed: int, workers: int = 2) -> Benchmark:
    """Render `n` held-out videos without defects into `folder`, and return them with a query of
    each kind.

    Finished files are not rendered again. workers: number of processes; with 1, this process
    renders. Raises ValueError if `folder` holds other videos, or if two videos have the same
    complete description.
    """
    clean = CorpusShares(**dict.fromkeys(asdict(CorpusShares()), 0.0))
    write_corpus(folder, n=n, seed=seed, split="heldout", shares=clean, workers=workers)
    entries = read_truth(folder)
    videos = [str(folder / entry.file) for entry in entries]
    queries = [queries_of(entry.scene, seed) for entry in entries]
    if len({by_ability[TEXT].text for by_ability in queries}) < n:
        raise ValueError(f"{folder}: two of {n} videos have the same description; use another seed")
    return Benchmark(
        queries={name: [by_ability[name] for by_ability in queries] for name in queries[0]}, videos=videos
    )


def queries_of(scene: Scene, seed: int) -> dict[str, Item]:
    """Return a query for each ability. Frames and clips are rendered from the scene, not read from
    its file.
    """
    rng = random.Random(f"gve_ray heldout/{seed}/{scene.seed}")
    captions = Writer().captions(scene)
    seconds = min(scene.duration, rng.uniform(2, 10))
    start = rng.uniform(0, 1 - seconds / scene.duration)
    moment = rng.random()
    frame = _drawn(scene, [moment])
    clip = _drawn(scene, np.linspace(start, start + seconds / scene.duration, CLIP_FRAMES).tolist())
    strategy, relation = rng.choice(prompts.STRATEGIES), rng.choice(prompts.RELATIONS)
    return {
        "coarse": Item(text=captions["1"]),
        "fine": Item(text=captions["2"]),
        "partial": Item(text=captions["5"]),
        "composed_image": Item(text=Writer().image_query(scene, moment, strategy), image=frame),
        "composed_clip": Item(text=Writer().clip_query(scene, start, relation), video=clip),
        "clip": Item(video=clip),
    }


def _drawn(scene: Scene, times: Sequence[float]) -> Frames:
    """Render the scene at `times`, in [0, 1], as if its file had been read."""
    pixels = np.stack(list(frames(scene, times, scene.width, scene.height)))
    seconds = np.asarray(times) * scene.duration
    still = len(times) == 1
    return Frames(
        pixels=pixels,
        timestamps=np.zeros(1) if still else seconds,
        indices=np.arange(len(times)),
        fps=0.0 if still else scene.fps,
        duration=0.0 if still else float(seconds[-1] - seconds[0]),
        total_frames=len(times),
    )


def recall(
    embedder: Embedder,
    benchmark: Benchmark,
    *,
    abilities: Sequence[str] = (TEXT,),
    ranks: Sequence[int] = (1, 10),
) -> dict[str, dict[int, float]]:
    """Return, for each ability and each k of `ranks`, the share of queries whose video is among the
    first k.
    """
    videos = embedder.embed([Item(video=video) for video in benchmark.videos], progress=True)
    scores_by_ability = {}
    for name in abilities:
        scores = embedder.embed(benchmark.queries[name]) @ videos.T  # [n, n]
        better = (scores > np.diag(scores)[:, None]).sum(1)
        scores_by_ability[name] = {k: float((better < k).mean()) for k in ranks}
    return scores_by_ability


def score_training(run_folder: Path, benchmark: Benchmark) -> dict[str, Any]:
    """Return the `training` part of summary.json: figures of the run, and recall without and with
    its adapter.

    data_wait: share of time that the steps after the first spent waiting for data.
    """
    facts = json.loads((run_folder / "run.json").read_text(encoding="utf-8"))
    run = read_result(run_folder)
    base = facts["config"]["model"]
    trained = Embedder.from_pretrained(base, run.adapter)
    before = recall(Embedder.from_pretrained(base, settings=trained.settings), benchmark)[TEXT]
    after = recall(trained, benchmark)[TEXT]
    return {
        "seconds": round(run.seconds, 1),
        "steps": run.steps,
        "n": len(benchmark.videos),
        "r1_before": before[1],
        "r1_after": after[1],
        "r10_before": before[10],
        "r10_after": after[10],
        "data_wait": run.data_wait,
    }


def format_training(summary: Mapping[str, Any]) -> str:
    """Return the summary as a readable table."""
    lines = [
        f"trained {summary['steps']} steps in {summary['seconds']:.0f} s, "
        f"{100 * summary['data_wait']:.1f} % of the time waiting for data",
        f"{'text -> video, ' + str(summary['n']) + ' held out':<32}{'R@1':>8}{'R@10':>8}",
    ]
    for name in ("before", "after"):
        scores = (summary[f"{measure}_{name}"] for measure in ("r1", "r10"))
        lines += [f"{name:<32}" + "".join(f"{score:>8.3f}" for score in scores)]
    return "\n".join(lines)
