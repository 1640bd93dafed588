import pytest
import torch
from torch import Tensor, nn

from gve_ray.training.gradcache import backward_in_chunks
from gve_ray.training.loss import Loss, info_nce


def loss_of(embeddings: Tensor) -> Loss:
    return info_nce(*embeddings.chunk(2), temperature=0.2)


def test_dropout_draws_the_same_masks_in_both_passes() -> None:
    """The gradient equals that of a single pass with the dropout masks of the first pass."""
    torch.manual_seed(0)
    inputs = torch.randn(8, 6)
    model = nn.Sequential(nn.Linear(6, 6), nn.Dropout(0.5))

    def encode(chunk: Tensor) -> Tensor:
        return nn.functional.normalize(model(chunk), dim=-1)

    torch.manual_seed(3)
    loss = backward_in_chunks(inputs.split(3), encode, loss_of)
    cached = [weight.grad.clone() for weight in model.parameters()]
    after = torch.rand(1)

    model.zero_grad()
    torch.manual_seed(3)
    whole = loss_of(torch.cat([encode(chunk) for chunk in inputs.split(3)]))
    whole.value.backward()
    # The next random number is the same as after a single pass.
    assert torch.equal(torch.rand(1), after)
    assert loss.value.item() == pytest.approx(whole.value.item(), abs=1e-6)
    assert not loss.value.requires_grad
    for mine, weight in zip(cached, model.parameters(), strict=True):
        torch.testing.assert_close(mine, weight.grad, atol=1e-6, rtol=1e-5)


def test_gradients_are_exchanged_only_with_the_last_chunk() -> None:
    model = nn.Linear(4, 4)
    log: list[str] = []

    class NoSync:
        def __enter__(self) -> None:
            log.append("alone")

        def __exit__(self, *_: object) -> None:
            log.append("end")

    def encode(chunk: Tensor) -> Tensor:
        if torch.is_grad_enabled():
            log.append(f"forward {len(chunk)}")
        return model(chunk)

    backward_in_chunks(torch.randn(8, 4).split(3), encode, loss_of, no_sync=NoSync)
    assert log == ["alone", "forward 3", "end", "alone", "forward 3", "end", "forward 2"]
