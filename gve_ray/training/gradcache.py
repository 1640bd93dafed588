"""GradCache: contrastive batches larger than memory, at the cost of a second forward pass.

It works in three steps: embed the batch chunk by chunk without a graph; compute the loss and its gradient
for each embedding; embed each chunk again, with a graph, and backpropagate the cached gradient. Activations
of one chunk are held at a time; the gradient is that of the whole batch (Gao et al., 2021,
arXiv:2101.06983). With gradient checkpointing on top, each chunk would run a third time: use only one.
"""

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import replace
from typing import TypeVar

import torch
from torch import Tensor

from gve_ray.training.loss import Loss

Chunk = TypeVar("Chunk")


def backward_in_chunks(
    chunks: Sequence[Chunk],
    encode: Callable[[Chunk], Tensor],
    loss_of: Callable[[Tensor], Loss],
    *,
    no_sync: Callable[[], AbstractContextManager[object]] = nullcontext,
) -> Loss:
    """Add the gradient of `loss_of(cat(encode(chunk) for chunk in chunks))` to the weights of `encode`.

    encode: chunk -> [rows, d]. loss_of: [total rows, d] -> Loss; it may gather over ranks. no_sync: that of
    DDP, so that ranks exchange gradients once, with the last chunk. Dropout masks are the same in both passes.
    """
    states: list[_RandomState] = []
    cached: list[Tensor] = []
    with torch.no_grad():
        for chunk in chunks:
            states.append(_RandomState())
            cached.append(encode(chunk))
    leaves = torch.cat(cached).requires_grad_()  # [all rows, d]
    loss = loss_of(leaves)
    loss.value.backward()
    assert leaves.grad is not None
    gradients = leaves.grad.split([len(embeddings) for embeddings in cached])
    after = _RandomState()
    for i, (chunk, state, gradient) in enumerate(zip(chunks, states, gradients, strict=True)):
        last = i == len(chunks) - 1
        state.restore()
        with nullcontext() if last else no_sync():
            encode(chunk).backward(gradient)
    after.restore()
    return replace(loss, value=loss.value.detach())


class _RandomState:
    """The random state of the CPU and, if CUDA is initialised, of the current GPU."""

    def __init__(self) -> None:
        self.cpu = torch.get_rng_state()
        self.cuda = torch.cuda.get_rng_state() if torch.cuda.is_initialized() else None

    def restore(self) -> None:
        torch.set_rng_state(self.cpu)
        if self.cuda is not None:
            torch.cuda.set_rng_state(self.cuda)
