"""The paper's four findings as claims about correlations over models, and which of them hold. Pure.

The paper (section 4.3) argues from point values of 6 to 16 models. Here each statement is a bound that a
correlation, or a difference of two, has to keep, and it is judged with the bootstrap interval over models:

    holds    the estimate keeps the bound, and so does the whole interval
    unsure   the estimate keeps it, the interval does not: these models cannot tell
    fails    the estimate itself breaks it

Bounds, ours where the paper gives none: strong is 0.9 or more (its own word for 0.90), moderate 0.5 or more,
weak below 0.5, near zero within 0.3. A finding is what the worst of its claims is.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np

from gve_ray.evaluation.data.uvrb import MEASURED
from gve_ray.evaluation.scores.statistics import Floats, Interval, Kind, interval_of

Verdict = Literal["holds", "unsure", "fails"]
VERDICTS: tuple[Verdict, ...] = ("holds", "unsure", "fails")  # from good to bad
KINDS: tuple[Kind, ...] = ("pearson", "spearman")
ALL = "all"
FINDINGS = {
    1: "Partially relevant retrieval tells more of the whole than traditional benchmarks do",
    2: "Spatial and temporal ability are decoupled, and fine-grained ability is temporal",
    3: "CLIP-based and MLLM-based models fail in different ways",
    4: "Larger models gain little in visual perception",
}
Pair = tuple[str, str]


@dataclass(frozen=True, kw_only=True)
class Group:
    """Correlations over the models of one family (or of all).

    names: columns that every model has and that vary: abilities, averages, data sets and "size" (log of
    parameters). values: float64 [c, c]
    by kind. draws: float64 [resamples, c, c] by kind, the bootstrap's.
    """

    family: str
    models: Sequence[str]
    names: Sequence[str]
    values: Mapping[Kind, Floats]
    draws: Mapping[Kind, Floats]

    def has(self, pair: Pair) -> bool:
        """Whether both columns are there."""
        return set(pair) <= set(self.names)

    def value(self, kind: Kind, pair: Pair) -> float:
        """One correlation."""
        return float(self.values[kind][self._at(pair)])

    def drawn(self, kind: Kind, pair: Pair) -> Floats:
        """Its bootstrap draws, float64 [resamples]."""
        return self.draws[kind][(slice(None), *self._at(pair))]

    def interval(self, kind: Kind, pair: Pair) -> Interval:
        """The correlation with its confidence interval."""
        return interval_of(self.value(kind, pair), self.drawn(kind, pair), n=len(self.models))

    def _at(self, pair: Pair) -> tuple[int, int]:
        return self.names.index(pair[0]), self.names.index(pair[1])


@dataclass(frozen=True, kw_only=True)
class Claim:
    """One statement: the correlation of `pair`, less the largest one of `rivals`, lies within the bounds.

    families: where it is judged. rival_family: the rivals are taken there instead (a comparison of families).
    """

    finding: int
    text: str
    pair: Pair
    rivals: tuple[Pair, ...] = ()
    rival_family: str | None = None
    at_least: float = -np.inf
    at_most: float = np.inf
    families: tuple[str, ...] = (ALL, "clip", "mllm")


CLAIMS = (
    Claim(
        finding=1,
        text="PR goes with the average more than MSRVTT does",
        pair=("PR", "average"),
        rivals=(("MSRVTT", "average"),),
        at_least=0,
    ),
    Claim(
        finding=1,
        text="PR goes with the average more than the other abilities that it is no part of",
        pair=("PR", "average"),
        rivals=tuple((other, "average") for other in MEASURED if other != "PR"),
        at_least=0,
    ),
    Claim(finding=1, text="FG and PR go together strongly", pair=("FG", "PR"), at_least=0.9),
    Claim(finding=1, text="FG and LC go together strongly", pair=("FG", "LC"), at_least=0.9),
    Claim(finding=1, text="PR and LC go together strongly", pair=("PR", "LC"), at_least=0.9),
    Claim(finding=2, text="S and T go together weakly", pair=("S", "T"), at_most=0.5),
    Claim(finding=2, text="T and FG go together strongly", pair=("T", "FG"), at_least=0.9),
    Claim(
        finding=2,
        text="T goes with FG more than S does",
        pair=("T", "FG"),
        rivals=(("S", "FG"),),
        at_least=0,
    ),
    Claim(
        finding=3, text="S and CG go together strongly", pair=("S", "CG"), at_least=0.9, families=("clip",)
    ),
    Claim(
        finding=3,
        text="S goes with CG more than T does",
        pair=("S", "CG"),
        rivals=(("T", "CG"),),
        at_least=0,
        families=("clip",),
    ),
    Claim(
        finding=3,
        text="CMP and VIS go against each other",
        pair=("CMP", "VIS"),
        at_most=0,
        families=("clip",),
    ),
    Claim(
        finding=3,
        text="T and LC have next to nothing in common",
        pair=("T", "LC"),
        at_least=-0.3,
        at_most=0.3,
        families=("clip",),
    ),
    Claim(
        finding=3, text="PR and CG go together strongly", pair=("PR", "CG"), at_least=0.9, families=("mllm",)
    ),
    Claim(finding=3, text="T and LC go together", pair=("T", "LC"), at_least=0.5, families=("mllm",)),
    Claim(
        finding=3,
        text="PR goes with CG more than in CLIP-based models",
        pair=("PR", "CG"),
        rivals=(("PR", "CG"),),
        rival_family="clip",
        at_least=0,
        families=("mllm",),
    ),
    Claim(
        finding=3,
        text="T goes with LC more than in CLIP-based models",
        pair=("T", "LC"),
        rivals=(("T", "LC"),),
        rival_family="clip",
        at_least=0,
        families=("mllm",),
    ),
    Claim(finding=4, text="VIS goes with the average weakly", pair=("VIS", "average"), at_most=0.5),
    Claim(finding=4, text="VIS goes with model size weakly", pair=("VIS", "size"), at_most=0.5),
    Claim(
        finding=4,
        text="TXT goes with model size more than VIS does",
        pair=("TXT", "size"),
        rivals=(("VIS", "size"),),
        at_least=0,
    ),
)


@dataclass(frozen=True, kw_only=True)
class Quote:
    """A correlation printed in the paper's text. family: the one it names, None where it names none."""

    finding: int
    pair: Pair
    printed: float
    family: str | None = None


QUOTES = (
    Quote(finding=1, pair=("MSRVTT", "average"), printed=0.58),
    Quote(finding=1, pair=("PR", "average"), printed=0.97),
    Quote(finding=2, pair=("S", "T"), printed=0.12),
    Quote(finding=2, pair=("T", "FG"), printed=0.98),
    Quote(finding=2, pair=("S", "FG"), printed=0.39),
    Quote(finding=3, pair=("S", "CG"), printed=0.99, family="clip"),
    Quote(finding=3, pair=("T", "CG"), printed=0.46, family="clip"),
    Quote(finding=3, pair=("CMP", "VIS"), printed=-0.71, family="clip"),
    Quote(finding=3, pair=("T", "LC"), printed=-0.14, family="clip"),
    Quote(finding=3, pair=("PR", "CG"), printed=0.70, family="clip"),
    Quote(finding=3, pair=("PR", "CG"), printed=0.98, family="mllm"),
    Quote(finding=3, pair=("T", "LC"), printed=0.64, family="mllm"),
    Quote(finding=4, pair=("VIS", "average"), printed=0.26),
)


@dataclass(frozen=True, kw_only=True)
class Judged:
    """A claim in one family by one statistic. value: the correlation, or the difference of two."""

    claim: Claim
    family: str
    kind: Kind
    value: Interval
    verdict: Verdict


def judge(groups: Mapping[str, Group]) -> list[Judged]:
    """Every claim in every family it is made for, by both statistics; without those whose columns are missing."""
    return [
        _judged(claim, groups[family], groups.get(claim.rival_family or family), kind)
        for claim in CLAIMS
        for family in claim.families
        for kind in KINDS
        if family in groups and _judgeable(claim, groups[family], groups.get(claim.rival_family or family))
    ]


def verdict_of(judged: Sequence[Judged], finding: int, family: str, kind: Kind) -> Verdict | None:
    """The worst verdict of a finding's claims; None when none was judged there."""
    found = [
        one.verdict for one in judged if (one.claim.finding, one.family, one.kind) == (finding, family, kind)
    ]
    return max(found, key=VERDICTS.index) if found else None


def comes_out_as(quote: Quote, groups: Mapping[str, Group]) -> list[tuple[str, Kind, float]]:
    """(family, statistic, value) wherever a quoted correlation comes out to its two digits."""
    found = [
        (family, kind, group.value(kind, quote.pair))
        for family, group in groups.items()
        for kind in KINDS
        if group.has(quote.pair)
    ]
    return [one for one in found if abs(one[2] - quote.printed) <= 0.005 + 1e-9]


def _judgeable(claim: Claim, group: Group, rival: Group | None) -> bool:
    return group.has(claim.pair) and rival is not None and all(rival.has(pair) for pair in claim.rivals)


def _judged(claim: Claim, group: Group, rival: Group | None, kind: Kind) -> Judged:
    value, draws = group.value(kind, claim.pair), group.drawn(kind, claim.pair)
    if claim.rivals:
        assert rival is not None
        value -= max(rival.value(kind, pair) for pair in claim.rivals)
        draws = draws - np.max([rival.drawn(kind, pair) for pair in claim.rivals], axis=0)
    interval = interval_of(value, draws, n=len(group.models))
    verdict: Verdict = "fails"
    if claim.at_least <= value <= claim.at_most:
        sure = claim.at_least < interval.low and interval.high < claim.at_most
        verdict = "holds" if sure else "unsure"
    return Judged(claim=claim, family=group.family, kind=kind, value=interval, verdict=verdict)
