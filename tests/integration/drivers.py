"""Runs `gve VERB` as a separate process on a Ray cluster that outlives it, as a job server does."""

import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


@contextmanager
def driver(
    verb: str, *options: str, config: Path, output: Path, address: str
) -> "Iterator[subprocess.Popen[bytes]]":
    """Run the command with `output` as its output folder and `OUTPUT.log` as its log file.

    A process that is still running at the end of the block is killed.
    """
    command = [sys.executable, "-m", "gve_ray.cli", verb, "--config", str(config), "--output", str(output)]
    with open(f"{output}.log", "a") as log:
        process = subprocess.Popen(
            [*command, *options],
            stdout=log,
            stderr=subprocess.STDOUT,
            env={**os.environ, "RAY_ADDRESS": address},
        )
        try:
            yield process
        finally:
            process.kill()
            process.wait()


def log_of(output: Path) -> str:
    """Return the log of all drivers that have written to `output`."""
    return Path(f"{output}.log").read_text()
