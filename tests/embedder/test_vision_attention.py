"""Tests that the faster vision tower and compiled layers compute the same as transformers."""

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from gve_ray.embedder import (
    Collator,
    EmbedderSettings,
    GveModel,
    add_lora,
    load_processor,
    load_torch_model,
    vision_attention,
)
from gve_ray.embedder.vision_attention import ATTENTION, use_fast_attention
from gve_ray.schema import Item
from tests.embedder.conftest import make_frames


def attend_one_by_one(
    q: Tensor, k: Tensor, v: Tensor, begins: Tensor, _: Tensor, longest: int, __: int, *, scale: float
) -> Tensor:
    """Compute in plain PyTorch what its GPU kernel computes. Tensors are [N, heads, d]."""
    parts = []
    for a, b in zip(begins[:-1].tolist(), begins[1:].tolist(), strict=True):
        assert b - a <= longest
        weights = torch.einsum("ihd,jhd->hij", q[a:b], k[a:b]).mul(scale).softmax(dim=-1)
        parts.append(torch.einsum("hij,jhd->ihd", weights, v[a:b]))
    assert begins[-1] == len(q)
    return torch.cat(parts)


def batch_for(model: GveModel, folder: Path, items: list[Item]) -> Any:
    return Collator(EmbedderSettings(), load_processor(folder), family=model.family, config=model.config)(
        items
    )


@pytest.fixture(scope="module")
def mixed() -> list[Item]:
    """Items of several sizes, none of which fills its windows."""
    return [
        Item(video=make_frames(8, 140, 196, seconds=3)),
        Item(video=make_frames(4, 84, 84, seconds=2), text="slower"),
        Item(image=make_frames(1, 308, 112)),
        Item(text="words alone"),
    ]


def test_fast_attention_gives_the_same_vectors(
    tiny_family: Path, mixed: list[Item], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(vision_attention, "varlen_attn", attend_one_by_one)
    plain, changed = (load_torch_model(tiny_family, device="cpu", dtype="bfloat16") for _ in range(2))
    names = set(changed.state_dict())
    use_fast_attention(changed.plain.model.visual)
    assert changed.plain.model.visual.config._attn_implementation == ATTENTION
    assert changed.plain.model.language_model.config._attn_implementation == "sdpa"
    assert set(changed.state_dict()) == names
    plain, changed = plain.float(), changed.float()  # rounding in bfloat16 would hide a difference
    batch = batch_for(plain, tiny_family, mixed)
    with torch.inference_mode():
        torch.testing.assert_close(changed(batch), plain(batch), atol=1e-5, rtol=0)


def test_attention_is_not_replaced_in_float32_or_if_another_was_chosen(tiny: Path) -> None:
    for attention, dtype in (("eager", "bfloat16"), ("sdpa", "float32")):
        tower = load_torch_model(tiny, device="cpu", dtype=dtype, attention=attention).plain.model.visual
        use_fast_attention(tower)
        assert tower.config._attn_implementation == attention


@pytest.mark.gpu
def test_the_gpu_kernel_gives_the_same_vectors(tiny_family: Path, mixed: list[Item]) -> None:
    plain = load_torch_model(tiny_family, device="cuda", dtype="float32")
    fast = load_torch_model(tiny_family, device="cuda", dtype="bfloat16")
    assert fast.plain.model.visual.config._attn_implementation == ATTENTION
    batch = batch_for(plain, tiny_family, mixed).to("cuda")
    with torch.inference_mode():
        assert (plain(batch) * fast(batch)).sum(dim=1).min() > 0.999


@pytest.mark.slow
def test_compiled_layers_give_the_same_vectors_and_gradients(tiny: Path, mixed: list[Item]) -> None:
    results = []
    for compiled in (False, True):
        model = add_lora(load_torch_model(tiny, device="cpu"), dropout=0.0)
        torch.manual_seed(1)
        for name, weight in model.named_parameters():
            if "lora_B" in name:
                torch.nn.init.normal_(weight, std=0.1)
        if compiled:
            model.compile_layers()
        vectors = model(batch_for(model, tiny, mixed))
        vectors[:, 0].sum().backward()
        results.append([vectors.detach(), *(w.grad for w in model.parameters() if w.grad is not None)])
    eager_results, compiled_results = results
    assert len(eager_results) == len(compiled_results) > 1
    for eager, fused in zip(eager_results, compiled_results, strict=True):
        torch.testing.assert_close(eager, fused, atol=1e-5, rtol=1e-4)


def test_a_bfloat16_model_trains_adapters_in_float32(tiny: Path, mixed: list[Item]) -> None:
    """Matrix products are in bfloat16; the optimiser's weights are in float32."""
    model = add_lora(load_torch_model(tiny, device="cpu", dtype="bfloat16"), dropout=0.0)
    exact = load_torch_model(tiny, device="cpu", dtype="float32")
    batch = batch_for(model, tiny, mixed)
    vectors = model(batch)
    with torch.inference_mode():
        assert (vectors * exact(batch)).sum(dim=1).min() > 0.99
    vectors[:, 0].sum().backward()
    trained = [weight for weight in model.parameters() if weight.requires_grad]
    assert {weight.dtype for weight in trained} == {torch.float32}
    assert all(weight.grad is not None and weight.grad.isfinite().all() for weight in trained)
