"""Intervals of a run's scores and paired comparisons of its models, worked out by hand."""

import json
from typing import Any

import numpy as np
import pytest
from scipy import stats

from gve_ray.evaluation.config import EvaluationConfig, ModelConfig
from gve_ray.evaluation.data.uvrb import UVRB
from gve_ray.evaluation.scores.intervals import RunIntervals
from gve_ray.evaluation.scores.ranking import PER_QUERY_SCHEMA
from gve_ray.evaluation.scores.scoring import Scored

N = 40
CG = [name for name, spec in UVRB.items() if spec.ability == "CG"]
CONFIG = EvaluationConfig(models=(ModelConfig(name="m", model="m"),), root="r", resamples=2000)


def scored(hits: int, n: int = N, metric: str = "hit@1", **fields: Any) -> Scored:
    """The first `hits` of n queries are right."""
    values = np.repeat([1.0, 0.0], [hits, n - hits])
    facts = {"metric": metric, "score": float(values.mean()) if n else None}
    return Scored(facts=facts, values=values, table=PER_QUERY_SCHEMA.empty_table(), **fields)


def run(models: dict[str, dict[str, Scored]], clusters: dict[str, np.ndarray] | None = None) -> RunIntervals:
    """By default, all data sets have the same videos, one query each."""
    some = next(iter(models.values()))
    default = {name: np.arange(len(result.values)) for name, result in some.items()}
    return RunIntervals(models, clusters or default, CONFIG)


def half(variance: float, n: int) -> float:
    """Half of Student's interval of a mean, from the variance with n in the denominator."""
    return float(stats.t.ppf(0.975, n - 1) * np.sqrt(variance / (n - 1)))


def test_data_sets_have_intervals_by_clusters() -> None:
    """20 videos with 2 queries of the same result: the variance is that of 20, not of 40."""
    intervals = run({"m": {"set": scored(20)}}, {"set": np.repeat(np.arange(20), 2)})
    low, high = intervals.summary("m")["datasets"]["set"]["interval"]
    assert high - low == pytest.approx(2 * half(0.25, 20), abs=0.06)
    assert intervals.clusters() == {"datasets": {"set": 20}, "abilities": {}}


def test_abilities_need_all_of_their_sets() -> None:
    results = {name: scored(hits) for name, hits in zip(CG, (30, 20, 10), strict=True)}
    summary = run({"m": results}).summary("m")
    assert summary["abilities"] == pytest.approx({"CG": 0.5})
    assert list(summary["ability_intervals"]) == ["CG"]
    assert (summary["average_datasets"], summary["average_datasets_interval"]) == (None, None)
    assert "CG" not in run({"m": {name: results[name] for name in CG[1:]}}).summary("m")["abilities"]


def test_an_ability_over_shared_videos_is_less_certain() -> None:
    """Three data sets with the same results on the same 40 videos tell no more than one of them; with
    videos of their own, the interval is narrower by sqrt(3).
    """
    results = dict.fromkeys(CG, scored(20))
    shared = run({"m": results})
    low, high = shared.summary("m")["ability_intervals"]["CG"]
    assert high - low == pytest.approx(2 * half(0.25, N), abs=0.04)
    apart = run({"m": results}, {name: np.arange(N) + N * i for i, name in enumerate(CG)})
    low, high = apart.summary("m")["ability_intervals"]["CG"]
    assert high - low == pytest.approx(2 * half(0.25 / 3, N), abs=0.03)
    counts = [intervals.clusters()["abilities"]["CG"] for intervals in (shared, apart)]
    assert counts == [N, 3 * N]


def test_averages_have_intervals() -> None:
    summary = run({"m": dict.fromkeys(UVRB, scored(10))}).summary("m")
    for average in ("average_datasets", "average_abilities"):
        low, high = summary[f"{average}_interval"]
        assert summary[average] == pytest.approx(0.25)
        assert high - low == pytest.approx(2 * half(0.25 * 0.75, N), abs=0.04)


def test_differences_are_paired() -> None:
    """`new` has 4 hits more than `base` on each data set, for the same 4 videos: in every resample the
    difference is the share of these videos, whatever the other 36 are.
    """
    models = {
        "base": {name: scored(20) for name in CG},
        "same": {name: scored(20) for name in CG},
        "new": {name: scored(24) for name in CG},
    }
    intervals = run(models)
    rows = {(row["against"], row["name"]): row for row in intervals.comparisons("new", ["base", "same"])}
    assert list(rows) == [(model, name) for model in ("base", "same") for name in (*CG, "CG")]
    assert [rows["base", name]["kind"] for name in (*CG, "CG")] == ["dataset"] * 3 + ["ability"]
    for name in (*CG, "CG"):
        row = rows["base", name]
        assert (row["model"], row["difference"], row["n_clusters"]) == ("new", pytest.approx(0.1), N)
        low, high = row["interval"]
        assert 0 < low < 0.1 < high
        assert high - low == pytest.approx(2 * half(0.1 * 0.9, N), abs=0.03)  # unpaired: 2 * half(0.5, N)
        assert row["p_value"] == pytest.approx(2 / 2**4, abs=0.03)  # four videos changed, all for the better
    assert (rows["base", "CG"]["n_queries"], rows["base", CG[0]]["n_queries"]) == (3 * N, N)
    equal = intervals.comparisons("same", ["base"])
    assert {(row["difference"], *row["interval"], row["p_value"]) for row in equal} == {(0.0, 0.0, 0.0, 1.0)}


def test_averages_are_compared() -> None:
    models = {name: dict.fromkeys(UVRB, scored(hits)) for name, hits in (("a", 10), ("b", 20))}
    rows = {row["name"]: row for row in run(models).comparisons("b", ["a"]) if row["kind"] == "average"}
    assert list(rows) == ["average_datasets", "average_abilities"]
    assert rows["average_abilities"]["difference"] == pytest.approx(0.25)
    assert rows["average_abilities"]["interval"][0] > 0


def test_one_video_has_no_interval() -> None:
    models = {name: {"set": scored(hits)} for name, hits in (("a", 10), ("b", 20))}
    intervals = run(models, {"set": np.zeros(N, dtype=np.int64)})
    assert intervals.summary("a")["datasets"]["set"]["interval"] is None
    (row,) = intervals.comparisons("b", ["a"])
    assert (row["interval"], row["p_value"], row["n_clusters"]) == (None, 1.0, 1)


def test_ranks_and_empty_data_sets_have_no_interval() -> None:
    ranks = Scored(
        facts={"metric": "median_rank", "score": None},
        values=np.array([1.0, np.inf]),
        table=PER_QUERY_SCHEMA.empty_table(),
    )
    models = {name: {"set": scored(3), "ranks": ranks, "empty": scored(0, 0)} for name in "ab"}
    intervals = run(models)
    datasets = intervals.summary("a")["datasets"]
    assert [name for name, facts in datasets.items() if facts["interval"]] == ["set"]
    assert [row["name"] for row in intervals.comparisons("b", ["a"])] == ["set"]
    json.dumps(datasets, allow_nan=False)


def test_accuracies_have_the_intervals_of_their_model() -> None:
    def classified(hits: int) -> Scored:
        result = scored(hits)
        first, among_five = result.values, np.ones(N)
        facts = {"accuracy@1": {"score": hits / N}, "accuracy@5": {"score": 1.0}}
        accuracies = {"accuracy@1": first, "accuracy@5": among_five}
        result.facts["classification"] = facts
        return Scored(facts=result.facts, values=first, table=result.table, accuracies=accuracies)

    intervals = run({"a": {"set": classified(10)}, "b": {"set": classified(30)}})
    for model in "ab":
        facts = intervals.summary(model)["datasets"]["set"]
        assert facts["classification"]["accuracy@1"]["interval"] == facts["interval"]
        assert facts["classification"]["accuracy@5"]["interval"] == [1.0, 1.0]
