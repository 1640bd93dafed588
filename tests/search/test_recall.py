"""The recall of an approximate index, as it is measured when the index is made."""

from pathlib import Path

import numpy as np
import pytest

from gve_ray.search import IndexOptions, IndexSpec, create_index
from gve_ray.search.recall import recall_of

COUNT = 60


@pytest.mark.parametrize(("refine", "expected"), [(COUNT, 1.0), (1, None)])
def test_recall_is_the_share_of_the_ten_nearest_other_rows(
    refine: int, expected: float | None, tmp_path: Path
) -> None:
    """With one dimension as its code, an index misses some; with all rows as candidates, none."""
    vectors = np.random.default_rng(0).normal(size=(COUNT, 8)).astype(np.float32)
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    vectors[1] = vectors[0]  # a row with the same vector is another row
    ids = [f"{i:02d}" for i in range(COUNT)]
    options = IndexOptions(structure="FLAT", prefix=1, approximate_from=1, refine=refine)
    index = create_index(tmp_path, IndexSpec(dimension=8), options)
    index.add(ids, vectors, [{}] * COUNT)
    index.save()
    sample = ids[:30]
    shares = []
    products = vectors.astype(np.float64) @ vectors.astype(np.float64).T
    for row, hits in enumerate(index.search(vectors[:30], 11)):
        products[row, row] = -2
        nearest = {ids[other] for other in np.argsort(-products[row])[:10]}
        shares.append(len(nearest & {hit.id for hit in hits}) / 10)
    measured = recall_of(index, sample, [vectors[:25], vectors[25:26], vectors[26:]])
    assert measured == pytest.approx(np.mean(shares))
    assert measured == expected if expected else 0 < measured < 1


def test_an_index_of_few_rows_can_have_full_recall(tmp_path: Path) -> None:
    index = create_index(tmp_path, IndexSpec(dimension=2), IndexOptions())
    index.add(["a", "b"], np.eye(2, dtype=np.float32), [{}, {}])
    assert recall_of(index, ["a", "b"], [np.eye(2, dtype=np.float32)]) == 1
