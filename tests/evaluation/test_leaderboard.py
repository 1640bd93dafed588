"""A leaderboard of finished runs, whose scores are chosen so that the order is known."""

import csv
import json
from pathlib import Path
from typing import Any

import pytest

from gve_ray import cli
from gve_ray.evaluation.data.uvrb import UVRB
from gve_ray.evaluation.leaderboard import Leaderboard, leaderboard
from gve_ray.evaluation.paper.result_tables import published_table
from gve_ray.evaluation.run import RESULTS_VERSION
from gve_ray.evaluation.scores.abilities import summarise
from tests.report.tags import Tags


def write_run(
    folder: Path,
    models: dict[str, dict[str, float | None]],
    *,
    revisions: dict[str, str] | None = None,
    departures: dict[str, str] | None = None,
    hits: int | None = None,
) -> str:
    """A finished run. models: scores by data set. hits: of the contamination check."""
    names = next(iter(models.values()))
    entries = {}
    for model, scores in models.items():
        known = {name: score for name, score in scores.items() if name in UVRB and score is not None}
        summary = summarise(known)
        entry: dict[str, Any] = {
            "datasets": {
                name: {"score": score, "interval": None if score is None else [score - 0.1, score + 0.1]}
                for name, score in scores.items()
            },
            "abilities": dict(summary.abilities),
            "ability_intervals": {
                name: [score - 0.05, score + 0.05] for name, score in summary.abilities.items()
            },
            "identity": {"model": f"sha256:{'ab' * 32}", "adapter": None},
        }
        for name in ("average_abilities", "average_datasets"):
            score = getattr(summary, name)
            entry |= {
                name: score,
                f"{name}_interval": None if score is None else [score - 0.02, score + 0.02],
            }
        entries[model] = entry
    results = {
        "version": RESULTS_VERSION,
        "datasets": {name: {"revision": (revisions or {}).get(name, "0" * 64)} for name in names},
        "models": entries,
        "contamination": None if hits is None else {"hits": [{}] * hits},
    }
    folder.mkdir(parents=True)
    (folder / "results.json").write_text(json.dumps(results))
    (folder / "report.json").write_text(json.dumps({"departures": departures or {}}))
    (folder / "run.json").write_text(json.dumps({"runs": []}))
    return str(folder)


def order(board: Leaderboard) -> list[tuple[str, str]]:
    return [(place.model, place.run) for place in board.places]


def test_models_are_sorted_by_the_average_over_abilities(tmp_path: Path) -> None:
    first = write_run(tmp_path / "a", {"low": dict.fromkeys(UVRB, 0.2), "high": dict.fromkeys(UVRB, 0.6)})
    second = write_run(tmp_path / "b", {"middle": dict.fromkeys(UVRB, 0.4)}, hits=3)
    part = write_run(tmp_path / "c", {"part": {"MSRVTT": 0.9}})
    board = leaderboard([first, second, part])
    assert order(board) == [("high", "a"), ("middle", "b"), ("low", "a"), ("part", "c")]
    assert board.columns[:3] == ["average_abilities", "average_datasets", "TXT"]
    assert board.columns[-len(UVRB) :] == list(UVRB)
    assert board.places[1].intervals["average_abilities"] == pytest.approx([0.38, 0.42])
    assert [place.contaminated for place in board.places] == [None, 3, None, None]


def test_without_averages_the_common_data_sets_decide(tmp_path: Path) -> None:
    """`own` has a high score on a data set that the other run lacks, which does not count."""
    first = write_run(tmp_path / "a", {"own": {"MSRVTT": 0.3, "films": 1.0}})
    second = write_run(tmp_path / "b", {"best": {"MSRVTT": 0.5}, "worst": {"MSRVTT": 0.1}})
    board = leaderboard([first, second])
    assert order(board) == [("best", "b"), ("own", "a"), ("worst", "b")]
    assert board.columns == ["MSRVTT", "films"]


def test_other_versions_of_a_data_set_are_refused(tmp_path: Path) -> None:
    scores = {"MSRVTT": 0.5, "films": 0.5}
    first = write_run(tmp_path / "a", {"m": scores})
    second = write_run(tmp_path / "b", {"m": scores}, revisions={"films": "1" * 64})
    with pytest.raises(
        ValueError, match=f"films: revision 111111111111 in {second}, 000000000000 in {first}$"
    ):
        leaderboard([first, second])


def test_published_models_need_data_sets_of_the_published_sizes(tmp_path: Path) -> None:
    run = write_run(tmp_path / "a", {"best": dict.fromkeys(UVRB, 0.99), "worst": dict.fromkeys(UVRB, 0.01)})
    board = leaderboard([run], baselines=True)
    assert len(board.places) == 2 + 16
    assert [board.places[0].model, board.places[-1].model] == ["best", "worst"]
    own = max(published_table(), key=lambda row: row.summary.average_abilities or 0)
    assert order(board)[1] == (own.model, "published")
    assert board.places[1].scores["MSRVTT"] == own.scores["MSRVTT"]
    small = write_run(
        tmp_path / "b", {"m": {"MSRVTT": 0.5}}, departures={"MSRVTT": "8 queries, published 1,000"}
    )
    with pytest.raises(ValueError, match=r"(?s)--baselines: .*MSRVTT: 8 queries, published 1,000"):
        leaderboard([run, small], baselines=True)
    films = write_run(tmp_path / "c", {"m": {"films": 0.5}})
    with pytest.raises(ValueError, match=r"(?s)--baselines: .*no data set of UVRB"):
        leaderboard([films], baselines=True)


def test_runs_of_one_name_are_told_apart_by_path(tmp_path: Path) -> None:
    runs = [write_run(tmp_path / side / "out", {"m": {"films": 0.5}}) for side in "ab"]
    assert [run for _, run in order(leaderboard(runs))] == runs


def test_the_files(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run = write_run(
        tmp_path / "a", {"<b>m</b>": {"MSRVTT": 0.5, "films": None}, "n": {"MSRVTT": 0.25, "films": 1}}
    )
    for suffix in ("html", "csv", "json"):
        assert cli.main(["leaderboard", run, "--output", str(tmp_path / f"board.{suffix}")]) == 0
    assert "n (a)" in capsys.readouterr().out
    page = Tags((tmp_path / "board.html").read_text()).text
    assert "<b>m</b>" in page
    assert "0.400 to 0.600" in page
    with (tmp_path / "board.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert [(row["model"], row["MSRVTT"], row["MSRVTT_low"], row["films"]) for row in rows] == [
        ("<b>m</b>", "0.500000", "0.400000", ""),
        ("n", "0.250000", "0.150000", "1.000000"),
    ]
    data = json.loads((tmp_path / "board.json").read_text())
    assert data["places"][1]["scores"] == {"MSRVTT": 0.25, "films": 1}


@pytest.mark.parametrize(
    "run,output,message",
    [
        ("a", "board.txt", "board.txt': unknown format; use a name that ends in .html, .csv, .json"),
        ("nowhere", "board.csv", "nowhere/run.json: no such file"),
    ],
)
def test_wrong_arguments(
    tmp_path: Path, run: str, output: str, message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    write_run(tmp_path / "a", {"m": {"films": 0.5}})
    assert cli.main(["leaderboard", str(tmp_path / run), "--output", str(tmp_path / output)]) == 2
    assert message in capsys.readouterr().err
    assert not (tmp_path / output).exists()
