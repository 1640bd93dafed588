"""A run from config to adapter with a Qwen2.5-VL of two layers and random weights."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from transformers import AutoModel, AutoProcessor

from gve_ray.embedder import Embedder, EmbedderSettings
from gve_ray.schema import Item
from gve_ray.store import SharedFolder
from gve_ray.training import checkpoint
from gve_ray.training.config import (
    DataSetConfig,
    DistillationConfig,
    LoopConfig,
    LoraConfig,
    OptimiserConfig,
    ProberConfig,
    TrainingConfig,
    ValidationConfig,
)
from gve_ray.training.curriculum import Curriculum, History
from gve_ray.training.fit import fit
from gve_ray.training.prober import open_helper
from gve_ray.training.runlog import read_log
from tests.embedder.conftest import save_tiny
from tests.embedder.dual_encoders import save_dual_encoder


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_tiny(tmp_path_factory.mktemp("base"), "qwen2_5_vl")


def config_for(base: Path, folder: Path) -> TrainingConfig:
    """Return a config of two sets of ten text pairs: one mines hard negatives, the other has none."""
    sets = []
    for name, negatives in (("mined", 1), ("plain", 0)):
        lines = [{"query": f"{name} {i}", "positive": f"the answer {i * 7 % 10}"} for i in range(10)]
        (folder / f"{name}.jsonl").write_text("\n".join(map(json.dumps, lines)))
        sets.append(
            DataSetConfig(
                name=name,
                uri=str(folder / f"{name}.jsonl"),
                format="text_pairs",
                batch_size=4,
                negatives=negatives,
            )
        )
    return TrainingConfig(
        model=str(base),
        data=tuple(sets),
        frames=4,
        curriculum=Curriculum(kind="pyramid", epochs=2, tasks="dataset", prior="none"),
        prober=ProberConfig(pairs=5, margin=None),
        lora=LoraConfig(r=4, alpha=8, dropout=0.1),
        loop=LoopConfig(steps=2, optimiser=OptimiserConfig(learning_rate=1e-2, warmup=0.0), save_steps=1),
    )


def test_a_run_writes_an_adapter_and_a_finished_run_does_nothing(base: Path, tmp_path: Path) -> None:
    config = config_for(base, tmp_path)
    run = tmp_path / "run"
    history = fit(config, run, device="cpu")
    assert [record.prober for record in history.epochs] == [str(base), "checkpoint of epoch 1"]
    for record in history.epochs:
        odds = record.probabilities["mined"] / record.probabilities["plain"]
        gap = record.scores["mined"] - record.scores["plain"]
        assert odds == pytest.approx(np.exp(gap / record.sigma))
    assert history.epochs[0].scores != history.epochs[1].scores
    assert History.load(run / "adapter" / "curriculum.json") == history
    assert all((run / name).exists() for name in ("training.png", "curriculum.png"))
    steps = list(read_log(run / "steps.jsonl"))
    assert [line["step"] for line in steps] == [1, 2, 3, 4]
    # The negative of each pair is the target of another pair.
    for epoch in (1, 2):
        rows = np.load(run / "probes" / f"epoch-{epoch}" / "mined.npy")
        assert rows.shape == (10, 1)
        assert (rows[:, 0] != np.arange(10)).all()
        assert (rows >= 0).all()
    assert not (run / "probes" / "epoch-1" / "plain.npy").exists()

    settings = EmbedderSettings(frames=4)
    items = [Item(text="a cat"), Item(text="a dog")]
    trained = Embedder.from_pretrained(base, run / "adapter", settings=settings, device="cpu").embed(items)
    plain = Embedder.from_pretrained(base, settings=settings, device="cpu").embed(items)
    assert np.abs(trained - plain).max() > 1e-3

    assert fit(config, run, device="cpu") == history
    assert len(list(read_log(run / "steps.jsonl"))) == 4


def test_the_first_prober_may_have_another_engine(base: Path, tmp_path: Path) -> None:
    """CLIP scores and mines in epoch 1. The scores are those of CLIP's own cosines."""
    clip = save_dual_encoder(tmp_path / "clip", "clip")
    config = config_for(base, tmp_path)
    prober = ProberConfig(model=str(clip), engine="frames", dtype="float32", pairs=10, margin=None)
    history = fit(replace(config, prober=prober), tmp_path / "run", device="cpu")
    assert [record.prober for record in history.epochs] == [str(clip), "checkpoint of epoch 1"]
    model = AutoModel.from_pretrained(clip).eval()
    processor = AutoProcessor.from_pretrained(clip)
    cosines = []
    for i in range(10):
        texts = [f"plain {i}", f"the answer {i * 7 % 10}"]
        tokens = processor.tokenizer(texts, padding=True, return_tensors="pt")
        with torch.no_grad():
            features = model.get_text_features(**tokens).pooler_output
        cosines.append(float(torch.cosine_similarity(*features.float(), dim=0)))
    score = json.loads((tmp_path / "run/probes/epoch-1/plain.json").read_text())["score"]
    assert score["positive"] == pytest.approx(np.mean(cosines), abs=1e-4)


def test_a_prober_that_cannot_embed_an_item_is_named(tmp_path: Path) -> None:
    clip = save_dual_encoder(tmp_path / "clip", "clip")
    embed = open_helper(
        "prober", ProberConfig(model=str(clip), engine="frames"), None, dtype="float32", device="cpu"
    )
    with pytest.raises(
        ValueError, match=r"prober.model='.*clip': .*; name a model that embeds all data sets"
    ):
        embed([Item(text="a cat", image="cat.jpg")])
    with pytest.raises(ValueError, match=r"prober.engine='vllm'"):
        ProberConfig(model="m", engine="vllm")


def test_the_adapter_is_that_of_the_best_evaluation(base: Path, tmp_path: Path) -> None:
    config = config_for(base, tmp_path)
    rows = [{"query": f"plain {i}", "positive": f"the answer {i * 7 % 10}"} for i in range(10)]
    (tmp_path / "held.jsonl").write_text("\n".join(map(json.dumps, rows)))
    held = DataSetConfig(name="held", uri=str(tmp_path / "held.jsonl"), format="text_pairs")
    config = replace(config, validation=ValidationConfig(eval_steps=1, data=(held,), metric="held"))
    fit(config, tmp_path / "run", device="cpu")
    scores = list(read_log(tmp_path / "run" / "evaluations.jsonl"))
    assert [line["step"] for line in scores] == [1, 2, 3, 4]
    best = max((line["scores"]["held"], -line["step"]) for line in scores)
    assert (tmp_path / "run" / "evaluations.png").exists()
    settings = EmbedderSettings(frames=4)
    queries, targets = ([Item(text=row[side]) for row in rows] for side in ("query", "positive"))

    def hits(adapter: str) -> float:
        embedder = Embedder.from_pretrained(base, tmp_path / "run" / adapter, settings=settings, device="cpu")
        cosines = embedder.embed(queries) @ embedder.embed(targets).T
        return float((cosines.argmax(axis=1) == np.arange(10)).mean())

    assert hits("adapter") == pytest.approx(best[0])
    assert hits("last") == pytest.approx(scores[-1]["scores"]["held"])


def test_the_teachers_term_counts_by_its_weight(base: Path, tmp_path: Path) -> None:
    config = replace(config_for(base, tmp_path), curriculum=Curriculum(epochs=1))
    config = replace(config, data=config.data[1:], loop=replace(config.loop, steps=1))
    fit(config, tmp_path / "teacher", device="cpu")
    losses = []
    for weight in (0.0, 1.0, 2.0):
        distillation = DistillationConfig(
            model=str(base), adapter=str(tmp_path / "teacher" / "adapter"), weight=weight
        )
        fit(replace(config, distillation=distillation), tmp_path / f"student-{weight}", device="cpu")
        (step,) = read_log(tmp_path / f"student-{weight}" / "steps.jsonl")
        losses.append(step["loss"])
    assert losses[0] == next(iter(read_log(tmp_path / "teacher" / "steps.jsonl")))["loss"]
    # The teacher may have another engine, and vectors of another size.
    clip = DistillationConfig(
        model=str(save_dual_encoder(tmp_path / "clip", "clip")), engine="frames", dtype="float32"
    )
    fit(replace(config, distillation=clip), tmp_path / "student-clip", device="cpu")
    (step,) = read_log(tmp_path / "student-clip" / "steps.jsonl")
    assert step["loss"] > losses[0]
    assert step["loss"] != losses[1]
    assert losses[1] - losses[0] > 1e-3
    assert losses[2] - losses[0] == pytest.approx(2 * (losses[1] - losses[0]), rel=1e-3)


def test_a_run_on_an_object_store_equals_a_local_one_and_resumes_after_a_kill(
    base: Path, tmp_path: Path, s3: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each call has a new temporary folder, like a rank on another node: it sees only what is in the store."""
    config = config_for(base, tmp_path)
    history = fit(config, tmp_path / "run", device="cpu")
    store = SharedFolder(f"{s3}/run")

    save = checkpoint.save

    def die(*args: Any, **options: Any) -> Path:
        if args[3].total == 3:  # the logs of step 3 have been published, its checkpoint has not
            raise KeyboardInterrupt
        return save(*args, **options)

    with monkeypatch.context() as killed:
        killed.setattr(checkpoint, "save", die)
        with pytest.raises(KeyboardInterrupt):
            fit(config, store.uri, device="cpu")
    assert [line["step"] for line in read_log(store.fetch("steps.jsonl"))] == [1, 2, 3]
    assert fit(config, store.uri, device="cpu") == history

    fetched = store.fetch("")
    for name in ("adapter/adapter_model.safetensors", "probes/epoch-2/mined.npy", "adapter/curriculum.json"):
        assert (fetched / name).read_bytes() == (tmp_path / "run" / name).read_bytes()
    steps = [list(read_log(folder / "steps.jsonl")) for folder in (fetched, tmp_path / "run")]
    losses = [[(line["step"], line["loss"]) for line in lines] for lines in steps]
    assert losses[0] == losses[1]
    assert len(list((fetched / "tensorboard").iterdir())) == 2
    assert store.names() == [
        "adapter", "checkpoints", "curriculum.png", "probes", "steps.jsonl", "tensorboard", "training.png"
    ]  # fmt: skip


def test_asset_references_without_assets_are_refused_before_the_model_loads(tmp_path: Path) -> None:
    (tmp_path / "x.csv").write_text("image,caption\nasset://v1/frame/0,a cat\n")
    data = DataSetConfig(name="x", uri=str(tmp_path / "x.csv"), format="image_captions")
    config = TrainingConfig(model="missing", data=(data,))
    with pytest.raises(ValueError, match="x: 1 references do not resolve"):
        fit(config, tmp_path / "run", device="cpu")


@pytest.mark.parametrize(
    "change,message",
    [
        ({"model": ""}, "model=''"),
        ({"data": ()}, r"data=\[\]"),
        ({"token_budget": 0}, "token_budget=0"),
        ({"checkpointing": True, "loop": LoopConfig(gradcache=True)}, "use only one of them"),
    ],
)
def test_wrong_configs_are_refused(change: dict, message: str) -> None:
    data = (DataSetConfig(name="x", uri="folder"),)
    with pytest.raises(ValueError, match=message):
        TrainingConfig(**{"model": "base", "data": data} | change)
