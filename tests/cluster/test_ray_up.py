"""ray-cluster.yaml: by Ray's own schema, defaults and command lines, and by what the project promises of it."""

import shlex
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import yaml

from gve_ray.serving.config import is_loopback
from tests.cluster.files import README, document, of_kind, ray_options, with_defaults


def start_options(command: str) -> dict[str, Any]:
    """Options of the `ray start` in a start command, by Ray's own parser."""
    return ray_options(shlex.split(command.rpartition(";")[2]))


def test_ray_up_config_is_rays() -> None:
    import ray.autoscaler

    schema = yaml.safe_load(
        (Path(ray.autoscaler.__file__).parent / "ray-schema.json").read_text().expandtabs()
    )
    config = document("ray-cluster.yaml")
    jsonschema.validate(config, schema)
    filled = with_defaults(config)
    assert filled["head_node_type"] in filled["available_node_types"]
    # Ray's own defaults would install another Ray.
    for kind in ("setup_commands", "head_setup_commands", "worker_setup_commands"):
        assert filled[kind] == []


@pytest.mark.parametrize("wrong", [{"max_worker": 3}, {"max_workers": "many"}, {"head_node_type": "other"}])
def test_ray_up_config_with_a_fault_is_refused(wrong: Mapping[str, Any]) -> None:
    with pytest.raises((jsonschema.ValidationError, ValueError)):
        with_defaults(document("ray-cluster.yaml") | wrong)


def test_ray_up_head_listens_on_its_loopback_and_works_for_nobody() -> None:
    config = document("ray-cluster.yaml")
    head = start_options(config["head_start_ray_commands"][-1])
    assert head["head"]
    assert is_loopback(head["dashboard_host"])
    assert head["num_cpus"] == 0
    assert config["available_node_types"][config["head_node_type"]]["resources"] == {"CPU": 0}
    worker = start_options(config["worker_start_ray_commands"][-1])
    assert worker["address"] == f"$RAY_HEAD_IP:{head['port']}"


def test_ray_up_token_is_a_file_that_all_nodes_get() -> None:
    """The images demand a token, the environment names its file, the file comes by a mount, and is named in README."""
    config = document("ray-cluster.yaml")
    (option,) = [one for one in config["docker"]["run_options"] if "RAY_AUTH" in one]
    where = option.removeprefix("--env RAY_AUTH_TOKEN_PATH=")
    (mount,) = config["file_mounts"].items()
    home = next(
        word.partition("=")[2]
        for rest in of_kind("Dockerfile.cpu", "ENV")
        for word in rest.split()
        if word.startswith("HOME=")
    )
    assert Path(where).parent == Path(mount[0].replace("~", home))
    local = f"{mount[1]}/{Path(where).name}"
    assert f"openssl rand -hex 32 > {local}" in README
    assert f"RAY_AUTH_TOKEN_PATH={local}" in README


def test_ray_up_workers_are_spot_of_two_kinds() -> None:
    config = document("ray-cluster.yaml")
    types = config["available_node_types"]
    workers = {name: one for name, one in types.items() if name != config["head_node_type"]}
    for name, one in workers.items():
        assert one["node_config"]["InstanceMarketOptions"] == {"MarketType": "spot"}
        assert one["min_workers"] == 0
        image = one.get("docker", {}).get("worker_image", config["docker"]["worker_image"])
        assert image.endswith("-gpu" if one["resources"].get("GPU") else "-cpu"), name
    assert sorted(bool(one["resources"].get("GPU")) for one in workers.values()) == [False, True]
    assert sum(one["max_workers"] for one in workers.values()) <= config["max_workers"]
    assert "InstanceMarketOptions" not in types[config["head_node_type"]]["node_config"]
