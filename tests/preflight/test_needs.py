"""Tests the declared needs of each job for configs whose needs are known, and the checks of paths."""

from collections.abc import Mapping
from pathlib import Path

import pytest

from gve_ray.job import PreflightError
from gve_ray.preflight import Needs, check_paths, check_request
from gve_ray.registry import JOBS
from gve_ray.synthesis.config import CaptionerConfig, SynthesisConfig


def needs_of(job: str, *args: str) -> Needs:
    needs = JOBS[job].needs_of(JOBS[job].read_config(args, prog="test"))
    assert isinstance(needs, Needs)
    return needs


def pools(needs: Needs) -> Mapping[str, tuple[int | None, Mapping[str, float], list[str]]]:
    """Return count, demands and the options of the weights that are loaded, by the pool's option.

    What the recipe leaves to `size_pools` is not there.
    """
    return {
        pool.option: (pool.count, pool.demands, [weights.option for weights in pool.loads])
        for pool in needs.workers
    }


def test_synthesis() -> None:
    needs = needs_of(
        "synthesize", "--config", "gve-3b.yaml", "--resources.captioner.accelerator_type", "H100"
    )
    assert pools(needs) == {
        "resources.media": (None, {"CPU": 1}, []),
        "resources.shots": (None, {"CPU": 1}, []),
        "resources.captioner": (None, {"accelerator_type:H100": 0.001}, ["captioner.model"]),
        "resources.consistency": (None, {}, ["quality.consistency.model"]),
    }
    assert [source.uri for source in needs.inputs] == ["raw/manifest.parquet"]
    assert needs.outputs == {"output": "runs/gve-3b"}


def test_consistency_is_counted_only_where_it_runs() -> None:
    config = SynthesisConfig(input="videos", output="run", captioner=CaptionerConfig(model="m"))
    assert set(pools(JOBS["synthesize"].needs_of(config))) == {"resources.media", "resources.captioner"}


def test_elastic_training_needs_its_smallest_number_of_ranks(tmp_path: Path) -> None:
    needs = needs_of(
        "train", "--config", "gve-3b.yaml", "--output", str(tmp_path), "--resources",
        '{"workers": 32, "min_workers": 8, "num_cpus": 10, "feed_workers": 6, "num_gpus": 1}',
    )  # fmt: skip
    assert pools(needs) == {"resources": (8, {"CPU": 10, "GPU": 1}, ["model", "prober.model"])}
    assert needs.workers[0].count_option == "min_workers"
    assert [(source.option, source.uri) for source in needs.inputs] == [
        ("data.uvrd.uri", "runs/gve-3b/uvrd"),
        ("assets", "runs/gve-3b/assets.lance"),
    ]
    assert needs.outputs == {"output": str(tmp_path)}


def test_evaluation(tmp_path: Path) -> None:
    (tmp_path / "MSRVTT").mkdir()
    data = '[{"name": "mine", "folder": "%s"}]' % (tmp_path / "MSRVTT")
    args = ["--root", "null", "--data", data, "--output", str(tmp_path / "run")]
    needs = needs_of("evaluate", "--config", "gve-3b.yaml", *args, "--cache", str(tmp_path / "cache"))
    loads = ["models.base.model", "models.gve-3b.model"]
    assert pools(needs) == {"resources": (None, {}, loads)}
    assert needs.workers[0].in_turn
    assert [(source.option, source.uri) for source in needs.inputs] == [
        ("data.mine.folder", str(tmp_path / "MSRVTT"))
    ]
    assert needs.outputs == {"output": str(tmp_path / "run"), "cache": str(tmp_path / "cache")}


def test_a_root_without_data_sets_is_an_input_that_cannot_be_listed(tmp_path: Path) -> None:
    models = '[{"name": "a", "model": "package://demo/tiny_vl/model"}]'
    args = ["--models", models, "--root", str(tmp_path), "--output", "x"]
    (source,) = needs_of(
        "evaluate", *args, "--frames", "8", "--max_pixels", "12544", "--min_pixels", "3136"
    ).inputs
    assert source.option == "root"
    with pytest.raises(PreflightError, match="holds no data set of UVRB"):
        source.sample()


def test_indexing(tmp_path: Path) -> None:
    needs = needs_of("index", "--config", "gve-3b.yaml", "--output", str(tmp_path))
    assert pools(needs) == {
        "resources.probe": (None, {"CPU": 1}, []),
        "resources.embed": (None, {}, ["model.model"]),
    }
    assert (needs.inputs[0].uri, needs.outputs) == ("videos", {"output": str(tmp_path)})


def test_serving_needs_all_replicas_at_once() -> None:
    needs = needs_of("serve", "--config", "gve-3b.yaml")
    assert pools(needs) == {
        "models.gve-3b.replicas": (None, {}, []),  # the index, which names the model, does not exist
        "gateway.replicas": (None, {}, []),
    }
    assert needs.together
    assert [source.option for source in needs.inputs] == ["models.gve-3b.index"]
    with pytest.raises(PreflightError, match="no index of videos"):
        check_request(needs)
    models = '[{"name": "a", "model": {"name": "m", "model": "org/m", "adapter": "org/lora"}}]'
    loads = pools(needs_of("serve", "--models", models))["models.a.replicas"][2]
    assert loads == ["models.a.model", "models.a.adapter"]


def test_relative_paths_are_refused_in_an_uploaded_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    needs = Needs(job="index", workers=[], paths={"input": "videos", "output": "/shared/run"})
    check_paths(needs)
    uploaded = tmp_path / "runtime_resources" / "working_dir_files" / "_ray_pkg_0123"
    uploaded.mkdir(parents=True)
    monkeypatch.chdir(uploaded)
    with pytest.raises(PreflightError, match=r"input='videos'.*--input \"\$PWD/videos\""):
        check_paths(needs)
