"""What embedding gives: vectors, and what is to be known of the items they are of."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True, kw_only=True, eq=False)
class Embeddings:
    """Of n items, in their order.

    vectors: float32 [n, d], unit norm. tokens: int64 [n], lengths of the sequences, visual tokens included; 0
    where a model does not tell. cut: bool [n], whether text was cut to the model's limit.
    """

    vectors: np.ndarray
    tokens: np.ndarray
    cut: np.ndarray

    @classmethod
    def empty(cls, n: int, dimension: int) -> "Embeddings":
        """Room for n items, to be filled by `put`."""
        return cls(
            vectors=np.empty((n, dimension), dtype=np.float32),
            tokens=np.zeros(n, dtype=np.int64),
            cut=np.zeros(n, dtype=bool),
        )

    def put(self, where: Sequence[int], part: "Embeddings") -> None:
        """Write a part's rows to these places."""
        self.vectors[where], self.tokens[where], self.cut[where] = part.vectors, part.tokens, part.cut

    @classmethod
    def joined(cls, parts: Sequence["Embeddings"]) -> "Embeddings":
        """The rows of all parts, in order."""
        return cls(**{name: np.concatenate([vars(part)[name] for part in parts]) for name in vars(parts[0])})

    def __len__(self) -> int:
        return len(self.vectors)
