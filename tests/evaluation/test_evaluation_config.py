"""The evaluation config: recipes load, and invalid configs are refused with a message that names
the fix.
"""

import os
from pathlib import Path
from typing import Any

import pytest

from gve_ray.config import load_config
from gve_ray.evaluation.config import (
    ContaminationConfig,
    DataConfig,
    EvaluationJobConfig,
    ModelConfig,
    ReportConfig,
)

BASE = {"name": "base", "model": "org/model"}


def job(**changes: Any) -> EvaluationJobConfig:
    values: dict[str, Any] = {"models": (ModelConfig(**BASE),), "root": "uvrb", "output": "out"}
    return EvaluationJobConfig(**{**values, **changes})


@pytest.mark.parametrize("recipe,frames,pixels,depth", [("demo", 8, 12544, 100), ("gve-3b", 8, 156800, 1000)])
def test_recipes_load(recipe: str, frames: int, pixels: int, depth: int) -> None:
    config = load_config(EvaluationJobConfig, ["--config", recipe])
    assert (config.frames, config.max_pixels, config.depth) == (frames, pixels, depth)
    assert config.models[0].name == "base"
    assert config.cache is not None


def test_paths_and_resources_are_not_part_of_the_identity(tmp_path: Path) -> None:
    assert job().identity() == job(output=str(tmp_path), cache="elsewhere", commit_seconds=1.0).identity()
    assert job().identity() != job(frames=16).identity()


@pytest.mark.parametrize(
    "changes,message",
    [
        ({"models": ()}, "models=\\[\\]"),
        ({"models": (ModelConfig(**BASE), ModelConfig(**BASE))}, "models: base named twice"),
        ({"root": None}, "name the folder of UVRB or MMEB-V2, or data sets"),
        ({"depth": 1001}, "depth=1001: use a number that is at least 1 and at most 1000"),
        ({"depth": 5}, "hit@10, ndcg@10, recall@10 looks at more neighbours"),
        ({"data": (DataConfig(name="x", folder="x", metric="hit@200"),)}, "hit@200 looks at more"),
        ({"output": ""}, "output='': name a folder, on a disk"),
    ],
)
def test_invalid_configs_are_refused(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        job(**changes)


@pytest.mark.parametrize(
    "changes,message",
    [
        ({"name": "a/b"}, "name='a/b'"),
        ({"engine": "openai"}, "openai needs a url"),
        ({"url": "http://here/v1"}, "others none"),
        ({"engine": "openai", "url": "file:///etc/passwd"}, "use http:// or https://"),
        ({"engine": "sentence-transformers", "adapter": "x"}, "export a merged model"),
        ({"engine": "vllm", "rescale": True}, "only the torch engine"),
        ({"engine": "vllm", "compile": True}, "decides itself whether to compile; leave it out"),
        ({"engine_args": {"seed": 1}}, "the engine torch takes none"),
    ],
)
def test_invalid_models_are_refused(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        ModelConfig(**{**BASE, **changes})


@pytest.mark.parametrize(
    "training,sources",
    [
        (None, ()),
        ("a.lance", ("a.lance",)),
        (("a.lance", "~/films"), ("a.lance", os.path.expanduser("~/films"))),
    ],
)
def test_one_or_several_training_sources(
    training: str | tuple[str, ...] | None, sources: tuple[str, ...]
) -> None:
    assert ContaminationConfig(training=training).sources == sources


def test_an_empty_training_source_is_refused() -> None:
    with pytest.raises(ValueError, match=r"contamination\.training='': name an assets\.lance"):
        ContaminationConfig(training=("a.lance", ""))


def test_the_subject_is_the_last_model_unless_the_report_names_it() -> None:
    models = (ModelConfig(**BASE), ModelConfig(**{**BASE, "name": "other"}))
    assert job(models=models).subject == "other"
    assert job(models=models, report=ReportConfig(model=models[0].name)).subject == models[0].name
