"""Configurations that `evaluate` refuses before it starts anything. Whole runs are in
tests/integration.
"""

import json
from pathlib import Path
from typing import Any

import pytest

from gve_ray import cli
from gve_ray.evaluation.config import (
    ContaminationConfig,
    DataConfig,
    EvaluationJobConfig,
    ModelConfig,
)
from gve_ray.evaluation.data.eval_sets import check, find_eval_sets, open_eval_sets
from gve_ray.evaluation.embed import ItemIndex
from gve_ray.evaluation.run import RESULTS_VERSION, EvaluationResult, evaluate, read_result
from gve_ray.job import PreflightError
from gve_ray.store.runfolder import RunFolderError

TINY, ADAPTER = "package://demo/tiny_vl/model", "package://demo/tiny_vl/adapter"


def write_set(folder: Path, texts: tuple[str, ...] = ("one", "two")) -> str:
    """A data set of texts only, which needs no media."""
    (folder / "jsonl").mkdir(parents=True)
    rows = {
        "queries": [{"id": f"q{i}", "text": text} for i, text in enumerate(texts)],
        "corpus": [{"id": f"c{i}", "text": text} for i, text in enumerate(texts)],
        "instances": [{"qid": f"q{i}", "pos": [f"c{i}"]} for i in range(len(texts))],
    }
    for name, lines in rows.items():
        (folder / "jsonl" / f"{name}.jsonl").write_text("\n".join(map(json.dumps, lines)))
    return str(folder)


def job(tmp_path: Path, **changes: Any) -> EvaluationJobConfig:
    values: dict[str, Any] = {
        "models": (ModelConfig(name="base", model=TINY),),
        "root": str(tmp_path / "uvrb"),
        "output": str(tmp_path / "out"),
        "max_pixels": 12544,
        **changes,
    }
    return EvaluationJobConfig(**values)


def refuse() -> None:
    raise AssertionError("Ray was started for an invalid run")


def test_sets_are_found_in_the_root_and_by_folder(tmp_path: Path) -> None:
    for name in ("MSRVTT", "VDC-D", "strange"):
        write_set(tmp_path / "uvrb" / name)
    own = DataConfig(name="VDC-D", folder=write_set(tmp_path / "mine"), metric="ndcg@10", prompt="")
    configs = find_eval_sets(job(tmp_path, data=(own,)))
    assert [(config.name, Path(config.folder).parent.name) for config in configs[:-1]] == [("MSRVTT", "uvrb")]
    assert configs[-1] is own
    first, second = open_eval_sets(configs, ItemIndex(tmp_path / "cache"))
    assert {item.instruction for item in first.queries} == {
        "Find the clip that corresponds to the described scene in the given video."
    }
    assert {item.instruction for item in (*first.data.corpus, *second.queries)} == {None}
    assert (first.metric, second.metric) == ("hit@1", "ndcg@10")
    assert first.corpus_keys == second.corpus_keys == second.query_keys  # the same text in all three
    assert not set(first.query_keys) & set(second.query_keys)


@pytest.mark.parametrize(
    "changes,message",
    [
        ({"root": "nowhere"}, "root='nowhere': holds no data set of UVRB"),
        ({"data": (DataConfig(name="x", folder="nowhere"),)}, "data.x.folder='nowhere': no such folder"),
        ({"metrics": ("hit@1", "recal@5")}, "metric 'recal@5': unknown"),
        ({"models": (ModelConfig(name="a", model="./nowhere"),)}, "models.a.model='./nowhere'"),
        ({"models": (ModelConfig(name="a", model=TINY, adapter=TINY),)}, "has no adapter_config.json"),
        (
            {"contamination": ContaminationConfig(training=("nowhere.lance", "x"))},
            "contamination.training='nowhere.lance': no assets there",
        ),
        (
            {"models": (ModelConfig(name="a", model=TINY, adapter=ADAPTER),), "frames": 16},
            "models.a: .*frames: 8 saved, 16 asked for.*rescale: true",
        ),
    ],
)
def test_invalid_runs_are_refused_before_ray_starts(
    tmp_path: Path, changes: dict[str, Any], message: str
) -> None:
    write_set(tmp_path / "uvrb" / "MSRVTT")
    with pytest.raises(PreflightError, match=message):
        evaluate(job(tmp_path, **changes), connect=refuse)
    assert not (tmp_path / "out").exists()


def test_check_reports_one_error_per_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_set(tmp_path / "uvrb" / "MSRVTT")
    assert check(job(tmp_path)) == "no errors in 1 data sets (MSRVTT)"
    write_set(tmp_path / "uvrb" / "DiDeMo", ("good", ""))
    arguments = ["evaluate", "--check", "--config", "demo.yaml", "--root", str(tmp_path / "uvrb")]
    assert cli.main(arguments) == 2
    lines = capsys.readouterr().err.splitlines()
    assert lines[0] == f"error: {len(lines) - 1} errors in 2 data sets"
    assert all(line.startswith("DiDeMo: ") for line in lines[1:])


def test_the_summary_table() -> None:
    def model(value: float | None) -> dict[str, Any]:
        interval = None if value is None else [value - 0.1, value + 0.1]
        embedding = {"items": 9, "new": 5, "found": 3, "missing": 1, "cut": 2}
        averages = dict.fromkeys(("average_abilities", "average_abilities_interval"))
        averages |= {"average_datasets": value, "average_datasets_interval": interval}
        facts = {"score": value, "interval": interval}
        return {"datasets": {"MSRVTT": facts}, "embedding": embedding, **averages}

    results = {
        "datasets": {"MSRVTT": {"metric": "hit@1"}},
        "models": {"base": model(None), "trained": model(0.5)},
        "contamination": {"hits": [{}, {}], "checked_videos": 7, "training": ["assets.lance", "films"]},
    }
    lines = str(EvaluationResult(output="out", results=results, seconds=7.4)).splitlines()
    assert lines[0].split() == ["data", "set", "metric", "base", "trained"]
    assert lines[1].split() == ["MSRVTT", "hit@1", "-", "0.500", "[0.400,", "0.600]"]
    assert lines[2].split()[0] == "average_datasets"
    assert (
        lines[4] == "base: 9 distinct items, 5 embedded by this run, 3 already cached, 1 missing, 2 texts cut"
    )
    assert lines[-2:] == [
        "contamination: 2 hits among 7 videos in assets.lance, films",
        "out/results.json and report.html after 7 s",
    ]


@pytest.mark.parametrize("results", [{"models": {}}, {"version": RESULTS_VERSION + 1}])
def test_results_of_another_release_are_refused(tmp_path: Path, results: dict[str, Any]) -> None:
    (tmp_path / "run.json").write_text(json.dumps({"runs": []}))
    (tmp_path / "results.json").write_text(json.dumps(results))
    version = results.get("version", 1)
    with pytest.raises(RunFolderError, match=f"results.json: has version {version}, this release writes"):
        read_result(tmp_path)
