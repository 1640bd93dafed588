import itertools
import math

import numpy as np
import pytest
from scipy import stats

from gve_ray.evaluation.scores.statistics import (
    Kind,
    correlation_matrix,
    draw_rows,
    holm,
    interval_of,
    pair_correlations,
    permutation_p,
)


def test_permutation_p_against_all_signs() -> None:
    difference = np.array([0.2, -0.1, 0.4, 0.0, 0.3, -0.2, 0.5])
    sums = [
        abs(sum(s * d for s, d in zip(signs, difference, strict=True)))
        for signs in itertools.product([1, -1], repeat=7)
    ]
    exact = np.mean([total >= abs(difference.sum()) - 1e-9 for total in sums])
    assert permutation_p(difference) == pytest.approx(exact, abs=0.015)
    assert permutation_p(np.zeros(5)) == 1.0


def test_permutation_p_is_near_the_t_test() -> None:
    difference = np.random.default_rng(6).normal(0.05, 1, size=250)
    expected = stats.ttest_1samp(difference, 0).pvalue
    assert 0.02 < expected < 0.5
    assert permutation_p(difference) == pytest.approx(expected, abs=0.015)


def correlation(x: list[float], y: list[float], kind: Kind) -> float:
    return float(correlation_matrix(np.array([x, y], dtype=float).T, kind=kind)[0, 1])


def test_correlations_by_hand() -> None:
    # Deviations (-1, 0, 1) and (-1, 1, 0): sum of products 1, both norms sqrt(2).
    assert correlation([1, 2, 3], [1, 3, 2], "pearson") == pytest.approx(0.5)
    # Ranks of y with its tie: 1, 2.5, 2.5, 4; deviations -1.5, 0, 0, 1.5; 4.5 / sqrt(5 * 4.5).
    assert correlation([1, 2, 3, 4], [1, 7, 7, 9], "spearman") == pytest.approx(4.5 / math.sqrt(22.5))
    assert correlation([1, 2, 3], [1, 100, 1000], "spearman") == pytest.approx(1.0)
    assert math.isnan(correlation([1, 2, 3], [0.1, 0.1, 0.1], "pearson"))


@pytest.mark.parametrize("seed", range(5))
def test_correlations_equal_scipys(seed: int) -> None:
    table = np.random.default_rng(seed).integers(0, 5, size=(9, 4)).astype(float)  # ties
    np.testing.assert_allclose(correlation_matrix(table, kind="pearson"), np.corrcoef(table.T), atol=1e-12)
    np.testing.assert_allclose(
        correlation_matrix(table, kind="spearman"), stats.spearmanr(table)[0], atol=1e-12
    )


def test_rows_are_drawn_by_cluster() -> None:
    """Rows 0 and 3 are of one cluster, so they are drawn equally often; three clusters make a draw."""
    counts = draw_rows([0, 1, 2, 0], resamples=500, seed=1)
    assert (counts[:, 0] == counts[:, 3]).all()
    assert (counts[:, :3].sum(axis=1) == 3).all()
    assert counts.mean(axis=0) == pytest.approx(np.ones(4), abs=0.1)


def test_draws_are_correlations_of_repeated_rows() -> None:
    """A row that is drawn twice counts as two rows, also in ranks with their ties."""
    table = np.random.default_rng(0).integers(0, 6, size=(7, 3)).astype(float)
    counts = draw_rows(range(7), resamples=20, seed=9)
    pairs = np.array([[0, 2], [1, 0]])
    for kind, of in (("pearson", stats.pearsonr), ("spearman", stats.spearmanr)):
        draws = pair_correlations(table, pairs, counts, kind=kind)  # type: ignore[arg-type]
        samples = [table.repeat(row.astype(int), axis=0) for row in counts]
        for column, (i, j) in enumerate(pairs):
            expected = [of(sample[:, i], sample[:, j])[0] for sample in samples]
            np.testing.assert_allclose(draws[:, column], expected, atol=1e-9)


def test_chunks_do_not_change_correlations(monkeypatch: pytest.MonkeyPatch) -> None:
    table, counts = np.random.default_rng(1).random((6, 4)), draw_rows(range(6), resamples=50)
    whole = pair_correlations(table, np.array([[0, 3]]), counts, kind="spearman")
    monkeypatch.setattr("gve_ray.evaluation.scores.statistics._CHUNK", 100)
    assert (pair_correlations(table, np.array([[0, 3]]), counts, kind="spearman") == whole).all()


def test_interval_of_a_correlation() -> None:
    x = np.random.default_rng(4).normal(size=300)
    y = 0.6 * x + 0.8 * np.random.default_rng(5).normal(size=300)
    table = np.stack([x, y], axis=1)
    counts = draw_rows(range(300))
    draws = pair_correlations(table, np.array([[0, 1]]), counts, kind="pearson")[:, 0]
    result = interval_of(float(correlation_matrix(table, kind="pearson")[0, 1]), draws, clusters=300)
    # Fisher: atanh(r) has an error of 1 / sqrt(n - 3).
    middle = math.atanh(result.estimate)
    expected = [math.tanh(middle + sign * 1.96 / math.sqrt(297)) for sign in (-1, 1)]
    assert [result.low, result.high] == pytest.approx(expected, abs=0.03)
    assert result.clusters == 300


@pytest.mark.parametrize("n", [5, 10, 20, 1000])
def test_few_units_get_wider_intervals(n: int) -> None:
    """Normal draws with the bootstrap's standard error, that is s sqrt((n - 1) / n) / sqrt(n), give
    Student's interval with s / sqrt(n).
    """
    draws = stats.norm.ppf((np.arange(200_000) + 0.5) / 200_000)
    result = interval_of(0.0, draws, clusters=n)
    expected = stats.t.ppf(0.975, n - 1) * math.sqrt(n / (n - 1))
    assert [result.low, result.high] == pytest.approx([-expected, expected], abs=0.01)


def test_one_unit_has_no_interval() -> None:
    result = interval_of(0.5, np.full(10, 0.5), clusters=1)
    assert (result.bounds, result.excludes(0), result.clusters) == (None, False, 1)
    assert interval_of(0.5, np.full(10, np.nan), clusters=9).bounds is None


def test_invalid_tables_are_refused() -> None:
    with pytest.raises(ValueError, match="n of 3 or more"):
        correlation([1, 2], [1, 2], "pearson")
    with pytest.raises(ValueError, match="not finite"):
        correlation([1, 2, math.inf], [1, 2, 3], "pearson")


def test_holm_by_hand() -> None:
    # Sorted 0.01, 0.02, 0.03, 0.5: times 4, 3, 2, 1 is 0.04, 0.06, 0.06, 0.5; and each at least the previous one.
    assert holm([0.5, 0.02, 0.01, 0.03]) == pytest.approx([0.5, 0.06, 0.04, 0.06])
    assert holm([0.6, 0.7]) == [1.0, 1.0]
    assert holm([]) == []
