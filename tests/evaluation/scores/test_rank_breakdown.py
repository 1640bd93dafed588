"""Chance scores against all possible orders, and the breakdown of ranks."""

import itertools

import pytest

from gve_ray.evaluation.scores import metrics
from gve_ray.evaluation.scores.rank_breakdown import RankBreakdown, chance, rank_breakdown


@pytest.mark.parametrize(
    "metric", ["hit@1", "hit@3", "recall@2", "precision@1", "precision@3", "precision@7", "hit@9"]
)
@pytest.mark.parametrize("positives,n", [(1, 5), (2, 5), (3, 3)])
def test_chance_is_the_mean_over_all_orders(metric: str, positives: int, n: int) -> None:
    items = "abcde"[:n]
    positives_of_query = {"q": set(items[:positives])}
    scores = [
        metrics.score(metric, {"q": order}, positives_of_query) for order in itertools.permutations(items)
    ]
    assert chance(metric, [(positives, n)]) == pytest.approx(sum(scores) / len(scores))


def test_chance_is_a_mean_over_queries() -> None:
    assert chance("hit@1", [(1, 10), (3, 10)]) == pytest.approx(0.2)
    assert chance("hit@10", [(1, 15_000)]) == pytest.approx(10 / 15_000)


@pytest.mark.parametrize("metric", ["mrr", "median_rank", "ndcg@10"])
def test_other_metrics_have_no_chance_score(metric: str) -> None:
    assert chance(metric, [(1, 10)]) is None
    assert chance("hit@1", []) is None


def test_more_positives_than_items_are_refused() -> None:
    with pytest.raises(ValueError, match="4 positives among 3 items"):
        chance("hit@1", [(4, 3)])


def test_every_query_is_counted_once() -> None:
    result = rank_breakdown([1, 1, 2, 10, 11, 99, None])
    assert result == RankBreakdown(first=2, near=2, far=2, lost=1)
    assert result.n == 7
