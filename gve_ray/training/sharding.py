"""Shard the frozen weights of a model over the ranks, for a model that one GPU cannot train (FSDP2).

    shard(encoder, device)                   # under a process group; the encoder's model is on the CPU
    with whole(encoder.model): embed(...)    # each rank runs its own batches

Each layer of the language model is one group, whose weights a rank gathers while it computes that layer; the
vision tower and the token embeddings are another. LoRA weights are small, so every rank has them all, and DDP
averages their gradients as without sharding. Checkpoints and the adapter are therefore the same.

To gather a layer is a collective, so all ranks must run equally many batches in a step. `Encoder` adds batches
of one token, whose embeddings are not used, on ranks that have fewer.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, cast

import torch
from torch import nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import FSDPModule, fully_shard
from torch.nn.parallel import DistributedDataParallel

from gve_ray.embedder import GveModel
from gve_ray.training.encoder import Encoder
from gve_ray.training.gather import world_size


def shard(encoder: Encoder, device: torch.device) -> DistributedDataParallel:
    """Shard the frozen weights over all ranks, move them to `device`, and wrap the encoder in DDP."""
    model = encoder.model
    trained = [weight for weight in model.parameters() if weight.requires_grad]
    for weight in trained:
        weight.data = weight.data.to(device)
    options: dict[str, Any] = {
        "mesh": init_device_mesh(device.type, (world_size(),)),
        "ignored_params": set(trained),
    }
    for layer in model.plain.model.language_model.layers:
        fully_shard(layer, **options)
    fully_shard(model, **options)
    encoder.has_equal_batches = True
    frozen = [name for name, weight in encoder.named_parameters() if not weight.requires_grad]
    DistributedDataParallel._set_params_and_buffers_to_ignore_for_model(encoder, frozen)
    # All ranks have initialised LoRA with the same seed, so there is nothing to send.
    return DistributedDataParallel(encoder, broadcast_buffers=False, init_sync=False)


@contextmanager
def whole(model: GveModel) -> Iterator[None]:
    """Keep all weights gathered on each rank, so that ranks may run different batches, without gradients.

    All ranks must enter it together. It takes the memory of the whole model; without sharding it does nothing.
    """
    parts = [cast("FSDPModule", part) for part in model.modules() if isinstance(part, FSDPModule)]
    for part in parts:
        part.set_reshard_after_forward(False, recurse=False)
        part.unshard()
    try:
        yield
    finally:
        for part in parts:
            # The root keeps its weights until the backward pass in training too.
            part.set_reshard_after_forward(cast("nn.Module", part) is not model, recurse=False)
            part.reshard()
