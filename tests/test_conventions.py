"""Tests the table of conventions and the way a config names an entry of it."""

import json

import pytest

from gve_ray import cli
from gve_ray.config import ModelConfig, load_config
from gve_ray.conventions import Convention, conventions, find_convention
from gve_ray.evaluation.config import EvaluationJobConfig

ENGINES = {"torch", "vllm", "sentence-transformers", "frames", "openai", None}


@pytest.mark.parametrize("row", conventions(), ids=lambda row: row.name)
def test_an_entry_is_complete_and_names_its_source(row: Convention) -> None:
    assert row.engine in ENGINES
    assert row.source
    assert set(row.not_checked) <= set(Convention.__dataclass_fields__)
    assert row.revision is None or len(row.revision) == 40
    if row.engine is None:
        assert row.note
    else:
        assert row.repository
        assert row.revision
    # What is unknown is null, not a guess.
    unknown = set(row.not_checked) & {"repository", "revision", "dimension", "padding", "order", "pooling"}
    guessed = {name for name in unknown if getattr(row, name) is not None}
    assert guessed <= {"dimension"}


def test_a_config_takes_the_values_of_the_table_except_those_it_gives() -> None:
    row = find_convention("clip-base-32")
    model = ModelConfig(convention="clip-base-32")
    assert (model.name, model.model, model.revision, model.engine) == (
        "clip-base-32", "openai/clip-vit-base-patch32", row.revision, "frames",
    )  # fmt: skip
    mine = ModelConfig(convention="clip-base-32", name="mine", model="/models/clip", dtype="float32")
    assert (mine.name, mine.model, mine.revision, mine.dtype) == ("mine", "/models/clip", None, "float32")
    assert ModelConfig(convention="gve-3b", engine="vllm").engine == "vllm"
    qwen = ModelConfig(convention="qwen3-vl-embedding-2b")
    assert (qwen.default_instruction, qwen.end_instructions) == ("Represent the user's input.", True)


def test_remote_code_is_run_only_if_it_is_allowed() -> None:
    with pytest.raises(ValueError, match="set allow_remote_code: true for this model"):
        ModelConfig(convention="wemm-embedding-2b")
    assert (
        ModelConfig(convention="wemm-embedding-2b", allow_remote_code=True).engine == "sentence-transformers"
    )


def test_a_model_that_no_engine_runs_and_an_unknown_name_are_refused() -> None:
    with pytest.raises(ValueError, match="convention=vlm2vec-v2: no engine runs this model: its prompt"):
        ModelConfig(convention="vlm2vec-v2")
    with pytest.raises(ValueError, match="convention='gve': not in the table; use one of gve-3b"):
        ModelConfig(convention="gve")


def test_models_by_name_on_the_command_line() -> None:
    more = ["--root", "uvrb", "--output", "out"]
    config = load_config(EvaluationJobConfig, ["--models", "clip-base-32", "siglip2-base", *more])
    assert [model.convention for model in config.models] == ["clip-base-32", "siglip2-base"]
    config = load_config(EvaluationJobConfig, ["--models", "[{convention: gve-3b, engine: vllm}]", *more])
    assert [(model.name, model.engine) for model in config.models] == [("gve-3b", "vllm")]


def test_gve_models_lists_them(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["models"]) == 0
    text = capsys.readouterr().out
    assert all(row.name in text for row in conventions())
    assert cli.main(["models", "--json"]) == 0
    rows = json.loads(capsys.readouterr().out)
    assert [row["name"] for row in rows] == [row.name for row in conventions()]
