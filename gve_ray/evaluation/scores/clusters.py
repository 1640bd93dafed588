"""Joins queries into clusters: queries that share a video, an image or a positive are not independent.

    shared = {"MSRVTT": shared_content(dataset, index.digest), ...}
    clusters = join_queries(shared)        # by data set: the cluster of each query

A video that is hard for a model is hard for all of its queries, and data sets share videos. A
bootstrap (`scores.bootstrap`) therefore resamples clusters and not single queries.
"""

from collections.abc import Callable, Hashable, Mapping, Sequence, Set

import numpy as np
from numpy.typing import NDArray

from gve_ray.evaluation.data.eval_sets import EvalSet
from gve_ray.schema import Item

Clusters = NDArray[np.int64]


def shared_content(dataset: EvalSet, digest: Callable[[str], str]) -> list[set[str]]:
    """What each query may share with other queries: its media and its positives, by content.

    digest: of a medium, by its path (`ItemIndex.digest`). A positive without media is identified by
    its text. The labels of a classification and the answers to questions are left out: they are
    fixed by the task, and not a sample, so two videos of one class are independent.
    """
    positions = {name: position for position, name in enumerate(dataset.data.corpus_ids)}
    contents = []
    for name, query in zip(dataset.data.query_ids, dataset.queries, strict=True):
        content = _media(query, digest)
        for positive in () if dataset.is_classification else dataset.data.positives[name]:
            at = positions[positive]
            content |= _media(dataset.data.corpus[at], digest) or {dataset.corpus_keys[at]}
        contents.append(content)
    return contents


def _media(item: Item, digest: Callable[[str], str]) -> set[str]:
    return {digest(medium) for medium in (item.image, item.video) if isinstance(medium, str)}


def join_queries(shared: Mapping[str, Sequence[Set[Hashable]]]) -> dict[str, Clusters]:
    """Join queries that share anything, directly or through other queries (union-find).

    shared: by data set, the contents of each query. Returns the cluster of each query by data set,
    int64 [queries], numbered from 0 over all data sets.
    """
    parent: dict[Hashable, Hashable] = {}

    def root(node: Hashable) -> Hashable:
        while (above := parent.setdefault(node, node)) != node:
            parent[node] = parent[above]  # halve the path, so that chains stay short
            node = parent[node]
        return node

    for dataset, contents in shared.items():
        for position, content in enumerate(contents):
            for part in content:
                parent[root(("content", part))] = root((dataset, position))
    numbers: dict[Hashable, int] = {}
    return {
        dataset: np.array(
            [
                numbers.setdefault(root((dataset, position)), len(numbers))
                for position in range(len(contents))
            ],
            dtype=np.int64,
        )
        for dataset, contents in shared.items()
    }
