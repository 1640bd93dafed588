"""Computes UVRB's nine abilities and two averages from scores by data set.

S, T, PR, LC, CG, CMP and VIS are plain means of their data sets; FG = mean(S, T, PR) and TXT =
mean(CG, FG, LC). The average over abilities is the mean of TXT, CMP, VIS, CG, FG and LC, without
the sub-domains S, T and PR. This rule reproduces tables 1 and 2 of arXiv:2510.27571. Every ability
is a weighted mean of data sets; `weights` gives the weights, from which an ability's confidence
interval is computed.
"""

import math
from collections.abc import Mapping, Sequence, Set
from dataclasses import asdict, dataclass
from typing import Any

from gve_ray.evaluation.data.uvrb import UVRB, DatasetSpec

ABILITIES = ("TXT", "CMP", "VIS", "CG", "FG", "LC", "S", "T", "PR")
AVERAGED = ("TXT", "CMP", "VIS", "CG", "FG", "LC")
COMPOSED = {"FG": ("S", "T", "PR"), "TXT": ("CG", "FG", "LC"), "average": AVERAGED}


@dataclass(frozen=True, kw_only=True)
class AbilityScores:
    """Scores of one model, between 0 and 1.

    datasets: the input scores. abilities: by ability; one whose data sets were not all scored is
    left out, since a mean over fewer is not comparable. For the same reason the averages may be
    None.
    """

    datasets: Mapping[str, float]
    abilities: Mapping[str, float]
    average_datasets: float | None
    average_abilities: float | None

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON."""
        return asdict(self)


def summarise(scores: Mapping[str, float], specs: Mapping[str, DatasetSpec] = UVRB) -> AbilityScores:
    """Compute abilities and averages; raises ValueError for an unknown data set."""
    if unknown := sorted(set(scores) - set(specs)):
        raise ValueError(
            f"data sets {', '.join(unknown)}: not in the benchmark; add a spec or leave them out"
        )
    scores_by_ability = {name: _weighted(weights(name, specs), scores) for name in (*ABILITIES, "average")}
    average = scores_by_ability.pop("average")
    whole = set(scores) == set(specs)
    return AbilityScores(
        datasets=dict(scores),
        abilities={name: value for name, value in scores_by_ability.items() if value is not None},
        average_datasets=math.fsum(scores.values()) / len(scores) if whole and scores else None,
        average_abilities=average,
    )


def weights(ability: str, specs: Mapping[str, DatasetSpec] = UVRB) -> dict[str, float]:
    """Weights of data sets in an ability or in "average" (over abilities); they sum to 1.

    Empty if `specs` has no data set for some part of it. Raises ValueError for an unknown ability.
    """
    if ability not in (*ABILITIES, "average"):
        raise ValueError(f"ability {ability!r}: use one of {', '.join(ABILITIES)} or average")
    if ability not in COMPOSED:
        names = [name for name, spec in specs.items() if spec.ability == ability]
        return {name: 1 / len(names) for name in names}
    parts = [weights(part, specs) for part in COMPOSED[ability]]
    return _mean_of(parts) if all(parts) else {}


def weights_without(whole: str, part: str) -> dict[str, float]:
    """Weights of an ability or average without the data sets of one of its parts, for their correlation.

    whole: an ability, "average" or "average_datasets". part: an ability or a data set of it. Each
    mean is then one over the parts that remain: without T, FG is the mean of S and PR.
    """
    left_out = data_sets_of(part)
    if whole == "average_datasets":
        names = [name for name in UVRB if name not in left_out]
        return dict.fromkeys(names, 1 / len(names))
    return _remaining(whole, left_out)


def data_sets_of(name: str) -> frozenset[str]:
    """The data sets in an ability or average; a data set is its only one. Empty for other names."""
    if name in UVRB:
        return frozenset([name])
    if name == "average_datasets":
        return frozenset(UVRB)
    return frozenset(weights(name)) if name in (*ABILITIES, "average") else frozenset()


def _remaining(ability: str, left_out: Set[str]) -> dict[str, float]:
    if ability not in COMPOSED:
        names = [name for name in weights(ability) if name not in left_out]
        return {name: 1 / len(names) for name in names}
    parts = [kept for part in COMPOSED[ability] if (kept := _remaining(part, left_out))]
    return _mean_of(parts)


def _mean_of(parts: Sequence[Mapping[str, float]]) -> dict[str, float]:
    """The weights of the mean of several weighted means."""
    total: dict[str, float] = {}
    for part in parts:
        for name, weight in part.items():
            total[name] = total.get(name, 0.0) + weight / len(parts)
    return total


def _weighted(shares: Mapping[str, float], scores: Mapping[str, float]) -> float | None:
    if not shares or not set(shares) <= set(scores):
        return None
    return math.fsum(share * scores[name] for name, share in shares.items())
