"""Tests the numbers of workers that are chosen for described nodes. Expected numbers are worked out by hand."""

import json
import sys
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from gve_ray.config import GIB
from gve_ray.job import PreflightError
from gve_ray.preflight import Needs, Workers, check_pools, size_pools
from gve_ray.registry import JOBS

Nodes = Sequence[dict[str, float]]


def node(cpus: float, gib: float, gpus: float = 0) -> dict[str, float]:
    return {"CPU": cpus, "memory": gib * GIB} | ({"GPU": gpus} if gpus else {})


LAPTOP = [node(2, 18.9)]
GPU_BOX = [node(96, 700, 8)]
# 2 CPUs for each GPU on the weakest node with GPUs; the third node has none.
MIXED = [node(16, 100, 4), node(64, 400, 8), node(32, 60), node(4, 30, 2)]


def sparse_file(path: Path, size: float) -> None:
    with path.open("wb") as file:
        file.truncate(int(size))


@pytest.fixture
def model_of(tmp_path: Path) -> Callable[[float, str], str]:
    """Return a function that makes a folder with so many billion parameters in a dtype of 2 bytes."""

    def make(billions: float, name: str = "model") -> str:
        folder = tmp_path / name
        folder.mkdir()
        (folder / "config.json").write_text(json.dumps({"dtype": "bfloat16", "model_type": "qwen2_5_vl"}))
        for part in (1, 2):
            sparse_file(folder / f"model-{part}.safetensors", billions * 1e9)
        return str(folder)

    return make


@pytest.fixture
def no_native_bfloat16(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(
        "gve_ray.preflight.models.default_dtype", lambda *, on_gpu: "bfloat16" if on_gpu else "float32"
    )


def needs_of(job: str, *args: str) -> Needs:
    needs = JOBS[job].needs_of(JOBS[job].read_config(args, prog="test"))
    assert isinstance(needs, Needs)
    return needs


def sizes(needs: Needs, nodes: Nodes, spare: Nodes = ()) -> dict[str, tuple[int, dict[str, float]]]:
    """Return count and what one worker reserves, memory in GiB, by the pool's option."""
    pools = size_pools(needs.workers, nodes, spare, together=needs.together)
    return {
        pool.option: (
            pool.count or 0,
            {
                kind: round(amount / GIB, 1) if kind == "memory" else amount
                for kind, amount in pool.demands.items()
            },
        )
        for pool in pools
    }


def index_of(model: str, *args: str) -> Needs:
    return needs_of("index", "--config", "gve-3b.yaml", "--input", "videos", "--model.model", model, *args)


@pytest.mark.usefixtures("no_native_bfloat16")
def test_indexing_with_3b_on_described_nodes(model_of: Callable[..., str]) -> None:
    needs = index_of(model_of(3.75))
    # 3.75 billion values of 4 bytes are 14.0 GiB, and the process takes 2 GiB.
    assert sizes(needs, LAPTOP) == {
        "resources.probe": (2, {"CPU": 1, "memory": 1}),
        "resources.embed": (1, {"CPU": 2, "memory": 16.0}),
    }
    assert sizes(needs, GPU_BOX) == {
        "resources.probe": (96, {"CPU": 1, "memory": 1}),
        "resources.embed": (8, {"CPU": 8, "GPU": 1, "memory": 4}),
    }
    assert sizes(needs, MIXED) == {
        "resources.probe": (116, {"CPU": 1, "memory": 1}),
        "resources.embed": (14, {"CPU": 2, "GPU": 1, "memory": 4}),
    }
    # Three of them fit into 60 GiB and use 10 of 32 CPUs each, or two use 16 each.
    assert sizes(needs, [MIXED[2]])["resources.embed"] == (2, {"CPU": 16, "memory": 16.0})


@pytest.mark.usefixtures("no_native_bfloat16")
def test_small_models_take_one_cpu_each(model_of: Callable[..., str]) -> None:
    # Nine GiB for each of two: 1.25 billion values of 4 bytes and the process take 6.7 GiB.
    assert sizes(index_of(model_of(1.25)), LAPTOP)["resources.embed"] == (2, {"CPU": 1, "memory": 6.7})


def test_the_dtype_of_the_config_counts(model_of: Callable[..., str]) -> None:
    needs = index_of(model_of(3.75), "--model.dtype", "bfloat16")
    assert sizes(needs, LAPTOP)["resources.embed"] == (2, {"CPU": 1, "memory": 9.0})


def test_an_autoscaling_cluster(model_of: Callable[..., str]) -> None:
    needs = index_of(model_of(3.75))
    head, spare = node(4, 16), [node(32, 200, 4)] * 3
    probe, embed = size_pools(needs.workers, [head], spare)
    assert (probe.count, probe.most) == (4, 100)
    # No node that is alive has a GPU, so the first one is waited for.
    assert (embed.count, embed.most, embed.demands["GPU"], embed.wait_for_nodes) == (1, 12, 1, True)
    check_pools([probe, embed], [head])
    _, embed = size_pools(needs.workers, [head, *spare[:1]], spare[1:])
    assert (embed.count, embed.most, embed.wait_for_nodes) == (4, 12, False)


def test_numbers_by_hand_are_kept(model_of: Callable[..., str]) -> None:
    by_hand = {"actors": 2, "num_cpus": 3, "num_gpus": 0, "memory": 5 * GIB}
    needs = index_of(model_of(3.75), "--resources.embed", json.dumps(by_hand))
    assert sizes(needs, GPU_BOX, [node(96, 700, 8)])["resources.embed"] == (2, {"CPU": 3, "memory": 5})
    assert size_pools(needs.workers, GPU_BOX, GPU_BOX)[1].most == 0


@pytest.mark.usefixtures("no_native_bfloat16")
def test_a_refusal_names_what_fits_instead(model_of: Callable[..., str]) -> None:
    needs = index_of(model_of(3.75))
    small = [node(2, 10)]
    with pytest.raises(PreflightError) as error:
        check_pools(size_pools(needs.workers, small), small)
    assert str(error.value) == (
        "resources.embed: needs 1 x (1 CPU, 16.0 GiB memory) (model.model in float32 14.0 GiB, process 2.0 GiB), "
        "the cluster has 2 CPU, 10.0 GiB memory on 1 node, which is room for 0; add nodes, "
        "set --model.dtype bfloat16 (9.0 GiB memory, which fits), "
        "name a smaller model with weights of at most 8.0 GiB, or use a GPU"
    )


@pytest.mark.usefixtures("no_native_bfloat16")
def test_synthesis_with_7b(model_of: Callable[..., str]) -> None:
    captioner, scorer = model_of(8.3, "captioner"), model_of(2.2, "scorer")
    needs = needs_of(
        "synthesize", "--config", "gve-7b.yaml", "--captioner.model", captioner,
        "--quality.consistency.model", scorer,
    )  # fmt: skip
    # The captioner stays in bfloat16, 15.5 GiB, and needs 2 GiB more for the process and 2 for its cache.
    assert sizes(needs, [node(8, 24)]) == {
        "resources.media": (8, {"CPU": 1, "memory": 1}),
        "resources.shots": (8, {"CPU": 1, "memory": 1}),
        "resources.captioner": (1, {"CPU": 8, "memory": 19.5}),
        "resources.consistency": (2, {"CPU": 4, "memory": 10.2}),
    }
    assert sizes(needs, GPU_BOX)["resources.captioner"] == (8, {"CPU": 8, "GPU": 1, "memory": 4})
    # If all stages run at the same time, both pools that decode get a part of the CPUs that the models leave.
    together = sizes(replace(needs, together=True), GPU_BOX)
    assert together["resources.captioner"] == (7, {"CPU": 8, "GPU": 1, "memory": 4})
    assert [together[f"resources.{name}"][0] for name in ("media", "shots")] == [18, 14]
    with pytest.raises(
        PreflightError, match=r"resources\.captioner: .*captioner\.model in bfloat16 15\.5 GiB"
    ):
        check_pools(size_pools(needs.workers, LAPTOP), LAPTOP)


def test_an_engine_that_spans_gpus(model_of: Callable[..., str]) -> None:
    needs = needs_of(
        "synthesize", "--config", "gve-7b.yaml", "--captioner.model", model_of(8.3),
        "--captioner.tensor_parallel_size", "2", "--quality.consistency.model", "null",
    )  # fmt: skip
    assert sizes(needs, GPU_BOX)["resources.captioner"] == (4, {"CPU": 8, "GPU": 2, "memory": 4})


def test_training_has_a_rank_for_each_gpu_or_node(model_of: Callable[..., str]) -> None:
    model = model_of(0.5)
    args = ("--config", "gve-3b.yaml", "--model", model, "--prober.model", model)
    needs = needs_of("train", *args)
    assert sizes(needs, GPU_BOX)["resources"] == (8, {"CPU": 10, "GPU": 1, "memory": 4})
    count, demands = sizes(needs, [node(8, 30), node(8, 30)])["resources"]
    assert (count, demands["CPU"]) == (2, 8)


def test_a_service_shares_the_cpus(tmp_path: Path, model_of: Callable[..., str]) -> None:
    model = json.dumps([{"name": "a.b", "model": {"name": "m", "model": model_of(0.5)}}])
    needs = needs_of("serve", "--models", model, "--gateway.readers", "8")
    assert [count for count, _ in sizes(needs, LAPTOP).values()] == [1, 1]
    assert [demands["CPU"] for _, demands in sizes(needs, LAPTOP).values()] == [1, 1]
    retriever, gateway = size_pools(needs.workers, GPU_BOX, together=True)
    assert (retriever.count, retriever.most, retriever.demands["CPU"]) == (1, 8, 8)
    # 80 of the 96 CPUs are left for more of them.
    assert (gateway.count, gateway.most, gateway.demands["CPU"]) == (1, 11, 8)


def test_memory_of_files_that_are_no_weights_is_not_counted(tmp_path: Path) -> None:
    from gve_ray.preflight import Weights

    (tmp_path / "config.json").write_text('{"torch_dtype": "float16"}')
    sparse_file(tmp_path / "model.safetensors", 100)
    sparse_file(tmp_path / "pytorch_model.bin", 100)  # the same weights in another format
    sparse_file(tmp_path / "notes.txt", 1000)
    weights = Weights(option="model", name=str(tmp_path), dtype="float32")
    assert weights.sizes() == {"float32": 200, "bfloat16": 100}
    (tmp_path / "config.json").write_text('{"torch_dtype": "float16", "quantization_config": {}}')
    assert weights.sizes() == {"float16": 100}


def test_a_pool_by_hand_is_unchanged() -> None:
    pool = Workers(option="x", count=3, demands={"CPU": 1.0})
    assert size_pools([pool], [{"CPU": 1.0}]) == [pool]


def test_the_config_gets_the_numbers(monkeypatch: pytest.MonkeyPatch, model_of: Callable[..., str]) -> None:
    from gve_ray.preflight import fit

    monkeypatch.setattr(fit, "live_nodes", lambda: GPU_BOX * 2)
    monkeypatch.setattr(fit, "spare_nodes", list)
    models: list[dict[str, Any]] = [
        {"name": name, "model": {"name": "m", "model": "package://demo/tiny_vl/model"}}
        for name in ("a", "a.b")
    ]
    models[0]["replicas"] = {"replicas": 2, "num_cpus": 3}
    config = JOBS["serve"].read_config(["--models", json.dumps(models)], prog="test")
    needs = JOBS["serve"].needs_of(config)
    fitted = fit.fit_to_cluster(config, needs.workers, together=True)
    first, second = (served.replicas for served in fitted.models)
    assert (first.replicas, first.max_replicas, first.num_cpus, first.num_gpus) == (2, 0, 3, 1)
    # 16 GPUs, of which the other model takes two.
    assert (second.replicas, second.max_replicas, second.num_cpus, second.num_gpus) == (1, 14, 8, 1)
    assert not any(served.replicas.undecided for served in fitted.models)
    assert not fitted.gateway.replicas.undecided


@pytest.mark.parametrize(
    ("cuda", "hip", "gpus"), [("'13.0'", None, 1), (None, "'7.1'", 1), (None, None, 0)], ids=str
)
def test_the_gpu_of_a_machine_counts_only_if_torch_is_built_for_it(
    cuda: str | None, hip: str | None, gpus: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from gve_ray.preflight import fit

    monkeypatch.setattr(fit, "live_nodes", lambda: GPU_BOX)
    monkeypatch.setattr(fit, "spare_nodes", list)
    (tmp_path / "torch").mkdir()
    (tmp_path / "torch" / "__init__.py").write_text("raise AssertionError('it must not be imported')")
    (tmp_path / "torch" / "version.py").write_text(f"cuda = {cuda}\nhip = {hip}\n")
    monkeypatch.delitem(sys.modules, "torch", raising=False)
    monkeypatch.syspath_prepend(tmp_path)
    config = JOBS["index"].read_config(["--config", "demo.yaml"], prog="test")
    fitted = fit.fit_to_cluster(config, JOBS["index"].needs_of(config).workers)
    assert fitted.resources.embed.demands.get("GPU", 0) == gpus
