"""The training loop with a real Qwen2.5-VL of two layers and random weights."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from gve_ray.embedder import (
    Collator,
    Embedder,
    EmbedderSettings,
    load_processor,
    load_torch_model,
    save_adapter,
)
from gve_ray.schema import Item
from gve_ray.store import SharedFolder
from gve_ray.training.checkpoint import trained_weights
from gve_ray.training.config import LoopConfig, OptimiserConfig
from gve_ray.training.curriculum import Curriculum
from gve_ray.training.encoder import FROZEN, Encoder, GveCollate, with_lora
from gve_ray.training.loop import Trainer
from gve_ray.training.optimiser import check_frozen
from tests.embedder.conftest import make_frames, save_tiny
from tests.training import tiny

SETTINGS = EmbedderSettings(frames=4)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_tiny(tmp_path_factory.mktemp("base"), "qwen2_5_vl")


@pytest.fixture(scope="module")
def processor(folder: Path) -> Any:
    return load_processor(folder)


def make_encoder(folder: Path, processor: Any, **options: Any) -> Encoder:
    model = load_torch_model(folder, processor=processor, dtype="float32", device="cpu")
    return with_lora(model, r=4, alpha=8, **options)


def collate_for(encoder: Encoder, processor: Any, budget: int = 300) -> GveCollate:
    model = encoder.model
    collator = Collator(SETTINGS, processor, family=model.family, config=model.config)
    return GveCollate(collator, token_budget=budget)


def test_chunks_contain_every_item_and_give_the_vectors_of_the_embedder(folder: Path, processor: Any) -> None:
    encoder = make_encoder(folder, processor).eval()
    items = [
        Item(text="a short text", instruction="Find it."),
        Item(video=make_frames(4, 56, 84)),
        Item(text="a longer text about a ball that flies to the left"),
        Item(image=make_frames(1, 84, 56), text="but red"),
        Item(text="x"),
    ]
    chunks = collate_for(encoder, processor, budget=120)(items)
    assert sorted(row for chunk in chunks for row in chunk.rows) == list(range(5))
    assert len(chunks) > 2
    assert sum(chunk.tokens for chunk in chunks) == sum(int(c.batch.attention_mask.sum()) for c in chunks)
    with torch.no_grad():
        vectors = encoder([chunk.batch for chunk in chunks]).numpy()
    order = np.argsort(np.concatenate([chunk.rows for chunk in chunks]))
    expected = Embedder.from_model(encoder.model, processor, SETTINGS).embed(items)
    assert (vectors[order] * expected).sum(axis=1).min() > 0.99999
    # If the vectors were equal, the order would not matter.
    assert (expected @ expected.T)[np.triu_indices(5, 1)].max() < 0.999


def test_a_run_changes_only_lora_weights_and_its_adapter_can_be_loaded(
    folder: Path, processor: Any, tmp_path: Path
) -> None:
    encoder = make_encoder(folder, processor, dropout=0.0)
    before = {name: weight.detach().clone() for name, weight in encoder.named_parameters()}
    losses: list[float] = []
    Trainer(
        encoder,
        collate_for(encoder, processor),
        tiny.datasets(tmp_path),
        Curriculum(kind="proportional", epochs=1),
        LoopConfig(steps=3, optimiser=OptimiserConfig(learning_rate=1e-2, warmup=0.0)),
        SharedFolder(tmp_path / "checkpoints"),
        on_step=lambda log: losses.append(log.loss),
    ).run()
    changed = {name for name, weight in encoder.named_parameters() if not torch.equal(weight, before[name])}
    assert len(losses) == 3
    assert changed == set(trained_weights(encoder))
    assert all("lora_" in name for name in changed)
    save_adapter(encoder.model, tmp_path / "adapter", SETTINGS)
    items = [Item(text="a cat"), Item(text="a dog")]
    mine = Embedder.from_model(encoder.model.eval(), processor, SETTINGS).embed(items)
    loaded = Embedder.from_pretrained(folder, tmp_path / "adapter", dtype="float32", device="cpu")
    assert np.abs(loaded.embed(items) - mine).max() < 1e-5


def test_checkpointing_gives_the_same_gradients(folder: Path, processor: Any) -> None:
    items = [Item(video=make_frames(4, 56, 56)), Item(text="words")]
    runs = []
    for checkpointing in (False, True):
        encoder = make_encoder(folder, processor, dropout=0.0, checkpointing=checkpointing).train()
        calls = _count_forwards(encoder)
        tower = _outputs(encoder.model.plain.model.visual.blocks[0])
        batches = [chunk.batch for chunk in collate_for(encoder, processor)(items)]
        vectors = encoder(batches)
        vectors[:, 0].sum().backward()
        assert not any(output.requires_grad for output in tower), (
            "the backward pass would include the frozen tower"
        )
        runs.append(([weight.grad for weight in encoder.parameters() if weight.requires_grad], calls[0]))
    (plain, once), (recomputed, twice) = runs
    assert twice > once
    assert any(gradient.abs().max() > 1e-4 for gradient in plain)
    for mine, theirs in zip(plain, recomputed, strict=True):
        torch.testing.assert_close(mine, theirs, atol=1e-6, rtol=1e-4)


def _outputs(module: torch.nn.Module) -> list[torch.Tensor]:
    """Return a list to which each output of the module is added."""
    outputs: list[torch.Tensor] = []
    module.register_forward_hook(lambda _module, _inputs, output: outputs.append(output))
    return outputs


def _count_forwards(encoder: Encoder) -> list[int]:
    """Return a list whose only element counts the runs of the first language layer's attention."""
    calls = [0]

    def count(*_: object) -> None:
        calls[0] += 1

    encoder.model.plain.model.language_model.layers[0].self_attn.register_forward_hook(count)
    return calls


def test_a_trainable_vision_tower_is_refused(folder: Path, processor: Any) -> None:
    encoder = make_encoder(folder, processor)
    encoder.model.plain.model.visual.requires_grad_(True)
    with pytest.raises(ValueError, match="of visual, embed_tokens, lm_head are trainable"):
        check_frozen(encoder.model, FROZEN)


def lora_delta(encoder: Encoder) -> dict[str, torch.Tensor]:
    """Return what an adapter whose B matrices are 1 adds to each weight."""
    for name, weight in encoder.named_parameters():
        if "lora_B" in name:
            torch.nn.init.ones_(weight)
    return {
        name: layer.get_delta_weight("default").detach()
        for name, layer in encoder.named_modules()
        if hasattr(layer, "get_delta_weight")
    }


def test_rslora_divides_by_the_root_of_the_rank(folder: Path, processor: Any) -> None:
    plain = lora_delta(make_encoder(folder, processor))
    scaled = lora_delta(make_encoder(folder, processor, rslora=True))
    assert len(plain) > 5
    for name, delta in plain.items():  # r = 4: alpha / 4 and alpha / 2
        torch.testing.assert_close(scaled[name], 2 * delta)


def test_dora_starts_as_the_base_model_and_trains_lengths_of_rows(folder: Path, processor: Any) -> None:
    items = [Item(text="a text"), Item(image=make_frames(1, 56, 56))]
    vectors = {}
    for dora in (False, True):
        encoder = make_encoder(folder, processor, dora=dora).eval()
        collate = collate_for(encoder, processor)
        vectors[dora] = encoder([chunk.batch for chunk in collate(items)])
    # B is 0, so neither adapter changes the base model yet.
    torch.testing.assert_close(vectors[True], vectors[False], atol=1e-5, rtol=0)
    vectors[True].sum().backward()
    lengths = [weight for name, weight in encoder.named_parameters() if "magnitude" in name]
    assert lengths
    assert all(weight.grad is not None and weight.grad.abs().max() > 0 for weight in lengths)


def test_a_4_bit_model_computes_with_the_weights_that_its_codes_stand_for(
    folder: Path, processor: Any
) -> None:
    # Not in the lock file: PEFT imports it wherever it is installed, which takes each process three seconds.
    bitsandbytes = pytest.importorskip("bitsandbytes", reason="needs the extra qlora")
    items = [Item(text="a text"), Item(image=make_frames(1, 56, 56))]
    quantized = with_lora(
        load_torch_model(folder, processor=processor, dtype="float32", device="cpu", load_in_4bit=True), r=4
    )
    plain = with_lora(load_torch_model(folder, processor=processor, dtype="float32", device="cpu"), r=4)
    codes = {name: weight for name, weight in quantized.named_parameters() if weight.dtype == torch.uint8}
    assert codes
    assert not any(part in name for name in codes for part in FROZEN)
    for name, weight in plain.named_parameters():
        if name in codes:
            decoded = bitsandbytes.functional.dequantize_4bit(codes[name].data, codes[name].quant_state)
            assert 1e-4 < (decoded - weight).abs().max() < 0.1 * weight.abs().max() + 0.1
            weight.data = decoded
    gradients = []
    for encoder in (quantized.eval(), plain.eval()):
        chunks = collate_for(encoder, processor)(items)
        for name, weight in encoder.named_parameters():
            if "lora_B" in name:
                torch.nn.init.constant_(weight, 0.01)
        with torch.no_grad():
            encoder([chunks[0].batch])  # as the prober does; training goes on afterwards
        vectors = encoder([chunk.batch for chunk in chunks])
        (vectors[0] @ vectors[1]).backward()
        gradients.append(
            {name: weight.grad for name, weight in encoder.named_parameters() if "lora_" in name}
        )
    assert gradients[0].keys() == gradients[1].keys()
    for name, expected in gradients[1].items():
        torch.testing.assert_close(gradients[0][name], expected, atol=1e-5, rtol=1e-3)


def test_a_4_bit_model_without_its_library_says_what_to_install(
    folder: Path, processor: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(ImportError, match=r"gve-ray\[qlora\]"):
        load_torch_model(folder, processor=processor, device="cpu", load_in_4bit=True)
