"""The result of embedding: vectors, token counts, and whether each text was cut."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

Finished = Callable[[int], object]  # is called with a number of items that are done


def ignore(items: int) -> None:
    """Do nothing with the number of items that are done."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Embeddings:
    """The embeddings of n items, in the order of the items.

    vectors: float32 [n, d], unit norm. tokens: int64 [n], length of each sequence including visual
    tokens, or 0 if the model does not report it. cut: bool [n], whether the text was cut to the
    model's limit.
    """

    vectors: np.ndarray
    tokens: np.ndarray
    cut: np.ndarray

    @classmethod
    def empty(cls, n: int, dimension: int) -> "Embeddings":
        """Return embeddings of n items with undefined vectors, to be filled by `put`."""
        return cls(
            vectors=np.empty((n, dimension), dtype=np.float32),
            tokens=np.zeros(n, dtype=np.int64),
            cut=np.zeros(n, dtype=bool),
        )

    def put(self, where: Sequence[int], part: "Embeddings") -> None:
        """Write the rows of `part` at the given indices."""
        self.vectors[where], self.tokens[where], self.cut[where] = part.vectors, part.tokens, part.cut

    @classmethod
    def joined(cls, parts: Sequence["Embeddings"]) -> "Embeddings":
        """Concatenate the rows of all parts, in order."""
        return cls(**{name: np.concatenate([vars(part)[name] for part in parts]) for name in vars(parts[0])})

    def __len__(self) -> int:
        return len(self.vectors)
