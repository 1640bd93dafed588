"""Compare W ranks under DDP with one process that computes the whole batch without any."""

from pathlib import Path
from typing import Any

import pytest
import torch

from gve_ray.training.gather import gather
from tests.training import ranks, tiny
from tests.training.forked import start_ranks


@pytest.fixture(
    scope="module",
    params=[pytest.param(1, marks=pytest.mark.slow), 2, pytest.param(3, marks=pytest.mark.slow)],
)
def run(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple[int, Any]:
    """Return the number of ranks and the results that the last one has saved."""
    folder = tmp_path_factory.mktemp("ranks")
    start_ranks(ranks.rank_main, (request.param, str(folder)), request.param)
    return request.param, torch.load(folder / "results.pt", weights_only=True)


@pytest.mark.parametrize("index", range(len(ranks.CASES)), ids=lambda i: str(ranks.CASES[i]))
def test_ranks_give_the_gradient_of_the_whole_batch(run: tuple[int, Any], index: int) -> None:
    case = ranks.CASES[index]
    value, gap, grads = run[1][str(index)]
    # The reference is one process, one backward pass, without GradCache, DDP or gathering.
    whole = ranks.Case(hard=case.hard, masks=case.masks)
    loss, expected = ranks.gradients(ranks.encoder(), whole, ranks.world(whole), lambda *parts: list(parts))
    assert value.item() == pytest.approx(loss.value.item(), abs=1e-6)
    assert gap.item() == pytest.approx(loss.hardest_gap.item(), abs=1e-6)
    assert len(grads) == 4
    for mine, theirs in zip(grads, expected, strict=True):
        assert theirs.abs().max() > 1e-3
        torch.testing.assert_close(mine, theirs, atol=1e-5, rtol=0)


def test_these_tests_detect_the_wrong_gradient_of_a_plain_gather(run: tuple[int, Any]) -> None:
    size, results = run
    _, _, grads = results[str(len(ranks.CASES))]
    _, _, right = results["0"]
    far = max((mine - theirs).abs().max().item() for mine, theirs in zip(grads, right, strict=True))
    assert (far > 1e-3) is (size > 1)


def test_unequal_batches_are_refused_by_every_rank(run: tuple[int, Any]) -> None:
    size, results = run
    if size == 1:
        assert "unequal" not in results
    else:
        assert f"batch sizes {list(range(2, 2 + size))} by rank" in results["unequal"]


def test_gathered_rows_are_in_the_order_of_ranks(run: tuple[int, Any]) -> None:
    size, results = run
    ids, floats = results[f"order {size - 1}"]
    assert ids.tolist() == list(range(size))
    assert floats.tolist() == [[float(rank)] for rank in range(size)]


def test_a_run_on_several_ranks_ends_with_the_weights_of_a_run_on_one(
    run: tuple[int, Any], tmp_path: Path
) -> None:
    steps, weights = run[1]["run"]
    expected_steps, expected = ranks.whole_run(tmp_path, 1)
    assert len(steps) == 14  # twice 40 / 12 + 24 / 6
    assert steps == expected_steps
    start = dict(tiny.Letters().named_parameters())
    for name, mine in weights.items():
        assert (expected[name] - start[name]).abs().max() > 0.01
        torch.testing.assert_close(mine, expected[name], atol=1e-5, rtol=0)


def test_without_a_process_group_the_batch_is_returned_unchanged() -> None:
    part = torch.ones(2, 3)
    assert gather(part)[0] is part


def test_masks_and_hard_negatives_change_the_reference() -> None:
    """If they did not, the masked cases above would prove nothing."""
    values = [
        ranks.gradients(ranks.encoder(), case, ranks.world(case), lambda *parts: list(parts))[0].value.item()
        for case in ranks.CASES
        if case.chunk is None
    ]
    assert len({round(value, 6) for value in values}) == 4


def test_ranks_share_the_work_of_an_evaluation_and_agree_on_its_scores(run: tuple[int, Any]) -> None:
    # Of the queries q 1 to q 5 and q 0 (with the target t 6), only the last has the direction of no target.
    assert run[1]["scores"] == pytest.approx({"pairs": 5 / 6, "mean": 5 / 6})
