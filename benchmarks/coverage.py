"""How often 95 % intervals contain the true score, when queries share videos.

    python benchmarks/coverage.py [--benchmarks 1000] [--resamples 1000]

Simulates benchmarks whose true scores are known, and prints one JSON object: by shape, the share of
benchmarks whose interval contains the truth, if single queries are resampled (`queries`) and if
clusters of queries are (`clusters`, as in `gve evaluate`). It takes about two minutes on one core.

A benchmark has the data sets A and B, which form an ability, and C; the average is that of the
ability and C. A query is a hit if a normal variable is below the quantile of the true score; part of
its variance (`WITHIN`) is that of its video, and part of both is common to the two models. The shapes:

    many      80 videos with 5 to 8 queries in each data set (DREAM-E has 6.25 per video)
    shared    the three data sets ask about the same 80 videos
    unequal   80 videos in each data set with 1 to 40 queries
    few       10 videos with 12 queries in each data set
    mixed     8 videos with 12 queries in A, and 80 with 5 to 8 in B and C
"""

import argparse
import json
import time
from collections.abc import Mapping
from statistics import NormalDist
from typing import Any

import numpy as np

from gve_ray.evaluation.scores.bootstrap import ClusterBootstrap

DATASETS = ("A", "B", "C")
TRUTH = {"A": 0.55, "B": 0.4, "C": 0.7}  # of the first model
GAIN = 0.05  # of the first model over the second, in every data set
WITHIN = 0.4  # share of the variance that is the video's
COMMON = 0.6  # share of the variance that is common to both models
QUANTITIES: Mapping[str, Mapping[str, float]] = {
    "data set": {"A": 1.0},
    "ability": {"A": 0.5, "B": 0.5},
    "average": {"A": 0.25, "B": 0.25, "C": 0.5},
}
DIFFERENCE = "difference"  # of the two models in the average
# Videos of each data set, and the queries of a video: from, to.
SHAPES: Mapping[str, Mapping[str, tuple[int, int, int]]] = {
    "many": dict.fromkeys(DATASETS, (80, 5, 8)),
    "shared": dict.fromkeys(DATASETS, (80, 5, 8)),
    "unequal": dict.fromkeys(DATASETS, (80, 1, 40)),
    "few": dict.fromkeys(DATASETS, (10, 12, 12)),
    "mixed": {"A": (8, 12, 12), "B": (80, 5, 8), "C": (80, 5, 8)},
}


def simulate(shape: str, rng: np.random.Generator) -> tuple[dict[str, np.ndarray], dict[str, np.ndarray]]:
    """Return the cluster of each query, int64 [queries], and both models' hits, float64 [2, queries]."""
    first, videos = 0, np.empty((2, 0))
    clusters, hits = {}, {}
    for name, (n, least, most) in SHAPES[shape].items():
        if shape != "shared" or not videos.size:
            first, videos = first + videos.shape[1], _normal(n, rng)
        of_query = np.repeat(np.arange(n), rng.integers(least, most + 1, size=n))
        latent = np.sqrt(WITHIN) * videos[:, of_query] + np.sqrt(1 - WITHIN) * _normal(len(of_query), rng)
        bounds = [NormalDist().inv_cdf(p) for p in (TRUTH[name], TRUTH[name] - GAIN)]
        hits[name] = (latent < np.array(bounds)[:, None]).astype(np.float64)
        clusters[name] = first + of_query
    return clusters, hits


def _normal(n: int, rng: np.random.Generator) -> np.ndarray:
    """Return standard normal values of two models, float64 [2, n], that correlate by COMMON."""
    return np.sqrt(COMMON) * rng.standard_normal(n) + np.sqrt(1 - COMMON) * rng.standard_normal((2, n))


def contained(
    clusters: Mapping[str, np.ndarray], hits: Mapping[str, np.ndarray], *, resamples: int, seed: int
) -> dict[str, bool]:
    """Return whether the interval of each quantity contains its true value."""
    bootstrap = ClusterBootstrap(clusters, resamples=resamples, seed=seed)
    means = bootstrap.means(hits)

    def contains(row: np.ndarray, shares: Mapping[str, float], truth: float) -> bool:
        """row: float64 [2], the weight of each model."""
        draws = sum(share * (means[name] @ row) for name, share in shares.items())
        estimate = sum(share * float(row @ hits[name].mean(axis=1)) for name, share in shares.items())
        return not bootstrap.interval(estimate, np.asarray(draws), shares).excludes(truth)

    one, gap = np.array([1.0, 0.0]), np.array([1.0, -1.0])
    results = {
        quantity: contains(one, shares, sum(share * TRUTH[name] for name, share in shares.items()))
        for quantity, shares in QUANTITIES.items()
    }
    return {**results, DIFFERENCE: contains(gap, QUANTITIES["average"], GAIN)}


def single(clusters: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Return clusters of one query each."""
    starts = np.cumsum([0, *(len(of_query) for of_query in clusters.values())])
    return {
        name: np.arange(start, start + len(of_query))
        for (name, of_query), start in zip(clusters.items(), starts, strict=False)
    }


def coverage(shape: str, *, benchmarks: int, resamples: int, seed: int) -> dict[str, dict[str, float]]:
    """Return the share of intervals that contain the truth, by way of resampling and quantity."""
    rng = np.random.default_rng(seed)
    counts: dict[str, list[dict[str, bool]]] = {"queries": [], "clusters": []}
    for number in range(benchmarks):
        clusters, hits = simulate(shape, rng)
        counts["queries"].append(contained(single(clusters), hits, resamples=resamples, seed=number))
        counts["clusters"].append(contained(clusters, hits, resamples=resamples, seed=number))
    return {
        way: {quantity: float(np.mean([result[quantity] for result in results])) for quantity in results[0]}
        for way, results in counts.items()
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--benchmarks", type=int, default=1000, help="simulated benchmarks of each shape")
    parser.add_argument("--resamples", type=int, default=1000)
    parser.add_argument("--seed", type=int, default=42)
    args = parser.parse_args()
    started = time.monotonic()
    result: dict[str, Any] = {
        "benchmarks": args.benchmarks,
        "shapes": {
            shape: coverage(shape, benchmarks=args.benchmarks, resamples=args.resamples, seed=args.seed)
            for shape in SHAPES
        },
    }
    print(json.dumps({**result, "seconds": round(time.monotonic() - started, 1)}, indent=1))


if __name__ == "__main__":
    main()
