"""Metrics compared with trec_eval (pytrec-eval) on random cases, and by hand where trec_eval has no
equivalent.
"""

import math
import random

import numpy as np
import pytest
import pytrec_eval

from gve_ray.evaluation.scores.metrics import per_query, score

# Two queries. a: positives at ranks 2 and 4 of 5, a third is not in the ranking. b: its only positive at rank 1.
RANKINGS = {"a": ["v", "p1", "w", "p2", "x"], "b": ["q", "v"]}
POSITIVES = {"a": frozenset({"p1", "p2", "p3"}), "b": frozenset({"q"})}


def test_by_hand() -> None:
    assert score("hit@1", RANKINGS, POSITIVES) == 0.5
    assert score("hit@2", RANKINGS, POSITIVES) == 1.0
    assert score("recall@3", RANKINGS, POSITIVES) == pytest.approx((1 / 3 + 1) / 2)
    assert score("precision@4", RANKINGS, POSITIVES) == pytest.approx((2 / 4 + 1 / 4) / 2)
    gained = 1 / math.log2(3) + 1 / math.log2(5)
    ideal = 1 + 1 / math.log2(3) + 1 / 2
    assert score("ndcg@4", RANKINGS, POSITIVES) == pytest.approx((gained / ideal + 1) / 2)
    assert score("mrr", RANKINGS, POSITIVES) == 0.75
    assert score("median_rank", RANKINGS, POSITIVES) == 1.5


def test_the_papers_recall_is_the_hit_rate() -> None:
    assert score("hit@2", RANKINGS, POSITIVES) != score("recall@2", RANKINGS, POSITIVES)


def test_items_outside_the_ranking_count_as_not_found() -> None:
    lists, positives = {"a": ["v"], "b": []}, {"a": {"p"}, "b": {"p"}}
    assert [score(name, lists, positives) for name in ("hit@5", "recall@5", "ndcg@5", "mrr")] == [0, 0, 0, 0]
    assert score("median_rank", lists, positives) == math.inf
    assert score("mrr@1", {"a": ["v", "p"]}, {"a": {"p"}}) == 0.0
    assert score("mrr@2", {"a": ["v", "p"]}, {"a": {"p"}}) == 0.5


def test_values_are_in_the_order_of_the_positives() -> None:
    values = per_query("mrr", RANKINGS, dict(reversed(POSITIVES.items())))
    assert values.dtype == np.float64
    assert values.tolist() == [1.0, 0.5]


@pytest.mark.parametrize("name", ["recall", "hit@0", "map@10", "median_rank@5", "hit@-1"])
def test_an_unknown_metric_is_refused(name: str) -> None:
    with pytest.raises(ValueError, match=f"metric '{name}': unknown; use hit@k, recall@k"):
        score(name, RANKINGS, POSITIVES)


def test_invalid_inputs_are_refused() -> None:
    with pytest.raises(ValueError, match="query 'a': no positives"):
        score("mrr", RANKINGS, {"a": frozenset()})
    with pytest.raises(ValueError, match="query 'c': no ranking"):
        score("mrr", RANKINGS, {"c": frozenset({"p"})})
    with pytest.raises(ValueError, match="query 'a': 'v' is ranked twice"):
        score("mrr", {"a": ["v", "p", "v"]}, {"a": frozenset({"p"})})
    with pytest.raises(ValueError, match="of no queries"):
        score("mrr", {}, {})


def test_equal_to_trec_eval_on_a_thousand_random_cases() -> None:
    """Ties, several positives, positives never ranked, lists shorter than k."""
    draw = random.Random(0)
    qrels, run = {}, {}
    for case in range(1000):
        pool = [f"d{item}" for item in range(draw.randint(2, 40))]
        relevant = draw.sample(pool, draw.randint(1, min(6, len(pool))))
        listed = draw.sample(pool, draw.randint(1, len(pool)))
        qrels[f"q{case}"] = {item: int(item in relevant) for item in pool}
        run[f"q{case}"] = {item: float(draw.randint(0, 8)) for item in listed}  # 9 scores: many ties
    # trec_eval orders by score, and ties by descending name.
    rankings = {
        query: sorted(scores, key=lambda item: (scores[item], item), reverse=True)
        for query, scores in run.items()
    }
    positives = {query: frozenset(d for d, r in judged.items() if r) for query, judged in qrels.items()}
    # Checks the cases: at least two thirds of the lists have ties, and some lists are short.
    assert sum(len(set(scores.values())) < len(scores) for scores in run.values()) > 600
    assert sum(len(ranking) < 10 for ranking in rankings.values()) > 200
    assert sum(len(relevant) > 1 for relevant in positives.values()) > 600

    ours = {f"{ours}@{k}": f"{theirs}_{k}" for ours, theirs in NAMES.items() for k in (1, 3, 5, 10)}
    measures = {f"{theirs}.1,3,5,10" for theirs in NAMES.values()} | {"recip_rank"}
    reference = pytrec_eval.RelevanceEvaluator(qrels, measures).evaluate(run)
    for name, theirs in {**ours, "mrr": "recip_rank"}.items():
        expected = [reference[query][theirs] for query in positives]
        np.testing.assert_allclose(per_query(name, rankings, positives), expected, atol=1e-12, err_msg=name)
    ranks = per_query("median_rank", rankings, positives)
    np.testing.assert_allclose(1 / ranks, [reference[query]["recip_rank"] for query in positives], atol=1e-12)


NAMES = {"hit": "success", "recall": "recall", "precision": "P", "ndcg": "ndcg_cut"}
