"""Which embeddings are kept for queries that repeat, and for how long."""

import numpy as np
import pytest

from gve_ray.embedder import Embeddings
from gve_ray.schema import Item
from gve_ray.serving.query_cache import QueryCache


def embeddings_of(*values: float) -> Embeddings:
    vectors = np.array([[value, 0] for value in values], np.float32)
    return Embeddings(vectors=vectors, tokens=np.full(len(values), 7), cut=np.zeros(len(values), bool))


def kept(cache: QueryCache, *texts: str) -> list[float | None]:
    """Return the first dimension of the vector of each text; None if it is not kept."""
    found = [cache.get([Item(text=text)]) for text in texts]
    return [None if embeddings is None else float(embeddings.vectors[0, 0]) for embeddings in found]


def test_the_texts_that_were_asked_last_are_kept() -> None:
    cache = QueryCache(2)
    for value, text in enumerate("ab"):
        cache.put([Item(text=text)], embeddings_of(value))
    assert kept(cache, "b", "a") == [1, 0]
    cache.put([Item(text="c")], embeddings_of(2))
    assert kept(cache, "a", "b", "c") == [0, None, 2]


def test_everything_that_the_model_sees_belongs_to_the_key() -> None:
    cache = QueryCache(10)
    half = "half a pair \ud83d"  # JSON allows it
    items = [
        Item(text="a"),
        Item(text="a", instruction="b"),
        Item(text="b", instruction="a"),
        Item(text='a", "b'),
        Item(text=half),
    ]
    for value, item in enumerate(items):
        cache.put([item], embeddings_of(value))
    for value, item in enumerate(items):
        found = cache.get([item])
        assert found is not None
        assert (found.vectors[0, 0], found.tokens.tolist(), found.cut.tolist()) == (value, [7], [False])


def test_a_batch_is_not_held_in_memory_by_one_of_its_rows() -> None:
    cache, batch = QueryCache(10), embeddings_of(1, 2, 3)
    row = Embeddings(**{name: array[1:2] for name, array in vars(batch).items()})
    cache.put([Item(text="a")], row)
    batch.vectors[:] = 9
    assert kept(cache, "a") == [2]


@pytest.mark.parametrize(
    "items,size",
    [
        ([Item(text="a"), Item(text="b")], 10),
        ([Item(text="a", image="a.png")], 10),
        ([Item(text="a")], 0),
    ],
    ids=["list", "picture", "off"],
)
def test_only_single_texts_are_kept(items: list[Item], size: int) -> None:
    cache = QueryCache(size)
    cache.put(items, embeddings_of(*range(len(items))))
    assert not cache.takes(items)
    assert cache.get(items) is None
    assert kept(cache, "a", "b") == [None, None]
