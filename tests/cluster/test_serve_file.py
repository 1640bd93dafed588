"""The Serve config files are valid, and the service is private or requires a key."""

from collections.abc import Mapping
from typing import Any

import pytest

from gve_ray.config import config_of
from gve_ray.preflight import fit
from gve_ray.serving.config import ServeConfig, is_loopback
from gve_ray.serving.deploy import build
from tests.cluster.files import SHARED, serve_files


@pytest.mark.parametrize("name", ["serve.yaml", "kuberay/serve.yaml"])
def test_serve_config_matches_the_schemas_of_serve_and_gve_ray(name: str) -> None:
    from ray.serve.schema import ServeDeploySchema

    config = serve_files()[name]
    parsed = ServeDeploySchema.model_validate(config).model_dump(exclude_unset=True, mode="json")
    assert with_float_numbers(parsed) == with_float_numbers(config)  # Serve ignores unknown fields
    (app,) = config["applications"]
    assert app["import_path"] == f"{build.__module__}:{build.__name__}"
    args = config_of(ServeConfig, app["args"])
    assert (config["http_options"]["host"], config["http_options"]["port"]) == (args.host, args.port)
    assert all(str(model.index).startswith(f"{SHARED}/") for model in args.models)


def with_float_numbers(value: Any) -> Any:
    """Convert whole numbers to floats, as Serve does."""
    if isinstance(value, Mapping):
        return {key: with_float_numbers(item) for key, item in value.items()}
    if isinstance(value, list):
        return [with_float_numbers(item) for item in value]
    return float(value) if isinstance(value, int) and not isinstance(value, bool) else value


@pytest.mark.parametrize("name", ["serve.yaml", "kuberay/serve.yaml"])
def test_service_listens_on_loopback_or_requires_a_key(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    from ray.serve._private.build_app import build_app

    monkeypatch.setattr(fit, "live_nodes", lambda: [{"CPU": 16.0, "GPU": 1.0, "memory": 64.0 * 2**30}] * 2)
    monkeypatch.setattr(fit, "spare_nodes", list)
    config = serve_files()[name]
    (app,) = config["applications"]
    monkeypatch.delenv("GVE_API_KEY", raising=False)
    if not is_loopback(config["http_options"]["host"]):
        with pytest.raises(ValueError, match="GVE_API_KEY"):
            build(app["args"])
        monkeypatch.setenv("GVE_API_KEY", "0123456789abcdef")
    names = {deployment.name for deployment in build_app(build(app["args"]), name="gve").deployments}
    assert {deployment["name"] for deployment in app["deployments"]} == names


def test_serve_yaml_listens_on_loopback() -> None:
    assert is_loopback(serve_files()["serve.yaml"]["http_options"]["host"])


def test_serve_files_differ_in_their_address_only() -> None:
    local, kuberay = serve_files()["serve.yaml"], serve_files()["kuberay/serve.yaml"]
    kuberay["http_options"]["host"] = kuberay["applications"][0]["args"]["host"] = "127.0.0.1"
    kuberay["proxy_location"] = local["proxy_location"]
    assert kuberay == local
