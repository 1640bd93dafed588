"""Evaluate the model during training, on held-out pairs and on retrieval data sets in UVRB's layout.

    validator = Validator(load_validation(config.validation, folder, seed=42), embed)
    validator()                                # {"heldout-T2V": 0.41, "MSRVTT": 0.38, "mean": 0.395}

All ranks call the validator together: each embeds its share of the items, and each computes the same scores.
"""

import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from gve_ray.evaluation.config import DataConfig
from gve_ray.evaluation.data.eval_sets import DEFAULT_METRIC, read
from gve_ray.evaluation.data.retrieval_set import RetrievalSet
from gve_ray.evaluation.data.uvrb import UVRB, find_data_sets
from gve_ray.evaluation.scores import metrics
from gve_ray.evaluation.scores.ranking import rank as ranking_of
from gve_ray.schema import Item
from gve_ray.training.config import ValidationConfig
from gve_ray.training.gather import gather_objects, rank, world_size
from gve_ray.training.mixture import load_mixture
from gve_ray.training.pairs import Pair

MEAN = "mean"  # the score that averages those of all sets
_DEPTH = 100  # of the rankings; UVRB's metrics look at 10 at most


@dataclass(frozen=True, kw_only=True)
class ValidationSet:
    """A retrieval set and its metric (gve_ray.evaluation.scores.metrics)."""

    data: RetrievalSet
    metric: str


def load_validation(
    config: ValidationConfig, folder: str | os.PathLike[str], *, seed: int
) -> list[ValidationSet]:
    """Read the held-out pairs and the data sets of `root`. folder: a local one, for temporary files.

    Raises ValueError when a set cannot be read or is empty, or when the metric names none of them.
    """
    sets = []
    pair_sets = [replace(source, sample=source.sample or config.pairs) for source in config.data]
    for name, task in (load_mixture(pair_sets, folder, seed=seed) if pair_sets else {}).items():
        pairs = task.pairs.take(range(len(task.pairs)))
        sets.append(ValidationSet(data=retrieval_set(name, pairs), metric=DEFAULT_METRIC))
    for name, path in (find_data_sets(config.root) if config.root else {}).items():
        data = read(DataConfig(name=name, folder=path))
        prompt = UVRB[name].prompt or None
        queries = [replace(item, instruction=prompt) for item in data.queries]
        sets.append(ValidationSet(data=replace(data, queries=queries), metric=UVRB[name].metric))
    if not sets:
        raise ValueError(
            f"validation.root={config.root!r}: holds no data set of UVRB ({', '.join(UVRB)}); give a "
            "folder that does, or held-out pairs in validation.data"
        )
    names = [each.data.name for each in sets]
    if config.metric not in (MEAN, *names):
        raise ValueError(f"validation.metric={config.metric!r}: use {MEAN}, {', '.join(names)}")
    return sets


def retrieval_set(name: str, pairs: Sequence[Pair]) -> RetrievalSet:
    """Make a retrieval set of pairs: their distinct queries, all their targets, and who belongs to whom."""
    queries: dict[tuple[Any, ...], int] = {}
    targets: dict[tuple[Any, ...], int] = {}
    positives: dict[str, set[str]] = {}
    query_items, target_items = [], []
    for pair in pairs:
        query, target = _content(pair.query), _content(pair.target)
        if query not in queries:
            queries[query] = len(queries)
            query_items.append(pair.query)
        if target not in targets:
            targets[target] = len(targets)
            target_items.append(pair.target)
        positives.setdefault(f"q{queries[query]}", set()).add(f"t{targets[target]}")
    return RetrievalSet(
        name=name,
        query_ids=list(positives),
        queries=query_items,
        corpus_ids=[f"t{number}" for number in range(len(target_items))],
        corpus=target_items,
        positives={query: frozenset(found) for query, found in positives.items()},
        candidates=None,
        skipped=[],
    )


def _content(item: Item) -> tuple[Any, ...]:
    return item.text, item.image, item.video


class Validator:
    """Scores the model on validation sets. embed: items -> unit-norm float32 [n, d]."""

    def __init__(self, sets: Sequence[ValidationSet], embed: Callable[[Sequence[Item]], np.ndarray]) -> None:
        self.sets, self.embed = sets, embed

    def __call__(self) -> dict[str, float]:
        """Return the score of each set by its name, and their mean. All ranks must call it together."""
        items = [item for each in self.sets for item in (*each.data.queries, *each.data.corpus)]
        mine = self.embed(items[rank() :: world_size()])
        vectors = np.empty((len(items), mine.shape[1]), dtype=np.float32)
        for other, part in enumerate(gather_objects(mine)):
            vectors[other :: world_size()] = part
        scores: dict[str, float] = {}
        at = 0
        for each in self.sets:
            n, m = len(each.data.queries), len(each.data.corpus)
            values = query_scores(each, vectors[at : at + n], vectors[at + n : at + n + m])
            scores[each.data.name] = float(np.mean(list(values.values())))
            at += n + m
        scores[MEAN] = float(np.mean(list(scores.values())))
        # Ranks on different processors may differ in the last digit, and must agree on the best step.
        first: Mapping[str, float] = gather_objects(scores)[0]
        return dict(first)


def query_scores(each: ValidationSet, queries: np.ndarray, corpus: np.ndarray) -> dict[str, float]:
    """Return the metric of each query by its id. queries, corpus: unit-norm float32 [n, d] and [m, d]."""
    data = each.data
    ranking = ranking_of(data, queries, corpus, depth=min(_DEPTH, len(corpus)))
    values = metrics.per_query(each.metric, ranking.ids, data.positives)
    return dict(zip(data.positives, values.tolist(), strict=True))
