"""Training with sharded weights (FSDP2) gives the weights of training without (DDP)."""

import json
from pathlib import Path

import pytest
from safetensors.torch import load_file

from gve_ray.training.config import DataSetConfig, LoopConfig, TrainingConfig
from gve_ray.training.runlog import read_log
from tests.embedder.conftest import save_tiny
from tests.training import sharding_ranks
from tests.training.forked import start_ranks


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the folder of both trainings."""
    folder = tmp_path_factory.mktemp("sharding")
    sharding_ranks.write_data(folder)
    base = save_tiny(tmp_path_factory.mktemp("base"), "qwen2_5_vl")
    start_ranks(sharding_ranks.rank_main, (str(base), str(folder)), sharding_ranks.RANKS)
    return folder


def test_the_adapters_are_equal(folder: Path) -> None:
    plain, sharded = (
        load_file(folder / name / "adapter" / "adapter_model.safetensors") for name in ("plain", "sharded")
    )
    assert plain.keys() == sharded.keys()
    assert max(float(weight.abs().max()) for name, weight in plain.items() if "lora_B" in name) > 1e-2
    assert max(float((plain[name] - sharded[name]).abs().max()) for name in plain) < 1e-4


def test_losses_scores_and_mined_negatives_are_equal(folder: Path) -> None:
    for file, field in (("steps.jsonl", "loss"), ("evaluations.jsonl", "scores")):
        plain, sharded = (
            [line[field] for line in read_log(folder / name / file)] for name in ("plain", "sharded")
        )
        assert len(plain) == (6 if field == "loss" else 2)
        assert sharded == pytest.approx(plain, abs=1e-4) if field == "loss" else sharded == plain
    mined = [
        (folder / name / "probes" / "epoch-2" / "texts.npy").read_bytes() for name in ("plain", "sharded")
    ]
    assert mined[0] == mined[1]


def test_each_rank_holds_its_share_although_ranks_have_different_numbers_of_batches(folder: Path) -> None:
    facts = [json.loads((folder / f"facts-{rank}.json").read_text()) for rank in range(sharding_ranks.RANKS)]
    assert facts[0]["counts"] != facts[1]["counts"]  # otherwise nothing would show that batches are added
    for fact in facts:
        assert fact["shares"] == pytest.approx([1 / sharding_ranks.RANKS], rel=0.05)


def test_sharding_and_gradcache_are_refused_together() -> None:
    with pytest.raises(ValueError, match=r"sharded=True, loop\.gradcache=True"):
        TrainingConfig(
            model="base",
            data=(DataSetConfig(name="x", uri="folder"),),
            sharded=True,
            loop=LoopConfig(gradcache=True),
        )
