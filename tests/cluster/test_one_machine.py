"""The files that run the service on one machine: for Docker Compose and for systemd."""

import configparser
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

from gve_ray.serving.config import ServeConfig
from tests.cluster.files import CLUSTER, job_of

COMPOSE = CLUSTER / "compose.yaml"
UNIT = CLUSTER / "gve.service"
SERVICES: dict[str, Any] = yaml.safe_load(COMPOSE.read_text())["services"]


def test_the_compose_file_fits_the_published_schema(tmp_path: Path) -> None:
    """The schema is of the Compose Specification, as check-jsonschema has it."""

    def check(path: Path) -> int:
        command = [
            sys.executable,
            "-m",
            "check_jsonschema",
            "--builtin-schema",
            "vendor.compose-spec",
            str(path),
        ]
        return subprocess.run(command, capture_output=True).returncode

    assert check(COMPOSE) == 0
    wrong = tmp_path / "compose.yaml"
    wrong.write_text(COMPOSE.read_text().replace("shm_size", "shared_memory"))
    assert check(wrong) == 1


@pytest.mark.parametrize("name", SERVICES)
def test_a_service_of_compose(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GVE_API_KEY", "a key of a test")
    service = SERVICES[name]
    verb, _, profile = name.partition("-")
    assert service["profiles"] == [profile]
    parsed = job_of(service["command"])
    assert parsed is not None
    job, config = parsed
    assert job == verb
    if isinstance(config, ServeConfig):
        assert service["ports"] == [f"127.0.0.1:${{GVE_PORT:-8000}}:{config.port}"]
        assert list(service["depends_on"]) == [f"index-{profile}"]
    else:
        mounts = {mount.split(":")[-1 if mount.count(":") == 1 else -2] for mount in service["volumes"]}
        assert {str(config.input), str(config.output)} <= mounts
    dockerfile = CLUSTER.parent / service["build"]["dockerfile"]
    for folder in ("/index", "/models"):  # a new volume takes the owner of its folder in the image
        assert re.search(rf"install --directory --owner=gve .*{folder}\b", dockerfile.read_text())


def test_the_unit_of_systemd() -> None:
    unit = configparser.ConfigParser(strict=False, interpolation=None)
    unit.optionxform = str  # type: ignore[assignment, method-assign]
    unit.read(UNIT)
    command = unit["Service"]["ExecStart"].replace("/opt/gve/bin/gve", "gve").split()
    parsed = job_of(command)
    assert parsed is not None
    job, config = parsed
    assert job == "serve"
    assert config.is_local
    assert str(config.models[0].index).startswith(f"{unit['Service']['ReadWritePaths']}/")


@pytest.mark.skipif(shutil.which("systemd-analyze") is None, reason="needs systemd-analyze")
def test_systemd_accepts_the_unit(tmp_path: Path) -> None:
    text = UNIT.read_text().replace("/opt/gve/bin/gve", sys.executable).replace("User=gve", "User=root")
    copy = tmp_path / UNIT.name
    copy.write_text(text)
    done = subprocess.run(["systemd-analyze", "verify", str(copy)], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "gve.service" not in done.stderr
