"""A bootstrap over clusters of queries, against variances worked out by hand."""

import math

import numpy as np
import pytest
from scipy import stats

from gve_ray.evaluation.scores.bootstrap import (
    ClusterBootstrap,
    bootstrap_mean,
    bootstrap_weighted,
    compare,
)


def test_interval_of_a_hit_rate_is_binomial() -> None:
    # Resampled means of 0s and 1s are binomial: their 2.5 % and 97.5 % quantiles over n, to one or two draws.
    result = bootstrap_mean(np.repeat([1.0, 0.0], [300, 700]))
    assert (result.estimate, result.clusters) == (0.3, 1000)
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


def test_chunks_and_seeds(monkeypatch: pytest.MonkeyPatch) -> None:
    values = np.random.default_rng(3).random(50)
    whole = bootstrap_mean(values)
    assert bootstrap_mean(values) == whole
    assert bootstrap_mean(values, seed=1) != whole
    monkeypatch.setattr("gve_ray.evaluation.scores.bootstrap._CHUNK", 1000)
    assert bootstrap_mean(values) == whole


def test_a_weighted_sum_of_groups_that_share_nothing() -> None:
    # Variances add: 0.25 * 0.25/100 + 0.25 * 0.25/400.
    groups = [np.tile([0.0, 1.0], 50), np.tile([0.0, 1.0], 200)]
    result = bootstrap_weighted(groups, [0.5, 0.5])
    error = math.sqrt(0.25 * 0.25 / 100 + 0.25 * 0.25 / 400)
    assert (result.estimate, result.clusters) == (0.5, 500)
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


def test_equal_queries_of_a_video_count_once() -> None:
    """Ten copies of 100 queries have the interval of the 100: 1.98 sqrt(0.25 / 99), not that of 1,000."""
    values, of_query = np.tile([0.0, 1.0], 50), np.arange(100)
    copies = bootstrap_mean(np.tile(values, 10), clusters=np.tile(of_query, 10))
    half = stats.t.ppf(0.975, 99) * math.sqrt(0.25 / 99)
    assert (copies.estimate, copies.clusters) == (0.5, 100)
    assert [copies.low, copies.high] == pytest.approx([0.5 - half, 0.5 + half], abs=0.011)
    assert bootstrap_mean(np.tile(values, 10)).high < 0.5 + 0.4 * half


def test_clusters_count_by_their_queries() -> None:
    """Clusters 0 and 1 have 3 queries and 1 query. Of two draws, both are cluster 0 (mean 1), both are
    cluster 1 (mean 0), or there is one of each (mean 3/4).
    """
    bootstrap = ClusterBootstrap({"a": np.array([0, 0, 0, 1])}, resamples=400)
    drawn = bootstrap.means({"a": np.array([[1.0, 1.0, 1.0, 0.0]])})["a"][:, 0]
    values, counts = np.unique(drawn, return_counts=True)
    assert values.tolist() == [0.0, 0.75, 1.0]
    assert counts / 400 == pytest.approx([0.25, 0.5, 0.25], abs=0.08)


def test_data_sets_that_share_videos_vary_together() -> None:
    """With the same videos and opposite scores, the mean of two data sets is always 1/2. With other
    videos, it has the variance of two independent means.
    """
    hits = np.tile([0.0, 1.0], 50)
    shared = bootstrap_weighted([hits, 1 - hits], [0.5, 0.5], clusters=[np.arange(100), np.arange(100)])
    assert (shared.low, shared.high, shared.clusters) == (0.5, 0.5, 100)
    apart = bootstrap_weighted([hits, 1 - hits], [0.5, 0.5], clusters=[np.arange(100), np.arange(100, 200)])
    half = 1.97 * math.sqrt(0.25 / 100 / 2)
    assert [apart.low, apart.high] == pytest.approx([0.5 - half, 0.5 + half], abs=0.01)
    assert apart.clusters == 200


def test_the_smallest_data_set_decides_on_the_correction() -> None:
    """Half of the estimate is a data set of 5 videos, so the interval is that of about 5 clusters,
    although 505 take part. The variances of the halves are as 5 / 10^2 to 500 / 1000^2, with 4 and 499
    degrees of freedom, and lack the factors 5 / 4 and 500 / 499.
    """
    bootstrap = ClusterBootstrap({"few": np.arange(5), "many": np.arange(5, 505)})
    draws = stats.norm.ppf((np.arange(100_000) + 0.5) / 100_000)
    result = bootstrap.interval(0.0, draws, {"few": 0.5, "many": 0.5})
    few, many = 5 / 100, 500 / 1_000_000
    freedom = (few + many) ** 2 / (few**2 / 4 + many**2 / 499)
    inflation = (few * 5 / 4 + many * 500 / 499) / (few + many)
    expected = stats.t.ppf(0.975, freedom) * math.sqrt(inflation)
    assert (result.high, result.clusters) == (pytest.approx(expected, abs=0.02), 505)
    three = ClusterBootstrap({name: np.arange(5 * i, 5 * i + 5) for i, name in enumerate("abc")})
    equal = three.interval(0.0, draws, dict.fromkeys("abc", 1 / 3))  # 12 degrees of freedom, and still 5 / 4
    assert equal.high == pytest.approx(stats.t.ppf(0.975, 12) * math.sqrt(5 / 4), abs=0.01)
    single = ClusterBootstrap({"one": np.zeros(9, dtype=np.int64), "many": np.arange(1, 501)})
    assert single.interval(0.0, draws, {"one": 0.5, "many": 0.5}).bounds is None
    alone = bootstrap.interval(0.0, draws, {"many": 1.0})
    assert (alone.high, alone.clusters) == (pytest.approx(1.97, abs=0.01), 500)


def test_data_sets_that_share_nothing_are_drawn_separately() -> None:
    """A data set of two videos gets two draws each time, however many videos the others have, which
    share some with each other only.
    """
    clusters = {"two": np.array([0, 1]), "a": np.arange(2, 40), "b": np.arange(39, 60)}
    values = {name: np.ones((1, len(of_query))) for name, of_query in clusters.items()}
    values["two"] = np.array([[0.0, 1.0]])
    drawn = ClusterBootstrap(clusters, resamples=400).means(values)["two"][:, 0]
    shares = [float((drawn == value).mean()) for value in (0.0, 0.5, 1.0)]
    assert shares == pytest.approx([0.25, 0.5, 0.25], abs=0.08)
    assert sum(shares) == 1.0  # never NaN, and no other mean


def test_a_paired_test_is_of_clusters() -> None:
    """Twelve queries of one video gained: one event, not twelve. Over twelve videos it is significant."""
    gain, nothing = np.repeat([1.0, 0.0], 12), np.zeros(24)
    one = compare(gain, nothing, clusters=np.repeat([0, 1], 12))
    assert one.p_value == 1.0  # both signs of the one video that changed are as extreme
    assert compare(gain, nothing, clusters=np.arange(24)).p_value < 0.01


def test_contributions_of_clusters_add_up() -> None:
    bootstrap = ClusterBootstrap({"a": np.array([0, 1]), "b": np.array([1, 2, 2, 3]), "c": np.array([4])})
    gaps = {"a": np.array([1.0, 0.0]), "b": np.array([0.0, 1.0, -1.0, 1.0])}
    shares = {"a": 0.5, "b": 0.5}
    # Cluster 0: 1/2 * 1/2; 1: nothing; 2: 1/2 * (1 - 1) / 4; 3: 1/2 * 1/4; 4 is not part of it.
    assert bootstrap.contributions(gaps, shares).tolist() == [0.25, 0.0, 0.0, 0.125]


def test_invalid_inputs_are_refused() -> None:
    with pytest.raises(ValueError, match=r"shape \(0,\)"):
        bootstrap_mean([])
    with pytest.raises(ValueError, match="finite numbers"):
        bootstrap_mean([1.0, math.inf])
    with pytest.raises(ValueError, match="3 and 2 queries"):
        compare([1, 2, 3], [1, 2])
    with pytest.raises(ValueError, match="one weight per group"):
        bootstrap_weighted([[1.0]], [])
    with pytest.raises(ValueError, match="the cluster of each query"):
        bootstrap_mean([1.0, 0.0], clusters=[0])
    with pytest.raises(ValueError, match="'empty': no queries"):
        ClusterBootstrap({"empty": np.array([], dtype=np.int64)})
