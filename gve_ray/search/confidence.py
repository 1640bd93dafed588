"""Judge how likely a score is for a query that has no answer in the index.

    background = background_of(vectors, films)      # when the index is made
    judge = background.judge(query, segments)       # for each query
    judge(0.31)                                     # 0.97

Scores of different queries cannot be compared: a model may give an unrelated pair 0.1 for one query
and 0.4 for another. A score is therefore measured from the mean of the query's scores with a sample
of the index, in their standard deviations (z-norm, which speaker verification uses as well). How
large the best such value gets without an answer is learned from the index itself: each sampled
segment is a query, and those of other films are searched.
"""

import io
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

SAMPLE = 1024  # segments
_FEWEST_FILMS = 16  # with fewer, the quartiles are too uncertain


@dataclass(frozen=True, kw_only=True)
class Background:
    """What is known about the scores of unrelated pairs.

    vectors: float32 [m, d], of a sample of the index. location, scale: of the Gumbel distribution of
    the best standardized score among m unrelated segments.
    """

    vectors: np.ndarray
    location: float
    scale: float

    def spread(self, query: np.ndarray) -> float:
        """Return the standard deviation of the scores of a query, float32 [d], with the sample."""
        return float(_standard((self.vectors @ query)[None])[1][0])

    def judge(self, query: np.ndarray, segments: int) -> Callable[[float], float]:
        """Return a function from a score of the query, float32 [d], to its confidence.

        It is the probability, from 0 to 1, that the best of as many segments would have a lower score
        if they had no answer. segments: how many are searched.
        """
        mean, spread = (float(value[0]) for value in _standard((self.vectors @ query)[None]))
        location = self.location + self.scale * math.log(max(1, segments) / len(self.vectors))

        def confidence(score: float) -> float:
            distance = ((score - mean) / spread - location) / self.scale
            return math.exp(-math.exp(-max(distance, -50.0)))

        return confidence

    def to_bytes(self) -> bytes:
        """Return the content of a file; the vectors are kept in float16."""
        out = io.BytesIO()
        np.savez(out, vectors=self.vectors.astype(np.float16), location=self.location, scale=self.scale)
        return out.getvalue()

    @classmethod
    def from_bytes(cls, data: bytes) -> "Background":
        """Return what `to_bytes` wrote."""
        with np.load(io.BytesIO(data), allow_pickle=False) as arrays:
            return cls(
                vectors=arrays["vectors"].astype(np.float32),
                location=float(arrays["location"]),
                scale=float(arrays["scale"]),
            )


def background_of(vectors: np.ndarray, films: Sequence[str]) -> Background | None:
    """Return what is known about the scores of unrelated pairs, from a sample of an index.

    vectors: float32 [m, d], unit length. films: the film of each, m names. Returns None if there are
    fewer than 16 films, or if the vectors of all films are the same.
    """
    names = np.asarray(films)
    if len(set(films)) < _FEWEST_FILMS:
        return None
    best = np.empty(len(vectors))
    for row, query in enumerate(vectors):
        scores = (vectors[names != names[row]] @ query)[None]
        mean, spread = _standard(scores)
        best[row] = (scores.max() - mean[0]) / spread[0]
    low, median, high = np.quantile(best, (0.25, 0.5, 0.75))
    # Quartiles, because a film that is there twice gives its segments an answer, in the upper tail.
    scale = (high - low) / (_gumbel(0.75) - _gumbel(0.25))
    if not scale > 0:
        return None
    return Background(vectors=vectors, location=median - scale * _gumbel(0.5), scale=scale)


def _gumbel(probability: float) -> float:
    """Return a quantile of the standard Gumbel distribution."""
    return -math.log(-math.log(probability))


def _standard(scores: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return mean and standard deviation of each row of scores, [n, m] -> 2 x [n]."""
    return scores.mean(axis=1), np.maximum(scores.std(axis=1), 1e-6)
