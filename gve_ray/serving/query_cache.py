"""Keep the embeddings of the texts that were asked last, because many queries repeat.

    cache = QueryCache(4096)
    if (embeddings := cache.get(items)) is None:
        embeddings = ...                        # of the model
        cache.put(items, embeddings)

A cache belongs to one model: the replica that holds it. Only requests of a single text use it, so that
lists of texts to be indexed elsewhere do not displace queries. Texts themselves are not kept, only
their digests.
"""

import hashlib
import json
from collections import OrderedDict
from collections.abc import Sequence

from gve_ray.embedder import Embeddings
from gve_ray.schema import Item


class QueryCache:
    """The embeddings of the last `size` different texts with their instructions; 0 keeps none."""

    def __init__(self, size: int) -> None:
        self._size = size
        self._kept: OrderedDict[bytes, Embeddings] = OrderedDict()  # those used least recently come first

    def takes(self, items: Sequence[Item]) -> bool:
        """Return whether the embeddings of these items are kept: those of a single text."""
        return self._size > 0 and len(items) == 1 and items[0].image is None and items[0].video is None

    def get(self, items: Sequence[Item]) -> Embeddings | None:
        """Return the embeddings that were kept for these items, or None."""
        if not self.takes(items):
            return None
        embeddings = self._kept.get(key := _key(items[0]))
        if embeddings is not None:
            self._kept.move_to_end(key)
        return embeddings

    def put(self, items: Sequence[Item], embeddings: Embeddings) -> None:
        """Keep the embeddings of these items, unless they are of another kind."""
        if not self.takes(items):
            return
        # Copies, because the arrays may be parts of those of a whole batch.
        copies = {name: array.copy() for name, array in vars(embeddings).items()}
        self._kept[_key(items[0])] = Embeddings(**copies)
        while len(self._kept) > self._size:
            self._kept.popitem(last=False)


def _key(item: Item) -> bytes:
    return hashlib.sha256(json.dumps([item.instruction, item.text]).encode()).digest()
