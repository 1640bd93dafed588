"""Settings every test runs under, so that none depends on the home directory, the network or the shell.

Under pytest-xdist a file of tests is one process's, and so are all files of tests/serving: they share a service.
Files that are named on the command line run whole, their slow tests, too.
"""

import os
import secrets
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.s3 import S3Server

_BY_DEFAULT = "not slow and not gpu"  # as in pyproject.toml
_FOLDERS = ("HF_HOME", "MPLCONFIGDIR", "TORCHINDUCTOR_CACHE_DIR", "VLLM_CACHE_ROOT", "VLLM_CONFIG_ROOT")
_SETTINGS = {
    "HF_HUB_OFFLINE": "1",
    "TRANSFORMERS_OFFLINE": "1",
    "HF_HUB_DISABLE_TELEMETRY": "1",
    "DO_NOT_TRACK": "1",
    "VLLM_NO_USAGE_STATS": "1",
    "RAY_USAGE_STATS_ENABLED": "0",
    # Unset, Ray decides by whether ~/.ray/auth_token happens to be there.
    "RAY_AUTH_MODE": "disabled",
    # Unset, `ray.init()` joins whatever cluster this machine has running.
    "RAY_ADDRESS": "local",
    "MPLBACKEND": "Agg",
    "TOKENIZERS_PARALLELISM": "false",
}


def pytest_configure(config: pytest.Config) -> None:
    """Set the environment before any test module, and so any library, is imported."""
    named = config.invocation_params.args
    if config.option.markexpr == _BY_DEFAULT and any(".py" in str(one) for one in named):
        config.option.markexpr = "not gpu"
    scratch = Path(tempfile.mkdtemp(prefix="gve-tests-"))
    config.add_cleanup(lambda: shutil.rmtree(scratch, ignore_errors=True))
    os.environ.update(_SETTINGS)
    os.environ.update({name: str(scratch / name.lower()) for name in _FOLDERS})
    # Ray actors and vLLM add processes of their own; one thread each keeps a small machine responsive.
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    os.environ.setdefault("VLLM_CPU_KVCACHE_SPACE", "1")


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> Any:
    """Files as `--dist loadfile` hands them out, but for those that share what takes long to start."""
    from xdist.scheduler import LoadFileScheduling

    class Scheduling(LoadFileScheduling):
        def _split_scope(self, nodeid: str) -> str:
            file: str = super()._split_scope(nodeid)
            return "tests/serving" if file.startswith("tests/serving/") else file

    return Scheduling(config, log)


@pytest.fixture(scope="session")
def s3_server() -> Iterator[S3Server]:
    """One S3-compatible server for all tests of a process that ask for it."""
    with S3Server() as server:
        yield server


@pytest.fixture
def s3(s3_server: S3Server, monkeypatch: pytest.MonkeyPatch) -> str:
    """The URI of a new bucket; the environment says where its server is, to child processes, too."""
    for name, value in s3_server.environment.items():
        monkeypatch.setenv(name, value)
    return s3_server.make_bucket(f"bucket-{secrets.token_hex(4)}")
