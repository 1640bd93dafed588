"""Scores from vectors in a store, worked out by hand."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

from gve_ray.evaluation.config import EvaluationConfig, ModelConfig, SmallerVectors
from gve_ray.evaluation.data.eval_sets import EvalSet
from gve_ray.evaluation.data.retrieval_set import RetrievalSet
from gve_ray.evaluation.embed import EMBEDDING_SCHEMA, KEY, Embedded
from gve_ray.evaluation.scores.scoring import Scored, score, unreadable
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
    result = scored(tmp_path, 15)
    facts = result.facts
    assert facts["score"] == pytest.approx(15 / 20)
    assert facts["scores"] == pytest.approx({"hit@1": 15 / 20, "mrr": (15 + 5 / 2) / 20})
    assert result.values.tolist() == [1.0] * 15 + [0.0] * 5
    assert (facts["n_queries"], facts["n_corpus"], facts["cut"]) == (N, N, {"queries": 1, "corpus": 0})
    assert len((tmp_path / "runs/set.trec").read_text().splitlines()) == N * N


def test_items_without_vectors_are_misses_and_reported(tmp_path: Path) -> None:
    """Of 15 hits, query 0 is unreadable, and query 12's positive. Query 18 gains: its competitor is
    unreadable, too.
    """
    lost = {"q0": ("corrupt", "not a picture"), "c12": ("unsupported", "no videos"), "c19": ("corrupt", "")}
    vectors = embedded(tmp_path, 15, lost)
    result = score(dataset(), "m", vectors, CONFIG, tmp_path / "set.trec")
    assert result.facts["score"] == pytest.approx((15 - 2 + 1) / 20)
    assert [i for i, value in enumerate(result.values) if value] == [*range(1, 12), 13, 14, 18]
    assert (result.facts["n_queries"], result.facts["n_corpus"]) == (N, N)
    assert result.facts["missing"] == {"queries": 1, "corpus": 2, "queries_without_positives": 2}
    rows = result.table.to_pylist()
    assert [(row["query_id"], row["score"]) for row in rows if not row["top"]] == [("0", 0.0)]
    assert [(row["where"], row["what"]) for row in unreadable(dataset(), "m", vectors)] == [
        ("query id '0'", "corrupt: not a picture"),
        ("corpus id '12'", "unsupported: no videos"),
        ("corpus id '19'", "corrupt"),
    ]
    lines = (tmp_path / "set.trec").read_text().splitlines()
    assert len(lines) == (N - 1) * (N - 2)


def test_missing_positives_count_in_recall(tmp_path: Path) -> None:
    """A query with two positives, of which one is unreadable, has recalled half of them."""
    source = dataset()
    source.data.positives["3"] = frozenset({"3", "12"})
    config = replace(CONFIG, metrics=("recall@1",))
    vectors = embedded(tmp_path, N, {"c12": ("corrupt", "")})
    facts = score(source, "m", vectors, config, tmp_path / "set.trec").facts
    assert facts["scores"]["recall@1"] == pytest.approx((18 + 0.5) / 20)  # query 12 has recalled nothing


def test_a_model_that_can_embed_nothing_scores_0(tmp_path: Path) -> None:
    everything = {f"{side}{i}": ("unsupported", "") for side in "qc" for i in range(N)}
    result = score(dataset(), "m", embedded(tmp_path, 1, everything), CONFIG, tmp_path / "set.trec")
    assert (result.facts["score"], result.facts["n_queries"], result.table.num_rows) == (0.0, N, N)
    assert result.facts["missing"] == {"queries": N, "corpus": N, "queries_without_positives": 0}


@pytest.mark.parametrize(
    "form,hits",
    [
        # Queries from 10 on have no value among the first 10 dimensions, except 19: it is near item 0.
        (SmallerVectors(dimension=10), 10),
        (SmallerVectors(dtype="int8"), 15),
        # Both items of a wrong query differ from it in one sign: the one that comes first in the corpus wins.
        (SmallerVectors(dtype="binary"), 19),
        (SmallerVectors(dtype="binary", rescore=True), 15),
    ],
)
def test_smaller_vectors(tmp_path: Path, form: SmallerVectors, hits: int) -> None:
    vectors = embedded(tmp_path, 15)
    result = score(dataset(), "m@x", vectors, CONFIG, tmp_path / "runs/m@x/set.trec", form)
    assert result.facts["score"] == pytest.approx(hits / N)
    assert set(result.table.column("model").to_pylist()) == {"m@x"}
    assert result.facts.get("int8_scale") == (pytest.approx(1 / 127) if form.dtype == "int8" else None)


def test_a_median_beyond_the_neighbours_is_null(tmp_path: Path) -> None:
    config = replace(CONFIG, depth=1, metrics=("median_rank",))
    result = score(dataset(metric="median_rank"), "m", embedded(tmp_path, 5), config, tmp_path / "set.trec")
    assert result.facts["score"] is None
    assert json.loads(json.dumps(result.facts["scores"], allow_nan=False)) == {"median_rank": None}


def test_accuracies_of_a_classification(tmp_path: Path) -> None:
    source = replace(dataset(), is_classification=True)
    result = score(source, "m", embedded(tmp_path, 15), CONFIG, tmp_path / "set.trec")
    assert {name: float(row.mean()) for name, row in result.accuracies.items()} == {
        "accuracy@1": 0.75,
        "accuracy@5": 1.0,
    }
