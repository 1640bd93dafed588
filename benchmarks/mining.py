"""Cost of mining hard negatives: two ranks against one, and the memory of a rank at the size of UVRD.

    python benchmarks/mining.py [--pairs 640] [--rounds 3] [--large 879000]

Ranks: text-image pairs with rendered pictures are mined with the demo's model, by one process and by
two with gloo, one thread each, in interleaved rounds. The ratio is of medians; loading the model is
not counted. Memory: `--large` text pairs are mined by one rank. The embeddings are 32 numbers that
follow from the text, instead of a model's: with 2,048 the search alone would take hours on two cores.
So the figure is that of the ids, the items, the search and the result. With a real model the
embeddings of the corpus come on top: 1.6 GB for 200,000 targets of 2,048 numbers. Prints one JSON
object.
"""

import argparse
import json
import multiprocessing
import os
import statistics
import tempfile
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from gve_ray.schema import Item, Task
from gve_ray.store import SharedFolder
from gve_ray.training.config import ProberConfig
from gve_ray.training.hard_negatives import mine_hard_negatives
from gve_ray.training.mixture import DataSet
from gve_ray.training.pairs import PairSet, freeze

MODEL = "package://demo/tiny_vl/model"
SIDE = 112  # pixels
DIMENSION = 32  # of the synthetic embeddings, which replace a model's
TARGETS_OF_A_QUERY = 2  # in the large data set


def dataset_of(path: Path, task: Task) -> DataSet:
    """Return a data set that mines one negative for each pair of an Arrow file."""
    pairs = PairSet(path, name=path.stem, task=task)
    return DataSet(pairs=pairs, weight=1.0, batch_size=1, negatives=1, brings_negatives=False)


def pair_row(number: int, query: str, **target: str) -> dict[str, Any]:
    """Return a row of the pair schema."""
    none = {"text": None, "image": None, "video": None}
    return {
        "pair_id": str(number),
        "query": {**none, "text": query},
        "target": {**none, **target},
        "negatives": [],
        "instruction": None,
        "domain": None,
        "style": None,
    }


def render_pairs(folder: Path, count: int) -> Iterator[dict[str, Any]]:
    """Render a picture of noise for each pair."""
    from PIL import Image

    rng = np.random.default_rng(0)
    for number in range(count):
        path = folder / f"{number}.png"
        Image.fromarray(rng.integers(0, 256, (SIDE, SIDE, 3), dtype=np.uint8)).save(path)
        yield pair_row(number, f"picture number {number}", image=str(path))


def large_pairs(count: int) -> Iterator[dict[str, Any]]:
    """Yield pairs with texts of the length of a caption, in which every query has two targets."""
    for number in range(count):
        group = number // TARGETS_OF_A_QUERY
        yield pair_row(
            number,
            f"a caption of some twenty words that describes what happens in the clips {group} 0",
            text=f"the content of one of the clips, as the words of another caption describe it {group} {number + 1}",
        )


def embed_numbers(items: Sequence[Item]) -> np.ndarray:
    """Embed the last two numbers of each text, group and member: unit-norm float32 [n, DIMENSION].

    Texts of one group have a cosine of about 0.9, others of about 0.
    """
    numbers = np.array([str(item.text).rsplit(" ", 2)[1:] for item in items], dtype=np.uint64)
    vectors = _scatter(numbers[:, 0]) + 0.5 * _scatter(numbers[:, 1]) * (numbers[:, 1:] > 0)
    return (vectors / np.linalg.norm(vectors, axis=1, keepdims=True)).astype(np.float32)


def _scatter(numbers: np.ndarray) -> np.ndarray:
    """Return pseudo-random coordinates in [-0.5, 0.5) for each number, float64 [n, DIMENSION]."""
    mixed = numbers[:, None] * np.uint64(DIMENSION) + np.arange(DIMENSION, dtype=np.uint64)
    for factor in (0xBF58476D1CE4E5B9, 0x94D049BB133111EB):  # those of splitmix64
        mixed = (mixed ^ (mixed >> np.uint64(30))) * np.uint64(factor)
    return (mixed >> np.uint64(11)) / 2.0**53 - 0.5


def mine_with_model(rank: int, size: int, folder: str, run: str, seconds: Any) -> None:
    """Mine the pictures on one of `size` ranks; rank 0 reports the seconds."""
    import torch
    import torch.distributed as dist

    from gve_ray.config import resolve_model
    from gve_ray.embedder import Embedder, EmbedderSettings
    from gve_ray.training.gather import barrier

    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{run}.store", rank=rank, world_size=size)
    settings = EmbedderSettings(max_pixels=SIDE * SIDE, min_pixels=SIDE * SIDE // 4)
    embedder = Embedder.from_pretrained(resolve_model(MODEL), settings=settings, device="cpu")
    dataset = dataset_of(Path(folder) / "pictures.arrow", Task.T2I)
    embedder.embed([pair.target for pair in dataset.pairs.take(range(8))])  # warm-up
    barrier()
    begun = time.perf_counter()
    mine_hard_negatives(lambda: (MODEL, embedder.embed), dataset, SharedFolder(run), ProberConfig(), seed=0)
    if rank == 0:
        seconds.put(time.perf_counter() - begun)
    dist.destroy_process_group()


def measure_ranks(folder: Path, rounds: int) -> dict[str, Any]:
    """Return the seconds of each round by number of ranks, and the ratio of the medians."""
    context = multiprocessing.get_context("spawn")
    seconds: dict[int, list[float]] = {1: [], 2: []}
    for number in range(rounds):
        for size, times in seconds.items():
            answer = context.Queue()
            run = str(folder / f"run-{size}-{number}")
            ranks = [
                context.Process(target=mine_with_model, args=(rank, size, str(folder), run, answer))
                for rank in range(size)
            ]
            for process in ranks:
                process.start()
            times.append(answer.get())
            for process in ranks:
                process.join()
    same = [np.load(folder / f"run-{size}-0" / "pictures.npy").tolist() for size in seconds]
    return {
        "seconds_of_one": seconds[1],
        "seconds_of_two": seconds[2],
        "speed_up": statistics.median(seconds[1]) / statistics.median(seconds[2]),
        "same_negatives": same[0] == same[1],
    }


def mine_large(path: Path, run: Path, answer: Any) -> None:
    """Mine the large data set in this process; report its seconds and memory, in GB."""
    import faiss

    def peak() -> float:
        # Not getrusage, whose maximum a new program inherits from the process that started it.
        status = Path("/proc/self/status").read_text()
        return int(status.partition("VmHWM:")[2].split()[0]) * 1024 / 1e9

    faiss.omp_set_num_threads(1)
    embed_numbers([Item(text="warm-up 0 0")])
    before, begun = peak(), time.perf_counter()
    dataset, config = dataset_of(path, Task.T2T), ProberConfig()
    mine_hard_negatives(lambda: ("numbers", embed_numbers), dataset, SharedFolder(run), config, seed=0)
    answer.put(
        {
            "pairs": len(dataset.pairs),
            "searched": min(config.corpus, len(dataset.pairs)),
            "dimension": DIMENSION,
            "seconds": time.perf_counter() - begun,
            "peak_gb": peak(),
            "peak_gb_before_mining": before,
        }
    )


def measure_memory(folder: Path, pairs: int) -> dict[str, Any]:
    """Mine `pairs` pairs in a separate process."""
    freeze(large_pairs(pairs), folder / "large.arrow")
    context = multiprocessing.get_context("spawn")
    answer = context.Queue()
    process = context.Process(target=mine_large, args=(folder / "large.arrow", folder / "large", answer))
    process.start()
    result: dict[str, Any] = answer.get()
    process.join()
    return result


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--pairs", type=int, default=640, help="pairs with pictures; 0 skips this part")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--large", type=int, default=879_000, help="pairs without; 0 skips this part")
    args = parser.parse_args()
    os.environ["OMP_NUM_THREADS"] = "1"  # of all processes that are started
    results: dict[str, Any] = {"cpus": os.cpu_count()}
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        if args.pairs:
            freeze(render_pairs(folder, args.pairs), folder / "pictures.arrow")
            results["ranks"] = {"pairs": args.pairs, **measure_ranks(folder, args.rounds)}
        if args.large:
            results["memory"] = measure_memory(folder, args.large)
    print(json.dumps(results, indent=1))


if __name__ == "__main__":
    main()
