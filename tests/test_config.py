"""Tests how configs are read and validated, and that the packaged recipes have the values of the paper."""

import re
from dataclasses import dataclass
from pathlib import Path

import pytest

from gve_ray.config import (
    ModelConfig,
    StageResources,
    check_numbers,
    load_config,
    number,
    recipe_path,
    resolve_model,
)
from gve_ray.embedder import EmbedderSettings
from gve_ray.evaluation.config import ContaminationConfig, DataConfig, EvaluationJobConfig
from gve_ray.indexing.config import IndexConfig, ReadingConfig
from gve_ray.media import MediaError
from gve_ray.media.decode import DEFAULT_LIMITS
from gve_ray.serving.config import ServedModel
from gve_ray.synthesis.config import (
    AssembleConfig,
    CaptionerConfig,
    ConsistencyConfig,
    MediaConfig,
    SynthesisConfig,
)
from gve_ray.training.config import DataSetConfig, ProberConfig, TrainingJobConfig

MINIMAL = "input: videos\noutput: run\ncaptioner:\n  model: m\n"


def load(*args: str) -> SynthesisConfig:
    return load_config(SynthesisConfig, args, prog="test")


@pytest.fixture
def minimal(tmp_path: Path) -> str:
    path = tmp_path / "minimal.yaml"
    path.write_text(MINIMAL)
    return str(path)


@pytest.mark.parametrize(
    "kind, values, says",
    [
        (MediaConfig, {"frames": 7}, "frames=7: Qwen2.5-VL needs an even number.*use 6 or 8"),
        (MediaConfig, {"frames": 0}, "use 2 or 4"),
        (MediaConfig, {"max_pixels": 100}, "max_pixels=100"),
        (MediaConfig, {"min_pixels": 783}, "min_pixels=783.*784"),
        (MediaConfig, {"clip_seconds": (10.0, 2.0)}, r"clip_seconds=\[10.0, 2.0\]"),
        (MediaConfig, {"clips": -1}, "clips=-1"),
        (ConsistencyConfig, {"model": "m"}, "exactly one"),
        (ConsistencyConfig, {"model": "m", "threshold": 0.3, "percentile": 20.0}, "exactly one"),
        (ConsistencyConfig, {"model": "m", "threshold": 1.5}, "threshold=1.5: a cosine"),
        (ConsistencyConfig, {"model": "m", "percentile": 100.0}, "percentile=100"),
        (CaptionerConfig, {"model": ""}, "name a model"),
        (CaptionerConfig, {"model": "m", "max_attempts": 0}, "max_attempts=0"),
        (CaptionerConfig, {"model": "m", "engine_args": {"revision": "x"}}, "set captioner.revision"),
        (AssembleConfig, {"quotas": {"T2X": 1}}, r"\['T2X'\]: unknown task"),
        (AssembleConfig, {"quotas": {"T2T": -1}}, "quotas.T2T=-1"),
        (AssembleConfig, {"scale": 0.0}, "scale=0"),
        (StageResources, {"actors": 0}, "actors=0"),
        (StageResources, {"num_gpus": -1.0}, "num_gpus=-1"),
    ],
)
def test_invalid_values_are_refused(kind: type, values: dict[str, object], says: str) -> None:
    with pytest.raises(ValueError, match=says):
        kind(**values)


@dataclass(frozen=True, kw_only=True)
class Numbers:
    share: float = number(0.5, above=0, at_most=1, hint="a share")
    port: int = number(80, at_least=0, below=100)
    limit: int | None = number(None, at_least=2)


@pytest.mark.parametrize(
    "values", [{}, {"share": 1.0}, {"port": 0}, {"port": 99}, {"limit": 2}, {"limit": None}]
)
def test_numbers_within_their_bounds(values: dict[str, float]) -> None:
    check_numbers(Numbers(**values))


@pytest.mark.parametrize(
    "values,message",
    [
        ({"share": 0.0}, "x.share=0.0: a share; use a number that is above 0 and at most 1"),
        ({"share": 1.1}, "x.share=1.1: a share; use a number that is above 0 and at most 1"),
        ({"port": 100}, "x.port=100: use a number that is at least 0 and below 100"),
        ({"port": -1}, "x.port=-1: use a number that is at least 0 and below 100"),
        ({"limit": 1}, "x.limit=1: use a number that is at least 2"),
    ],
)
def test_numbers_beyond_their_bounds(values: dict[str, float], message: str) -> None:
    with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
        check_numbers(Numbers(**values), "x")


def test_all_jobs_treat_a_video_in_the_same_way() -> None:
    """Decoding has the same limits and the same budget everywhere unless a config changes them."""
    data = (DataSetConfig(name="d", uri="x"),)
    model = ModelConfig(name="m", model="m")
    configs = (
        MediaConfig(),
        TrainingJobConfig(model="m", data=data, output="x"),
        EvaluationJobConfig(models=(model,), root="x", output="x"),
        IndexConfig(model=model, input="x", output="x"),
        EmbedderSettings(),
    )
    assert {(config.frames, config.max_pixels, config.min_pixels) for config in configs} == {
        (8, 156_800, 3136)
    }
    for limits in (MediaConfig().limits, ReadingConfig().limits, DEFAULT_LIMITS):
        limits.check_bytes(3 * 2**30)
        limits.check_length(3.5 * 3600, frames=500_000)
        with pytest.raises(MediaError, match="too_large"):
            limits.check_bytes(4 * 2**30 + 1)


def test_a_captioner_actor_reserves_the_gpus_of_its_engine(
    minimal: str, capsys: pytest.CaptureFixture[str]
) -> None:
    two = ["--config", minimal, "--captioner.tensor_parallel_size", "2", "--resources.captioner.num_gpus"]
    assert load(*two, "2").resources.captioner.num_gpus == 2
    with pytest.raises(SystemExit):
        load(*two, "1")
    assert "set num_gpus to 2" in capsys.readouterr().err


def test_later_values_win_and_lists_become_tuples(minimal: str, tmp_path: Path) -> None:
    more = tmp_path / "more.yaml"
    more.write_text("media: {frames: 6, clip_seconds: [1, 3]}\ncaptioner: {engine_args: {dtype: float32}}\n")
    config = load("--config", minimal, "--config", str(more), "--media.frames", "4")
    assert (config.media.frames, config.media.clip_seconds) == (4, (1.0, 3.0))
    assert (config.captioner.model, config.captioner.engine_args) == ("m", {"dtype": "float32"})


@pytest.mark.parametrize(
    "args, says",
    [
        (["--media.frames", "7"], "error: media.frames=7: Qwen2.5-VL"),
        (["--media.frames", "many"], "media.frames"),
        (["--media.fram", "6"], "unrecognized arguments: --media.fram"),
        (
            ["--config", "demo.yml"],
            "--config demo.yml: no such file, and no recipe of this name; recipes: demo.yaml",
        ),
    ],
)
def test_errors_end_the_program_with_status_2(
    args: list[str], says: str, minimal: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as ended:
        load("--config", minimal, *args)
    error = capsys.readouterr().err
    assert ended.value.code == 2
    assert says in error
    assert len(error.splitlines()) < 8, "the usage text must not push the error off the screen"


def test_a_missing_model_is_named(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        load("--input", "a", "--output", "b")
    assert "captioner.model" in capsys.readouterr().err


def test_a_printed_config_can_be_read(
    minimal: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as ended:
        load("--config", minimal, "--seed", "7", "--print_config")
    assert ended.value.code == 0
    printed = tmp_path / "printed.yaml"
    printed.write_text(capsys.readouterr().out)
    assert load("--config", str(printed)) == load("--config", minimal, "--seed", "7")


@pytest.mark.parametrize("name", ["demo.yaml", "demo", "gve-3b.yaml", "gve-7b.yaml"])
def test_recipes_are_found_by_name(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    config = load(f"--config={name}", "--seed", "3")
    assert config.seed == 3


def test_a_file_in_the_current_folder_takes_precedence_over_a_recipe(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "demo.yaml").write_text(MINIMAL)
    assert load("--config", "demo.yaml").captioner.model == "m"
    assert recipe_path("gve-3b.yaml", "synthesize").endswith("recipes/synthesize/gve-3b.yaml")


MODEL = ModelConfig(name="m", model="m")
DATA = DataSetConfig(name="d", uri="x")


@pytest.mark.parametrize(
    "kind, values, fields",
    [
        (SynthesisConfig, {"captioner": CaptionerConfig(model="m")}, ("input", "output", "work")),
        (CaptionerConfig, {}, ("model",)),
        (ConsistencyConfig, {"threshold": 0.3}, ("model", "adapter")),
        (ModelConfig, {"name": "m"}, ("model", "adapter")),
        (IndexConfig, {"model": MODEL}, ("input", "output")),
        (DataConfig, {"name": "d"}, ("folder",)),
        (DataConfig, {"name": "d", "format": "msrvtt"}, ("folder", "annotations")),
        (EvaluationJobConfig, {"models": (MODEL,)}, ("root", "output", "cache")),
        (ServedModel, {"name": "m"}, ("index",)),
        (DataSetConfig, {"name": "d"}, ("uri", "root")),
        (ProberConfig, {}, ("model", "adapter")),
        (TrainingJobConfig, {"data": (DATA,)}, ("model", "assets", "output")),
    ],
)
def test_paths_are_expanded_to_the_home_folder(
    kind: type, values: dict[str, object], fields: tuple[str, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOME", "/home/me")
    config = kind(**values, **{name: f"~/{name}" for name in fields})
    assert [getattr(config, name) for name in fields] == [f"/home/me/{name}" for name in fields]
    others = ("s3://b/~/x", "./~x", "a~b", "~no-such-user/x")
    for other in others:
        config = kind(**values, **dict.fromkeys(fields, other))
        assert {getattr(config, name) for name in fields} == {other}


def test_training_sources_are_expanded_to_the_home_folder(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", "/home/me")
    for training in ("~/a.lance", ("~/a.lance", "s3://b/~/x")):
        sources = ContaminationConfig(training=training).sources
        assert sources == ("/home/me/a.lance", "s3://b/~/x")[: len(sources)]


def test_the_config_itself_may_be_below_the_home_folder(
    minimal: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOME", str(Path(minimal).parent))
    assert load("--config=~/minimal.yaml", "--output=~/run").output == f"{Path(minimal).parent}/run"


def test_full_size_recipes_have_the_values_of_the_paper() -> None:
    for name in ("gve-3b.yaml", "gve-7b.yaml"):
        media = load("--config", name).media
        assert (media.frames, media.max_pixels, media.clip_seconds) == (8, 200 * 28 * 28, (2.0, 10.0))
        assert media.min_pixels == 4 * 28 * 28
        assert load("--config", name).resources.captioner.num_gpus == "auto"
    # Table 7: 1.55 M pairs
    assert sum(load("--config", "gve-7b.yaml").assemble.quotas.values()) == 1_549_000
    assert load("--config", "demo.yaml").media.max_pixels == 112 * 112


def test_identity_leaves_out_what_does_not_change_the_rows(minimal: str) -> None:
    base = load("--config", minimal).identity()
    same = [
        "--resources.captioner.actors",
        "9",
        "--commit_seconds",
        "1",
        "--output",
        "x",
        "--report.samples",
        "1",
    ]
    assert load("--config", minimal, *same).identity() == base
    for other in (
        ["--seed", "1"],
        ["--captioner.temperature", "0"],
        ["--media.frames", "4"],
        ["--input", "y"],
    ):
        assert load("--config", minimal, *other).identity() != base


def test_package_models_resolve_to_folders() -> None:
    assert Path(resolve_model("package://recipes")).joinpath("train/demo.yaml").is_file()
    assert resolve_model("Qwen/Qwen2.5-VL-7B-Instruct") == "Qwen/Qwen2.5-VL-7B-Instruct"
    with pytest.raises(FileNotFoundError, match="package://no/such"):
        resolve_model("package://no/such")
