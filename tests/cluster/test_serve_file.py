"""The Serve config files: by Serve's schema and by ours, and who may call what they start."""

from collections.abc import Mapping
from typing import Any

import pytest

from gve_ray.config import config_of
from gve_ray.serving.config import ServeConfig, is_loopback
from gve_ray.serving.deploy import build
from tests.cluster.files import SHARED, serve_files


@pytest.mark.parametrize("name", ["serve.yaml", "kuberay/serve.yaml"])
def test_serve_config_is_serves_and_ours(name: str) -> None:
    from ray.serve.schema import ServeDeploySchema

    config = serve_files()[name]
    known = ServeDeploySchema.model_validate(config).model_dump(exclude_unset=True, mode="json")
    assert without_numbers(known) == without_numbers(config)  # Serve passes over fields that it does not know
    (app,) = config["applications"]
    assert app["import_path"] == f"{build.__module__}:{build.__name__}"
    args = config_of(ServeConfig, app["args"])
    assert (config["http_options"]["host"], config["http_options"]["port"]) == (args.host, args.port)
    assert all(str(one.index).startswith(f"{SHARED}/") for one in args.models)


def without_numbers(value: Any) -> Any:
    """Serve makes floats of whole numbers."""
    if isinstance(value, Mapping):
        return {key: without_numbers(one) for key, one in value.items()}
    if isinstance(value, list):
        return [without_numbers(one) for one in value]
    return float(value) if isinstance(value, int) and not isinstance(value, bool) else value


@pytest.mark.parametrize("name", ["serve.yaml", "kuberay/serve.yaml"])
def test_service_is_on_the_loopback_or_has_a_key(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    from ray.serve._private.build_app import build_app

    config = serve_files()[name]
    (app,) = config["applications"]
    monkeypatch.delenv("GVE_API_KEY", raising=False)
    if not is_loopback(config["http_options"]["host"]):
        with pytest.raises(ValueError, match="GVE_API_KEY"):
            build(app["args"])
        monkeypatch.setenv("GVE_API_KEY", "0123456789abcdef")
    names = {one.name for one in build_app(build(app["args"]), name="gve").deployments}
    assert {one["name"] for one in app["deployments"]} == names


def test_service_file_is_on_the_loopback() -> None:
    assert is_loopback(serve_files()["serve.yaml"]["http_options"]["host"])


def test_service_is_the_same_on_kubernetes_but_for_its_address() -> None:
    here, there = serve_files()["serve.yaml"], serve_files()["kuberay/serve.yaml"]
    there["http_options"]["host"] = there["applications"][0]["args"]["host"] = "127.0.0.1"
    there["proxy_location"] = here["proxy_location"]
    assert there == here
