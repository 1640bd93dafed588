"""Checks of the config and of the cluster before the service listens."""

from dataclasses import replace
from pathlib import Path

import pytest

from gve_ray.config import GIB, ModelConfig, config_of, load_config
from gve_ray.job import PreflightError
from gve_ray.preflight import check_pools, size_pools
from gve_ray.serving.config import GatewayConfig, ReplicasConfig, ServeConfig, ServedModel
from gve_ray.serving.deploy import key_digest_of
from gve_ray.serving.needs import needs_of, resolve
from gve_ray.serving.retriever import settings_of

TINY = ModelConfig(
    name="tiny", model="package://demo/tiny_vl/model", adapter="package://demo/tiny_vl/adapter"
)
MODEL = ServedModel(name="tiny", model=TINY)
CONFIG = ServeConfig(models=[MODEL], port=0)


def test_a_free_port_is_chosen_and_a_port_in_use_is_refused() -> None:
    import socket

    assert resolve(CONFIG).port > 0
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        with pytest.raises(PreflightError, match=f"port={port}: cannot listen there"):
            resolve(replace(CONFIG, port=port))


def test_an_index_replaces_the_models_of_a_recipe() -> None:
    config = load_config(ServeConfig, ["--config", "demo.yaml", "--index", "runs/mine"])
    assert [(model.name, model.index) for model in config.models] == [("videos", "runs/mine")]


def test_other_addresses_than_the_loopback_need_a_key(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("GVE_API_KEY", raising=False)
    assert key_digest_of(CONFIG) is None
    open_to_all = replace(CONFIG, host="0.0.0.0")
    with pytest.raises(PreflightError, match=r"GVE_API_KEY: not set, and host=0\.0\.0\.0"):
        resolve(open_to_all)
    monkeypatch.setenv("GVE_API_KEY", "short")
    with pytest.raises(PreflightError, match="5 characters"):
        resolve(open_to_all)
    monkeypatch.setenv("GVE_API_KEY", "0123456789abcdef")
    assert resolve(open_to_all).host == "0.0.0.0"
    digest = key_digest_of(open_to_all)
    assert digest is not None
    assert "0123456789abcdef" not in digest


def test_missing_indexes_and_models_are_named(tmp_path: Path) -> None:
    with pytest.raises(PreflightError, match=r"models\.a: .*library\.json: no index of videos"):
        resolve(ServeConfig(models=[ServedModel(name="a", index=str(tmp_path))]))
    missing = ServedModel(name="b", model=replace(TINY, model="/nowhere"))
    with pytest.raises(PreflightError, match="/nowhere"):
        resolve(ServeConfig(models=[missing]))


@pytest.mark.parametrize(
    "values,message",
    [
        ({"models": []}, "name at least one"),
        ({"models": [{"name": "a"}]}, "name either an index or a model"),
        ({"models": [{"name": "a/b", "index": "x"}]}, "name='a/b'"),
        ({"models": [{"name": "a", "index": "x", "frames": 8}]}, "frames: leave out"),
        ({"models": [{"name": "a", "index": "x"}] * 2}, "names repeat"),
        ({"models": [{"name": "a", "index": "x"}], "prot": 1}, "prot"),
        ({"models": [{"name": "a", "index": "x", "replicas": {"replicas": 2, "max_replicas": 1}}]}, "max_replicas=1"),
        ({"models": [{"name": "a", "index": "x"}], "limits": {"max_inputs": 0}}, "limits.max_inputs=0"),
        ({"index": "x", "rerank": {"url": "http://a/v1"}}, "rerank.model='': name the model"),
        ({"index": "x", "rerank": {"url": "http://a:b@c/v1", "model": "m"}}, r"rerank.url='http://\*\*\*@c/v1'"),
        ({"index": "x", "rerank": {"candidates": 0}}, "rerank.candidates=0"),
    ],
)  # fmt: skip
def test_bad_configs(values: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        config_of(ServeConfig, values)


def test_all_replicas_must_fit_at_the_same_time() -> None:
    nodes = [{"CPU": 2.0, "memory": 64.0 * GIB}]

    def check_workers(config: ServeConfig) -> None:
        check_pools(size_pools(needs_of(config).workers, nodes, together=True), nodes, together=True)

    replicas = ReplicasConfig(num_cpus=1)
    fits = replace(CONFIG, gateway=GatewayConfig(replicas=replicas))
    check_workers(fits)
    too_many = replace(fits, models=[MODEL, replace(MODEL, name="other")])
    with pytest.raises(
        PreflightError,
        match=r"gateway\.replicas: 1 x \(1 CPU, 1\.0 GiB memory\) do not fit.* leave 0 CPU, 60.0 GiB memory on",
    ):
        check_workers(too_many)
    with pytest.raises(
        PreflightError, match=r"models\.tiny\.replicas: needs 1 x \(1 CPU, 1 GPU, 4\.0 GiB memory\)"
    ) as caught:
        check_workers(replace(fits, models=[replace(MODEL, replicas=ReplicasConfig(num_gpus=1))]))
    assert "wait_for_nodes" not in str(caught.value)  # the service does not have this option


def test_settings_come_from_the_weights_unless_they_disagree() -> None:
    saved = settings_of(MODEL)
    assert (saved.frames, saved.max_pixels) == (8, 12544)
    assert settings_of(replace(MODEL, frames=8)) == saved
    with pytest.raises(ValueError, match="frames"):
        settings_of(replace(MODEL, frames=4))
    assert settings_of(replace(MODEL, frames=4, model=replace(TINY, rescale=True))).frames == 4
