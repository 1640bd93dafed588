"""The points of a sweep and its summary table. A whole sweep is in tests/integration."""

from pathlib import Path
from typing import Any

import pytest

from gve_ray.evaluation.config import EvaluationJobConfig, ModelConfig, SweepConfig
from gve_ray.evaluation.sweep import SweepResult, pairs, sweep
from gve_ray.job import PreflightError


def job(tmp_path: Path, **options: Any) -> EvaluationJobConfig:
    return EvaluationJobConfig(
        models=(ModelConfig(name="m", model="org/model"),),
        root=str(tmp_path),
        output=str(tmp_path / "out"),
        frames=8,
        max_pixels=12544,
        sweep=SweepConfig(**options),
    )


def test_every_pair_is_run_and_empty_axes_keep_the_config(tmp_path: Path) -> None:
    assert pairs(job(tmp_path, frames=(8, 16), max_pixels=(3136, 6272))) == [
        (8, 3136), (8, 6272), (16, 3136), (16, 6272)
    ]  # fmt: skip
    assert pairs(job(tmp_path, frames=(4,))) == [(4, 12544)]
    assert bool(SweepConfig(max_pixels=(1,)))
    assert not SweepConfig()


@pytest.mark.parametrize(
    "options,message", [({"frames": (8, 7)}, "frames=7"), ({"max_pixels": (9,)}, "max_pixels=9")]
)
def test_an_invalid_pair_is_refused_before_any_run(
    tmp_path: Path, options: dict[str, Any], message: str
) -> None:
    with pytest.raises(PreflightError, match=f"sweep: .*{message}"):
        sweep(job(tmp_path, **options))
    assert not (tmp_path / "out").exists()


def test_the_summary_table() -> None:
    def point(frames: int, score: float | None) -> dict[str, Any]:
        facts = {
            "datasets": {"MSRVTT": score},
            "abilities": {} if score is None else {"CG": score},
            "average_datasets": None,
            "average_abilities": None,
            "seconds": 2.5,
            "new": 7,
        }
        return {"frames": frames, "tokens": 16.0, "models": {"m": facts}}

    lines = str(SweepResult(output="out", points=[point(8, 0.5), point(16, None)])).splitlines()
    assert lines[1].split() == ["m", "8", "x", "16", "16", "x", "16"]
    assert lines[2].split() == ["MSRVTT", "0.500", "-"]
    assert lines[3].split() == ["CG", "0.500", "-"]
    assert lines[4].split() == ["average_datasets", "-", "-"]
    assert lines[6].split() == ["embedding", "2.5", "s", "2.5", "s"]
    assert lines[7].split() == ["items", "embedded", "7", "7"]
    assert lines[-1] == "out/sweep.json"
