"""Tests how batches are planned from the lengths of sequences."""

from gve_ray.embedder.batching import plan_batches


def test_longest_first_within_the_budget_and_visual_items_separate() -> None:
    lengths = [10, 40, 20, 100, 30, 15]
    visual = [False, False, False, True, True, False]
    # Visual: 100 fills the budget, then 30. Text: 40 and 20 are padded to 80, then 15 and 10 to 30.
    assert plan_batches(lengths, visual, token_budget=100, max_rows=10) == [[3], [4], [1, 2], [5, 0]]


def test_an_item_over_the_budget_gets_its_own_batch() -> None:
    assert plan_batches([500, 5], [False, False], token_budget=100, max_rows=10) == [[0], [1]]


def test_rows_per_batch_are_limited_and_ties_keep_their_order() -> None:
    assert plan_batches([3, 3, 3], [False] * 3, token_budget=100, max_rows=2) == [[0, 1], [2]]
