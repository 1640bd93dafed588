"""Evaluation during training: the scores are worked out by hand from vectors that the test chooses."""

import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest

from gve_ray.schema import Item
from gve_ray.training.config import DataSetConfig, ValidationConfig
from gve_ray.training.pairs import Pair
from gve_ray.training.validation import Validator, load_validation, retrieval_set


def pair(query: str, target: str) -> Pair:
    return Pair(pair_id=f"{query}{target}", query=Item(text=query), target=Item(text=target), negatives=())


def embed(items: Sequence[Item]) -> np.ndarray:
    """A text such as `x 3` points in the direction of the third axis, `b 3` too."""
    vectors = np.zeros((len(items), 10), dtype=np.float32)
    for row, item in enumerate(items):
        vectors[row, int(str(item.text).split()[-1])] = 1
    return vectors


def test_a_query_with_several_targets_has_several_positives() -> None:
    data = retrieval_set("d", [pair("a", "x"), pair("b", "x"), pair("a", "y"), pair("c", "z")])
    assert [item.text for item in data.queries] == ["a", "b", "c"]
    assert [item.text for item in data.corpus] == ["x", "y", "z"]
    assert data.positives == {
        "q0": frozenset({"t0", "t1"}),
        "q1": frozenset({"t0"}),
        "q2": frozenset({"t2"}),
    }


def test_scores_of_held_out_pairs_and_of_a_benchmark_folder(tmp_path: Path) -> None:
    # Queries 0, 1 and 2 find their own target, query 3 the target of query 1.
    rows = [{"query": f"q {i}", "positive": f"t {i}"} for i in range(3)] + [
        {"query": "q 1 ? 1", "positive": "t 5"}
    ]
    (tmp_path / "pairs.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    folder = tmp_path / "uvrb" / "PEV-K" / "jsonl"
    folder.mkdir(parents=True)
    for name, lines in {
        "queries": [{"id": "a", "text": "find 1"}, {"id": "b", "text": "find 2"}],
        "corpus": [{"id": "v1", "text": "v 1"}, {"id": "v2", "text": "v 3"}, {"id": "v3", "text": "v 2"}],
        "instances": [{"qid": "a", "pos": ["v1"]}, {"qid": "b", "pos": ["v2"]}],
    }.items():
        (folder / f"{name}.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    config = ValidationConfig(
        eval_steps=5,
        data=(DataSetConfig(name="held", uri=str(tmp_path / "pairs.jsonl"), format="text_pairs"),),
        root=str(tmp_path / "uvrb"),
        metric="PEV-K",
    )
    sets = load_validation(config, tmp_path / "scratch", seed=1)
    assert all(query.instruction for query in sets[1].data.queries)
    assert Validator(sets, embed)() == {"held": 0.75, "PEV-K": 0.5, "mean": 0.625}


def test_sets_that_do_not_exist_are_refused(tmp_path: Path) -> None:
    (tmp_path / "pairs.jsonl").write_text('{"query": "a", "positive": "b"}\n')
    held = DataSetConfig(name="held", uri=str(tmp_path / "pairs.jsonl"), format="text_pairs")
    with pytest.raises(ValueError, match=r"validation.metric='other': use mean, held"):
        load_validation(ValidationConfig(data=(held,), metric="other"), tmp_path / "a", seed=1)
    with pytest.raises(ValueError, match=r"validation.root=.*holds no data set of UVRB"):
        load_validation(ValidationConfig(root=str(tmp_path)), tmp_path / "b", seed=1)
    with pytest.raises(ValueError, match=r"validation.eval_steps=5: give held-out pairs"):
        ValidationConfig(eval_steps=5)
