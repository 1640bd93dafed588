"""Makes the environment the project runs in: a venv holding exactly what `setup/cpu.lock` names.

    python3 setup/environment.py .venv

`make setup` runs it, and again only after the lock, pyproject.toml or a file in setup/ has changed. Needs
Python 3.11-3.13 and a package index, nothing else: not ensurepip, not a compiler. pip's own settings
(PIP_INDEX_URL, pip.conf ...) are obeyed. It resolves nothing, so it installs the same everywhere.
"""

import sys

if not (3, 11) <= sys.version_info[:2] <= (3, 13):
    found = ".".join(map(str, sys.version_info[:2]))
    sys.exit(
        f"Python {found}: gve_ray needs 3.11, 3.12 or 3.13; name one, as in `make setup PYTHON=python3.12`"
    )

import argparse
import configparser
import ctypes
import hashlib
import importlib.util
import os
import re
import shutil
import ssl
import subprocess
import tempfile
import time
import urllib.error
import urllib.parse
import urllib.request
import venv
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
LOCK = ROOT / "setup" / "cpu.lock"
HOOK = ROOT / "setup" / "torchvision_hook.py"
TORCH_CPU_INDEX = "https://download.pytorch.org/whl/cpu"
PIP_WHEEL = "pip-26.1.2-py3-none-any.whl"
PIP_SHA256 = "382ff9f685ee3bc25864f820aa50505825f10f5458ffff07e30a6d96e5715cab"


def main() -> None:
    """Make or complete the environment named on the command line."""
    parser = argparse.ArgumentParser(description="Make the environment the project runs in.")
    parser.add_argument("folder", type=Path, help="the venv, made if it is not there")
    folder = parser.parse_args().folder.absolute()
    started = time.monotonic()
    require_libnuma()
    make_venv(folder)
    python = folder / "bin" / "python"
    install_lock(python)
    run_pip(python, "--no-deps", "--no-build-isolation", "--editable", str(ROOT))
    fit_torchvision(python)
    say(f"{folder} is ready ({time.monotonic() - started:.0f} s)")


def require_libnuma() -> None:
    """vLLM's CPU kernels link against libnuma, the one library that a bare Debian lacks."""
    try:
        ctypes.CDLL("libnuma.so.1")
        return
    except OSError:
        pass
    fix = "apt-get update && apt-get install --yes --no-install-recommends libnuma1"
    if os.geteuid() == 0 and shutil.which("apt-get"):
        say(f"libnuma.so.1 is missing and vLLM needs it: {fix}")
        if subprocess.run(fix, shell=True, stdout=subprocess.DEVNULL).returncode == 0:
            return
    sys.exit(f"libnuma.so.1 is missing and vLLM needs it; as root: {fix}")


def make_venv(folder: Path) -> None:
    """Make the venv and its pip; one that has both is left as it is."""
    python = folder / "bin" / "python"
    if python.exists() and not subprocess.run([python, "-c", "import pip"], capture_output=True).returncode:
        return
    # Debian keeps ensurepip in a package of its own, python3-venv.
    bundled = importlib.util.find_spec("ensurepip") is not None
    say(f"making {folder} with Python {sys.version.split()[0]}")
    venv.create(folder, with_pip=bundled, symlinks=True)
    if not bundled:
        with tempfile.TemporaryDirectory() as scratch:
            wheel = fetch_pip(Path(scratch))
            subprocess.run([python, wheel / "pip", "install", "--quiet", "--no-index", wheel], check=True)


def install_lock(python: Path) -> None:
    """Install every package of the lock at its version, without resolving."""
    torch = next(line for line in LOCK.read_text().split() if line.startswith("torch=="))
    say(f"installing {torch}")
    # The plain registry has only CUDA builds under torch's bare version: ask for the CPU one by its full
    # version, first where pip looks anyway (a mirror, a folder of wheels).
    here = pip_install(python, "--no-deps", torch)
    if here.returncode:
        there = pip_install(python, "--no-deps", "--index-url", TORCH_CPU_INDEX, torch)
        if there.returncode:
            sys.exit(
                f"{torch}: neither pip's own index nor {TORCH_CPU_INDEX} gave it\n{here.stderr}{there.stderr}"
            )
    say(f"installing {LOCK.relative_to(ROOT)} (a few minutes)")
    run_pip(python, "--no-deps", "--requirement", str(LOCK))


def pip_install(python: Path, *arguments: str) -> "subprocess.CompletedProcess[str]":
    """`pip install` of wheels, errors captured."""
    options = ["--quiet", "--disable-pip-version-check", "--no-input", "--only-binary=:all:"]
    command = [str(python), "-m", "pip", "install", *options, *arguments]
    return subprocess.run(command, stderr=subprocess.PIPE, text=True, stdin=subprocess.DEVNULL)


def run_pip(python: Path, *arguments: str) -> None:
    """`pip install`, ending the program with pip's words if it fails."""
    done = pip_install(python, *arguments)
    if done.returncode:
        sys.exit(f"pip install {' '.join(arguments)} failed\n{done.stderr}")


def fit_torchvision(python: Path) -> None:
    """Install the import hook where torchvision cannot load its operators, and only there."""
    where = "import sysconfig; print(sysconfig.get_path('purelib'))"
    site = Path(
        subprocess.run([python, "-c", where], check=True, capture_output=True, text=True).stdout.strip()
    )
    module, starter = site / "gve_torchvision_hook.py", site / "gve_torchvision_hook.pth"
    # Without the hook, but with its files left alone: something may be running in this environment.
    unhook = (
        "import sys; sys.meta_path = [f for f in sys.meta_path if 'gve_torchvision' not in f.__module__]\n"
    )
    plain = subprocess.run([python, "-c", unhook + "import torchvision"], capture_output=True, text=True)
    if plain.returncode == 0:
        starter.unlink(missing_ok=True)
        module.unlink(missing_ok=True)
        return
    if "operator torchvision::" not in plain.stderr:
        sys.exit(f"torchvision does not import, for a reason of its own:\n{plain.stderr}")
    shutil.copyfile(HOOK, module)
    starter.write_text("import gve_torchvision_hook; gve_torchvision_hook.install()\n")
    hooked = subprocess.run([python, "-c", "import torchvision"], capture_output=True, text=True)
    if hooked.returncode:
        sys.exit(f"torchvision does not import even with {HOOK.relative_to(ROOT)}:\n{hooked.stderr}")
    say("torchvision's compiled operators do not load beside this torch; installed the import hook")


def fetch_pip(folder: Path) -> Path:
    """Download the pip this file pins from the configured index, and check it."""
    page = index_url().rstrip("/") + "/pip/"
    context = ssl.create_default_context(cafile=os.environ.get("PIP_CERT"))
    try:
        with urllib.request.urlopen(page, timeout=60, context=context) as answer:
            links = re.findall(r'href="([^"]+)"', answer.read().decode())
        link = next(link for link in links if urllib.parse.urlsplit(link).path.endswith(PIP_WHEEL))
        with urllib.request.urlopen(urllib.parse.urljoin(page, link), timeout=60, context=context) as answer:
            content = answer.read()
    except (urllib.error.URLError, StopIteration) as error:
        sys.exit(
            f"this Python has no ensurepip, and {PIP_WHEEL} could not be had from {page} ({error!r}); "
            "install the distribution's python3-venv, or set PIP_INDEX_URL"
        )
    if hashlib.sha256(content).hexdigest() != PIP_SHA256:
        sys.exit(f"{PIP_WHEEL} from {page} is not the file this project pins; check the index")
    wheel = folder / PIP_WHEEL
    wheel.write_bytes(content)
    return wheel


def index_url() -> str:
    """The index pip would use: its environment variable, its configuration files, else PyPI."""
    files = configparser.ConfigParser(interpolation=None)
    files.read(["/etc/pip.conf", Path.home() / ".pip/pip.conf", Path.home() / ".config/pip/pip.conf"])
    configured = files.get("global", "index-url", fallback="https://pypi.org/simple")
    return os.environ.get("PIP_INDEX_URL", configured)


def say(line: str) -> None:
    """Progress, visible at once also through a pipe."""
    print(f"setup: {line}", flush=True)


if __name__ == "__main__":
    main()
