"""What each job says it needs, of configs whose needs are known; and the files that are read of a folder."""

from collections.abc import Mapping
from pathlib import Path

import pytest

from gve_ray.config import SynthesisConfig, load_config
from gve_ray.doctor.needs import Needs, Read, Workers, check_together, first_files
from gve_ray.evaluation import preflight as evaluation
from gve_ray.evaluation.config import EvaluationJobConfig
from gve_ray.indexing import preflight as indexing
from gve_ray.indexing.config import IndexConfig
from gve_ray.job import PreflightError
from gve_ray.serving import preflight as serving
from gve_ray.serving.config import ServeConfig
from gve_ray.synthesis import preflight as synthesis
from gve_ray.training import preflight as training
from gve_ray.training.config import TrainingJobConfig


def pools(needs: Needs) -> Mapping[str, tuple[int, Mapping[str, float], list[str]]]:
    """Count, demands and options of what is loaded, by the pool's option."""
    return {
        pool.option: (pool.count, pool.demands, [one.option for one in pool.loads]) for pool in needs.workers
    }


def test_synthesis() -> None:
    config = load_config(
        SynthesisConfig, ["--config", "gve-3b.yaml", "--resources.captioner.accelerator_type", "H100"]
    )
    needs = synthesis.needs_of(config)
    assert pools(needs) == {
        "resources.media": (64, {"CPU": 1, "memory": 2**32}, []),
        "resources.captioner": (8, {"CPU": 4, "GPU": 1, "accelerator_type:H100": 0.001}, ["captioner.model"]),
        "resources.consistency": (4, {"CPU": 2, "GPU": 1}, ["quality.consistency.model"]),
    }
    assert [one.uri for one in needs.reads] == ["raw/manifest.parquet"]
    assert needs.writes == {"output": "runs/gve-3b"}


def test_training_counts_the_feed_beside_the_rank(tmp_path: Path) -> None:
    args = ["--config", "gve-3b.yaml", "--output", str(tmp_path), "--resources.min_workers", "8"]
    needs = training.needs_of(load_config(TrainingJobConfig, args))
    assert pools(needs) == {"resources": (8, {"CPU": 10, "GPU": 1}, ["model", "prober.model"])}
    assert needs.workers[0].count_option == "min_workers"
    assert [(one.option, one.uri) for one in needs.reads] == [
        ("data.uvrd.uri", "runs/gve-3b/uvrd"),
        ("assets", "runs/gve-3b/assets.lance"),
    ]
    assert needs.writes == {"output": str(tmp_path)}


def test_evaluation(tmp_path: Path) -> None:
    (tmp_path / "MSRVTT").mkdir()
    values = '[{"name": "mine", "folder": "%s"}]' % (tmp_path / "MSRVTT")
    args = ["--config", "gve-3b.yaml", "--root", "null", "--data", values, "--output", str(tmp_path / "run")]
    needs = evaluation.needs_of(load_config(EvaluationJobConfig, [*args, "--cache", str(tmp_path / "cache")]))
    loads = ["models.base.model", "models.gve-3b.model"]
    assert pools(needs) == {"resources": (8, {"CPU": 8, "GPU": 1}, loads)}
    assert [(one.option, one.uri) for one in needs.reads] == [("data.mine.folder", str(tmp_path / "MSRVTT"))]
    assert needs.writes == {"output": str(tmp_path / "run"), "cache": str(tmp_path / "cache")}


def test_data_sets_that_are_not_there_are_the_checks_to_tell(tmp_path: Path) -> None:
    model = "package://demo/tiny_vl/model"
    args = ["--models", f'[{{"name": "a", "model": "{model}"}}]', "--root", str(tmp_path), "--output", "x"]
    args += ["--frames", "8", "--max_pixels", "12544", "--min_pixels", "3136"]
    needs = evaluation.needs_of(load_config(EvaluationJobConfig, args))
    assert needs.reads == []
    with pytest.raises(PreflightError, match="holds no data set of UVRB"):
        needs.check()


def test_indexing(tmp_path: Path) -> None:
    args = ["--config", "gve-3b.yaml", "--output", str(tmp_path)]
    needs = indexing.needs_of(load_config(IndexConfig, args))
    assert pools(needs) == {
        "resources.probe": (16, {"CPU": 1, "memory": 2**30}, []),
        "resources.embed": (8, {"CPU": 8, "GPU": 1}, ["model.model"]),
    }
    assert (needs.reads[0].uri, needs.writes) == ("videos", {"output": str(tmp_path)})


def test_serving_needs_all_at_once(tmp_path: Path) -> None:
    needs = serving.needs_of(load_config(ServeConfig, ["--config", "gve-3b.yaml"]))
    assert pools(needs) == {
        "models.gve-3b.replicas": (1, {"CPU": 4, "GPU": 1}, []),  # no index yet: which model is not known
        "gateway.replicas": (1, {"CPU": 8}, []),
    }
    assert needs.together
    assert [one.option for one in needs.reads] == ["models.gve-3b.index"]
    with pytest.raises(PreflightError, match="no index of videos"):
        needs.check()
    values = '[{"name": "a", "model": {"name": "m", "model": "org/m", "adapter": "org/lora"}}]'
    needs = serving.needs_of(load_config(ServeConfig, ["--models", values]))
    assert pools(needs)["models.a.replicas"][2] == ["models.a.model", "models.a.adapter"]


def test_an_endpoint_is_not_loaded() -> None:
    values = '[{"name": "a", "model": "m", "engine": "openai", "url": "http://127.0.0.1:1/v1"}]'
    args = ["--models", values, "--root", "x", "--output", "y"]
    needs = evaluation.needs_of(load_config(EvaluationJobConfig, args))
    assert pools(needs)["resources"][2] == []


def test_together_the_largest_are_placed_first() -> None:
    def demand(name: str, count: int, cpus: float) -> Workers:
        return Workers(option=name, count=count, demands={"CPU": cpus}, wait_for_nodes=None)

    # 3 CPUs and 1 + 1 + 1: the small ones first would take a core of the only node that holds the large one.
    nodes = [{"CPU": 3.0}, {"CPU": 2.0}, {"CPU": 1.0}]
    pools = [demand("small", 3, 1.0), demand("large", 1, 3.0)]
    together = Needs(job="serve", check=lambda: None, workers=pools, together=True)
    check_together(together, nodes)
    with pytest.raises(PreflightError, match=r"small: 3 x \(1 CPU\) do not fit .* 0 CPU; 0 CPU; add nodes"):
        check_together(together, nodes[:2])
    assert nodes == [{"CPU": 3.0}, {"CPU": 2.0}, {"CPU": 1.0}]  # as they were


def test_the_first_files_of_a_folder(tmp_path: Path) -> None:
    for name in (".hidden", "b.json", "c.json", "sub/deep/e.bin", "sub/deep/f.bin", "tub/g.bin"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_bytes(b"x")
    assert first_files(str(tmp_path)) == [f"{tmp_path}/b.json", f"{tmp_path}/sub/deep/e.bin"]
    assert first_files(f"{tmp_path}/") == first_files(str(tmp_path))
    assert first_files(f"{tmp_path}/c.json") == [f"{tmp_path}/c.json"]
    assert first_files(f"file://{tmp_path}/tub") == [f"file://{tmp_path}/tub/g.bin"]
    with pytest.raises(FileNotFoundError, match="no such file"):
        first_files(str(tmp_path / "none"))
    (tmp_path / "empty").mkdir()
    with pytest.raises(FileNotFoundError, match="without files"):
        first_files(str(tmp_path / "empty"))


def test_of_many_files_some_from_all_over_are_read() -> None:
    files = [f"/v/{i}" for i in range(10)]
    assert Read(option="input", uri="/v", files=lambda: files).some_files() == ["/v/0", "/v/5", "/v/9"]
    assert Read(option="input", uri="/v", files=lambda: files[:2]).some_files() == ["/v/0", "/v/1"]
