"""The paper's four findings as claims about correlations over models, and which of them hold.

The paper (arXiv:2510.27571, section 4.3) argues from point estimates over 6 to 16 models. Here each
statement is a bound on a correlation, or on the difference of two, and is judged with its bootstrap
interval:

    holds    the estimate is within the bound, and so is the whole interval
    unsure   the estimate is within the bound, but not the whole interval
    fails    the estimate is outside the bound

Models of one lineage (GVE-3B and GVE-7B) are not independent, so the bootstrap resamples lineages.
An ability or data set is correlated with a whole that contains it (the average, FG, TXT) after the
whole has been computed without it; with the part in both, they would correlate in any table.

Where the paper gives no bound we use: strong is 0.9 or more (the paper calls 0.90 strong), moderate
0.5 or more, weak below 0.5, near zero within 0.3. The verdict on a finding is the worst verdict on
its claims.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np

from gve_ray.evaluation.data.uvrb import MEASURED
from gve_ray.evaluation.scores.statistics import Floats, Interval, Kind, interval_of

Verdict = Literal["holds", "unsure", "fails"]
VERDICTS: tuple[Verdict, ...] = ("holds", "unsure", "fails")  # from best to worst
KINDS: tuple[Kind, ...] = ("pearson", "spearman")
ALL = "all"
FINDINGS = {
    1: "Partially relevant retrieval predicts overall performance better than traditional benchmarks",
    2: "Spatial and temporal ability are decoupled, and fine-grained ability is temporal",
    3: "CLIP-based and MLLM-based models fail in different ways",
    4: "Larger models gain little in visual perception",
}
Pair = tuple[str, str]


@dataclass(frozen=True, kw_only=True)
class Group:
    """Correlations over the models of one family (or of all).

    lineages: number of independent groups of models. names: columns that every model has and that
    vary: abilities, averages, data sets and "size" (log of the number of parameters). values: float64
    [c, c] by kind; a whole is correlated without its part. draws: bootstrap draws, float64
    [resamples, c, c] by kind. values_with_part: like `values`, but with the part in the whole, as the
    paper has them.
    """

    family: str
    models: Sequence[str]
    lineages: int
    names: Sequence[str]
    values: Mapping[Kind, Floats]
    draws: Mapping[Kind, Floats]
    values_with_part: Mapping[Kind, Floats]

    def has(self, pair: Pair) -> bool:
        """Whether both columns exist."""
        return set(pair) <= set(self.names)

    def value(self, kind: Kind, pair: Pair) -> float:
        """The correlation of two columns, of which neither contains the other."""
        return float(self.values[kind][self._at(pair)])

    def value_with_part(self, kind: Kind, pair: Pair) -> float:
        """The correlation of two columns as they are, even if one contains the other."""
        return float(self.values_with_part[kind][self._at(pair)])

    def drawn(self, kind: Kind, pair: Pair) -> Floats:
        """Its bootstrap draws, float64 [resamples]."""
        return self.draws[kind][(slice(None), *self._at(pair))]

    def interval(self, kind: Kind, pair: Pair) -> Interval:
        """The correlation with its confidence interval."""
        return interval_of(self.value(kind, pair), self.drawn(kind, pair), clusters=self.lineages)

    def _at(self, pair: Pair) -> tuple[int, int]:
        return self.names.index(pair[0]), self.names.index(pair[1])


@dataclass(frozen=True, kw_only=True)
class Claim:
    """The correlation of `pair`, minus the largest one of `rivals`, lies within bounds.

    families: the families it is made for. rival_family: take the rivals from this family instead,
    to compare two families.
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
        text="PR correlates more strongly with the average than MSRVTT does",
        pair=("PR", "average"),
        rivals=(("MSRVTT", "average"),),
        at_least=0,
    ),
    Claim(
        finding=1,
        text="PR correlates more strongly with the average than the other measured abilities do",
        pair=("PR", "average"),
        rivals=tuple((other, "average") for other in MEASURED if other != "PR"),
        at_least=0,
    ),
    Claim(finding=1, text="FG and PR correlate strongly", pair=("FG", "PR"), at_least=0.9),
    Claim(finding=1, text="FG and LC correlate strongly", pair=("FG", "LC"), at_least=0.9),
    Claim(finding=1, text="PR and LC correlate strongly", pair=("PR", "LC"), at_least=0.9),
    Claim(finding=2, text="S and T correlate weakly", pair=("S", "T"), at_most=0.5),
    Claim(finding=2, text="T and FG correlate strongly", pair=("T", "FG"), at_least=0.9),
    Claim(
        finding=2,
        text="T correlates more strongly with FG than S does",
        pair=("T", "FG"),
        rivals=(("S", "FG"),),
        at_least=0,
    ),
    Claim(finding=3, text="S and CG correlate strongly", pair=("S", "CG"), at_least=0.9, families=("clip",)),
    Claim(
        finding=3,
        text="S correlates more strongly with CG than T does",
        pair=("S", "CG"),
        rivals=(("T", "CG"),),
        at_least=0,
        families=("clip",),
    ),
    Claim(
        finding=3,
        text="CMP and VIS correlate negatively",
        pair=("CMP", "VIS"),
        at_most=0,
        families=("clip",),
    ),
    Claim(
        finding=3,
        text="T and LC are nearly uncorrelated",
        pair=("T", "LC"),
        at_least=-0.3,
        at_most=0.3,
        families=("clip",),
    ),
    Claim(
        finding=3, text="PR and CG correlate strongly", pair=("PR", "CG"), at_least=0.9, families=("mllm",)
    ),
    Claim(
        finding=3, text="T and LC correlate moderately", pair=("T", "LC"), at_least=0.5, families=("mllm",)
    ),
    Claim(
        finding=3,
        text="PR and CG correlate more strongly than in CLIP-based models",
        pair=("PR", "CG"),
        rivals=(("PR", "CG"),),
        rival_family="clip",
        at_least=0,
        families=("mllm",),
    ),
    Claim(
        finding=3,
        text="T and LC correlate more strongly than in CLIP-based models",
        pair=("T", "LC"),
        rivals=(("T", "LC"),),
        rival_family="clip",
        at_least=0,
        families=("mllm",),
    ),
    Claim(finding=4, text="VIS correlates weakly with the average", pair=("VIS", "average"), at_most=0.5),
    Claim(finding=4, text="VIS correlates weakly with model size", pair=("VIS", "size"), at_most=0.5),
    Claim(
        finding=4,
        text="TXT correlates more strongly with model size than VIS does",
        pair=("TXT", "size"),
        rivals=(("VIS", "size"),),
        at_least=0,
    ),
)


@dataclass(frozen=True, kw_only=True)
class Quote:
    """A correlation printed in the paper's text. family: None if the text names none."""

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
class JudgedClaim:
    """A claim judged in one family by one statistic; value: a correlation or a difference."""

    claim: Claim
    family: str
    kind: Kind
    value: Interval
    verdict: Verdict


def judge(groups: Mapping[str, Group]) -> list[JudgedClaim]:
    """Judge every claim whose columns exist, in each of its families and by both statistics."""
    return [
        _judged(claim, groups[family], groups.get(claim.rival_family or family), kind)
        for claim in CLAIMS
        for family in claim.families
        for kind in KINDS
        if family in groups and _judgeable(claim, groups[family], groups.get(claim.rival_family or family))
    ]


def verdict_of(judged: Sequence[JudgedClaim], finding: int, family: str, kind: Kind) -> Verdict | None:
    """The worst verdict on a finding's claims; None if none of them was judged."""
    verdicts = [
        result.verdict
        for result in judged
        if (result.claim.finding, result.family, result.kind) == (finding, family, kind)
    ]
    return max(verdicts, key=VERDICTS.index) if verdicts else None


def matches_of_quote(quote: Quote, groups: Mapping[str, Group]) -> list[tuple[str, Kind, float]]:
    """(family, statistic, value) of the correlations that equal a quoted one to two digits.

    They are the paper's, so a whole includes its part.
    """
    correlations = [
        (family, kind, group.value_with_part(kind, quote.pair))
        for family, group in groups.items()
        for kind in KINDS
        if group.has(quote.pair)
    ]
    return [entry for entry in correlations if abs(entry[2] - quote.printed) <= 0.005 + 1e-9]


def _judgeable(claim: Claim, group: Group, rival: Group | None) -> bool:
    return group.has(claim.pair) and rival is not None and all(rival.has(pair) for pair in claim.rivals)


def _judged(claim: Claim, group: Group, rival: Group | None, kind: Kind) -> JudgedClaim:
    value, draws = group.value(kind, claim.pair), group.drawn(kind, claim.pair)
    if claim.rivals:
        assert rival is not None
        value -= max(rival.value(kind, pair) for pair in claim.rivals)
        draws = draws - np.max([rival.drawn(kind, pair) for pair in claim.rivals], axis=0)
    lineages = group.lineages if rival is None else min(group.lineages, rival.lineages)
    interval = interval_of(value, draws, clusters=lineages)
    verdict: Verdict = "fails"
    if claim.at_least <= value <= claim.at_most:
        is_sure = claim.at_least < interval.low and interval.high < claim.at_most
        verdict = "holds" if is_sure else "unsure"
    return JudgedClaim(claim=claim, family=group.family, kind=kind, value=interval, verdict=verdict)
