"""Resolves the CPU profile and writes it to `setup/cpu.lock`: `make lock`, after changing pyproject.toml.

    .venv/bin/python setup/lock.py

Where pip does not already find the CPU build of torch, set
PIP_EXTRA_INDEX_URL=https://download.pytorch.org/whl/cpu for this command.
"""

import json
import subprocess
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
LOCK = ROOT / "setup" / "cpu.lock"
LEFT_OUT = {
    "gve-ray": "ourselves",
    "torchaudio": "does not load beside CPU torch; no audio here",
    "torchcodec": "does not load beside CPU torch, and then transformers' video processor fails",
    "triton": "GPU kernels",
    "fastapi-cli": "a command line nobody calls here",
    "fastapi-cloud-cli": "a command line nobody calls here",
    "rich-toolkit": "only for the above",
    "rignore": "only for the above",
    "sentry-sdk": "only for the above",
    "detect-installer": "only for the above",
    "agent-detector": "only for the above",
    "fastar": "only for the above",
}


def resolve() -> dict[str, str]:
    """Name -> version of everything pip would install for the `cpu` and `dev` extras."""
    with tempfile.NamedTemporaryFile(suffix=".json") as report:
        options = ["--quiet", "--dry-run", "--ignore-installed", "--no-build-isolation"]
        report_to = ["--report", report.name]
        command = [sys.executable, "-m", "pip", "install", *options, *report_to, f"{ROOT}[cpu,dev]"]
        subprocess.run(command, check=True)
        found = json.loads(Path(report.name).read_text())["install"]
    return {
        entry["metadata"]["name"].lower().replace("_", "-"): entry["metadata"]["version"] for entry in found
    }


def main() -> None:
    """Write the lock, without what the CPU profile can do without."""
    versions = resolve()
    cuda = {name for name in versions if name.startswith(("nvidia-", "cuda-"))}
    if cuda:
        raise SystemExit(
            f"pip chose a CUDA build of torch ({', '.join(sorted(cuda)[:3])}, ...); "
            "set PIP_EXTRA_INDEX_URL=https://download.pytorch.org/whl/cpu and run again"
        )
    head = (
        "# The CPU profile with the development tools, Python 3.11-3.13 on Linux. `make lock` writes it;\n"
        "# setup/environment.py installs it with --no-deps. What is left out, and why: setup/lock.py.\n"
    )
    lines = [f"{name}=={versions[name]}\n" for name in sorted(versions) if name not in LEFT_OUT]
    LOCK.write_text(head + "".join(lines))
    print(f"{LOCK}: {len(lines)} packages")


if __name__ == "__main__":
    main()
