"""ray-cluster.yaml matches Ray's schema and command lines, and keeps the head private."""

import shlex
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import yaml

from gve_ray.serving.config import is_loopback
from tests.cluster.files import document, ray_options, with_defaults


def start_options(command: str) -> dict[str, Any]:
    """Return the options of the `ray start` in a start command, parsed by Ray."""
    return ray_options(shlex.split(command.rpartition(";")[2]))


def test_ray_up_config_matches_rays_schema() -> None:
    import ray.autoscaler

    schema = yaml.safe_load(
        (Path(ray.autoscaler.__file__).parent / "ray-schema.json").read_text().expandtabs()
    )
    config = document("ray-cluster.yaml")
    jsonschema.validate(config, schema)
    filled = with_defaults(config)
    assert filled["head_node_type"] in filled["available_node_types"]
    # Ray's defaults would install another version of Ray.
    for kind in ("setup_commands", "head_setup_commands", "worker_setup_commands"):
        assert filled[kind] == []


@pytest.mark.parametrize("wrong", [{"max_worker": 3}, {"max_workers": "many"}, {"head_node_type": "other"}])
def test_ray_up_config_with_a_fault_is_refused(wrong: Mapping[str, Any]) -> None:
    with pytest.raises((jsonschema.ValidationError, ValueError)):
        with_defaults(document("ray-cluster.yaml") | wrong)


def test_ray_up_head_listens_on_loopback_and_runs_no_workers() -> None:
    config = document("ray-cluster.yaml")
    head = start_options(config["head_start_ray_commands"][-1])
    assert head["head"]
    assert is_loopback(head["dashboard_host"])
    assert head["num_cpus"] == 0
    assert config["available_node_types"][config["head_node_type"]]["resources"] == {"CPU": 0}
    worker = start_options(config["worker_start_ray_commands"][-1])
    assert worker["address"] == f"$RAY_HEAD_IP:{head['port']}"


def test_ray_up_mounts_the_token_file_on_all_nodes() -> None:
    config = document("ray-cluster.yaml")
    (option,) = [option for option in config["docker"]["run_options"] if "RAY_AUTH" in option]
    token_path = Path(option.removeprefix("--env RAY_AUTH_TOKEN_PATH="))
    (mounted_at,) = config["file_mounts"]
    assert token_path.parent == Path(mounted_at.replace("~", "/home/gve"))


def test_ray_up_workers_are_spot_instances_with_and_without_gpus() -> None:
    config = document("ray-cluster.yaml")
    types = config["available_node_types"]
    workers = {name: kind for name, kind in types.items() if name != config["head_node_type"]}
    for name, kind in workers.items():
        assert kind["node_config"]["InstanceMarketOptions"] == {"MarketType": "spot"}
        assert kind["min_workers"] == 0
        image = kind.get("docker", {}).get("worker_image", config["docker"]["worker_image"])
        assert image.endswith("-gpu" if kind["resources"].get("GPU") else "-cpu"), name
    assert sorted(bool(kind["resources"].get("GPU")) for kind in workers.values()) == [False, True]
    assert sum(kind["max_workers"] for kind in workers.values()) <= config["max_workers"]
    assert "InstanceMarketOptions" not in types[config["head_node_type"]]["node_config"]
