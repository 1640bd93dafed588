"""What is refused before any work is done."""

from collections.abc import Mapping, Sequence
from pathlib import Path

import pytest

from gve_ray.config import (
    CaptionerConfig,
    ConsistencyConfig,
    QualityConfig,
    StageResources,
    SynthesisConfig,
    SynthesisResources,
)
from gve_ray.doctor import check_workers
from gve_ray.job import PreflightError
from gve_ray.synthesis.preflight import check_models, check_paths, needs_of


def config(
    *,
    model: str = "m",
    embedder: ConsistencyConfig | None = None,
    output: str = "run",
    **resources: StageResources,
) -> SynthesisConfig:
    return SynthesisConfig(
        input="videos",
        output=output,
        captioner=CaptionerConfig(model=model),
        quality=QualityConfig(consistency=embedder or ConsistencyConfig()),
        resources=SynthesisResources(**resources),
    )


def check_resources(config: SynthesisConfig, nodes: Sequence[Mapping[str, float]]) -> None:
    check_workers(needs_of(config), nodes)


def test_a_missing_gpu_is_named_with_the_fix() -> None:
    wanted = config(captioner=StageResources(actors=2, num_gpus=1.0, num_cpus=4))
    with pytest.raises(
        PreflightError,
        match=r"captioner: needs 2 x \(4 CPU, 1 GPU\), cluster has 8 CPU, 0 GPU in 1 nodes",
    ):
        check_resources(wanted, [{"CPU": 8.0}])
    with pytest.raises(PreflightError, match=r"room for 1.*--resources\.captioner\.actors 1"):
        check_resources(wanted, [{"CPU": 8.0, "GPU": 1.0}])
    check_resources(wanted, [{"CPU": 8.0, "GPU": 2.0}])


def test_an_actor_is_not_split_over_nodes() -> None:
    wanted = config(media=StageResources(num_cpus=3))
    with pytest.raises(PreflightError, match="media"):
        check_resources(wanted, [{"CPU": 2.0}, {"CPU": 2.0}])
    check_resources(wanted, [{"CPU": 2.0}, {"CPU": 4.0}])


def test_tenths_of_a_core_add_up() -> None:
    # 0.3 / 0.1 is 2.9999999999999996 in floating point; three actors fit.
    check_resources(config(media=StageResources(actors=3, num_cpus=0.1)), [{"CPU": 0.3}, {"CPU": 1.0}])
    with pytest.raises(PreflightError, match=r"media: needs 4 x .* room for 3"):
        check_resources(config(media=StageResources(actors=4, num_cpus=0.1)), [{"CPU": 0.3}])


def test_consistency_is_counted_only_where_it_runs() -> None:
    greedy = StageResources(num_gpus=1.0)
    check_resources(config(consistency=greedy), [{"CPU": 8.0}])
    embedder = ConsistencyConfig(model="m", threshold=0.3)
    with pytest.raises(PreflightError, match=r"resources\.consistency"):
        check_resources(config(consistency=greedy, embedder=embedder), [{"CPU": 8.0}])


def test_an_autoscaling_cluster_may_be_empty() -> None:
    check_resources(config(captioner=StageResources(num_gpus=1.0, wait_for_nodes=True)), [{"CPU": 2.0}])


def test_a_missing_model_is_named(tmp_path: Path) -> None:
    with pytest.raises(PreflightError, match=r"captioner\.model='/no/such/model': no such folder"):
        check_models(config(model="/no/such/model"))
    with pytest.raises(PreflightError, match=rf"captioner\.model='{tmp_path}'.*has no config\.json"):
        check_models(config(model=str(tmp_path)))
    with pytest.raises(PreflightError, match=r"captioner\.model.*package://no/such"):
        check_models(config(model="package://no/such"))
    (tmp_path / "config.json").write_text("{}")
    check_models(config(model=str(tmp_path)))
    adapter = ConsistencyConfig(model=str(tmp_path), adapter=str(tmp_path), threshold=0.3)
    with pytest.raises(PreflightError, match=r"quality\.consistency\.adapter=.*has no adapter_config\.json"):
        check_models(config(model=str(tmp_path), embedder=adapter))


def test_a_hub_name_is_asked_for_before_work(monkeypatch: pytest.MonkeyPatch) -> None:
    import huggingface_hub

    asked = []

    def download(name: str, file: str, *, revision: str | None) -> str:
        asked.append((name, file, revision))
        raise FileNotFoundError("not in the cache\nand more lines")

    monkeypatch.setattr(huggingface_hub, "hf_hub_download", download)
    with pytest.raises(PreflightError, match=r"'org/name' \(revision main\).*not in the cache\)"):
        check_models(config(model="org/name"))
    assert asked == [("org/name", "config.json", None)]


def test_relative_paths_are_refused_in_an_uploaded_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    check_paths(config())
    uploaded = tmp_path / "runtime_resources" / "working_dir_files" / "_ray_pkg_0123"
    uploaded.mkdir(parents=True)
    monkeypatch.chdir(uploaded)
    with pytest.raises(PreflightError, match=r"input='videos'.*--input \"\$PWD/videos\""):
        check_paths(config())
