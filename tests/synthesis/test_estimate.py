import json

import pytest

from gve_ray.stage import StagePace
from gve_ray.synthesis.estimate import Estimate, estimate, size_of


def test_a_pace_separates_the_start_from_the_rows() -> None:
    # Actors load for 20 s; the first batch of 8 rows takes 4 s, the other 32 rows 16 s.
    pace = StagePace.of(rows=40, seconds=40.0, first_rows=8, first_seconds=24.0)
    assert pace == StagePace(rows=40, start_seconds=20.0, row_seconds=0.5)
    alone = StagePace.of(rows=8, seconds=24.0, first_rows=8, first_seconds=24.0)
    assert alone == StagePace(rows=8, start_seconds=None, row_seconds=3.0)


def test_the_whole_is_the_start_once_and_the_rows_in_proportion() -> None:
    paces = {
        "integrity": StagePace(rows=200, start_seconds=10.0, row_seconds=0.1),
        "captions": StagePace(rows=100, start_seconds=60.0, row_seconds=2.0),  # half of the videos get there
    }
    result = estimate(
        videos=20_000, trial=200, paces=paces, gpus={"captions": 4.0}, size=3 * 10**9, price=1.5
    )
    assert result is not None
    hours = {stage.name: stage.hours for stage in result.stages}
    assert hours == pytest.approx({"integrity": 2_010 / 3600, "captions": 20_060 / 3600})
    assert result.gpu_hours == pytest.approx(4 * 20_060 / 3600)
    assert result.cost == pytest.approx(1.5 * 4 * 20_060 / 3600)
    assert result.gigabytes == pytest.approx(300)
    assert str(result) == (
        "all 20,000 videos would take 6.1 h here (captions 5.6 h, integrity 34 min), 300.0 GB, "
        "22.3 GPU hours for 33.43; measured on 200 of them"
    )


def test_an_endpoint_costs_in_proportion_and_is_read_again_from_run_json() -> None:
    paces = {"captions": StagePace(rows=50, start_seconds=0.0, row_seconds=7.2)}
    spending = {"answers": 200, "prompt_tokens": 300_000, "output_tokens": 50_001, "cost": 0.8}
    trial = {"videos": 1000, "trial": 50, "paces": paces, "size": 10**9}
    result = estimate(**trial, gpus={}, price=2.5, spending=spending)
    assert result is not None
    assert result.endpoint is not None
    assert (result.endpoint.answers, result.endpoint.output_tokens) == (4000, 1_000_020)
    assert str(result) == (
        "all 1,000 videos would take 2.0 h here (captions 2.0 h), 20.0 GB, 4,000 answers, "
        "6,000,000 and 1,000,020 tokens of prompts and output, cost 16.00; measured on 50 of them"
    )
    assert Estimate.from_dict(json.loads(json.dumps(result.to_dict()))) == result
    scored = estimate(**trial, gpus={"captions": 2.0}, price=2.5, spending=spending)
    assert ", 4.0 GPU hours for 10.00, 4,000 answers" in str(scored)
    assert "cost 16.00, together 26.00; measured" in str(scored)
    unpriced = estimate(**trial, gpus={"captions": 2.0}, price=2.5, spending={**spending, "cost": None})
    assert "of prompts and output; measured" in str(unpriced)


def test_a_trial_of_one_batch_is_called_too_small() -> None:
    paces = {"captions": StagePace(rows=8, start_seconds=None, row_seconds=9.0)}
    result = estimate(videos=80, trial=8, paces=paces, gpus={}, size=10**9, price=2.0)
    assert str(result) == (
        "all 80 videos would take 12 min here (captions 12 min), 10.0 GB; measured on 8 of them, too few for "
        "captions: raise the limit, or that is far too much"
    )


def test_without_work_in_this_run_there_is_no_estimate() -> None:
    assert estimate(videos=10, trial=5, paces={}, gpus={}, size=0, price=None) is None


def test_sizes_are_those_of_all_files(tmp_path) -> None:
    (tmp_path / "a" / "b").mkdir(parents=True)
    (tmp_path / "a" / "b" / "x").write_bytes(bytes(70))
    (tmp_path / "c").mkdir()
    (tmp_path / "c" / "y").write_bytes(bytes(7))
    assert size_of([str(tmp_path / "a"), str(tmp_path / "c"), str(tmp_path / "none")]) == 77


def test_stages_at_once_take_the_time_of_the_slowest_and_hold_their_gpus_as_long() -> None:
    paces = {
        "consistency": StagePace(rows=100, start_seconds=0.0, row_seconds=3.6),
        "captions": StagePace(rows=100, start_seconds=0.0, row_seconds=36.0),
    }
    gpus = {"consistency": 1.0, "captions": 4.0}
    whole = {"videos": 1000, "trial": 100, "paces": paces, "gpus": gpus, "size": 0, "price": None}
    result = estimate(**whole, at_once=True)
    assert result is not None
    assert (result.hours, result.gpu_hours) == pytest.approx((10.0, 10.0 * 1 + 10.0 * 4))
    in_turn = estimate(**whole)
    assert in_turn is not None
    assert (in_turn.hours, in_turn.gpu_hours) == pytest.approx((11.0, 1.0 * 1 + 10.0 * 4))
