"""Batches across ranks: what every rank holds of a batch, put together on every rank, with gradients.

The loss is then computed on the whole batch by every rank alike. `all_gather` sends to each rank the sum
of all ranks' gradients for its rows, W times too much, and DDP's averaging divides by W: each weight gets
the gradient that one rank with the whole batch would give it (tested to 1e-5). Gathering by swapping the
own rows into the result of a plain all_gather would give a gradient W times too small.
"""

from collections.abc import Sequence

import torch
import torch.distributed as dist
from torch import Tensor
from torch.distributed._functional_collectives import all_gather_single_autograd


def world_size() -> int:
    """Ranks of the default process group; 1 without one."""
    return dist.get_world_size() if dist.is_available() and dist.is_initialized() else 1


def gather(*parts: Tensor) -> list[Tensor]:
    """Rows of all ranks, rank after rank: each [B, ...] becomes [W * B, ...]; differentiable.

    Floating-point parts share a dtype and their last dimension, and travel in one collective, integer
    ones in another. Raises ValueError on every rank unless all ranks give the same shapes.
    """
    if world_size() == 1:
        return list(parts)
    _check_equal(parts)
    floats = [i for i, part in enumerate(parts) if part.is_floating_point()]
    others = [i for i in range(len(parts)) if i not in floats]
    found: dict[int, Tensor] = {}
    for kind in (floats, others):
        if kind:
            found |= zip(kind, _together([parts[i] for i in kind]), strict=True)
    return [found[i] for i in range(len(parts))]


def _together(parts: Sequence[Tensor]) -> list[Tensor]:
    """Gather parts of one dtype by one collective: rows side by side, [B, all their values]."""
    rows = len(parts[0])
    widths = [part[0].numel() for part in parts]
    flat = torch.cat([part.reshape(rows, -1) for part in parts], dim=1).contiguous()
    if flat.requires_grad:
        whole = all_gather_single_autograd(flat, 0, dist.group.WORLD)
    else:
        whole = flat.new_empty(world_size() * rows, flat.shape[1])
        dist.all_gather_into_tensor(whole, flat)
    split = whole.split(widths, dim=1)
    return [one.reshape(-1, *part.shape[1:]) for one, part in zip(split, parts, strict=True)]


def _check_equal(parts: Sequence[Tensor]) -> None:
    """Compare batch sizes over ranks before they meet in a collective, which would hang or crash.

    Each rank sends as many numbers as there are parts; all ranks run the same code, so that is equal.
    """
    device = parts[0].device
    if any(len(part) != len(parts[0]) for part in parts):
        raise ValueError(f"gather: parts of {[len(part) for part in parts]} rows; give equally many")
    mine = torch.tensor([len(parts[0]), *(part.numel() for part in parts)], device=device)
    every = mine.new_empty(world_size() * len(mine))
    dist.all_gather_into_tensor(every, mine)
    sizes = every.view(world_size(), -1)
    if not bool((sizes == mine).all()):
        raise ValueError(
            f"gather: batch sizes {sizes[:, 0].tolist()} by rank, values {sizes[:, 1:].tolist()}; every rank "
            "must hold equally many rows of equal shape: give each its slice of the same schedule step"
        )
