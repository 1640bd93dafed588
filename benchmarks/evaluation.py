"""Speed of embedding in evaluation on Ray, compared with a plain loop and with mteb's GVE wrapper.

    pip install 'gve-ray[mteb]' && python benchmarks/evaluation.py [--videos 96] [--actors 2] [--rounds 3]

    ray     the embedding stage of `gve evaluate`, from files to committed vectors
    loop    the same model and reader, two videos at a time, sequentially
    mteb    mteb's GVEWrapper with its batches of 32, and the same weights, frames and pixel budget

All run in bfloat16, which the wrapper requires. Ray uses one thread in each actor; the others use
one thread or as many as there are actors, whichever is faster. Rounds are interleaved, so that
other load on the machine affects all equally; the results are medians. `warm` excludes what happens
once per run (starting actors, loading weights), which for Ray is estimated from a run over few
videos. mteb reads videos with torchcodec, which does not load with CPU torch; it is replaced by our
reader and so has the same cost. Prints one JSON object with rates and with the cosines to the
vectors of the loop. mteb's vectors agree only if the times of the frames are ignored (`at_24_fps`),
because the wrapper does not pass them to the processor.
"""

import argparse
import importlib.util
import json
import statistics
import tempfile
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from gve_ray.config import ModelConfig, StageResources, resolve_model
from gve_ray.demo.render import write_mp4
from gve_ray.demo.scenes import draw_scene
from gve_ray.embedder import Embedder, EmbedderSettings
from gve_ray.embedder.backends import identify
from gve_ray.evaluation.embed import ItemEmbedder, ItemIndex, pending_table, read_vectors
from gve_ray.media import read_frames
from gve_ray.schema import Frames, Item

SETTINGS = EmbedderSettings(frames=8, max_pixels=12544, min_pixels=3136)  # the demo's
MODEL, DTYPE = "package://demo/tiny_vl/model", "bfloat16"
FEW = 8  # videos of the run that measures the cost of starting
LOOP_BATCH, MTEB_BATCH = 2, 32
LONGEST = 4.0  # longest duration of a video, in seconds
ASSUMED_FPS = 24.0  # assumed by the processor for frames without times


@dataclass(frozen=True, kw_only=True)
class Timed:
    """Seconds of a run over all videos, and the part of them that is spent once. vectors: float32
    [n, d].
    """

    seconds: float
    once: float
    vectors: np.ndarray


def on_ray(paths: list[str], actors: int, work: Path) -> Timed:
    """Run the stage over a few videos and then over all of them, with separate caches."""
    begun = time.monotonic()
    _stage(paths[:FEW], actors, work / "few")
    few = time.monotonic() - begun
    begun = time.monotonic()
    vectors = _stage(paths, actors, work / "all")
    seconds = time.monotonic() - begun
    each = max(seconds - few, 1e-9) / (len(paths) - FEW)
    return Timed(seconds=seconds, once=max(0.0, few - FEW * each), vectors=vectors)


def _stage(paths: list[str], actors: int, cache: Path) -> np.ndarray:
    config = ModelConfig(name="tiny", model=MODEL, dtype=DTYPE)
    items = [Item(video=path) for path in paths]
    keys = ItemIndex(cache).keys(items)
    with ItemEmbedder(
        config,
        SETTINGS,
        identify(config, SETTINGS, on_gpu=False),
        cache=str(cache),
        rejects=str(cache / "rejects.lance"),
        resources=StageResources(actors=actors, num_cpus=1, batch_size=16),
    ) as embedder:
        embedded = embedder.embed(pending_table(items, keys))
    return read_vectors(embedded.store, keys)[0]


def in_a_loop(paths: list[str]) -> Timed:
    """Read and embed two videos at a time."""
    begun = time.monotonic()
    embedder = Embedder.from_pretrained(resolve_model(MODEL), dtype=DTYPE).with_settings(**asdict(SETTINGS))
    once = time.monotonic() - begun
    pairs = [paths[i : i + LOOP_BATCH] for i in range(0, len(paths), LOOP_BATCH)]
    vectors = [embedder.embed([Item(video=path) for path in pair]) for pair in pairs]
    return Timed(seconds=time.monotonic() - begun, once=once, vectors=np.concatenate(vectors))


def at_assumed_fps(paths: list[str]) -> np.ndarray:
    """Return the vectors of the loop with the sampled frames spaced by `ASSUMED_FPS`."""
    embedder = Embedder.from_pretrained(resolve_model(MODEL), dtype=DTYPE).with_settings(**asdict(SETTINGS))
    n = SETTINGS.frames
    facts: dict[str, Any] = {"fps": ASSUMED_FPS, "duration": n / ASSUMED_FPS, "total_frames": n}
    videos = [
        replace(_frames(path), timestamps=np.arange(n) / ASSUMED_FPS, indices=np.arange(n), **facts)
        for path in paths
    ]
    return embedder.embed([Item(video=video) for video in videos])


def _frames(path: str) -> Frames:
    return read_frames(
        path, k=SETTINGS.frames, max_pixels=SETTINGS.max_pixels, min_pixels=SETTINGS.min_pixels
    )


def set_best_threads(run: Callable[[list[str]], Timed], paths: list[str], most: int) -> int:
    """Set and return the number of threads, 1 or `most`, with which `run` is faster."""
    import torch

    taken = {}
    for threads in {1, most}:
        torch.set_num_threads(threads)
        timed = run(paths)
        taken[threads] = timed.seconds - timed.once
    best = min(taken, key=taken.__getitem__)
    torch.set_num_threads(best)
    return best


class Decoder:
    """Replaces torchcodec's VideoDecoder in mteb's collator by our reader."""

    def __init__(self, path: str) -> None:
        frames = _frames(path)
        self._indices = frames.indices.tolist()
        self._pixels = frames.pixels
        self.metadata = argparse.Namespace(num_frames=frames.total_frames, end_stream_seconds=frames.duration)

    def get_frames_at(self, indices: list[int]) -> Any:
        """Pixels uint8 [T, 3, H, W] in `data`. Raises ValueError for other frames than the uniform
        ones.
        """
        import torch

        if indices != self._indices:
            raise ValueError(f"frames {indices}: mteb asked for other frames than expected ({self._indices})")
        return argparse.Namespace(data=torch.from_numpy(self._pixels).permute(0, 3, 1, 2))


class Videos:
    """A data set of the kind mteb's loaders hold: rows with a decoder, opened when the row is asked
    for.
    """

    features = ("video",)

    def __init__(self, paths: list[str]) -> None:
        self._paths = paths

    def __len__(self) -> int:
        return len(self._paths)

    def __getitem__(self, row: int) -> dict[str, Any]:
        return {"video": Decoder(self._paths[row])}


def in_mteb(paths: list[str]) -> Timed:
    """The wrapper, with its own batches and conversation."""
    from mteb.models.model_implementations.gve_models import GVEWrapper
    from mteb.types import PromptType
    from torch.utils.data import DataLoader

    begun = time.monotonic()
    wrapper = GVEWrapper(resolve_model(MODEL), None, fps=None, max_frames=None, num_frames=SETTINGS.frames)
    size = {"shortest_edge": SETTINGS.min_pixels, "longest_edge": SETTINGS.max_pixels}
    wrapper.videos_kwargs = {"size": size, "do_sample_frames": False}
    once = time.monotonic() - begun
    loader: Any = DataLoader(Videos(paths), batch_size=MTEB_BATCH)
    vectors = wrapper.encode(
        loader,
        task_metadata=None,
        hf_split="test",
        hf_subset="default",
        prompt_type=PromptType.document,
        show_progress_bar=False,
    )
    return Timed(seconds=time.monotonic() - begun, once=once, vectors=np.asarray(vectors))


ALONE: dict[str, Callable[[list[str]], Timed]] = {"loop": in_a_loop, "mteb": in_mteb}


def _cosines(a: np.ndarray, b: np.ndarray) -> dict[str, float]:
    cosines = (a * b).sum(axis=1)
    return {"mean": float(cosines.mean()), "least": float(cosines.min())}


def render(folder: Path, count: int) -> list[str]:
    """Short videos of the demo's world."""
    paths: list[str] = []
    seed = 0
    while len(paths) < count:
        scene = draw_scene(seed, "heldout", long=False)
        seed += 1
        if scene.duration <= LONGEST:
            write_mp4(folder / f"{seed}.mp4", scene)
            paths.append(str(folder / f"{seed}.mp4"))
    return paths


def main() -> None:
    import ray

    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--videos", type=int, default=96)
    parser.add_argument(
        "--actors",
        type=int,
        default=2,
        help="number of actors on Ray; the other variants use at most as many threads",
    )
    parser.add_argument("--rounds", type=int, default=3)
    args = parser.parse_args()
    if args.videos <= FEW:
        parser.error(f"--videos {args.videos}: use more than {FEW}")
    ray.init(num_cpus=args.actors, include_dashboard=False, logging_level="ERROR", log_to_driver=False)
    threads: dict[str, int] = {}
    rounds: dict[str, list[Timed]] = {"ray": [], "loop": []}
    if importlib.util.find_spec("mteb"):
        rounds["mteb"] = []
    with tempfile.TemporaryDirectory() as folder:
        paths = render(Path(folder), args.videos)
        for i in range(args.rounds):
            runs: dict[str, Callable[[], Timed]] = {
                "ray": lambda i=i: on_ray(paths, args.actors, Path(folder) / str(i)),  # type: ignore[misc]
                **{name: lambda name=name: ALONE[name](paths) for name in ALONE},  # type: ignore[misc]
            }
            for name, timings in rounds.items():
                if name != "ray":
                    threads[name] = set_best_threads(ALONE[name], paths[:FEW], args.actors)
                timings.append(runs[name]())
        assumed = at_assumed_fps(paths)
    ray.shutdown()
    n = args.videos
    speeds = {
        name: {
            "videos_per_second": statistics.median(n / timed.seconds for timed in timings),
            "warm": statistics.median(n / (timed.seconds - timed.once) for timed in timings),
        }
        for name, timings in rounds.items()
    }
    ratios = {
        f"ray_over_{name}": {key: speeds["ray"][key] / speed[key] for key in speed}
        for name, speed in speeds.items()
        if name != "ray"
    }
    ours = rounds["loop"][0].vectors
    cosines = {name: _cosines(timings[0].vectors, ours) for name, timings in rounds.items() if name != "loop"}
    if "mteb" in rounds:
        cosines["mteb_at_24_fps"] = _cosines(rounds["mteb"][0].vectors, assumed)
    print(
        json.dumps(
            {
                "videos": n,
                "actors": args.actors,
                "rounds": args.rounds,
                "speeds": speeds,
                "ratios": ratios,
                "threads": threads,
                "cosines_with_loop": cosines,
                "without": [] if "mteb" in rounds else ["mteb: not installed"],
            },
            indent=1,
        )
    )


if __name__ == "__main__":
    main()
