"""A bootstrap over clusters of queries, for scores of data sets, abilities and differences of models.

    bootstrap = ClusterBootstrap(clusters, resamples=10_000, seed=42)
    means = bootstrap.means({"MSRVTT": values, ...})       # resampled means of all models
    bootstrap.interval(estimate, means["MSRVTT"][:, 0], {"MSRVTT": 1.0})

In each resample the clusters of all data sets that share videos are drawn together, as many as there
are, with replacement; a query counts as often as its cluster is drawn, and the score of a data set is
the mean of its queries under these counts. So data sets that share videos vary together, and a
difference of two models has the draws of both. Data sets that share nothing are drawn separately, each
with its number of clusters: in a draw over all of them, a data set of 8 videos would get 8 only on
average, and its intervals would be too wide (coverage 0.977 instead of 0.95 in
benchmarks/coverage.py).

Percentiles of a bootstrap are too narrow if clusters are few: they lack the factor n / (n - 1) of
the variance, and the wider quantiles of Student's t. Intervals are therefore expanded percentile
intervals (Hesterberg, "What Teachers Should Know About the Bootstrap", The American Statistician
69(4), 2015), which correct for both by taking quantiles farther out. Within
a group of data sets that are drawn together, n is the effective number of clusters: with a the share
of each cluster in the estimate, (sum a^2)^2 / sum a^4, which is the number of clusters of one size,
and less if a few dominate. Groups are combined in proportion to sum a^2, and their degrees of freedom
by Satterthwaite's approximation.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from gve_ray.evaluation.scores.statistics import (
    RESAMPLES,
    SEED,
    Floats,
    Interval,
    interval_of,
    permutation_p,
)

_CHUNK = 4_000_000  # numbers in memory at once


class ClusterBootstrap:
    """Draws of the clusters of all data sets.

    clusters: by data set, the cluster of each query, int64 [queries], numbered from 0 over all data
    sets (`clusters.join_queries`). Raises ValueError for a data set without queries.
    """

    def __init__(
        self,
        clusters: Mapping[str, NDArray[np.int64]],
        *,
        resamples: int = RESAMPLES,
        seed: int = SEED,
    ) -> None:
        if empty := [name for name, of_query in clusters.items() if not len(of_query)]:
            raise ValueError(f"data set {empty[0]!r}: no queries; leave it out of the bootstrap")
        self._resamples, self._seed = resamples, seed
        self._clusters = {name: np.asarray(of_query, dtype=np.int64) for name, of_query in clusters.items()}
        self._n = 1 + max((int(of_query.max()) for of_query in self._clusters.values()), default=-1)
        self._groups = _drawn_together(self._clusters.values())

    def means(self, values: Mapping[str, Floats]) -> dict[str, Floats]:
        """Resampled means by data set, float64 [resamples, m]; NaN where no query was drawn.

        values: by data set, float64 [m, queries], with a row for each model or metric.
        """
        sums = {name: self._sums(name, rows) for name, rows in values.items()}
        drawn = {name: np.empty((self._resamples, len(rows))) for name, rows in values.items()}
        generators = [np.random.default_rng([self._seed, number]) for number in range(len(self._groups))]
        step = max(1, _CHUNK // max(1, self._n))
        for start in range(0, self._resamples, step):
            n_draws = min(step, self._resamples - start)
            counts = self._draw(generators, n_draws)
            for name, (present, sizes, totals) in sums.items():
                weights = counts[:, present]  # float64 [draws, clusters of the data set]
                with np.errstate(invalid="ignore"):
                    drawn[name][start : start + n_draws] = (weights @ totals) / (weights @ sizes)[:, None]
        return drawn

    def interval(self, estimate: float, draws: Floats, shares: Mapping[str, float]) -> Interval:
        """The interval of a weighted sum of means, e.g. an ability, with its number of clusters.

        draws: float64 [resamples]. shares: the weight of each data set in the estimate.
        """
        weights = self._weights(shares)
        clusters = int(np.count_nonzero(weights))
        squares = [weights[group] ** 2 for group in self._groups if weights[group].any()]
        parts = np.array([float(square.sum()) for square in squares])
        effective = np.array([float(square.sum() ** 2 / (square**2).sum()) for square in squares])
        if effective.min() < 1 + 1e-9:  # the variance of a single cluster is unknown
            return interval_of(estimate, draws, clusters=clusters, freedom=0.0)
        freedom = parts.sum() ** 2 / (parts**2 / (effective - 1)).sum()
        inflation = (parts * effective / (effective - 1)).sum() / parts.sum()
        return interval_of(
            estimate, draws, clusters=clusters, freedom=float(freedom), inflation=float(inflation)
        )

    def contributions(self, differences: Mapping[str, Floats], shares: Mapping[str, float]) -> Floats:
        """What each cluster adds to a weighted sum of means, float64 [clusters]; they add up to it.

        differences: by data set, float64 [queries], e.g. of two models.
        """
        total = np.zeros(self._n)
        for name, share in shares.items():
            of_query = self._clusters[name]
            total += share * np.bincount(of_query, differences[name], minlength=self._n) / len(of_query)
        return total[self._weights(shares) > 0]

    def _draw(self, generators: Sequence[np.random.Generator], n_draws: int) -> Floats:
        """How often each cluster is drawn, float64 [draws, clusters]: multinomial in each group."""
        counts = np.zeros((n_draws, self._n))
        for group, rng in zip(self._groups, generators, strict=True):
            n = len(group)
            drawn = rng.integers(n, size=(n_draws, n)) + n * np.arange(n_draws)[:, None]
            counts[:, group] = np.bincount(drawn.ravel(), minlength=n_draws * n).reshape(n_draws, n)
        return counts

    def _sums(self, name: str, rows: Floats) -> tuple[NDArray[np.int64], Floats, Floats]:
        """The clusters of a data set, their numbers of queries [c], and their sums of values [c, m]."""
        present, of_query = np.unique(self._clusters[name], return_inverse=True)
        totals = [np.bincount(of_query, row, minlength=len(present)) for row in rows]
        sizes = np.bincount(of_query)
        return present, np.asarray(sizes, dtype=np.float64), np.asarray(totals, dtype=np.float64).T

    def _weights(self, shares: Mapping[str, float]) -> Floats:
        """The share of each cluster in a weighted sum of means, float64 [clusters]."""
        ones = np.zeros(self._n)
        for name, share in shares.items():
            of_query = self._clusters[name]
            ones += share * np.bincount(of_query, minlength=self._n) / len(of_query)
        return ones


def _drawn_together(clusters: Iterable[NDArray[np.int64]]) -> list[NDArray[np.int64]]:
    """The clusters of data sets that share any, directly or through others: int64 [clusters] each."""
    groups: list[set[int]] = []
    for of_query in clusters:
        own = set(of_query.tolist())
        joined = own.union(*(group for group in groups if not group.isdisjoint(own)))
        groups = [*(group for group in groups if group.isdisjoint(own)), joined]
    return [np.array(sorted(group), dtype=np.int64) for group in groups]


@dataclass(frozen=True, kw_only=True)
class Comparison:
    """Two models on the same queries: first minus second, and a two-sided permutation p."""

    difference: Interval
    p_value: float


def bootstrap_mean(
    values: ArrayLike, *, clusters: ArrayLike | None = None, resamples: int = RESAMPLES, seed: int = SEED
) -> Interval:
    """The mean of float [n] with its interval.

    clusters: the cluster of each query, int [n], from 0; None: every query is its own cluster.
    """
    return bootstrap_weighted(
        [values], [1.0], clusters=None if clusters is None else [clusters], resamples=resamples, seed=seed
    )


def bootstrap_weighted(
    groups: Sequence[ArrayLike],
    weights: Sequence[float],
    *,
    clusters: Sequence[ArrayLike] | None = None,
    resamples: int = RESAMPLES,
    seed: int = SEED,
) -> Interval:
    """A weighted sum of means over groups (data sets), e.g. an ability, with its interval.

    groups: float [n_i] each; weights: one per group (see `abilities.weights`). clusters: the cluster
    of each query, int [n_i] per group, numbered from 0 over all groups; None: every query is its own
    cluster. Raises ValueError if a group is empty or has a value that is not finite.
    """
    if len(groups) != len(weights) or not groups:
        raise ValueError(f"{len(groups)} groups, {len(weights)} weights: give one weight per group")
    values = {str(number): finite(group) for number, group in enumerate(groups)}
    bootstrap = ClusterBootstrap(_clusters(values, clusters), resamples=resamples, seed=seed)
    means = bootstrap.means({name: row[None] for name, row in values.items()})
    shares = dict(zip(values, weights, strict=True))
    estimate = sum(share * float(values[name].mean()) for name, share in shares.items())
    draws = sum((share * means[name][:, 0] for name, share in shares.items()), np.zeros(resamples))
    return bootstrap.interval(estimate, draws, shares)


def compare(
    first: ArrayLike,
    second: ArrayLike,
    *,
    clusters: ArrayLike | None = None,
    resamples: int = RESAMPLES,
    seed: int = SEED,
) -> Comparison:
    """Compare two models by a paired bootstrap and a permutation test of the signs of clusters.

    first, second: float [n], the scores of the same queries in the same order. clusters: as in
    `bootstrap_mean`.
    """
    a, b = finite(first), finite(second)
    if len(a) != len(b):
        raise ValueError(
            f"{len(a)} and {len(b)} queries: give both models the same queries in the same order"
        )
    of_query = _clusters({"0": a}, None if clusters is None else [clusters])
    summed = np.bincount(of_query["0"], a - b)
    return Comparison(
        difference=bootstrap_mean(a - b, clusters=clusters, resamples=resamples, seed=seed),
        p_value=permutation_p(summed, resamples=resamples, seed=seed),
    )


def finite(values: ArrayLike) -> Floats:
    """The values as float64 [n]. Raises ValueError if there are none, or one is not finite."""
    array = np.asarray(values, dtype=np.float64)
    if array.ndim != 1 or not len(array) or not np.isfinite(array).all():
        raise ValueError(
            f"values of shape {array.shape}: give at least one, all finite numbers, one per query"
        )
    return array


def _clusters(
    values: Mapping[str, Floats], clusters: Sequence[ArrayLike] | None
) -> dict[str, NDArray[np.int64]]:
    """The clusters of each group; without `clusters`, each query gets its own number."""
    if clusters is None:
        starts = np.cumsum([0, *map(len, values.values())])
        return {
            name: np.arange(start, start + len(row))
            for (name, row), start in zip(values.items(), starts[:-1], strict=True)
        }
    arrays = [np.asarray(of_query, dtype=np.int64) for of_query in clusters]
    if [len(of_query) for of_query in arrays] != [len(row) for row in values.values()]:
        raise ValueError("clusters: give the cluster of each query, in the groups of the values")
    return dict(zip(values, arrays, strict=True))
