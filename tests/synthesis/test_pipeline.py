"""The list of stages: what each needs is written before it, and filters of the user's own fit into it."""

import dataclasses
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from gve_ray.config import config_of
from gve_ray.job import PreflightError
from gve_ray.synthesis.config import CaptionerConfig, CustomStageConfig, SynthesisConfig
from gve_ray.synthesis.pipeline import STAGES, stages_of

OVERLAY = "examples.add_a_stage:TextOverlayFilter"


def config(*stages: dict[str, Any]) -> SynthesisConfig:
    return SynthesisConfig(
        input="videos",
        output="run",
        captioner=CaptionerConfig(model="m"),
        stages=[CustomStageConfig(**stage) for stage in stages],
    )


def own(name: str = "text_overlay", **changes: Any) -> dict[str, Any]:
    return {"name": name, "after": "dynamics", "worker": OVERLAY} | changes


def test_every_stage_reads_what_was_given_or_written_before_it() -> None:
    written = {"manifest"}
    for stage in stages_of(config(own())):
        assert set(stage.reads) <= written, stage.name
        written |= set(stage.writes)
    assert written >= {"assets.lance", "rejects.lance", "annotations.lance", "uvrd"}


def test_filters_follow_the_stage_that_they_name() -> None:
    names = [stage.name for stage in stages_of(config(own("first"), own("second", after="first")))]
    expected = [stage.name for stage in STAGES]
    at = expected.index("dynamics") + 1
    assert names == [*expected[:at], "first", "second", *expected[at:]]


@pytest.mark.parametrize(
    ("stage", "message"),
    [
        (own("dynamics"), "stages.dynamics: there is a stage of this name already"),
        (own(after="rectify"), "after='rectify': .* use integrity, duplicates, dynamics, consistency"),
        (own(after="captions"), "use integrity, duplicates, dynamics, consistency"),
        (own(worker="no_such_module:Filter"), r"ModuleNotFoundError: No module named 'no_such_module'"),
        (own(worker="examples.add_a_stage:Missing"), "AttributeError.* 'Missing'"),
        (own(worker="examples.add_a_stage:text_share"), "not a class whose instances can be called"),
        (own(worker="pathlib:PurePath"), "not a class whose instances can be called"),
        (own(options={"max_shares": 1}), r"options={'max_shares': 1} .*arguments are \(max_share: float"),
    ],
)
def test_a_filter_that_cannot_run_is_refused(stage: dict[str, Any], message: str) -> None:
    with pytest.raises(PreflightError, match=message):
        stages_of(config(stage))


def test_a_filter_is_part_of_the_config_s_identity_and_its_resources_are_not() -> None:
    assert "stages" not in config().identity()
    lean, rich = own(), own(resources=dataclasses.replace(config().resources.media, actors=9))
    assert config(lean).identity() == config(rich).identity()
    assert config(lean).identity() != config(own(options={"max_share": 0.2})).identity()


def test_a_filter_is_read_from_yaml_values() -> None:
    values = {
        "input": "v",
        "output": "o",
        "captioner": {"model": "m"},
        "stages": [own(options={"max_share": 0.2})],
    }
    (stage,) = config_of(SynthesisConfig, values).stages
    assert (stage.name, stage.options, stage.resources.actors) == ("text_overlay", {"max_share": 0.2}, "auto")
    with pytest.raises(ValueError, match="name a class as module:Class"):
        config(own(worker="my_filters.MyFilter"))


def test_a_filter_in_the_current_folder_is_found(tmp_path: Path) -> None:
    (tmp_path / "my_filters.py").write_text(
        "class Mine:\n    def __call__(self, rows):\n        return rows\n"
    )
    code = "from gve_ray.synthesis.stages import load_class; print(load_class('my_filters:Mine').__name__)"
    root = str(Path(__file__).resolve().parents[2])
    run = subprocess.run(
        [sys.executable, "-P", "-c", code],
        cwd=tmp_path,
        env={"PYTHONPATH": root},
        capture_output=True,
        text=True,
        check=True,
    )
    assert run.stdout.strip() == "Mine"
