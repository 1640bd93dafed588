"""Intervals contain the truth as often as they say, on simulated benchmarks with queries that share videos.

benchmarks/coverage.py simulates more of them, and in more shapes.
"""

import pytest
from scipy import stats

from benchmarks.coverage import coverage

BENCHMARKS = 100


@pytest.mark.parametrize("shape", ["shared", "mixed"])
def test_coverage(shape: str) -> None:
    """95 % up to three standard errors of 100 benchmarks, that is 0.88 or more, with clusters. Resampling of
    single queries is below it.
    """
    shares = coverage(shape, benchmarks=BENCHMARKS, resamples=400, seed=7)
    least = stats.binom.ppf(0.001, BENCHMARKS, 0.95) / BENCHMARKS
    assert min(shares["clusters"].values()) >= least
    assert max(shares["queries"].values()) < least
