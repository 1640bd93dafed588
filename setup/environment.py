"""Create the environment of the project: a venv with exactly the packages of `setup/cpu.lock`.

    python3 setup/environment.py .venv

`make setup` runs this script, and runs it again only if the lock, pyproject.toml, this file or
torchvision_hook.py has changed. It needs Python 3.11 to 3.13 and a package index, but neither ensurepip nor a
compiler. It respects pip's settings (PIP_INDEX_URL, pip.conf ...). It does not resolve dependencies, so it installs the
same versions everywhere.
"""

import sys

if not (3, 11) <= sys.version_info[:2] <= (3, 13):
    version = ".".join(map(str, sys.version_info[:2]))
    sys.exit(
        f"Python {version}: gve_ray needs 3.11, 3.12 or 3.13; name one, as in `make setup PYTHON=python3.12`"
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
    """Create or complete the environment that is named on the command line."""
    parser = argparse.ArgumentParser(description="Create the environment of the project.")
    parser.add_argument("folder", type=Path, help="the venv, which is created if it does not exist")
    folder = parser.parse_args().folder.absolute()
    started = time.monotonic()
    require_libnuma()
    make_venv(folder)
    python = folder / "bin" / "python"
    install_lock(python)
    # Compat mode puts the checkout on sys.path. setuptools' default, an import hook, loses to any folder that is
    # named gve_ray, such as the checkout itself, below the current folder.
    editable = ["--config-settings", "editable_mode=compat", "--editable", str(ROOT)]
    run_pip(python, "--no-deps", "--no-build-isolation", *editable)
    fit_torchvision(python)
    say(f"{folder} is ready ({time.monotonic() - started:.0f} s)")


def require_libnuma() -> None:
    """Install libnuma, which vLLM's CPU kernels need and a minimal Debian lacks, or exit if it is missing."""
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
    """Create the venv with pip. A venv that has pip is not changed."""
    python = folder / "bin" / "python"
    if python.exists() and not subprocess.run([python, "-c", "import pip"], capture_output=True).returncode:
        return
    # Debian has ensurepip in a separate package, python3-venv.
    bundled = importlib.util.find_spec("ensurepip") is not None
    say(f"creating {folder} with Python {sys.version.split()[0]}")
    venv.create(folder, with_pip=bundled, symlinks=True)
    if not bundled:
        with tempfile.TemporaryDirectory() as scratch:
            wheel = fetch_pip(Path(scratch))
            subprocess.run([python, wheel / "pip", "install", "--quiet", "--no-index", wheel], check=True)


def install_lock(python: Path) -> None:
    """Install every package of the lock in its locked version, without resolving dependencies."""
    torch = next(line for line in LOCK.read_text().split() if line.startswith("torch=="))
    say(f"installing {torch}")
    # PyPI has only CUDA builds of torch. The CPU build has a different version, which may be on the configured
    # index (a mirror or a folder of wheels); otherwise it is on the index of PyTorch.
    configured = pip_install(python, "--no-deps", torch)
    if configured.returncode:
        pytorch = pip_install(python, "--no-deps", "--index-url", TORCH_CPU_INDEX, torch)
        if pytorch.returncode:
            sys.exit(
                f"{torch}: not found on pip's configured index or on {TORCH_CPU_INDEX}\n"
                f"{configured.stderr}{pytorch.stderr}"
            )
    say(f"installing {LOCK.relative_to(ROOT)} (a few minutes)")
    run_pip(python, "--no-deps", "--requirement", str(LOCK))


def pip_install(python: Path, *arguments: str) -> "subprocess.CompletedProcess[str]":
    """Run `pip install` for wheels only, and capture its errors."""
    options = ["--quiet", "--disable-pip-version-check", "--no-input", "--only-binary=:all:"]
    command = [str(python), "-m", "pip", "install", *options, *arguments]
    return subprocess.run(command, stderr=subprocess.PIPE, text=True, stdin=subprocess.DEVNULL)


def run_pip(python: Path, *arguments: str) -> None:
    """Run `pip install`; if it fails, exit with pip's errors."""
    done = pip_install(python, *arguments)
    if done.returncode:
        sys.exit(f"pip install {' '.join(arguments)} failed\n{done.stderr}")


def fit_torchvision(python: Path) -> None:
    """Install the import hook if torchvision cannot load its operators; otherwise remove it."""
    where = "import sysconfig; print(sysconfig.get_path('purelib'))"
    site = Path(
        subprocess.run([python, "-c", where], check=True, capture_output=True, text=True).stdout.strip()
    )
    module, starter = site / "gve_torchvision_hook.py", site / "gve_torchvision_hook.pth"
    # Disables the hook without deleting its files, because other processes may use this environment.
    unhook = (
        "import sys; sys.meta_path = [f for f in sys.meta_path if 'gve_torchvision' not in f.__module__]\n"
    )
    plain = subprocess.run([python, "-c", unhook + "import torchvision"], capture_output=True, text=True)
    if plain.returncode == 0:
        starter.unlink(missing_ok=True)
        module.unlink(missing_ok=True)
        return
    if "operator torchvision::" not in plain.stderr:
        sys.exit(f"torchvision cannot be imported, and the import hook cannot fix it:\n{plain.stderr}")
    shutil.copyfile(HOOK, module)
    starter.write_text("import gve_torchvision_hook; gve_torchvision_hook.install()\n")
    hooked = subprocess.run([python, "-c", "import torchvision"], capture_output=True, text=True)
    if hooked.returncode:
        sys.exit(f"torchvision cannot be imported even with {HOOK.relative_to(ROOT)}:\n{hooked.stderr}")
    say("torchvision: fitted to this torch (nothing to do)")


def fetch_pip(folder: Path) -> Path:
    """Download the pinned version of pip from the configured index, and verify its checksum."""
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
            f"this Python has no ensurepip, and {PIP_WHEEL} could not be downloaded from {page} ({error!r}); "
            "install the package python3-venv, or set PIP_INDEX_URL"
        )
    if hashlib.sha256(content).hexdigest() != PIP_SHA256:
        sys.exit(f"{PIP_WHEEL} from {page} does not have the pinned checksum; check the index")
    wheel = folder / PIP_WHEEL
    wheel.write_bytes(content)
    return wheel


def index_url() -> str:
    """Return the index that pip would use: from its environment variable or config files, otherwise PyPI."""
    files = configparser.ConfigParser(interpolation=None)
    files.read(["/etc/pip.conf", Path.home() / ".pip/pip.conf", Path.home() / ".config/pip/pip.conf"])
    configured = files.get("global", "index-url", fallback="https://pypi.org/simple")
    return os.environ.get("PIP_INDEX_URL", configured)


def say(line: str) -> None:
    """Print progress at once, even through a pipe."""
    print(f"setup: {line}", flush=True)


if __name__ == "__main__":
    main()
