"""benchmarks/scale.py from end to end at a small size: its figures are of a run that came to its end."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).resolve().parents[2]


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_all_parts_of_a_small_run(tmp_path: Path) -> None:
    """Three minutes on two idle cores, most of it for the recording and the starts of actors."""
    plot = tmp_path / "memory.png"
    done = subprocess.run(
        [sys.executable, "benchmarks/scale.py", "--rows", "1000", "--plot", str(plot)],
        cwd=REPOSITORY,
        env={**os.environ, "PYTHONPATH": str(REPOSITORY)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    found = json.loads(done.stdout)
    stages = found["synthesis"]["stages"]
    assert stages["integrity"]["in"] == 1000
    assert all(one["in"] == one["out"] + one["rejected"] for one in stages.values())
    assert 0 < stages["duplicates"]["rejected"] < 100  # the copies, and not half of the corpus
    assert found["synthesis"]["pairs"]["quotas_met"]
    assert found["resume"]["committed"] == 1000
    assert found["commits"]["fragments"] == 1000 // 16
    assert found["batches"]["batches_per_s"] > 0
    assert found["schedule"]["ranks_agree"]
    assert "projection" not in found  # of so few rows
    assert plot.read_bytes()[:4] == b"\x89PNG"
