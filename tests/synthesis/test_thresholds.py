"""What other thresholds would keep, judged from scores.parquet and run.json alone."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from gve_ray.config import config_of
from gve_ray.job import PreflightError
from gve_ray.registry import JOBS
from gve_ray.synthesis import thresholds
from gve_ray.synthesis.config import (
    CaptionerConfig,
    ConsistencyConfig,
    ContentConfig,
    ContentFilterConfig,
    QualityConfig,
    SynthesisConfig,
)
from gve_ray.synthesis.scores import VERDICT_SCHEMA
from gve_ray.synthesis.thresholds import Thresholds, judge_thresholds

SCHEMA = pa.schema(
    [*VERDICT_SCHEMA, *((name, pa.float64()) for name in ("distance", "motion", "consistency"))]
)
# stage that rejected the video (None: kept, "": undecided), distance, motion, consistency
VIDEOS = {
    "broken": ("integrity", None, None, None),
    "exact": ("duplicates", 0.0, 0.5, None),
    "near": ("duplicates", 0.02, 0.5, None),
    "near and still": ("duplicates", 0.03, 0.01, None),
    "static": ("dynamics", None, 0.03, None),
    "frozen": ("dynamics", None, 0.0, None),
    "unlike": ("consistency", None, 0.3, 0.1),
    "wordless": ("captions", None, 0.4, 0.3),
    "slow": (None, None, 0.08, 0.3),
    "quick": (None, None, 0.6, 0.25),
    "bare": (None, None, 0.5, None),  # without a caption
    "later": ("", None, 0.9, None),
}
UNITS = {"rectify": "captions", "assemble": "pairs"}
STAGES = (
    "rectify",
    "integrity",
    "duplicates",
    "dynamics",
    "consistency",
    "captions",
    "composed_image",
    "assemble",
)


def config(output: Path, *, consistency: float = 0.2, **quality: Any) -> SynthesisConfig:
    model = ConsistencyConfig(model="m", threshold=consistency)
    return SynthesisConfig(
        input="in",
        output=str(output),
        captioner=CaptionerConfig(model="m"),
        quality=QualityConfig(
            **{"motion_threshold": 0.07, "near_duplicate_threshold": 0.05} | quality, consistency=model
        ),
    )


_PARSED: dict[str, SynthesisConfig] = {}


@pytest.fixture(autouse=True)
def parse_each_config_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """Parsing takes half a second, and the runs of these tests have few configs."""

    def parse(kind: type[SynthesisConfig], values: dict[str, Any]) -> SynthesisConfig:
        key = json.dumps(values | {"output": ""}, sort_keys=True)
        if key not in _PARSED:
            _PARSED[key] = config_of(kind, values)
        return _PARSED[key]

    monkeypatch.setattr(thresholds, "config_of", parse)


@pytest.fixture
def output(tmp_path: Path) -> Path:
    rows = [
        {
            "video_id": name,
            "uri": name,
            "kept": None if stage == "" else stage is None,
            "stage": stage or None,
            "reason": "why" if stage else None,
            **dict(zip(("distance", "motion", "consistency"), scores, strict=True)),
        }
        for name, (stage, *scores) in VIDEOS.items()
    ]
    pq.write_table(pa.Table.from_pylist(rows, schema=SCHEMA), tmp_path / "scores.parquet")
    stages = [{"name": name, "unit": UNITS.get(name, "videos")} for name in STAGES]
    facts = {"config": config(tmp_path).identity(), "stages": stages}
    (tmp_path / "run.json").write_text(json.dumps(facts))
    return tmp_path


def trial(output: Path, **changes: Any) -> tuple[dict[str, int], int, int, dict[str, int]]:
    """Return videos rejected by stage, kept, open, and open by stage."""
    found = judge_thresholds(config(output, **changes)).trial
    assert found is not None
    assert found.before == {"integrity": 1, "duplicates": 3, "dynamics": 2, "consistency": 1, "captions": 1}
    assert found.kept_before == 3
    assert sum(found.after.values()) + found.kept + found.open_videos == 11
    return dict(found.after), found.kept, found.open_videos, dict(found.open_at)


def test_the_present_thresholds_give_the_counts_of_the_run(output: Path) -> None:
    shown = judge_thresholds(config(output))
    assert (shown.videos, shown.kept, shown.rejected, shown.undecided) == (12, 3, 8, 1)
    assert shown.trial is None
    present = {
        item.score: (item.reached, item.scored, cut.threshold, cut.kept, cut.rejected)
        for item in shown.filters
        for cut in item.cuts
        if cut.percentile is None
    }
    assert present == {
        "distance": (10, 3, 0.05, 7, 3),
        "motion": (7, 7, 0.07, 5, 2),
        "consistency": (5, 4, 0.2, 4, 1),
    }


def test_percentiles_are_of_the_videos_that_reached_the_stage(output: Path) -> None:
    (motion,) = (item for item in judge_thresholds(config(output)).filters if item.score == "motion")
    # 0, 0.03, 0.08, 0.3, 0.4, 0.5, 0.6: half of them lie at or above the fourth
    (half,) = (cut for cut in motion.cuts if cut.percentile == 50)
    assert (half.threshold, half.kept, half.rejected) == (0.3, 4, 3)


def test_a_percentile_of_parts_is_not_one_threshold(output: Path) -> None:
    facts = json.loads((output / "run.json").read_text())
    facts["config"]["quality"]["consistency"] |= {"threshold": None, "percentile": 20}
    facts["parts"] = {"finished": 3, "all": 3}
    (output / "run.json").write_text(json.dumps(facts))
    notes = {item.score: item.note for item in judge_thresholds(config(output)).filters}
    assert "each of its 3 parts" in notes["consistency"]
    assert notes["motion"] == ""


def test_a_looser_threshold_leaves_the_later_stages_open(output: Path) -> None:
    after, kept, n_open, open_at = trial(output, motion_threshold=0.02)
    assert after == {"integrity": 1, "duplicates": 3, "dynamics": 1, "consistency": 1, "captions": 1}
    assert (kept, n_open, open_at) == (3, 1, {"consistency": 1, "captions": 1})  # "static"


def test_a_stricter_threshold_is_certain(output: Path) -> None:
    after, kept, n_open, open_at = trial(output, motion_threshold=0.45)
    assert after["dynamics"] == 5  # static, frozen, unlike, wordless, slow
    assert (after["consistency"], after["captions"], kept, n_open, open_at) == (0, 0, 2, 0, {})
    after, kept, n_open, _ = trial(output, consistency=0.28)
    assert (after["consistency"], kept, n_open) == (2, 2, 0)  # a video without a caption passes


def test_a_copy_that_would_stay_is_judged_by_the_scores_it_has(output: Path) -> None:
    after, kept, n_open, open_at = trial(output, near_duplicate_threshold=0.01)
    assert after["duplicates"] == 1
    assert after["dynamics"] == 3  # "near and still" has a motion score
    assert (kept, n_open, open_at) == (3, 1, {"consistency": 1, "captions": 1})


def test_more_duplicates_cannot_be_known(output: Path) -> None:
    after, kept, n_open, open_at = trial(output, near_duplicate_threshold=0.2)
    assert after == {"integrity": 1, "duplicates": 3, "dynamics": 2, "consistency": 1, "captions": 1}
    assert (kept, n_open, open_at) == (0, 3, {"duplicates": 3})


def test_all_filters_together(output: Path) -> None:
    after, kept, n_open, _ = trial(output, motion_threshold=0.0, consistency=0.05, near_duplicate_threshold=0)
    assert after == {"integrity": 1, "duplicates": 1, "dynamics": 0, "consistency": 0, "captions": 1}
    assert (kept, n_open) == (3, 5)


def test_the_command_prints_text_and_json(output: Path, capsys: pytest.CaptureFixture[str]) -> None:
    def call(*more: str) -> int:
        args = ["--thresholds", "--output", str(output), *more]
        return JOBS["synthesize"].main(
            args, prog="gve synthesize", connect=lambda: pytest.fail("needs no Ray")
        )

    assert call("--quality.motion_threshold", "0.02") == 0
    text = capsys.readouterr().out
    assert "with quality.motion_threshold 0.02 instead of 0.07" in text
    assert "1 not decided yet" in text
    assert "consistency 1, captions 1" in text
    assert call("--json") == 0
    shown = json.loads(capsys.readouterr().out)
    assert (shown["kept"], shown["trial"]) == (3, None)
    (output / "run.json").unlink()
    with pytest.raises(SystemExit) as ended:
        call()
    assert ended.value.code == 2
    assert f"output='{output}': no run.json in it" in capsys.readouterr().err


def test_a_folder_without_scores_is_named(tmp_path: Path) -> None:
    with pytest.raises(PreflightError, match=r"has no run\.json and no scores\.parquet"):
        judge_thresholds(config(tmp_path))


def test_a_run_without_an_embedder_has_no_cosines(output: Path) -> None:
    facts = json.loads((output / "run.json").read_text())
    facts["config"]["quality"]["consistency"] |= {"model": None, "threshold": None}
    (output / "run.json").write_text(json.dumps(facts))
    scores = pq.read_table(output / "scores.parquet")
    at = scores.schema.get_field_index("consistency")
    pq.write_table(
        scores.set_column(at, "consistency", pa.nulls(scores.num_rows, pa.float64())),
        output / "scores.parquet",
    )
    shown: Thresholds = judge_thresholds(config(output))
    (cosines,) = (item for item in shown.filters if item.score == "consistency")
    assert (cosines.scored, list(cosines.cuts)) == (0, [])
    assert shown.trial is not None
    # The embedder would have to score them first.
    assert (shown.trial.kept, shown.trial.open_videos) == (0, 3)
    without = replace(config(output).quality, consistency=ConsistencyConfig(), motion_threshold=0.02)
    trial = judge_thresholds(replace(config(output), quality=without)).trial
    assert trial is not None
    assert trial.open_at == {"captions": 1}  # without an embedder, all pass its stage


def test_content_filters_that_the_run_did_not_use_are_judged_from_its_scores(tmp_path: Path) -> None:
    # The run rejected "soft" by its blur; the scores of all content filters come from one stage.
    videos = {"soft": ("blur", 3.0, 0.2), "dim": (None, 0.5, 0.95), "fine": (None, 0.5, 0.1)}
    rows = [
        {"video_id": name, "kept": stage is None, "stage": stage, "blur": blur, "darkness": darkness}
        for name, (stage, blur, darkness) in videos.items()
    ]
    schema = pa.schema([*VERDICT_SCHEMA, ("blur", pa.float64()), ("darkness", pa.float64())])
    pq.write_table(pa.Table.from_pylist(rows, schema=schema), tmp_path / "scores.parquet")
    blur = ContentFilterConfig(threshold=1.6)

    def given(**content: ContentFilterConfig) -> SynthesisConfig:
        return config(tmp_path, content=ContentConfig(blur=blur, **content))

    stages = [{"name": name, "unit": "videos"} for name in ("integrity", "content", "blur", "captions")]
    facts = {"config": given().identity(), "stages": stages}
    (tmp_path / "run.json").write_text(json.dumps(facts))
    trial = judge_thresholds(given(darkness=ContentFilterConfig(threshold=0.9))).trial
    assert trial is not None
    assert (trial.kept_before, trial.kept, trial.open_videos) == (2, 1, 0)
    assert trial.after == {"integrity": 0, "content": 0, "blur": 1, "darkness": 1, "captions": 0}
