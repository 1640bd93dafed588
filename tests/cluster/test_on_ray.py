"""On a private Ray head: the Serve file starts its service, and clients need the token."""

import json
import os
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.cluster.files import serve_files
from tests.ray_head import LocalHead, free_port

pytestmark = pytest.mark.slow
SECONDS = 180.0  # for the service to start; 20 s on an idle machine


@pytest.fixture(scope="module")
def head() -> Iterator[LocalHead]:
    with LocalHead(num_cpus=2) as running:
        yield running


def call(
    head: LocalHead, *words: str, env: dict[str, str] | None = None
) -> "subprocess.CompletedProcess[str]":
    """Run a program of Ray on this head."""
    command = [str(Path(sys.executable).with_name(words[0])), *words[1:]]
    return subprocess.run(command, env=env or head.env, capture_output=True, text=True, timeout=120)


def small(config: dict[str, Any], port: int) -> dict[str, Any]:
    """Adapt the file to this machine: the tiny model without an index, on another port."""
    (app,) = config["applications"]
    config["http_options"]["port"] = app["args"]["port"] = port
    (served,) = app["args"]["models"]
    model = {
        "name": "tiny",
        "model": "package://demo/tiny_vl/model",
        "adapter": "package://demo/tiny_vl/adapter",
    }
    app["args"]["models"] = [{"name": served["name"], "model": model, "replicas": {"num_cpus": 0.5}}]
    app["args"]["gateway"] = {"readers": 1, "replicas": {"num_cpus": 0.5}}
    return config


def deployed(head: LocalHead, config: dict[str, Any], folder: Path) -> dict[str, Any]:
    """Deploy a config, and return the status of the application once it runs or has failed."""
    file = folder / "serve.yaml"
    file.write_text(yaml.safe_dump(config))
    done = call(head, "serve", "deploy", "--address", head.address, str(file))
    assert done.returncode == 0, done.stderr
    deadline = time.monotonic() + SECONDS
    while time.monotonic() < deadline:
        status = yaml.safe_load(call(head, "serve", "status", "--address", head.address).stdout)
        app: dict[str, Any] = (status or {}).get("applications", {}).get("gve", {})
        if app.get("status") in ("RUNNING", "DEPLOY_FAILED"):
            return app
        time.sleep(1)
    raise AssertionError(f"no final status after {SECONDS:g} s: {app}")


def test_jobs_cannot_be_submitted_without_the_token(head: LocalHead, tmp_path: Path) -> None:
    """The client has no token or a wrong one, and no token in its home folder."""
    without = {name: value for name, value in head.env.items() if name != "RAY_AUTH_TOKEN"}
    without["HOME"] = str(tmp_path)
    submit = ("ray", "job", "submit", "--address", head.address, "--", "touch", str(tmp_path / "ran"))
    for env in (without, without | {"RAY_AUTH_MODE": "disabled"}, without | {"RAY_AUTH_TOKEN": "0" * 64}):
        done = call(head, *submit, env=env)
        assert done.returncode != 0
        assert "authentication" in done.stderr.lower()
    assert not (tmp_path / "ran").exists()
    assert call(head, *submit).returncode == 0
    assert (tmp_path / "ran").exists()


def test_serve_file_starts_the_service(head: LocalHead, tmp_path: Path) -> None:
    port = free_port()
    app = deployed(head, small(serve_files()["serve.yaml"], port), tmp_path)
    assert app["status"] == "RUNNING", app
    request = urllib.request.Request(
        f"http://127.0.0.1:{port}/v1/embeddings",
        data=json.dumps({"model": "gve-3b", "input": "a red circle"}).encode(),
        headers={"Content-Type": "application/json"},
    )
    with urllib.request.urlopen(request, timeout=30) as response:
        (result,) = json.load(response)["data"]
    assert sum(value**2 for value in result["embedding"]) == pytest.approx(1, abs=1e-3)
    # The service listens on the loopback interface only.
    listening = Path("/proc/net/tcp").read_text().splitlines()[1:]
    addresses = {line.split()[1] for line in listening if line.split()[3] == "0A"}
    assert {address for address in addresses if address.endswith(f":{port:04X}")} == {f"0100007F:{port:04X}"}
    call(head, "serve", "shutdown", "--yes", "--address", head.address)


def test_a_public_service_does_not_start_without_a_key(head: LocalHead, tmp_path: Path) -> None:
    assert "GVE_API_KEY" not in os.environ
    app = deployed(head, small(serve_files()["kuberay/serve.yaml"], free_port()), tmp_path)
    assert app["status"] == "DEPLOY_FAILED"
    assert "GVE_API_KEY: not set, and host=0.0.0.0" in app["message"]
    call(head, "serve", "shutdown", "--yes", "--address", head.address)
