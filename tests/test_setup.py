"""Tests that the lock has all dependencies of the project, and that the torchvision hook works."""

import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

from gve_ray import __version__

ROOT = Path(__file__).resolve().parent.parent
LOCK = [line for line in (ROOT / "setup" / "cpu.lock").read_text().splitlines() if not line.startswith("#")]


def run(program: str) -> str:
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_lock_names_exact_versions_only() -> None:
    """The lock must install from any index, so it has no addresses, paths or version ranges."""
    assert [line for line in LOCK if not re.fullmatch(r"[a-z0-9._-]+==[a-z0-9.+]+", line)] == []


def test_lock_has_all_dependencies_of_the_project() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    extras = project["optional-dependencies"]
    requirements = [*project["dependencies"], *extras["cpu"], *extras["dev"], *extras["docs"]]
    names = {re.match(r"[A-Za-z0-9_-]+", requirement).group().lower() for requirement in requirements}  # type: ignore[union-attr]
    assert names - {line.partition("==")[0] for line in LOCK} == set()


def test_a_folder_of_the_same_name_does_not_hide_the_package(tmp_path: Path) -> None:
    """A checkout is such a folder to who works in the folder above it."""
    (tmp_path / "gve_ray").mkdir()
    command = [sys.executable, "-c", "import gve_ray; print(gve_ray.__version__)"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True)
    assert done.stdout.strip() == __version__, done.stderr


def test_looking_for_torchvision_does_not_load_torch() -> None:
    out = run(
        "import sys, importlib.util; found = importlib.util.find_spec('torchvision') is not None; "
        "print(found, 'torch' in sys.modules)"
    )
    assert out.split() == ["True", "False"]


@pytest.mark.slow  # tests/embedder uses it in this process
def test_video_processor_works_in_a_new_process() -> None:
    """8 frames of 56 x 84 are 4 pairs of 4 x 6 patches of 14 pixels."""
    out = run(
        "import numpy as np; from transformers import Qwen2VLVideoProcessor; "
        "out = Qwen2VLVideoProcessor(min_pixels=56 * 84, max_pixels=8 * 56 * 84)"
        "([np.zeros((8, 56, 84, 3), 'u1')], do_sample_frames=False, do_resize=False, return_tensors='pt'); "
        "print(*out['video_grid_thw'][0].tolist())"
    )
    assert out.split() == ["4", "4", "6"]
