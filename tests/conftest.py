"""Settings of all tests, so that no test depends on the home directory, the network or the shell.

With pytest-xdist, the tests of a file run in one process. So do all tests of the files that share a Ray cluster, those
of tests/serving, which share a service, and those that start ranks of training. What takes longest begins first.
For files that are named on the command line, the slow tests run as well.
"""

import os
import secrets
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.disk import SmallDisk
from tests.s3 import S3Server

_BY_DEFAULT = "not slow and not gpu"  # as in pyproject.toml
_SHARES_RAY = (
    "tests/cluster/test_grafana.py",  # first, for it counts all metrics of the cluster
    "tests/integration/test_evaluate_job.py",
    "tests/integration/test_index_job.py",
    "tests/integration/test_jobs.py",
    "tests/integration/test_mteb.py",
    "tests/synthesis/test_assets.py",
    "tests/synthesis/test_endpoint_on_ray.py",
    "tests/synthesis/test_stream_on_ray.py",
    "tests/test_stage.py",
    "tests/training/test_ray_feed.py",
)
_FORKS_RANKS = tuple(
    f"tests/training/test_{name}.py" for name in ("gather", "hard_negatives", "node", "sharding")
)
_FOLDERS = ("HF_HOME", "MPLCONFIGDIR", "TORCHINDUCTOR_CACHE_DIR", "VLLM_CACHE_ROOT", "VLLM_CONFIG_ROOT")
_SETTINGS = {
    "HF_HUB_OFFLINE": "1",
    "TRANSFORMERS_OFFLINE": "1",
    "HF_HUB_DISABLE_TELEMETRY": "1",
    "DO_NOT_TRACK": "1",
    "VLLM_NO_USAGE_STATS": "1",
    "RAY_USAGE_STATS_ENABLED": "0",
    # By default, Ray's mode depends on whether ~/.ray/auth_token exists.
    "RAY_AUTH_MODE": "disabled",
    # By default, Ray's workers run only when nothing else wants the processor, such as other tests.
    "RAY_worker_niceness": "0",
    # By default, `ray.init()` connects to a cluster that runs on this machine.
    "RAY_ADDRESS": "local",
    "MPLBACKEND": "Agg",
    "TOKENIZERS_PARALLELISM": "false",
}


def pytest_configure(config: pytest.Config) -> None:
    """Set the environment before any test module, and thus any library, is imported."""
    arguments = config.invocation_params.args
    if config.option.markexpr == _BY_DEFAULT and any(".py" in str(argument) for argument in arguments):
        config.option.markexpr = "not gpu"
    scratch = Path(tempfile.mkdtemp(prefix="gve-tests-"))
    config.add_cleanup(lambda: shutil.rmtree(scratch, ignore_errors=True))
    os.environ.update(_SETTINGS)
    os.environ.update({name: str(scratch / name.lower()) for name in _FOLDERS})
    # Otherwise, each of the hundreds of processes that tests start would compile the package again.
    os.environ.pop("PYTHONDONTWRITEBYTECODE", None)
    # Ray and vLLM start more processes; with one thread each, a small machine stays responsive.
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    os.environ.setdefault("VLLM_CPU_KVCACHE_SPACE", "1")


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> Any:
    """Distribute files as `--dist loadfile` does, but keep those that share a service in one process."""
    from xdist.scheduler import LoadFileScheduling

    class Scheduling(LoadFileScheduling):
        def _split_scope(self, nodeid: str) -> str:
            return _group(super()._split_scope(nodeid))

    return Scheduling(config, log)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Let the groups that take longest begin first, so that no worker is left alone with one of them.

    Files that share Ray run in the order of `_SHARES_RAY`.
    """
    longest = ("cluster", "tests/serving", "ranks", "tests/conformance/test_qwen_families.py")

    def rank(item: pytest.Item) -> tuple[int, int]:
        file = item.nodeid.partition("::")[0]
        group = _group(file)
        place = _SHARES_RAY.index(file) if file in _SHARES_RAY else 0
        return longest.index(group) if group in longest else len(longest), place

    items.sort(key=rank)


def _group(file: str) -> str:
    """Return the name of the group of files that run in one process."""
    if file in _SHARES_RAY:
        return "cluster"
    if file in _FORKS_RANKS:
        return "ranks"
    return "tests/serving" if file.startswith("tests/serving/") else file


@pytest.fixture(scope="session")
def cluster() -> Iterator[str]:
    """Start Ray in this process, and yield its address. Files that use it are listed in _SHARES_RAY."""
    from tests.local_actors import ray_started

    with ray_started() as address:
        yield address


@pytest.fixture(scope="session")
def s3_server() -> Iterator[S3Server]:
    """Yield an S3-compatible server that all tests of a process share."""
    with S3Server() as server:
        yield server


@pytest.fixture
def s3(s3_server: S3Server, monkeypatch: pytest.MonkeyPatch) -> str:
    """Return the URI of a new bucket. Child processes also get its server's address from the environment."""
    for name, value in s3_server.environment.items():
        monkeypatch.setenv(name, value)
    return s3_server.make_bucket(f"bucket-{secrets.token_hex(4)}")


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[SmallDisk]:
    """Yield a folder with a file system of 4 MB, which can be filled."""
    try:
        with SmallDisk(tmp_path / "disk", 4 * 2**20) as disk:
            yield disk
    except PermissionError as error:
        pytest.skip(str(error))


@pytest.fixture(autouse=True, scope="session")
def float32_on_every_processor() -> Iterator[None]:
    """Load models in float32 in this process, also on a processor that computes bfloat16 natively.

    The tolerances of the tests are those of float32.
    """
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("gve_ray.embedder.dtypes.cpu_flags", lambda _: set())
        yield
