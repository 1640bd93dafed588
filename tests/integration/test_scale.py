"""Tests benchmarks/scale.py from end to end at a small size."""

from pathlib import Path

import pytest

from tests.benchmark import figures_of


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_all_parts_of_a_small_run(tmp_path: Path) -> None:
    """Takes three minutes on two idle cores, mostly for recording the answers and for starting actors."""
    plot = tmp_path / "memory.png"
    figures = figures_of("scale.py", "--rows", "1000", "--plot", str(plot))
    stages = figures["synthesis"]["stages"]
    assert stages["integrity"]["in"] == 1000
    assert all(stage["in"] == stage["out"] + stage["rejected"] for stage in stages.values())
    assert 0 < stages["duplicates"]["rejected"] < 100  # the copies only
    assert figures["synthesis"]["pairs"]["quotas_met"]
    assert figures["resume"]["committed"] == 1000
    assert figures["commits"]["fragments"] == 1000 // 16
    assert figures["batches"]["batches_per_s"] > 0
    assert figures["schedule"]["ranks_agree"]
    assert "projection" not in figures  # it needs more rows
    assert plot.read_bytes()[:4] == b"\x89PNG"
