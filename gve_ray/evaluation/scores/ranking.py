"""A data set and the vectors of a model -> each query's ranking, its scores, and the files that keep them."""

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import unquote

import numpy as np
import pyarrow as pa

from gve_ray.evaluation.data.layouts import RetrievalSet
from gve_ray.evaluation.scores import metrics
from gve_ray.search import NONE, exact, within

TOP = 10  # of a ranking, kept in per_query.parquet; all of it is in the TREC run
PER_QUERY_SCHEMA = pa.schema(
    [
        ("model", pa.string()),
        ("dataset", pa.string()),
        ("query_id", pa.string()),
        ("metric", pa.string()),  # the data set's own
        ("score", pa.float64()),
        ("first_rank", pa.int32()),  # of the first positive, from 1; null: not among the neighbours kept
        ("positives", pa.list_(pa.string())),
        ("top", pa.list_(pa.string())),  # best first
        ("top_scores", pa.list_(pa.float32())),
    ]
)


@dataclass(frozen=True, kw_only=True)
class Usable:
    """What of a data set one model can be asked.

    queries, corpus: positions in the RetrievalSet, int64. positives: by query id, only those that have a
    vector; a query left without any is not in `queries`. n_orphans: how many those are.
    """

    queries: np.ndarray
    corpus: np.ndarray
    positives: dict[str, frozenset[str]]
    n_orphans: int


def usable(data: RetrievalSet, query_ok: Sequence[bool], corpus_ok: Sequence[bool]) -> Usable:
    """Leave out what could not be embedded, as `layout.load` leaves out what could not be read."""
    corpus = np.flatnonzero(np.asarray(corpus_ok, dtype=bool))
    there = {data.corpus_ids[i] for i in corpus}
    asked = np.flatnonzero(np.asarray(query_ok, dtype=bool))
    positives = {data.query_ids[i]: data.positives[data.query_ids[i]] & there for i in asked}
    queries = np.array([i for i in asked if positives[data.query_ids[i]]], dtype=np.int64)
    kept = {data.query_ids[i]: positives[data.query_ids[i]] for i in queries}
    return Usable(queries=queries, corpus=corpus, positives=kept, n_orphans=len(asked) - len(queries))


@dataclass(frozen=True, kw_only=True)
class Ranking:
    """Corpus ids by query id, best first, and their cosines."""

    ids: Mapping[str, list[str]]
    scores: Mapping[str, list[float]]


def rank(data: RetrievalSet, part: Usable, queries: np.ndarray, corpus: np.ndarray, *, depth: int) -> Ranking:
    """The `depth` nearest corpus items of each usable query, or of its own candidates.

    queries, corpus: float32 [len(part.queries), d] and [len(part.corpus), d]. Equal scores come in the
    order of the corpus file.
    """
    query_ids = [data.query_ids[i] for i in part.queries]
    corpus_ids = [data.corpus_ids[i] for i in part.corpus]
    if data.candidates is None:
        rows, scores = exact(queries, corpus, depth)
    else:
        row_of = {name: row for row, name in enumerate(corpus_ids)}
        listed = [[row_of[one] for one in data.candidates[name] if one in row_of] for name in query_ids]
        rows, scores = within(queries, corpus, [np.array(one, dtype=np.int64) for one in listed])
        rows, scores = rows[:, :depth], scores[:, :depth]
    kept = [int((one != NONE).sum()) for one in rows]
    return Ranking(
        ids={name: [corpus_ids[i] for i in rows[at, : kept[at]]] for at, name in enumerate(query_ids)},
        scores={name: scores[at, : kept[at]].tolist() for at, name in enumerate(query_ids)},
    )


def per_query_table(
    model: str, data: RetrievalSet, metric: str, values: np.ndarray, part: Usable, ranking: Ranking
) -> pa.Table:
    """One row a query (`PER_QUERY_SCHEMA`). values: of `metric`, float64, in the order of the queries."""
    first = metrics.per_query("median_rank", ranking.ids, part.positives)
    rows = [
        {
            "model": model,
            "dataset": data.name,
            "query_id": name,
            "metric": metric,
            "score": value,
            "first_rank": int(found) if np.isfinite(found) else None,
            "positives": sorted(part.positives[name]),
            "top": ranking.ids[name][:TOP],
            "top_scores": ranking.scores[name][:TOP],
        }
        for name, value, found in zip(part.positives, values, first, strict=True)
    ]
    return pa.Table.from_pylist(rows, schema=PER_QUERY_SCHEMA)


def trec_lines(ranking: Ranking, tag: str) -> Iterable[str]:
    """`query Q0 item rank score tag` lines, best first.

    The format separates by blanks, so a blank or % in an id or tag is percent-encoded. Scores carry nine
    digits: whoever sorts by them again gets the same order, but for equal ones.
    """
    for name, ids in ranking.ids.items():
        for place, (item, score) in enumerate(zip(ids, ranking.scores[name], strict=True), start=1):
            yield f"{_field(name)} Q0 {_field(item)} {place} {score:.9g} {_field(tag)}\n"


def read_places(path: Path, ranks: Mapping[str, int]) -> dict[str, tuple[str, float]]:
    """Of a file of `trec_lines`: the item at one rank of each of these queries, and its score."""
    found = {}
    with path.open(encoding="utf-8") as file:
        for line in file:
            name, _, item, place, score, _ = line.split()
            query = unquote(name)
            if ranks.get(query) == int(place):
                found[query] = unquote(item), float(score)
    return found


def _field(text: str) -> str:
    return re.sub(r"[\s%]", lambda found: "".join(f"%{byte:02X}" for byte in found[0].encode()), text)
