"""Scores, intervals and comparisons from vectors in a store, worked out by hand."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

from gve_ray.evaluation.config import EvaluationConfig, ModelConfig
from gve_ray.evaluation.data.eval_sets import EvalSet
from gve_ray.evaluation.data.retrieval_set import RetrievalSet
from gve_ray.evaluation.data.uvrb import UVRB
from gve_ray.evaluation.embed import EMBEDDING_SCHEMA, KEY, Embedded
from gve_ray.evaluation.scores.scoring import Scored, comparisons, left_out, score, summary
from gve_ray.schema import Item
from gve_ray.stage import StageCounts
from gve_ray.store import Store

N = 20
CONFIG = EvaluationConfig(
    models=(ModelConfig(name="m", model="m"),), root="r", depth=N, metrics=("hit@1", "mrr"), resamples=200
)


def dataset(name: str = "set", metric: str = "hit@1") -> EvalSet:
    """A data set where item i is the positive of query i."""
    ids = [str(i) for i in range(N)]
    data = RetrievalSet(
        name=name,
        query_ids=ids,
        queries=[Item(text=key) for key in ids],
        corpus_ids=ids,
        corpus=[Item(text=key) for key in ids],
        positives={key: frozenset([key]) for key in ids},
        candidates=None,
        skipped=[],
    )
    return EvalSet(
        data=data,
        metric=metric,
        queries=data.queries,
        query_keys=[f"q{key}" for key in ids],
        corpus_keys=[f"c{key}" for key in ids],
    )


def embedded(folder: Path, right: int, rejects: dict[str, tuple[str, str]] | None = None) -> Embedded:
    """Vectors where the first `right` queries are at their item; the others are at the next item,
    their own second.
    """
    turned = np.eye(N, dtype=np.float32)
    rows = [{KEY: f"c{i}", "vector": turned[i], "cut": False} for i in range(N)]
    for i in range(N):
        vector = turned[i] if i < right else 0.8 * turned[(i + 1) % N] + 0.6 * turned[i]
        rows.append({KEY: f"q{i}", "vector": vector, "cut": i == 3})
    missing = rejects or {}
    store = Store(str(folder / f"{right}-{len(missing)}.lance"), EMBEDDING_SCHEMA, key=KEY).create()
    store.append(
        pa.Table.from_pylist([row for row in rows if row[KEY] not in missing], schema=EMBEDDING_SCHEMA)
    )
    n_out = 2 * N - len(missing)
    counts = StageCounts(name="embed", n_in=2 * N, n_out=n_out, n_rejected=len(missing), seconds=1.0)
    return Embedded(store=store, counts=counts, n_found=0, rejects=missing)


def scored(folder: Path, right: int, name: str = "set") -> Scored:
    return score(dataset(name), "m", embedded(folder, right), CONFIG, folder / "runs" / f"{name}.trec")


def test_scores_and_counts(tmp_path: Path) -> None:
    result = scored(tmp_path, 15).facts
    assert result["score"] == pytest.approx(15 / 20)
    assert result["scores"] == pytest.approx({"hit@1": 15 / 20, "mrr": (15 + 5 / 2) / 20})
    assert result["interval"][0] < 0.75 < result["interval"][1]
    assert (result["n_queries"], result["n_corpus"], result["cut"]) == (N, N, {"queries": 1, "corpus": 0})
    assert len((tmp_path / "runs/set.trec").read_text().splitlines()) == N * N


def test_items_without_vectors_are_left_out_and_reported(tmp_path: Path) -> None:
    lost = {"q0": ("corrupt", "not a picture"), "c19": ("unsupported", "no videos")}
    vectors = embedded(tmp_path, 15, lost)
    facts = score(dataset(), "m", vectors, CONFIG, tmp_path / "set.trec").facts
    assert facts["score"] == pytest.approx(
        15 / 18
    )  # queries 1-14, and 18, whose competitor 19 is missing; 19 has no positive
    assert facts["skipped"] == {"faults": 0, "queries": 1, "corpus": 1, "queries_without_positives": 1}
    assert [(row["where"], row["what"]) for row in left_out(dataset(), "m", vectors)] == [
        ("query id '0'", "corrupt: not a picture"),
        ("corpus id '19'", "unsupported: no videos"),
    ]


def test_a_model_that_can_embed_nothing_has_no_score(tmp_path: Path) -> None:
    everything = {f"{side}{i}": ("unsupported", "") for side in "qc" for i in range(N)}
    result = score(dataset(), "m", embedded(tmp_path, 1, everything), CONFIG, tmp_path / "set.trec")
    assert (result.facts["score"], result.facts["n_queries"], result.table.num_rows) == (None, 0, 0)
    json.dumps(summary({"set": result}, CONFIG))


def test_a_median_beyond_the_neighbours_is_null(tmp_path: Path) -> None:
    config = replace(CONFIG, depth=1, metrics=("median_rank",))
    result = score(dataset(metric="median_rank"), "m", embedded(tmp_path, 5), config, tmp_path / "set.trec")
    assert (result.facts["score"], result.facts["interval"]) == (None, None)
    assert json.loads(json.dumps(result.facts["scores"], allow_nan=False)) == {"median_rank": None}


def test_abilities_need_all_of_their_sets(tmp_path: Path) -> None:
    """CG has several data sets, with 15, 10 and 5 of 20 queries right. The average over data sets
    needs all 16.
    """
    cg = [name for name, spec in UVRB.items() if spec.ability == "CG" and name != "CRB-G"]
    parts = {
        name: scored(tmp_path, right, name) for name, right in zip([*cg, "CRB-G"], (15, 10, 5), strict=True)
    }
    result = summary(parts, CONFIG)
    assert result["abilities"] == pytest.approx({"CG": (15 + 10 + 5) / 3 / 20})
    low, high = result["ability_intervals"]["CG"]
    assert low < result["abilities"]["CG"] < high
    assert (result["average_datasets"], result["average_datasets_interval"]) == (None, None)
    whole = summary(dict.fromkeys(UVRB, parts["CRB-G"]), CONFIG)
    assert whole["average_datasets"] == pytest.approx(5 / 20)
    assert whole["average_abilities"] == pytest.approx(5 / 20)
    assert whole["average_datasets_interval"][0] < 5 / 20 < whole["average_datasets_interval"][1]


def test_models_are_compared_pair_by_pair(tmp_path: Path) -> None:
    models = {
        name: {"set": scored(tmp_path, right)} for name, right in (("base", 5), ("new", 15), ("same", 5))
    }
    better, same = comparisons(models, CONFIG)
    assert (better["model"], better["against"], better["n_queries"]) == ("new", "base", N)
    assert better["difference"] == pytest.approx(10 / 20)
    assert better["interval"][0] > 0
    assert better["p_value"] < 0.05
    assert (same["model"], same["difference"], same["p_value"]) == ("same", 0.0, 1.0)
