"""AdamW over what may be trained, and the learning rate of each step: warm-up, then cosine to zero."""

import math
from collections.abc import Iterable

import torch
from torch import nn

from gve_ray.training.config import OptimiserConfig


def learning_rate(step: int, total: int, config: OptimiserConfig) -> float:
    """Of step 0 <= step < total. Rises linearly over the warm-up, its last step at the peak, then falls by
    a half cosine that would be 0 at `total`.
    """
    warmup = math.ceil(config.warmup * total)
    if step < warmup:
        return config.learning_rate * (step + 1) / warmup
    done = (step - warmup) / max(total - warmup, 1)
    return config.learning_rate * 0.5 * (1 + math.cos(math.pi * done))


def make_optimiser(model: nn.Module, config: OptimiserConfig) -> torch.optim.AdamW:
    """AdamW over the weights that require a gradient; vectors (norms, biases) do not decay.

    Raises ValueError when nothing is trainable.
    """
    trained = [weight for weight in model.parameters() if weight.requires_grad]
    if not trained:
        raise ValueError(
            "no weight requires a gradient; call add_lora, or load an adapter with trainable=True"
        )
    groups = [
        {"params": [one for one in trained if one.ndim >= 2], "weight_decay": config.weight_decay},
        {"params": [one for one in trained if one.ndim < 2], "weight_decay": 0.0},
    ]
    kept = [group for group in groups if group["params"]]
    return torch.optim.AdamW(kept, lr=config.learning_rate)


def check_frozen(model: nn.Module, parts: Iterable[str]) -> None:
    """Raise ValueError naming weights that would be trained although their name holds one of `parts`."""
    wanted = tuple(parts)
    open_ = [
        name
        for name, weight in model.named_parameters()
        if weight.requires_grad and any(part in name for part in wanted)
    ]
    if open_:
        raise ValueError(
            f"{len(open_)} weights of {', '.join(wanted)} are trainable, e.g. {open_[0]}; only LoRA on the "
            "language model is trained (paper section 4)"
        )
