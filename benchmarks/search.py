"""Compare approximate search with exact search in memory: recall, latency, build time, size.

    python benchmarks/search.py [--sizes 10000 100000] [--million] [--dimension 256] [--kinds faiss:SQ lance:IVF_RQ]

A kind is `kind:structure` or `kind:structure:prefix`, as in `IndexOptions`. Vectors are synthetic: unit
vectors in clusters of 100, so that each query has about a hundred rows at a similar distance, as with
real embeddings of near-identical moments. Queries are vectors with noise, none of which is in the
index. All indexes answer one query at a time. In the filtered measurements, one row in 10, or one in 100,
passes the filter. `codes_mb` is what an index in memory holds instead of the vectors. Prints one JSON
object.
"""

import argparse
import json
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np

from gve_ray.search import Hit, IndexOptions, IndexSpec, VectorIndex, create_index, open_index

K = 10
PARTS = 100  # one in this many rows has each value of the field `part`
FILTERS = {"all": None, "a tenth": {"part": list(range(10))}, "a hundredth": {"part": 3}}
KINDS = [
    "faiss:SQ", "faiss:RQ", "faiss:SQ:64", "faiss:IVF_SQ", "faiss:IVF_RQ", "faiss:HNSW_SQ", "lance:IVF_RQ",
]  # fmt: skip
BATCH = 8192


def vectors_of(n: int, dimension: int, rng: np.random.Generator) -> np.ndarray:
    """Return unit vectors in clusters, float32 [n, dimension]."""
    centres = rng.standard_normal((max(1, n // 100), dimension), dtype=np.float32)
    vectors = centres[rng.integers(0, len(centres), n)]
    for start in range(0, n, BATCH):
        part = vectors[start : start + BATCH]
        part += 0.7 * rng.standard_normal(part.shape, dtype=np.float32)
        part /= np.linalg.norm(part, axis=1, keepdims=True)
    return vectors


def queries_of(vectors: np.ndarray, n: int, rng: np.random.Generator) -> np.ndarray:
    """Return queries, unit vectors near some of the vectors, float32 [n, dimension]."""
    queries = vectors[rng.integers(0, len(vectors), n)]
    queries = queries + 0.5 / queries.shape[1] ** 0.5 * rng.standard_normal(queries.shape, dtype=np.float32)
    return queries / np.linalg.norm(queries, axis=1, keepdims=True)


def fill(folder: Path, vectors: np.ndarray, options: IndexOptions) -> tuple[VectorIndex, dict[str, Any]]:
    """Build an index of all vectors and reopen it; return it with the cost of building."""
    begun = time.perf_counter()
    index = create_index(folder, IndexSpec(dimension=vectors.shape[1], fields={"part": "int"}), options)
    for start in range(0, len(vectors), BATCH):
        part = vectors[start : start + BATCH]
        numbers = range(start, start + len(part))
        index.add([f"{i:09d}" for i in numbers], part, [{"part": i % PARTS} for i in numbers])
    added = time.perf_counter()
    index.save()
    index.close()
    seconds = {"add_seconds": added - begun, "save_seconds": time.perf_counter() - added}
    facts = {name: round(value, 2) for name, value in seconds.items()}
    for name, pattern in (("disk_mb", "*"), ("codes_mb", "codes-*")):
        size = sum(path.stat().st_size for path in folder.rglob(pattern) if path.is_file())
        facts[name] = round(size / 1e6, 1)
    return open_index(folder), facts


def ask(index: VectorIndex, queries: np.ndarray, **more: Any) -> tuple[list[list[Hit]], dict[str, float]]:
    """Search the queries one by one after a warm-up, and return their hits and milliseconds.

    cpu_ms: processor time of all threads, which depends less on other work on the machine.
    """
    for query in queries[:3]:
        index.search(query[None], K, **more)
    hits, spent, cpu = [], [], time.process_time()
    for query in queries:
        begun = time.perf_counter()
        hits += index.search(query[None], K, **more)
        spent.append((time.perf_counter() - begun) * 1000)
    cpu_ms = (time.process_time() - cpu) * 1000 / len(queries)
    times = {f"p{p}_ms": float(np.percentile(spent, p)) for p in (50, 95)} | {"cpu_ms": cpu_ms}
    return hits, {name: round(value, 2) for name, value in times.items()}


def recall(found: Sequence[Sequence[Hit]], truth: Sequence[Sequence[Hit]]) -> float:
    """Return the mean share of the true K neighbours that were found."""
    shares = [
        len({hit.id for hit in a} & {hit.id for hit in b}) / len(b) for a, b in zip(found, truth, strict=True)
    ]
    return round(float(np.mean(shares)), 4)


def measure(
    vectors: np.ndarray, queries: np.ndarray, kinds: dict[str, IndexOptions], say: Callable[[str], None]
) -> dict[str, Any]:
    """Return the measurements by index. The first index is exact, and the others are compared with
    it.
    """
    truth: dict[str, list[list[Hit]]] = {}
    results: dict[str, Any] = {}
    for name, options in kinds.items():
        say(f"{len(vectors)} vectors: {name}")
        with tempfile.TemporaryDirectory() as folder:
            index, facts = fill(Path(folder), vectors, options)
            for label, filter in FILTERS.items():
                hits, times = ask(index, queries, filter=filter)
                facts[label] = {"recall_at_10": recall(hits, truth.setdefault(label, hits)), **times}
            index.close()
        results[name] = facts
    return results


def options_of(name: str, **more: int) -> IndexOptions:
    """Return the options of `kind:structure` or `kind:structure:prefix`."""
    kind, structure, *prefix = name.split(":")
    options: dict[str, Any] = {"kind": kind, "structure": structure, "approximate_from": 1000, **more}
    return IndexOptions(**options, prefix=int(prefix[0]) if prefix else None)


def main() -> None:
    import sys

    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--sizes", type=int, nargs="+", default=[10_000, 100_000])
    parser.add_argument("--million", action="store_true", help="also measure 1,000,000 vectors")
    parser.add_argument("--dimension", type=int, default=256)
    parser.add_argument("--queries", type=int, default=100)
    parser.add_argument("--kinds", nargs="+", default=KINDS)
    parser.add_argument("--probes", type=int, default=IndexOptions().probes)
    parser.add_argument("--refine", type=int, default=IndexOptions().refine)
    args = parser.parse_args()
    approximate = {name: options_of(name, probes=args.probes, refine=args.refine) for name in args.kinds}
    by_size = {}
    for size in [*args.sizes, *([1_000_000] if args.million else [])]:
        rng = np.random.default_rng(0)
        vectors = vectors_of(size, args.dimension, rng)
        queries = queries_of(vectors, args.queries, rng)
        kinds = {"exact": IndexOptions(), **approximate}
        by_size[str(size)] = measure(vectors, queries, kinds, lambda text: print(text, file=sys.stderr))
    settings = {name: value for name, value in asdict(IndexOptions()).items() if name in ("cell",)}
    facts = {"dimension": args.dimension, "queries": args.queries, "k": K, "probes": args.probes,
             "refine": args.refine, **settings}  # fmt: skip
    print(json.dumps(facts | {"by_size": by_size}, indent=1))


if __name__ == "__main__":
    main()
