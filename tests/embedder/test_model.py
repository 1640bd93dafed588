"""Tests the model: pooling, padding, gradients, LoRA layers and dtypes."""

import pytest
import torch

from gve_ray.embedder import Collator, EmbedderSettings, add_lora, load_processor, load_torch_model
from gve_ray.embedder.model import as_dtype, pool_last


def test_pooling_reads_the_last_token_before_the_padding() -> None:
    hidden = torch.arange(12.0).view(3, 4, 1)  # row 0: 0..3, row 1: 4..7, row 2: 8..11
    mask = torch.tensor([[1, 1, 0, 0], [1, 0, 0, 0], [1, 1, 1, 1]])
    assert pool_last(hidden, mask).flatten().tolist() == [1.0, 4.0, 11.0]


@pytest.fixture(scope="module")
def loaded(tiny):
    processor = load_processor(tiny)
    return load_torch_model(tiny, processor=processor, device="cpu"), processor


def test_padded_and_unpadded_items_give_the_same_vectors(loaded, items) -> None:
    model, processor = loaded
    collate = Collator(EmbedderSettings(), processor, family=model.family, config=model.config)
    rows = list(items.values())
    with torch.inference_mode():
        together = model(collate(rows))
        alone = torch.cat([model(collate([item])) for item in rows])
    torch.testing.assert_close(together, alone, atol=1e-5, rtol=0)
    assert together.dtype == torch.float32
    torch.testing.assert_close(together.norm(dim=1), torch.ones(len(rows)))
    # If all vectors were nearly equal, the comparison above would prove nothing.
    assert (together @ together.T - 2 * torch.eye(len(rows))).max() < 0.99


def test_gradients_reach_only_the_adapter(tiny, items) -> None:
    model = add_lora(load_torch_model(tiny, device="cpu"))
    processor = load_processor(tiny)
    batch = Collator(EmbedderSettings(), processor, family=model.family, config=model.config)(
        list(items.values())
    )
    vectors = model(batch)
    (vectors @ vectors.T).sum().backward()
    trained = {name for name, weight in model.named_parameters() if weight.requires_grad}
    with_gradient = {name for name, weight in model.named_parameters() if weight.grad is not None}
    assert trained == with_gradient
    assert len(trained) == 2 * 6 * 2  # layers x projections x (A, B)
    assert all(".lora_" in name for name in trained)


def test_a_new_adapter_leaves_vectors_unchanged_and_is_seeded(tiny, items) -> None:
    plain, first, second = (load_torch_model(tiny, device="cpu") for _ in range(3))
    first, second = add_lora(first, seed=5).eval(), add_lora(second, seed=5).eval()
    for (name, a), (_, b) in zip(first.named_parameters(), second.named_parameters(), strict=True):
        assert torch.equal(a, b), name
    processor = load_processor(tiny)
    batch = Collator(EmbedderSettings(), processor, family=plain.family, config=plain.config)([items["all"]])
    with torch.inference_mode():
        assert torch.equal(plain(batch), first(batch))


def test_dtype_by_name_and_by_device() -> None:
    assert as_dtype("bfloat16", torch.device("cpu")) is torch.bfloat16
    assert as_dtype(None, torch.device("cuda")) is torch.bfloat16
    with pytest.raises(ValueError, match="dtype='half-ish'"):
        as_dtype("half-ish", torch.device("cpu"))
