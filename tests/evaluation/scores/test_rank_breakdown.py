"""Chance against all orders there are, and places counted once each."""

import itertools

import pytest

from gve_ray.evaluation.scores import metrics
from gve_ray.evaluation.scores.rank_breakdown import Places, chance, places


@pytest.mark.parametrize(
    "metric", ["hit@1", "hit@3", "recall@2", "precision@1", "precision@3", "precision@7", "hit@9"]
)
@pytest.mark.parametrize("positives,n", [(1, 5), (2, 5), (3, 3)])
def test_chance_is_the_mean_over_all_orders(metric: str, positives: int, n: int) -> None:
    items = "abcde"[:n]
    wanted = {"q": set(items[:positives])}
    scores = [metrics.score(metric, {"q": order}, wanted) for order in itertools.permutations(items)]
    assert chance(metric, [(positives, n)]) == pytest.approx(sum(scores) / len(scores))


def test_chance_is_a_mean_over_queries_of_any_size() -> None:
    assert chance("hit@1", [(1, 10), (3, 10)]) == pytest.approx(0.2)
    assert chance("hit@10", [(1, 15_000)]) == pytest.approx(10 / 15_000)


@pytest.mark.parametrize("metric", ["mrr", "median_rank", "ndcg@10"])
def test_no_chance_is_told_of_other_metrics(metric: str) -> None:
    assert chance(metric, [(1, 10)]) is None
    assert chance("hit@1", []) is None


def test_more_positives_than_items_are_refused() -> None:
    with pytest.raises(ValueError, match="4 positives among 3 items"):
        chance("hit@1", [(4, 3)])


def test_every_query_has_one_place() -> None:
    found = places([1, 1, 2, 10, 11, 99, None])
    assert found == Places(first=2, near=2, far=2, lost=1)
    assert found.n == 7
