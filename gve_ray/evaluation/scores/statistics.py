"""Confidence intervals from bootstrap draws, a permutation test, and correlations over models.

    interval_of(estimate, draws, clusters=40)         # Interval of any bootstrapped statistic
    permutation_p(differences_by_cluster)             # two-sided p of paired differences
    correlation_matrix(table, kind="spearman")        # over models; pair_correlations resamples them

All functions are seeded and vectorised in NumPy. `scores.bootstrap` resamples queries.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import NormalDist
from typing import Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray

Kind = Literal["pearson", "spearman"]
Floats = NDArray[np.float64]
RESAMPLES = 10_000
CORRELATION_RESAMPLES = 2_000
SEED = 42
_LEVEL = 0.95
_CHUNK = 1_000_000  # numbers in memory at once
_FEW = 100  # up to this many distinct values, drawing counts is faster than drawing queries


@dataclass(frozen=True, kw_only=True)
class Interval:
    """An estimate with its 95 % confidence interval.

    low, high: NaN if there are fewer than two clusters. clusters: number of independent units:
    clusters of queries, or lineages of models.
    """

    estimate: float
    low: float
    high: float
    clusters: int
    level: float = _LEVEL

    @property
    def bounds(self) -> list[float] | None:
        """[low, high] for JSON; None if there is no interval."""
        return [self.low, self.high] if self.low <= self.high else None

    def excludes(self, value: float) -> bool:
        """Whether the interval does not contain `value`."""
        return value < self.low or self.high < value

    def __str__(self) -> str:
        return f"{self.estimate:.3f} [{self.low:.3f}, {self.high:.3f}]"


def permutation_p(difference: ArrayLike, *, resamples: int = RESAMPLES, seed: int = SEED) -> float:
    """Two-sided p-value of paired differences float [n], by a permutation test of their signs.

    difference: independent ones, i.e. summed by cluster if queries share videos. Returns (1 + draws
    at least as extreme) / (1 + draws), so never 0. Equal absolute differences are drawn together:
    the number of plus signs among them is binomial.
    """
    values = np.asarray(difference, dtype=np.float64)
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
    """Correlations of all columns, float64 [c, c]; NaN for constant columns.

    table: float64 [n, c], one row per model.
    """
    return np.clip(_correlations(_checked(table), np.ones((1, len(table))), kind)[0], -1, 1)


def pair_correlations(table: Floats, pairs: NDArray[np.int64], counts: Floats, *, kind: Kind) -> Floats:
    """Correlations of pairs of columns under resampled rows, float64 [resamples, p]; NaN for constant ones.

    table: float64 [n, c], one row per model. pairs: int64 [p, 2], numbers of columns. counts: how
    often each row is drawn, float64 [resamples, n] (`draw_rows`); with the same counts, correlations
    can be subtracted. Raises ValueError if there are fewer than three rows or a value is not finite.
    """
    first, second = pairs.reshape(-1, 2).T
    step = max(1, _CHUNK // max(1, table.shape[1] ** 2, table.size))
    parts = [
        _correlations(_checked(table), counts[start : start + step], kind)[:, first, second]
        for start in range(0, len(counts), step)
    ]
    return np.clip(np.concatenate(parts), -1, 1)


def draw_rows(clusters: Sequence[int], *, resamples: int = CORRELATION_RESAMPLES, seed: int = SEED) -> Floats:
    """How often each row is drawn, float64 [resamples, n]: whole clusters, with replacement.

    clusters: the cluster of each row, from 0.
    """
    of_row = np.asarray(clusters)
    n = int(of_row.max()) + 1
    drawn = np.random.default_rng(seed).multinomial(n, np.full(n, 1 / n), size=resamples)
    return drawn[:, of_row].astype(np.float64)


def interval_of(
    estimate: float,
    draws: Floats,
    *,
    clusters: int,
    freedom: float | None = None,
    inflation: float | None = None,
) -> Interval:
    """The expanded percentile interval of a statistic from its bootstrap draws, float [resamples].

    clusters: number of units that were resampled. freedom: degrees of freedom of the variance; None:
    clusters - 1. inflation: of the variance; None: clusters / (clusters - 1).
    """
    low, high = bounds_of(draws[:, None], n=clusters, freedom=freedom, inflation=inflation)
    return Interval(estimate=estimate, low=float(low[0]), high=float(high[0]), clusters=clusters)


def bounds_of(
    draws: Floats, *, n: int, freedom: float | None = None, inflation: float | None = None
) -> tuple[Floats, Floats]:
    """The bounds of expanded percentile intervals, float64 [p] each; NaN for fewer than two units.

    draws: float64 [resamples, p]; NaN does not count. n, freedom, inflation: as `clusters` etc. of
    `interval_of`. The quantiles are those at which a normal distribution has the bounds of Student's
    interval, times the root of the inflation (Hesterberg, 2015).
    """
    freedom = n - 1 if freedom is None else freedom
    bounds = np.full((2, draws.shape[1]), np.nan)
    defined = np.isfinite(draws).any(axis=0)
    if freedom > 1e-9:
        tail = _tail(freedom, (freedom + 1) / freedom if inflation is None else inflation)
        bounds[:, defined] = np.nanquantile(draws[:, defined], (tail, 1 - tail), axis=0)
    return bounds[0], bounds[1]


def _tail(freedom: float, inflation: float) -> float:
    """The share of draws below an interval: 0.025 for many units, and less for few."""
    return NormalDist().cdf(-_student_quantile(freedom) * math.sqrt(inflation))


def _student_quantile(freedom: float) -> float:
    """The upper quantile of Student's t for _LEVEL, to 0.001 from 4 degrees of freedom on.

    Abramowitz and Stegun, "Handbook of Mathematical Functions", 26.7.5. With fewer degrees of freedom it
    is a little too small, where the bounds are the outermost draws in any case.
    """
    z = NormalDist().inv_cdf((1 + _LEVEL) / 2)
    terms = (
        z,
        (z**3 + z) / 4,
        (5 * z**5 + 16 * z**3 + 3 * z) / 96,
        (3 * z**7 + 19 * z**5 + 17 * z**3 - 15 * z) / 384,
        (79 * z**9 + 776 * z**7 + 1482 * z**5 - 1920 * z**3 - 945 * z) / 92160,
    )
    return sum(term / freedom**power for power, term in enumerate(terms))


def _ranks(values: Floats, counts: Floats) -> Floats:
    """Ranks of each column under resampled rows, ties at their mean, float64 [b, n, c].

    values: float64 [n, c]. counts: float64 [b, n]. The rank of a row is the number of drawn rows
    below it, plus half of those equal to it, plus a half.
    """
    below = (values[None, :, :] < values[:, None, :]).astype(np.float64)  # [n, n, c], of row i and row j
    below += 0.5 * (values[None, :, :] == values[:, None, :])
    return np.einsum("bj,ijc->bic", counts, below, optimize=True) + 0.5


def _correlations(table: Floats, counts: Floats, kind: Kind) -> Floats:
    """Correlations of all columns under resampled rows, up to rounding, float64 [b, c, c]."""
    unit = _standardised(table, counts, kind)
    return np.asarray((unit * counts[:, :, None]).transpose(0, 2, 1) @ unit)


def _standardised(values: Floats, counts: Floats, kind: Kind) -> Floats:
    """Columns with weighted mean 0 and sum of squares 1, float64 [b, n, c]; NaN for constant columns."""
    if kind == "spearman":
        table = _ranks(values, counts)
    else:
        table = np.broadcast_to(values, (len(counts), *values.shape))
    weights = counts[:, :, None] / counts.sum(axis=1)[:, None, None]
    centred = table - (weights * table).sum(axis=1, keepdims=True)
    squares = (counts[:, :, None] * centred**2).sum(axis=1, keepdims=True)
    # A column that varies only by rounding error counts as constant.
    tiny = 1e-12 * np.maximum(1.0, np.abs(table).max(axis=1, keepdims=True))
    spread = np.where(squares > tiny**2, squares, np.nan)
    return np.asarray(centred / np.sqrt(spread))


def _checked(table: Floats) -> Floats:
    if table.ndim != 2 or len(table) < 3:
        raise ValueError(f"table of shape {table.shape}: a correlation needs [n, c] with n of 3 or more")
    if not np.isfinite(table).all():
        raise ValueError("table: has values that are not finite; leave out those rows or columns")
    return table
