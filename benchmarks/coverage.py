"""How often 95 % intervals contain the true score, when queries share videos.

    python benchmarks/coverage.py [--benchmarks 1000] [--resamples 1000]

Simulates benchmarks whose true scores are known, and prints one JSON object: by shape, the share of
benchmarks whose interval contains the truth, if single queries are resampled (`queries`) and if
clusters of queries are (`clusters`, as in `gve evaluate`). It takes about a minute on one idle core.

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


def draws_of_queries(hits: Mapping[str, np.ndarray], *, resamples: int, seed: int) -> dict[str, np.ndarray]:
    """Resample single queries in each data set, as if they were independent: float64 [resamples, 2].

    Queries with the same two hits are drawn together, so a draw is that of four counts.
    """
    rng = np.random.default_rng(seed)
    means = {}
    for name, pairs in hits.items():
        kinds, counts = np.unique(pairs, axis=1, return_counts=True)
        drawn = rng.multinomial(counts.sum(), counts / counts.sum(), size=resamples)
        means[name] = drawn @ kinds.T / counts.sum()
    return means


def contained(
    clusters: Mapping[str, np.ndarray], hits: Mapping[str, np.ndarray], *, resamples: int, seed: int
) -> dict[str, dict[str, bool]]:
    """Return whether the interval of each quantity contains its true value, by what is resampled."""
    bootstrap = ClusterBootstrap(clusters, resamples=resamples, seed=seed)
    means = {
        "queries": draws_of_queries(hits, resamples=resamples, seed=seed),
        "clusters": bootstrap.means(hits),
    }
    one, gap = np.array([1.0, 0.0]), np.array([1.0, -1.0])  # the weights of the two models
    quantities = [
        (name, one, shares, sum(share * TRUTH[part] for part, share in shares.items()))
        for name, shares in QUANTITIES.items()
    ]
    quantities.append((DIFFERENCE, gap, QUANTITIES["average"], GAIN))
    results: dict[str, dict[str, bool]] = {"queries": {}, "clusters": {}}
    for name, row, shares, truth in quantities:
        draws = {
            way: np.sum([share * (drawn[part] @ row) for part, share in shares.items()], axis=0)
            for way, drawn in means.items()
        }
        low, high = np.quantile(draws["queries"], [0.025, 0.975])
        results["queries"][name] = bool(low <= truth <= high)
        interval = bootstrap.interval(truth, draws["clusters"], shares)
        results["clusters"][name] = not interval.excludes(truth)
    return results


def coverage(shape: str, *, benchmarks: int, resamples: int, seed: int) -> dict[str, dict[str, float]]:
    """Return the share of intervals that contain the truth, by what is resampled and by quantity."""
    rng = np.random.default_rng(seed)
    results = [
        contained(*simulate(shape, rng), resamples=resamples, seed=number) for number in range(benchmarks)
    ]
    return {
        way: {quantity: float(np.mean([result[way][quantity] for result in results])) for quantity in named}
        for way, named in results[0].items()
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
