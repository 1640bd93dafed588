"""Rankings of a data set worked out by hand: left-out items, candidates, ties, and the written
rows.
"""

from pathlib import Path

import numpy as np
import pytest

from gve_ray.evaluation.data.retrieval_set import RetrievalSet
from gve_ray.evaluation.scores.ranking import Ranking, per_query_table, rank, read_trec, trec_lines
from gve_ray.schema import Item

ANGLES = {"a": 0.0, "b": 30.0, "c": 60.0, "d": 90.0}
QUERIES = {"q1": 10.0, "q2": 80.0, "q3": 45.0}


def unit(degrees: list[float]) -> np.ndarray:
    """Unit vectors float32 [n, 2] at these angles, so that the nearest vector has the closest
    angle.
    """
    turned = np.radians(degrees)
    return np.stack([np.cos(turned), np.sin(turned)], axis=1).astype(np.float32)


def data(candidates: dict[str, tuple[str, ...]] | None = None) -> RetrievalSet:
    return RetrievalSet(
        name="set",
        query_ids=list(QUERIES),
        queries=[Item(text=name) for name in QUERIES],
        corpus_ids=list(ANGLES),
        corpus=[Item(text=name) for name in ANGLES],
        positives={"q1": frozenset("b"), "q2": frozenset("cd"), "q3": frozenset("d")},
        candidates=candidates,
        skipped=[],
    )


def ranked(dataset: RetrievalSet, depth: int = 10, *, without: tuple[str, ...] = ()) -> Ranking:
    """without: the queries and corpus items that have no vector."""
    query_rows = [i for i, name in enumerate(dataset.query_ids) if name not in without]
    corpus_rows = [i for i, name in enumerate(dataset.corpus_ids) if name not in without]
    queries = unit([QUERIES[dataset.query_ids[i]] for i in query_rows])
    corpus = unit([ANGLES[dataset.corpus_ids[i]] for i in corpus_rows])
    return rank(dataset, queries, corpus, depth=depth, query_rows=query_rows, corpus_rows=corpus_rows)


def test_the_closest_angle_is_first() -> None:
    ranking = ranked(data())
    assert ranking.ids["q1"] == ["a", "b", "c", "d"]
    assert ranking.ids["q2"] == ["d", "c", "b", "a"]
    assert ranking.scores["q1"] == pytest.approx(np.cos(np.radians([10, 20, 50, 80])).tolist())


def test_depth() -> None:
    ranking = ranked(data(), depth=2)
    assert ranking.ids["q2"] == ["d", "c"]


def test_candidates_only() -> None:
    lists = {"q1": ("b", "d"), "q2": ("a", "c", "d"), "q3": ("d",)}
    ranking = ranked(data(lists))
    assert ranking.ids == {"q1": ["b", "d"], "q2": ["d", "c", "a"], "q3": ["d"]}
    assert ranked(data(lists), depth=1).ids == {"q1": ["b"], "q2": ["d"], "q3": ["d"]}


def test_what_has_no_vector_is_in_no_ranking() -> None:
    """Without d, q3 cannot find its positive; without q1, its ranking is empty."""
    lists = {"q1": ("b", "d"), "q2": ("a", "c", "d"), "q3": ("a", "d")}
    for dataset in (data(), data(lists)):
        ranking = ranked(dataset, without=("d", "q1"))
        assert (ranking.ids["q1"], ranking.scores["q1"]) == ([], [])
        assert ranking.ids["q2"] == (["c", "a"] if dataset.candidates else ["c", "b", "a"])
        assert ranking.ids["q3"] == (["a"] if dataset.candidates else ["b", "c", "a"])
    assert ranked(data(), without=tuple(ANGLES)).ids == {"q1": [], "q2": [], "q3": []}


def test_per_query_rows() -> None:
    ranking = ranked(data(), depth=1, without=("q3",))
    rows = per_query_table("m", data(), "hit@1", np.array([0.0, 1.0, 0.0]), ranking).to_pylist()
    assert [(row["query_id"], row["score"], row["first_rank"], row["top"]) for row in rows] == [
        ("q1", 0.0, None, ["a"]),
        ("q2", 1.0, 1, ["d"]),
        ("q3", 0.0, None, []),
    ]
    assert rows[1]["positives"] == ["c", "d"]
    assert rows[1]["top_scores"] == pytest.approx([np.cos(np.radians(10))])


def test_trec_lines_are_separated_by_blanks() -> None:
    ranking = Ranking(ids={"q 1": ["a\tb", "100%"]}, scores={"q 1": [0.1234567891, -0.5]})
    assert list(trec_lines(ranking, "my model")) == [
        "q%201 Q0 a%09b 1 0.123456789 my%20model\n",
        "q%201 Q0 100%25 2 -0.5 my%20model\n",
    ]


def test_one_rank_of_a_run_is_read_back(tmp_path: Path) -> None:
    ids = [f"item {i}%" for i in range(30)]
    ranking = Ranking(
        ids={"q 1": ids, "q 2": ids[::-1]},
        scores={name: [1 - i / 100 for i in range(30)] for name in ("q 1", "q 2")},
    )
    path = tmp_path / "set.trec"
    path.write_text("".join(trec_lines(ranking, "m")))
    assert read_trec(path, {"q 1": 12, "q 2": 30, "unknown": 1}) == {
        "q 1": ("item 11%", 0.89),
        "q 2": ("item 0%", 0.71),
    }
