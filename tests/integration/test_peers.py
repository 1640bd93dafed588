"""Tests benchmarks/peers.py from end to end at a small size, and how it counts what programs find."""

import pytest

from gve_ray.demo.plan import BROKEN, plan_corpus
from tests.benchmark import figures_of

FILES = 40


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_programs_without_an_environment_are_left_out() -> None:
    """The plain loop and gve_ray on the same files: no intact one is dropped, and gve_ray finds all damage."""
    options = ("--files", str(FILES), "--nemo-curator-python", "/none/python")
    corpus = figures_of("peers.py", *options)["corpus"]
    programs, found = corpus["programs"], corpus["found"]
    assert programs["data_juicer"] == {"not_run": "no Python given: --data-juicer-python"}
    assert "/none/python" in programs["nemo_curator"]["failed"]
    assert all(
        programs[name]["seconds"] > 0 and programs[name]["peak_mb"] > 20 for name in ("gve_ray", "pyav")
    )
    assert set(next(iter(found.values()))) == {"files", "gve_ray", "pyav"}
    assert found["intact"]["gve_ray"] == found["intact"]["pyav"] == 0
    for kind in BROKEN:
        assert found[kind]["gve_ray"] == found[kind]["files"], kind
    originals = {entry.duplicate_of for entry in plan_corpus(FILES, seed=42) if entry.duplicate_of}
    assert sum(row["files"] for row in found.values()) == FILES - len(originals)
