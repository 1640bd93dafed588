import json
from pathlib import Path

import numpy as np
import pytest
from scipy import stats

from gve_ray.evaluation.paper.diagnosis import Diagnosis, diagnose
from gve_ray.evaluation.paper.result_tables import published_abilities, published_table


@pytest.fixture(scope="module")
def published() -> Diagnosis:
    return diagnose([])


# Figure 7 of arXiv:2510.27571, CLIP-based models, below the diagonal: each ability with those before it.
FIGURE_7_CLIP = {
    "CMP": [-0.26],
    "VIS": [-0.20, -0.71],
    "CG": [0.99, -0.12, -0.29],
    "FG": [1.00, -0.26, -0.20, 0.99],
    "LC": [0.77, -0.49, 0.26, 0.70, 0.77],
    "S": [1.00, -0.26, -0.20, 0.99, 1.00, 0.77],
    "T": [0.43, 0.20, -0.60, 0.46, 0.43, -0.14, 0.43],
    "PR": [0.77, -0.49, 0.26, 0.70, 0.77, 1.00, 0.77, -0.14],
}


def test_the_papers_clip_figure_is_a_rank_correlation(published: Diagnosis) -> None:
    """The text calls it Pearson, but all 36 values are Spearman's, and most differ from Pearson's."""
    clip = published.groups["clip"]
    names = ["TXT", *FIGURE_7_CLIP]
    pairs = [((name, names[i]), r) for name, row in FIGURE_7_CLIP.items() for i, r in enumerate(row)]
    assert [clip.value_with_part("spearman", pair) for pair, _ in pairs] == pytest.approx(
        [r for _, r in pairs], abs=0.0051
    )
    assert sum(abs(clip.value_with_part("pearson", pair) - r) > 0.0051 for pair, r in pairs) > 18


def test_correlations_are_those_of_the_printed_tables(published: Diagnosis) -> None:
    """Compare with scipy on the paper's printed abilities; T, S and LC have no misprints."""
    printed, rows = published_abilities(), published_table()
    for family, lineages in (("clip", 5), ("mllm", 7), ("all", 12)):
        group = published.groups[family]
        chosen = [row.model for row in rows if family in ("all", row.family)]
        s, t, lc = ([printed[model][name] for model in chosen] for name in ("S", "T", "LC"))
        assert (group.interval("pearson", ("S", "T")).clusters, list(group.models)) == (lineages, chosen)
        assert group.value("pearson", ("S", "T")) == pytest.approx(stats.pearsonr(s, t)[0], abs=0.003)
        assert group.value("spearman", ("LC", "T")) == pytest.approx(stats.spearmanr(lc, t)[0], abs=0.003)


def test_a_whole_is_correlated_without_its_part(published: Diagnosis) -> None:
    """Worked out from the paper's printed scores: FG without T is the mean of S and PR; CG without
    MSRVTT is the mean of DiDeMo and CRB-G; the average without VIS is the mean of five abilities.
    """
    group, rows = published.groups["all"], published_table()
    printed = [row.summary.abilities for row in rows]
    wholes = {
        ("T", "FG"): [(a["S"] + a["PR"]) / 2 for a in printed],
        ("MSRVTT", "CG"): [(row.scores["DiDeMo"] + row.scores["CRB-G"]) / 2 for row in rows],
        ("VIS", "average"): [(a["TXT"] + a["CMP"] + a["CG"] + a["FG"] + a["LC"]) / 5 for a in printed],
    }
    for pair, whole in wholes.items():
        part = [row.scores.get(pair[0], row.summary.abilities.get(pair[0])) for row in rows]
        expected = stats.pearsonr(part, whole)[0]
        assert group.value("pearson", pair) == pytest.approx(expected, abs=0.003)
        assert group.value("pearson", pair[::-1]) == group.value("pearson", pair)
        assert group.value_with_part("pearson", pair) > expected + 0.05
    assert group.value("pearson", ("S", "T")) == group.value_with_part("pearson", ("S", "T"))


def test_noise_correlates_with_its_average_only_through_itself(tmp_path: Path) -> None:
    """Scores of 12 models that are independent by data set: CG contains MSRVTT, and so they correlate."""
    scores = np.random.default_rng(3).uniform(0.2, 0.8, size=(12, 3))
    rows = [f"m{i},{a:.3f},{b:.3f},{c:.3f}" for i, (a, b, c) in enumerate(scores)]
    (tmp_path / "noise.csv").write_text("\n".join(["model,MSRVTT,DiDeMo,CRB-G", *rows]))
    group = diagnose([tmp_path / "noise.csv"]).groups["all"]
    assert group.value_with_part("pearson", ("MSRVTT", "CG")) > 0.4
    assert group.value("pearson", ("MSRVTT", "CG")) < 0.2


def test_sister_models_are_resampled_together(tmp_path: Path) -> None:
    """Copies of four models, as sisters, do not make their correlation more certain."""
    scores = [(0.2, 0.3), (0.4, 0.3), (0.5, 0.6), (0.7, 0.5)]
    tables = {}
    for name, copies in (("four", 1), ("sisters", 5), ("strangers", 5)):
        lineage = "m{i}" if name == "sisters" else ""
        rows = [
            f"m{i}-{copy},{lineage.format(i=i)},{a},{b}"
            for i, (a, b) in enumerate(scores)
            for copy in range(copies)
        ]
        path = tmp_path / f"{name}.csv"
        path.write_text("\n".join(["model,lineage,MSRVTT,DiDeMo", *rows]))
        tables[name] = diagnose([path]).groups["all"]
    pair = ("MSRVTT", "DiDeMo")
    four, sisters, strangers = (
        tables[name].interval("pearson", pair) for name in ("four", "sisters", "strangers")
    )
    assert (len(tables["sisters"].models), sisters.clusters) == (20, 4)
    assert [sisters.estimate, sisters.low, sisters.high] == pytest.approx(
        [four.estimate, four.low, four.high]
    )
    assert strangers.high - strangers.low < (sisters.high - sisters.low) / 2


def test_which_statistics_give_the_quoted_values(published: Diagnosis) -> None:
    statistics = {
        (quote.pair, quote.printed): {(family, kind) for family, kind, _ in matches}
        for quote, matches in published.quotes
    }
    rank = {("clip", "spearman")}
    assert statistics == {
        (("MSRVTT", "average"), 0.58): set(),
        (("PR", "average"), 0.97): {("all", "pearson")},
        (("S", "T"), 0.12): set(),
        (("T", "FG"), 0.98): {("mllm", "spearman")},
        (("S", "FG"), 0.39): set(),
        (("S", "CG"), 0.99): rank,
        (("T", "CG"), 0.46): rank,
        (("CMP", "VIS"), -0.71): rank,
        (("T", "LC"), -0.14): rank,
        (("PR", "CG"), 0.70): rank,
        (("PR", "CG"), 0.98): set(),
        (("T", "LC"), 0.64): set(),
        (("VIS", "average"), 0.26): set(),
    }


def test_verdicts_on_the_findings(published: Diagnosis) -> None:
    verdicts = {entry["finding"]: entry["verdicts"] for entry in published.to_dict()["findings"]}
    fails = {"pearson": "fails", "spearman": "fails"}
    unsure = {"pearson": "unsure", "spearman": "unsure"}
    by_rank = {"pearson": "fails", "spearman": "unsure"}
    assert verdicts[1] == {"all": fails, "clip": fails, "mllm": fails}
    assert verdicts[2] == {"all": fails, "clip": fails, "mllm": fails}
    assert verdicts[3] == {"all": {"pearson": None, "spearman": None}, "clip": by_rank, "mllm": by_rank}
    assert verdicts[4] == {"all": unsure, "clip": unsure, "mllm": fails}
    first = next(
        entry
        for entry in published.judged
        if entry.claim.text.startswith("PR correlates more strongly with the average than MS")
    )
    assert (first.family, first.verdict) == ("all", "holds")


def test_the_page_is_readable_and_complete(published: Diagnosis) -> None:
    page = str(published)
    assert max(map(len, page.splitlines())) <= 110
    assert "GVE-7B               0.573     0.599  0.657" in page
    assert "GME-2B, average_abilities: printed 0.416, its data sets give 0.5161" in page
    assert "Correlations over 6 models (clip); 95 % bootstrap intervals" in page
    assert "S-T 0.12: none" in page
    assert "nan" not in page


def test_json_has_every_correlation_with_its_interval(published: Diagnosis) -> None:
    values = json.loads(json.dumps(published.to_dict(), allow_nan=False))
    clip = values["correlations"]["clip"]
    assert clip["n"] == 6
    assert len(clip["names"]) == 9 + 2 + 16 + 1
    for kind in ("pearson", "spearman"):
        shapes = {np.shape(clip[kind][part]) for part in ("estimate", "low", "high")}
        assert shapes == {(28, 28)}
    assert [finding["finding"] for finding in values["findings"]] == [1, 2, 3, 4]
    assert values["models"][0]["abilities"]["CMP"] == pytest.approx((0.173 + 0.183) / 2)


def test_the_same_seed_gives_the_same_page(published: Diagnosis) -> None:
    assert str(diagnose([])) == str(published)
    assert str(diagnose([], seed=7)) != str(published)


def test_one_own_model_has_abilities_but_no_correlations(tmp_path: Path) -> None:
    table = tmp_path / "mine.csv"
    table.write_text("model,MS-TI,MS-TV,MSRVTT\nmine,0.2,0.4,0.5\n")
    diagnosis = diagnose([table])
    assert (diagnosis.groups, diagnosis.judged, diagnosis.misprints, diagnosis.quotes) == ({}, [], None, [])
    page = str(diagnosis)
    cells = ["mine", "-", "-", "-", "0.300", *"-------"]  # two averages, TXT, CMP, and seven more
    assert page.splitlines()[2].split() == cells
    assert "all: 1 models; correlations need 4 or more" in page
    assert "not scored for every model" in page
    assert "DiDeMo" in page
    json.dumps(diagnosis.to_dict(), allow_nan=False)


def test_a_single_family_replaces_all_and_constant_columns_are_left_out(tmp_path: Path) -> None:
    table = tmp_path / "mine.csv"
    rows = [f"m{i},mllm,2,{0.1 * i},{0.3 + 0.02 * i * i},0.5" for i in range(5)]
    table.write_text("\n".join(["model,family,params_b,CRB-T,CMRB,MSRVTT", *rows]))
    diagnosis = diagnose([table])
    assert list(diagnosis.groups) == ["mllm"]
    assert diagnosis.groups["mllm"].names == ["T", "CRB-T", "CMRB"]
    json.dumps(diagnosis.to_dict(), allow_nan=False)
    assert "nan" not in str(diagnosis)


def test_changed_scores_do_not_count_as_published(tmp_path: Path) -> None:
    table = tmp_path / "mine.csv"
    table.write_text("model,MSRVTT\nGVE-3B,0.9\n")
    assert diagnose([table]).misprints is None
    assert diagnose([table], ["GVE-3B", "GME-2B"]).misprints != []
