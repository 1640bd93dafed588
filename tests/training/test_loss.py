"""Tests the loss. Expected values are worked out by hand from cosines and logarithms."""

import math

import pytest
import torch
from torch import Tensor

from gve_ray.training.loss import divergence, info_nce


def at(*degrees: float) -> Tensor:
    """Return unit vectors [n, 2] at these angles to the x axis; their cosines follow from the angles."""
    angles = torch.tensor(degrees, dtype=torch.float64).deg2rad()
    return torch.stack([angles.cos(), angles.sin()], dim=1).float()


def cos(degrees: float) -> float:
    return math.cos(math.radians(degrees))


def ce(positive: float, others: list[float], temperature: float) -> float:
    """Return the cross entropy: -log softmax of the positive among all candidates."""
    return -positive / temperature + math.log(
        sum(math.exp(score / temperature) for score in [positive, *others])
    )


def test_two_pairs_at_the_papers_temperature() -> None:
    # q0 at 0, q1 at 90; t0 at 10, t1 at 70: q0t0 = 10, q0t1 = 70, q1t0 = 80, q1t1 = 20 degrees apart.
    loss = info_nce(at(0, 90), at(10, 70))
    forward = [ce(cos(10), [cos(70)], 0.03), ce(cos(20), [cos(80)], 0.03)]
    backward = [ce(cos(10), [cos(80)], 0.03), ce(cos(20), [cos(70)], 0.03)]
    assert loss.value.item() == pytest.approx(0.5 * sum(forward) / 2 + 0.5 * sum(backward) / 2, abs=1e-6)
    assert loss.mean_score.item() == pytest.approx((cos(10) + cos(70) + cos(80) + cos(20)) / 4, abs=1e-6)
    assert loss.mean_positive.item() == pytest.approx((cos(10) + cos(20)) / 2, abs=1e-6)
    assert loss.hardest_gap.item() == pytest.approx((cos(10) - cos(70) + cos(20) - cos(80)) / 2, abs=1e-6)


def test_with_equal_scores_the_loss_is_the_logarithm_of_the_number_of_candidates() -> None:
    same = at(30, 30, 30)
    assert info_nce(same, same).value.item() == pytest.approx(math.log(3), abs=1e-6)


def test_hard_negatives_count_on_the_query_side_only() -> None:
    # Each query has two hard negatives at cosine 1: log 4 in one direction, log 2 in the other.
    same = at(30, 30)
    loss = info_nce(same, same, torch.stack([same, same], dim=1))
    assert loss.value.item() == pytest.approx(0.5 * math.log(4) + 0.5 * math.log(2), abs=1e-6)
    assert loss.hardest_gap.item() == pytest.approx(0, abs=1e-6)


def test_a_query_is_compared_only_with_its_own_hard_negatives() -> None:
    # q0 = 0, q1 = 90; the hard negative of q0 is orthogonal to q0 and the same as q1.
    queries = at(0, 90)
    loss = info_nce(queries, queries, at(90, 0)[:, None, :], temperature=1.0)
    forward = ce(1, [0, 0], 1.0)
    assert loss.value.item() == pytest.approx(0.5 * forward + 0.5 * ce(1, [0], 1.0), abs=1e-6)


@pytest.mark.parametrize("ids", ["pairs", "sources", "query_sources"])
def test_rows_that_share_a_pair_source_or_query_are_not_negatives_of_each_other(ids: str) -> None:
    # Rows 0 and 1 share an id, so the only negative of each is row 2; row 2 has both as negatives.
    queries, targets = at(0, 40, 100), at(5, 50, 90)
    loss = info_nce(queries, targets, temperature=0.5, **{ids: torch.tensor([7, 7, 8])})
    forward = [
        ce(cos(5), [cos(90)], 0.5),
        ce(cos(10), [cos(50)], 0.5),
        ce(cos(10), [cos(95), cos(50)], 0.5),
    ]
    backward = [
        ce(cos(5), [cos(95)], 0.5),
        ce(cos(10), [cos(50)], 0.5),
        ce(cos(10), [cos(90), cos(50)], 0.5),
    ]
    assert loss.value.item() == pytest.approx((sum(forward) + sum(backward)) / 6, abs=1e-6)
    gaps = [cos(5) - cos(90), cos(10) - cos(50), cos(10) - cos(50)]
    assert loss.hardest_gap.item() == pytest.approx(sum(gaps) / 3, abs=1e-6)


def test_a_hard_negative_with_the_source_of_the_positive_is_ignored() -> None:
    same = at(30, 30)
    loss = info_nce(
        same,
        same,
        torch.stack([same, same], dim=1),
        sources=torch.tensor([1, 2]),
        negative_sources=torch.tensor([[1, 5], [2, 2]]),
    )
    # q0: itself, row 1, one hard negative = log 3; q1: itself and row 0 = log 2; backward log 2 each.
    assert loss.value.item() == pytest.approx((math.log(3) + 3 * math.log(2)) / 4, abs=1e-6)


def test_candidates_that_score_above_the_positive_plus_margin_are_ignored() -> None:
    # q0 at 0: its target at 60 (0.5); t1 at 50 (0.643 > 0.6) is dropped, the hard negative at 55 (0.574) stays.
    queries, targets, hard = at(0, 50), at(60, 50), at(55, 180)[:, None, :]
    loss = info_nce(queries, targets, hard, temperature=1.0, margin=0.1)
    forward = [ce(cos(60), [cos(55)], 1), ce(1, [cos(10), cos(130)], 1)]
    # t0 at 60: q1 at 10 degrees (0.985) is above 0.5 + 0.1; t1: q0 at 50 degrees is not above 1 + 0.1.
    backward = [0.0, ce(1, [cos(50)], 1)]
    assert loss.value.item() == pytest.approx((sum(forward) + sum(backward)) / 4, abs=1e-6)
    hidden = info_nce(queries, targets, at(50, 180)[:, None, :], temperature=1.0, margin=0.1)
    forward[0] = 0.0  # cos 50 = 0.643 is above the limit too, so q0 has no negative left
    assert hidden.value.item() == pytest.approx((sum(forward) + sum(backward)) / 4, abs=1e-6)
    assert hidden.hardest_gap.item() == pytest.approx(1 - cos(10), abs=1e-6)


def test_matryoshka_is_the_mean_over_renormalised_prefixes() -> None:
    # Full vectors are equal-scored (3-d, only the last axis differs in sign), prefixes lie at 0 and 90.
    queries = torch.tensor([[0.6, 0.0, 0.8], [0.0, 0.6, 0.8]])
    full = ce(1, [0.64], 1.0)
    prefix = ce(1, [0.0], 1.0)
    loss = info_nce(queries, queries, temperature=1.0, dimensions=(3, 2))
    assert loss.value.item() == pytest.approx((full + prefix) / 2, abs=1e-6)
    assert loss.mean_score.item() == pytest.approx(0.82, abs=1e-6)


def test_a_single_pair_has_zero_loss() -> None:
    loss = info_nce(at(0), at(80))
    assert loss.value.item() == 0
    assert loss.hardest_gap.isnan()


def test_autocast_does_not_round_the_scores() -> None:
    queries, targets = at(0, 1, 2, 3), at(0.5, 1.5, 2.5, 3.5)
    exact = info_nce(queries, targets).value
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert torch.equal(info_nce(queries, targets).value, exact)


def test_gradient_of_two_pairs() -> None:
    # For each direction, d loss / d score = (softmax - onehot) / (2 N tau); for equal scores softmax is 1/2.
    queries = at(0, 0).requires_grad_()
    info_nce(queries, at(0, 90), temperature=1.0).value.backward()
    # q0: forward softmax over (1, 0) and, from t0, both queries at 1 and, from t1, both at 0.
    p = math.e / (math.e + 1)
    to_t0 = [(p - 1) + (0.5 - 1), p + 0.5]  # of q0, q1
    to_t1 = [(1 - p) + 0.5, ((1 - p) - 1) + (0.5 - 1)]
    expected = torch.tensor([[to_t0[0], to_t1[0]], [to_t0[1], to_t1[1]]]) / 4
    assert torch.allclose(queries.grad, expected, atol=1e-6)


def test_gradient_with_two_targets_of_one_query() -> None:
    # Rows 0 and 1 share a query, so the candidates of q0 are (t0, t2), those of q1 (t1, t2), those of q2 all;
    # likewise those of t0 are (q0, q2), of t1 (q1, q2), and of t2 all. With cross entropies averaged over 3 rows
    # and 2 directions, d loss / d score(q_i, t_j) = (forward softmax + backward softmax - 2 if i == j) / 6.
    queries, targets = at(0, 0, 90).requires_grad_(), at(20, 40, 80)
    info_nce(queries, targets, temperature=1.0, query_sources=torch.tensor([4, 4, 5])).value.backward()
    score = [[cos(q - t) for t in (20, 40, 80)] for q in (0, 0, 90)]
    allowed = [[True, False, True], [False, True, True], [True, True, True]]
    exponential = [[math.exp(score[i][j]) if allowed[i][j] else 0.0 for j in range(3)] for i in range(3)]
    expected = torch.zeros(3, 2)
    for i in range(3):
        for j in range(3):
            forward = exponential[i][j] / sum(exponential[i])
            backward = exponential[i][j] / sum(exponential[k][j] for k in range(3))
            expected[i] += (forward + backward - 2 * (i == j)) / 6 * targets[j]
    assert torch.allclose(queries.grad, expected, atol=1e-6)
    free = at(0, 0, 90).requires_grad_()
    info_nce(free, targets, temperature=1.0).value.backward()
    assert (free.grad - expected).abs().max() > 0.05


def test_a_target_that_another_row_pairs_with_the_query_is_not_its_negative() -> None:
    # Rows: (A, s), (A, t), (B, t). Row 2 shows t, which row 1 says is a positive of A; so q0 has no negative, and
    # t2 has only q2. But q2 = B is not known to match s: q2 keeps t0 as a negative, and t0 keeps q2.
    queries, targets = at(0, 10, 90), at(20, 40, 80)
    ids = {"query_sources": torch.tensor([1, 1, 2]), "sources": torch.tensor([7, 8, 8])}
    loss = info_nce(queries, targets, temperature=1.0, **ids)
    forward = [0.0, 0.0, ce(cos(10), [cos(70)], 1.0)]
    backward = [ce(cos(20), [cos(70)], 1.0), 0.0, 0.0]
    assert loss.value.item() == pytest.approx((sum(forward) + sum(backward)) / 6, abs=1e-6)


def test_a_hard_negative_that_is_another_target_of_the_query_is_ignored() -> None:
    same = at(30, 30, 30)
    loss = info_nce(
        same,
        same,
        same[:, None, :],
        sources=torch.tensor([1, 2, 3]),
        query_sources=torch.tensor([5, 5, 6]),
        # The one of q0 is the target of row 1, which has the same query; that of q1 is the target of row 2, which
        # has not; that of q2 is in no row.
        negative_sources=torch.tensor([[2], [3], [9]]),
    )
    # q0: itself and row 2; q1: itself, row 2 and its own; q2: all rows and its own.
    forward = math.log(2) + math.log(3) + math.log(4)
    backward = math.log(2) + math.log(2) + math.log(3)
    assert loss.value.item() == pytest.approx((forward + backward) / 6, abs=1e-6)


@pytest.mark.parametrize(
    "change,message",
    [
        ({"targets": at(0)}, "give two of shape"),
        ({"negatives": at(0, 1)}, r"negatives \(2, 2\)"),
        ({"negative_sources": torch.tensor([[1], [2]])}, "give negatives and sources"),
        ({"temperature": 0.0}, "temperature=0"),
        ({"dimensions": (2, 3)}, r"dimensions=\[3\]"),
    ],
)
def test_shapes_and_settings_that_do_not_fit_are_refused(change: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        info_nce(**{"queries": at(0, 1), "targets": at(0, 1)} | change)


def test_divergence_equals_the_sum_over_candidates() -> None:
    torch.manual_seed(0)
    scores, teacher = torch.randn(3, 5).requires_grad_(), torch.randn(3, 5).requires_grad_()
    value = divergence(scores, teacher, temperature=0.5, teacher_temperature=2.0)
    p, q = torch.softmax(teacher / 2.0, dim=1), torch.softmax(scores / 0.5, dim=1)
    torch.testing.assert_close(value, (p * (p.log() - q.log())).sum(dim=1).mean())
    value.backward()
    torch.testing.assert_close(scores.grad, ((q - p) / 0.5 / 3).detach())
    assert teacher.grad is None


def test_divergence_from_itself_is_zero() -> None:
    scores = torch.eye(4)
    assert divergence(scores, scores, temperature=0.1, teacher_temperature=0.1).item() == pytest.approx(
        0.0, abs=1e-6
    )
