"""The lowest versions that pyproject.toml allows install together and can index and embed videos."""

import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

from gve_ray.demo.retrieval import write_heldout
from setup import environment

pytestmark = [pytest.mark.slow, pytest.mark.timeout(3600)]
ROOT = Path(__file__).resolve().parents[1]
TORCH = re.compile(r"torch(vision)?==\S+")
SMOKE = """
import importlib, pkgutil, sys
import gve_ray
from gve_ray.config import resolve_model
from gve_ray.embedder import Embedder
from gve_ray.schema import Item

ENGINE = ("gve_ray.embedder.vllm_engine", "gve_ray.evaluation.mteb")  # import what the extras bring
for module in pkgutil.walk_packages(gve_ray.__path__, "gve_ray."):
    if module.name not in ENGINE:
        importlib.import_module(module.name)
embedder = Embedder.from_pretrained(
    resolve_model("package://demo/tiny_vl/model"), resolve_model("package://demo/tiny_vl/adapter")
)
vectors = embedder.encode([Item(text="a red ball"), Item(video=sys.argv[1])]).vectors
assert abs((vectors**2).sum(axis=1) - 1).max() < 1e-3, vectors
"""


def lowest_versions() -> list[str]:
    """Return the lower bound of each direct dependency as a constraint, and torch's CPU builds as in the lock."""
    dependencies = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["dependencies"]
    lock = (ROOT / "setup/cpu.lock").read_text()
    builds = [build[0] for build in TORCH.finditer(lock)]
    bounds = [re.match(r"([\w-]+)(?:\[.*\])?>=([\d.]+)", dependency) for dependency in dependencies]
    assert all(bounds), dependencies
    return builds + [
        f"{bound[1]}=={bound[2]}" for bound in bounds if bound and not bound[1].startswith("torch")
    ]


def test_the_lowest_versions_work(tmp_path: Path) -> None:
    python = tmp_path / "venv" / "bin" / "python"
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", str(tmp_path / "venv")], check=True)
    constraints = tmp_path / "lowest.txt"
    constraints.write_text("".join(f"{line}\n" for line in lowest_versions()))
    pip = [sys.executable, "-m", "pip", "--python", str(python), "install", "--quiet", "--only-binary=:all:"]
    subprocess.run([*pip, "setuptools>=77"], check=True)
    subprocess.run([*pip, "--constraint", str(constraints), "--no-build-isolation", str(ROOT)], check=True)
    environment.fit_torchvision(python)
    heldout = write_heldout(tmp_path / "videos", n=2, seed=3, workers=1)
    subprocess.run([python, "-c", SMOKE, heldout.videos[0]], check=True, cwd=tmp_path)
    index = [python.with_name("gve"), "index", "--config", "demo.yaml", "--input", str(tmp_path / "videos")]
    index += ["--model.adapter", "package://demo/tiny_vl/adapter"]
    done = subprocess.run(
        [*index, "--output", str(tmp_path / "index")], cwd=tmp_path, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr[-3000:]
    assert "2 in: 2 added, 0 changed, 0 unchanged, 0 rejected" in done.stdout + done.stderr
