import itertools
import math

import numpy as np
import pytest
from scipy import stats

from gve_ray.evaluation.scores.statistics import (
    Kind,
    average_ranks,
    bootstrap_mean,
    bootstrap_weighted,
    compare,
    correlation_draws,
    correlation_matrix,
    holm,
    interval_of,
    permutation_p,
)


def test_interval_of_a_hit_rate_is_binomial() -> None:
    # Resampled means of 0s and 1s are binomial: their 2.5 % and 97.5 % quantiles over n, to one or two draws.
    result = bootstrap_mean(np.repeat([1.0, 0.0], [300, 700]))
    assert (result.estimate, result.n) == (0.3, 1000)
    expected = stats.binom.ppf([0.025, 0.975], 1000, 0.3) / 1000
    assert [result.low, result.high] == pytest.approx(expected, abs=0.002)
    assert str(result) == f"0.300 [{result.low:.3f}, {result.high:.3f}]"


def test_interval_of_a_mean_is_near_the_normal_interval() -> None:
    values = np.random.default_rng(1).normal(5, 2, size=400)
    result = bootstrap_mean(values)
    error = values.std() / math.sqrt(400)
    assert [result.low, result.high] == pytest.approx(
        values.mean() + np.array([-1.96, 1.96]) * error, abs=0.02
    )


def test_intervals_have_their_nominal_coverage() -> None:
    draw = np.random.default_rng(2)
    inside = [
        not bootstrap_mean(draw.random(60) < 0.4, resamples=400, seed=i).excludes(0.4) for i in range(400)
    ]
    assert 0.90 <= np.mean(inside) <= 0.98


def test_chunks_and_seeds_do_not_change_a_result(monkeypatch: pytest.MonkeyPatch) -> None:
    values = np.random.default_rng(3).random(50)
    whole = bootstrap_mean(values)
    assert bootstrap_mean(values) == whole
    assert bootstrap_mean(values, seed=1) != whole
    monkeypatch.setattr("gve_ray.evaluation.scores.statistics._CHUNK", 1000)
    assert bootstrap_mean(values) == whole
    assert permutation_p(values - 0.5) == pytest.approx(
        stats.permutation_test(
            (values - 0.5,), np.mean, permutation_type="samples", n_resamples=9999, rng=0
        ).pvalue,
        abs=0.03,
    )


def test_a_weighted_sum_resamples_each_group_separately() -> None:
    # Variances add: 0.25 * 0.25/100 + 0.25 * 0.25/400.
    groups = [np.tile([0.0, 1.0], 50), np.tile([0.0, 1.0], 200)]
    result = bootstrap_weighted(groups, [0.5, 0.5])
    error = math.sqrt(0.25 * 0.25 / 100 + 0.25 * 0.25 / 400)
    assert (result.estimate, result.n) == (0.5, 500)
    assert [result.low, result.high] == pytest.approx([0.5 - 1.96 * error, 0.5 + 1.96 * error], abs=0.005)


def test_a_paired_test_finds_small_differences() -> None:
    # 10 of 1000 queries gained and none lost.
    first = np.repeat([1.0, 0.0], [510, 490])
    second = np.repeat([1.0, 0.0], [500, 500])
    result = compare(first, second)
    assert result.difference.estimate == pytest.approx(0.01)
    assert result.difference.excludes(0)
    assert result.p_value < 0.01  # exactly 2 / 2**10
    assert not bootstrap_mean(first).excludes(0.5)


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


def test_ranks_along_the_rows_of_a_batch() -> None:
    values = np.array([[[3.0], [1.0], [3.0]], [[5.0], [6.0], [7.0]]])
    assert average_ranks(values)[..., 0].tolist() == [[2.5, 1, 2.5], [1, 2, 3]]


def test_draws_are_correlations_of_resampled_rows() -> None:
    table = np.random.default_rng(0).random((7, 3))
    rows = np.random.default_rng(9).integers(7, size=(20, 7))
    for kind, of in (("pearson", stats.pearsonr), ("spearman", stats.spearmanr)):
        draws = correlation_draws(table, kind=kind, resamples=20, seed=9)  # type: ignore[arg-type]
        expected = [of(table[sample, 0], table[sample, 2])[0] for sample in rows]
        np.testing.assert_allclose(draws[:, 0, 2], expected, atol=1e-9)


def test_interval_of_a_correlation() -> None:
    x = np.random.default_rng(4).normal(size=300)
    y = 0.6 * x + 0.8 * np.random.default_rng(5).normal(size=300)
    table = np.stack([x, y], axis=1)
    draws = correlation_draws(table, kind="pearson")[:, 0, 1]
    result = interval_of(float(correlation_matrix(table, kind="pearson")[0, 1]), draws, n=300)
    # Fisher: atanh(r) has an error of 1 / sqrt(n - 3).
    middle = math.atanh(result.estimate)
    expected = [math.tanh(middle + sign * 1.96 / math.sqrt(297)) for sign in (-1, 1)]
    assert [result.low, result.high] == pytest.approx(expected, abs=0.03)
    assert result.n == 300


def test_invalid_inputs_are_refused() -> None:
    with pytest.raises(ValueError, match=r"shape \(0,\)"):
        bootstrap_mean([])
    with pytest.raises(ValueError, match="finite numbers"):
        bootstrap_mean([1.0, math.inf])
    with pytest.raises(ValueError, match="3 and 2 queries"):
        compare([1, 2, 3], [1, 2])
    with pytest.raises(ValueError, match="n of 3 or more"):
        correlation([1, 2], [1, 2], "pearson")
    with pytest.raises(ValueError, match="one weight per group"):
        bootstrap_weighted([[1.0]], [])


def test_holm_by_hand() -> None:
    # Sorted 0.01, 0.02, 0.03, 0.5: times 4, 3, 2, 1 is 0.04, 0.06, 0.06, 0.5; and each at least the previous one.
    assert holm([0.5, 0.02, 0.01, 0.03]) == pytest.approx([0.5, 0.06, 0.04, 0.06])
    assert holm([0.6, 0.7]) == [1.0, 1.0]
    assert holm([]) == []
