import tracemalloc
from typing import Any

import numpy as np
import pytest

from gve_ray.training.schedule import Schedule, Step


def schedule(**changes: Any) -> Schedule:
    base: dict[str, Any] = {
        "seed": 42,
        "epoch": 1,
        "probabilities": {"T2V": 0.75, "V2V": 0.25},
        "sizes": {"T2V": 100, "V2V": 30},
        "batch_sizes": {"T2V": 8, "V2V": 4},
        "world_size": 2,
    }
    return Schedule(**base | changes)


def of(steps: list[Step], dataset: str) -> np.ndarray:
    """Rows of one data set in the order they are trained on."""
    return np.concatenate([step.rows for step in steps if step.dataset == dataset])


def test_an_epoch_has_as_many_steps_as_one_pass_over_all_pairs() -> None:
    # 100 / (8 * 2) + 30 / (4 * 2) = 6.25 + 3.75
    assert len(schedule()) == 10
    assert len(list(schedule().steps())) == 10
    assert len(list(schedule(length=3).steps())) == 3


def test_every_step_has_one_data_set_and_its_batch_size() -> None:
    for step in schedule(length=40).steps():
        assert len(step.rows) == {"T2V": 16, "V2V": 8}[step.dataset]
        assert step.rows.dtype == np.int32
        joined = np.concatenate([step.slice(rank) for rank in range(2)])
        assert np.array_equal(joined, step.rows)


def test_no_row_is_repeated_before_all_rows_were_used() -> None:
    steps = list(schedule(length=200).steps())
    for dataset, size in {"T2V": 100, "V2V": 30}.items():
        rows = of(steps, dataset)
        assert len(rows) > 3 * size  # otherwise the passes below would prove nothing
        for start in range(0, len(rows) - size, size):
            assert sorted(rows[start : start + size]) == list(range(size))
        passes = rows[: 2 * size].reshape(2, size)
        assert not np.array_equal(*passes)
    assert all(len(set(step.rows)) == len(step.rows) for step in steps)


def test_a_resumed_schedule_continues_with_the_same_steps() -> None:
    whole = list(schedule(length=60).steps())
    for start in (0, 1, 37, 60):
        rest = list(schedule(length=60).steps(start))
        assert [step.index for step in rest] == list(range(start, 60))
        for mine, theirs in zip(rest, whole[start:], strict=True):
            assert mine.dataset == theirs.dataset
            assert np.array_equal(mine.rows, theirs.rows)


def test_seed_and_epoch_change_data_sets_and_rows() -> None:
    plain = list(schedule(length=60).steps())
    for change in ({"seed": 43}, {"epoch": 2}):
        other = list(schedule(length=60, **change).steps())
        assert [step.dataset for step in plain] != [step.dataset for step in other]
        assert not np.array_equal(of(plain, "T2V")[:50], of(other, "T2V")[:50])


def test_data_sets_are_drawn_with_their_probability() -> None:
    draws = schedule(length=10_000, probabilities={"T2V": 0.75, "V2V": 0.25, "T2T": 0.0}).draws()
    # Standard deviation of the share is 0.0043.
    assert abs(np.mean(draws == 0) - 0.75) < 0.02
    assert set(draws) == {0, 1}


def test_a_small_data_set_gets_steps_that_ranks_share_evenly() -> None:
    small = schedule(sizes={"T2V": 100, "V2V": 7}, batch_sizes={"T2V": 8, "V2V": 64}, length=20)
    assert small.batch_size("V2V") == 3  # 7 pairs for 2 ranks
    assert {len(step.rows) for step in small.steps() if step.dataset == "V2V"} == {6}


@pytest.mark.parametrize(
    "change,message",
    [
        ({"world_size": 0}, "world_size=0"),
        ({"sizes": {"T2V": 100}}, "sizes.V2V"),
        ({"sizes": {"T2V": 100, "V2V": 1}}, "V2V has 1 pairs for 2 ranks"),
        ({"batch_sizes": {"T2V": 8}}, "batch_sizes.V2V"),
        ({"probabilities": {"T2V": 0.5, "V2V": 0.25}}, "sum to 1"),
        ({"probabilities": {}}, "sum to 1"),
        ({"length": 0}, "length=0"),
    ],
)
def test_impossible_schedules_are_refused(change: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        schedule(**change)


@pytest.mark.slow
def test_memory_is_bounded_at_the_papers_size() -> None:
    """Build every step of an epoch over 11 M pairs on 32 ranks (arXiv:2510.27571, section 5)."""
    big = schedule(
        probabilities={"video": 0.7, "image": 0.2, "text": 0.1},
        sizes={"video": 8_800_000, "image": 1_820_000, "text": 380_000},
        batch_sizes=dict.fromkeys(("video", "image", "text"), 64),
        world_size=32,
    )
    assert len(big) == 5371  # 11.0 M / 2048
    tracemalloc.start()
    count = sum(len(step.rows) for step in big.steps())
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert count == 5371 * 2048
    assert peak < 200e6
