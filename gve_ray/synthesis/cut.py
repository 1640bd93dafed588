"""Where a filter cuts: at a threshold of its score, or at a percentile of the scores of the videos."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from gve_ray.config import check, check_numbers, number


@dataclass(frozen=True, kw_only=True)
class CutConfig:
    """Where a filter cuts.

    threshold: of the score. percentile: this percentage of the videos is rejected.
    """

    threshold: float | None = None
    percentile: float | None = number(None, at_least=0, below=100)

    def check_cut(self, where: str) -> None:
        """Raise ValueError unless there is exactly one of the two. where: the config section."""
        check(
            (self.threshold is None) != (self.percentile is None),
            f"{where}.threshold={self.threshold}, percentile={self.percentile}: give exactly one of them",
        )
        check_numbers(self, where)


def calibrate(scores: Sequence[float], percentile: float) -> float:
    """The threshold below which `percentile` % of the scores lie; -1, which rejects nothing, without scores.

    It is one of the scores, so the share rejected does not depend on the scale of the cosines.
    """
    if not 0 <= percentile < 100:
        raise ValueError(f"percentile={percentile}: use 0 to below 100")
    if not len(scores):
        return -1.0
    return float(np.percentile(np.asarray(scores, dtype=np.float64), percentile, method="higher"))


def threshold_of(cut: CutConfig, scores: Sequence[float], *, above: bool = False) -> float:
    """The configured threshold, or the one its percentile gives on these scores.

    above: videos above the threshold are rejected, not those below it.
    """
    if cut.threshold is not None:
        return cut.threshold
    assert cut.percentile is not None, "the config demands one of the two"
    if above:
        return -calibrate([-score for score in scores], cut.percentile)
    return calibrate(scores, cut.percentile)


def beyond(scores: Mapping[str, float], threshold: float, *, above: bool = False) -> dict[str, float]:
    """Return the scores below the threshold, or above it, by video id."""
    return {
        key: score for key, score in scores.items() if (score > threshold if above else score < threshold)
    }
