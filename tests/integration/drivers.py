"""`gve VERB` in processes of their own on a cluster that outlives them, as under a job server."""

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
    """The verb with its log beside `output`, killed on leaving if it still runs."""
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
    """All that the drivers of a folder have said."""
    return Path(f"{output}.log").read_text()
