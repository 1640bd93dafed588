"""Verdicts on claims, for groups whose correlations are set by hand."""

from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from gve_ray.evaluation.paper.paper_claims import (
    CLAIMS,
    KINDS,
    Claim,
    Group,
    Quote,
    judge,
    matches_of_quote,
    verdict_of,
)


def group(family: str, **correlations: list[float]) -> Group:
    """Correlations by "X_Y": the estimate, then the bootstrap draws; equal for both statistics."""
    names = sorted({name for pair in correlations for name in pair.split("_")})
    values = np.eye(len(names))
    draws = np.repeat(values[None], 4, axis=0)
    for pair, (estimate, *drawn) in correlations.items():
        i, j = (names.index(name) for name in pair.split("_"))
        values[i, j] = values[j, i] = estimate
        draws[:, i, j] = draws[:, j, i] = drawn
    return Group(
        family=family,
        models=list("abcdef"),
        lineages=1000,  # so many that the interval is that of the draws
        names=names,
        values=dict.fromkeys(KINDS, values),
        draws=dict.fromkeys(KINDS, draws),
        values_with_part=dict.fromkeys(KINDS, values),
    )


def verdict(monkeypatch: pytest.MonkeyPatch, claim: Claim, **groups: Group) -> list[str]:
    monkeypatch.setattr("gve_ray.evaluation.paper.paper_claims.CLAIMS", (claim,))
    return [result.verdict for result in judge(groups) if result.kind == "pearson"]


@pytest.mark.parametrize(
    "drawn,bounds,expected",
    [
        ([0.95, 0.92, 0.93, 0.97, 0.99], {"at_least": 0.9}, "holds"),
        ([0.95, 0.50, 0.93, 0.97, 0.99], {"at_least": 0.9}, "unsure"),
        ([0.85, 0.92, 0.93, 0.97, 0.99], {"at_least": 0.9}, "fails"),
        ([0.10, 0.05, 0.08, 0.20, 0.25], {"at_least": -0.3, "at_most": 0.3}, "holds"),
        ([0.10, 0.05, 0.08, 0.20, 0.55], {"at_least": -0.3, "at_most": 0.3}, "unsure"),
        ([0.31, 0.05, 0.08, 0.20, 0.25], {"at_least": -0.3, "at_most": 0.3}, "fails"),
    ],
)
def test_verdicts_depend_on_estimate_and_interval(
    drawn: list[float], bounds: dict[str, Any], expected: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    claim = Claim(finding=1, text="", pair=("S", "T"), families=("clip",), **bounds)
    assert verdict(monkeypatch, claim, clip=group("clip", S_T=drawn)) == [expected]


def test_rivals_are_subtracted_draw_by_draw(monkeypatch: pytest.MonkeyPatch) -> None:
    # S leads LC in every draw by 0.1, though the two intervals overlap: the difference is certain.
    pairs = {"S_T": [0.7, 0.2, 0.4, 0.6, 0.9], "LC_T": [0.6, 0.1, 0.3, 0.5, 0.8], "PR_T": [0.0] * 5}
    rivals = (("LC", "T"), ("PR", "T"))
    claim = Claim(finding=1, text="", pair=("S", "T"), rivals=rivals, at_least=0, families=("all",))
    assert verdict(monkeypatch, claim, all=group("all", **pairs)) == ["holds"]
    pairs["PR_T"] = [0.0, 0.3, 0.0, 0.0, 0.0]  # one rival is larger in one draw
    assert verdict(monkeypatch, claim, all=group("all", **pairs)) == ["unsure"]
    pairs["PR_T"] = [0.8, 0.0, 0.0, 0.0, 0.0]
    assert verdict(monkeypatch, claim, all=group("all", **pairs)) == ["fails"]


def test_families_are_compared_if_both_exist(monkeypatch: pytest.MonkeyPatch) -> None:
    claim = Claim(
        finding=3,
        text="",
        pair=("S", "T"),
        rivals=(("S", "T"),),
        rival_family="clip",
        at_least=0,
        families=("mllm",),
    )
    mllm, clip = group("mllm", S_T=[0.9, 0.8, 0.8, 0.9, 0.9]), group("clip", S_T=[0.1, 0.0, 0.2, 0.3, 0.1])
    assert verdict(monkeypatch, claim, mllm=mllm, clip=clip) == ["holds"]
    assert verdict(monkeypatch, claim, mllm=mllm) == []
    assert verdict(monkeypatch, claim, clip=clip, mllm=group("mllm", S_LC=[0.9] * 5)) == []


def test_a_finding_gets_its_worst_claims_verdict(monkeypatch: pytest.MonkeyPatch) -> None:
    claim = Claim(finding=2, text="", pair=("S", "T"), at_least=0.5, families=("all",))
    monkeypatch.setattr(
        "gve_ray.evaluation.paper.paper_claims.CLAIMS",
        (claim, replace(claim, at_least=0.75), replace(claim, finding=3)),
    )
    judged = judge({"all": group("all", S_T=[0.8, 0.6, 0.8, 0.9, 0.9])})
    assert verdict_of(judged, 2, "all", "spearman") == "unsure"
    assert verdict_of(judged, 3, "all", "spearman") == "holds"
    assert verdict_of(judged, 4, "all", "spearman") is None


def test_a_quote_matches_to_two_digits() -> None:
    quote = Quote(finding=2, pair=("S", "T"), printed=0.12)
    groups = {"clip": group("clip", S_T=[0.124] + [0.0] * 4), "mllm": group("mllm", S_T=[0.126] + [0.0] * 4)}
    assert matches_of_quote(quote, groups) == [("clip", "pearson", 0.124), ("clip", "spearman", 0.124)]


def test_every_finding_has_claims_for_both_families() -> None:
    for finding in (1, 2, 3, 4):
        assert {"clip", "mllm"} <= {f for claim in CLAIMS if claim.finding == finding for f in claim.families}
