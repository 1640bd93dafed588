"""Confidence intervals and significance tests for scores, differences and correlations.

    bootstrap_mean(per_query)                  # Interval of a score over its queries
    compare(per_query_a, per_query_b)          # two models on the same queries: difference and p-value
    correlation_matrix(table, kind="spearman") # over models; correlation_draws gives its resamples

All functions are seeded and vectorised in NumPy. Intervals are bootstrap percentiles (Efron, 1979).
If there are few distinct values, each resample is a multinomial draw of their counts: for 15,000
queries with scores 0 and 1 that is two numbers per resample instead of 15,000.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray

Kind = Literal["pearson", "spearman"]
Floats = NDArray[np.float64]
RESAMPLES = 10_000
CORRELATION_RESAMPLES = 2_000
SEED = 42
_INTERVAL = ((1 - 0.95) / 2, (1 + 0.95) / 2)  # the quantiles that enclose 95 % of the draws
_CHUNK = 1_000_000  # numbers in memory at once
_FEW = 100  # up to this many distinct values, drawing counts is faster than drawing queries


@dataclass(frozen=True, kw_only=True)
class Interval:
    """An estimate with its 95 % confidence interval. n: number of queries or models."""

    estimate: float
    low: float
    high: float
    n: int
    level: float = 0.95

    def excludes(self, value: float) -> bool:
        """Whether the interval does not contain `value`."""
        return not self.low <= value <= self.high

    def __str__(self) -> str:
        return f"{self.estimate:.3f} [{self.low:.3f}, {self.high:.3f}]"


@dataclass(frozen=True, kw_only=True)
class Comparison:
    """Two models on the same queries: first minus second, and a two-sided permutation p."""

    difference: Interval
    p_value: float


def bootstrap_mean(values: ArrayLike, *, resamples: int = RESAMPLES, seed: int = SEED) -> Interval:
    """The mean of float [n] with its interval over resampled queries."""
    return bootstrap_weighted([values], [1.0], resamples=resamples, seed=seed)


def bootstrap_weighted(
    groups: Sequence[ArrayLike],
    weights: Sequence[float],
    *,
    resamples: int = RESAMPLES,
    seed: int = SEED,
) -> Interval:
    """A weighted sum of means, e.g. an ability; queries are resampled within each group (data set).

    groups: float [n_i] each; weights: one per group (see `abilities.weights`). Raises ValueError if
    a group is empty or has a value that is not finite.
    """
    if len(groups) != len(weights) or not groups:
        raise ValueError(f"{len(groups)} groups, {len(weights)} weights: give one weight per group")
    rng = np.random.default_rng(seed)
    arrays = [_finite(group) for group in groups]
    draws = np.zeros(resamples)
    for values, weight in zip(arrays, weights, strict=True):
        draws += weight * _resampled_means(values, resamples, rng)
    estimate = sum(weight * float(values.mean()) for values, weight in zip(arrays, weights, strict=True))
    return interval_of(estimate, draws, n=sum(map(len, arrays)))


def compare(
    first: ArrayLike, second: ArrayLike, *, resamples: int = RESAMPLES, seed: int = SEED
) -> Comparison:
    """Compare two models by a paired bootstrap and a permutation test.

    first, second: float [n], the scores of the same queries in the same order.
    """
    a, b = _finite(first), _finite(second)
    if len(a) != len(b):
        raise ValueError(
            f"{len(a)} and {len(b)} queries: give both models the same queries in the same order"
        )
    difference = a - b
    return Comparison(
        difference=bootstrap_mean(difference, resamples=resamples, seed=seed),
        p_value=permutation_p(difference, resamples=resamples, seed=seed),
    )


def permutation_p(difference: ArrayLike, *, resamples: int = RESAMPLES, seed: int = SEED) -> float:
    """Two-sided p-value of paired differences float [n], by a permutation test of their signs.

    (1 + draws at least as extreme) / (1 + draws), so never 0. Queries with equal absolute
    differences are drawn together: the number of plus signs among them is binomial.
    """
    values = _finite(difference)
    changed = np.abs(values[values != 0])
    sizes, counts = np.unique(changed, return_counts=True)
    if len(sizes) > _FEW:
        sizes, counts = changed, np.ones(len(changed), dtype=np.int64)
    rng = np.random.default_rng(seed)
    observed = abs(float(values.sum()))
    n_extreme = 0
    step = max(1, _CHUNK // max(1, len(sizes)))
    for start in range(0, resamples, step):
        shape = (min(step, resamples - start), len(sizes))
        is_distinct = len(sizes) > _FEW  # drawing bits is faster than binomials with n = 1
        plus = (
            rng.integers(2, size=shape, dtype=np.int8)
            if is_distinct
            else rng.binomial(counts, 0.5, size=shape)
        )
        sums = 2 * (plus.astype(np.float64) @ sizes) - counts @ sizes
        n_extreme += int(np.sum(np.abs(sums) >= observed - 1e-9))
    return (1 + n_extreme) / (1 + resamples)


def holm(p_values: Sequence[float]) -> list[float]:
    """p-values of a family of tests, corrected for multiple testing by Holm's method (1979).

    The i-th smallest of n is multiplied by n - i + 1, then raised to the previous one if smaller,
    at most 1.
    """
    corrected = [0.0] * len(p_values)
    previous = 0.0
    for position, i in enumerate(sorted(range(len(p_values)), key=p_values.__getitem__)):
        previous = max(previous, min(1.0, p_values[i] * (len(p_values) - position)))
        corrected[i] = previous
    return corrected


def correlation_matrix(table: Floats, *, kind: Kind) -> Floats:
    """Correlations of all columns, float64 [c, c]. table: float64 [n, c], one row per model."""
    return _correlations(_checked(table)[None], kind)[0]


def correlation_draws(
    table: Floats, *, kind: Kind, resamples: int = CORRELATION_RESAMPLES, seed: int = SEED
) -> Floats:
    """Correlations under resampled rows, float64 [resamples, c, c]; NaN for constant columns.

    The same seed draws the same rows for every column and both kinds, so correlations can be
    subtracted.
    """
    n, c = _checked(table).shape
    rows = np.random.default_rng(seed).integers(n, size=(resamples, n))
    step = max(1, _CHUNK // (n * n * c))
    parts = [_correlations(table[rows[start : start + step]], kind) for start in range(0, resamples, step)]
    return np.concatenate(parts)


def interval_of(estimate: float, draws: Floats, *, n: int) -> Interval:
    """The interval of a statistic from its bootstrap draws, float [resamples], without NaN draws."""
    usable = draws[np.isfinite(draws)]
    low, high = np.quantile(usable, _INTERVAL) if len(usable) else (np.nan, np.nan)
    return Interval(estimate=estimate, low=float(low), high=float(high), n=n)


def average_ranks(values: Floats) -> Floats:
    """Ranks from 1 along axis -2 of float [..., n, c], ties at their mean; compares all pairs."""
    first, second = values[..., :, None, :], values[..., None, :, :]  # [..., n, 1, c], [..., 1, n, c]
    below = (second < first).sum(axis=-2)
    equal = (second == first).sum(axis=-2)
    return np.asarray(below + (equal + 1) / 2, dtype=np.float64)


def _correlations(tables: Floats, kind: Kind) -> Floats:
    """Correlations of the columns of each table, float64 [b, n, c] -> [b, c, c]."""
    values = average_ranks(tables) if kind == "spearman" else tables
    centred = values - values.mean(axis=1, keepdims=True)
    # A column that varies only by rounding error counts as constant.
    tiny = 1e-12 * np.maximum(1.0, np.abs(values).max(axis=1, keepdims=True))
    centred[np.broadcast_to(np.abs(centred).max(axis=1, keepdims=True) <= tiny, centred.shape)] = np.nan
    unit = centred / np.sqrt((centred**2).sum(axis=1, keepdims=True))
    return np.asarray(np.clip(unit.transpose(0, 2, 1) @ unit, -1, 1))


def _resampled_means(values: Floats, resamples: int, rng: np.random.Generator) -> Floats:
    """Means of `resamples` resamples of float64 [n]: float64 [resamples]."""
    distinct, counts = np.unique(values, return_counts=True)
    if len(distinct) > _FEW:
        step = max(1, _CHUNK // len(values))
        shapes = [(min(step, resamples - start), len(values)) for start in range(0, resamples, step)]
        return np.concatenate(
            [values[rng.integers(len(values), size=shape)].mean(axis=1) for shape in shapes]
        )
    step = max(1, _CHUNK // len(distinct))
    parts = [
        rng.multinomial(len(values), counts / len(values), size=min(step, resamples - start)) @ distinct
        for start in range(0, resamples, step)
    ]
    return np.concatenate(parts) / len(values)


def _finite(values: ArrayLike) -> Floats:
    array = np.asarray(values, dtype=np.float64)
    if array.ndim != 1 or not len(array) or not np.isfinite(array).all():
        raise ValueError(
            f"values of shape {array.shape}: give at least one, all finite numbers, one per query"
        )
    return array


def _checked(table: Floats) -> Floats:
    if table.ndim != 2 or len(table) < 3:
        raise ValueError(f"table of shape {table.shape}: a correlation needs [n, c] with n of 3 or more")
    if not np.isfinite(table).all():
        raise ValueError("table: has values that are not finite; leave out those rows or columns")
    return table
