"""Run a script of benchmarks/ as its user does."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

_REPOSITORY = Path(__file__).resolve().parents[1]


def figures_of(script: str, *options: str) -> dict[str, Any]:
    """Run a script with options, and return the JSON object that it prints. Fails if its exit status is not 0."""
    done = subprocess.run(
        [sys.executable, f"benchmarks/{script}", *options],
        cwd=_REPOSITORY,
        env={**os.environ, "PYTHONPATH": str(_REPOSITORY)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    figures: dict[str, Any] = json.loads(done.stdout)
    return figures
