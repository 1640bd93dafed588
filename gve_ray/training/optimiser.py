"""AdamW over the trainable weights, and the learning rate of each step: warm-up, then cosine to zero."""

import math
from collections.abc import Iterable
from typing import TYPE_CHECKING

from gve_ray.training.config import OptimiserConfig

if TYPE_CHECKING:  # the driver computes learning rates without torch
    from torch import nn
    from torch.optim import AdamW


def learning_rate(step: int, total: int, config: OptimiserConfig) -> float:
    """Return the learning rate of a step, 0 <= step < total.

    It rises linearly over the warm-up, whose last step has the peak rate, and then falls along a half cosine
    that would reach 0 at `total`, or stays with constant decay.
    """
    warmup = math.ceil(config.warmup * total)
    if step < warmup:
        return config.learning_rate * (step + 1) / warmup
    if config.decay == "constant":
        return config.learning_rate
    done = (step - warmup) / max(total - warmup, 1)
    return config.learning_rate * 0.5 * (1 + math.cos(math.pi * done))


def make_optimiser(model: "nn.Module", config: OptimiserConfig) -> "AdamW":
    """Return AdamW over the weights that require a gradient, without weight decay for norms and biases.

    Raises ValueError when nothing is trainable.
    """
    from torch.optim import AdamW

    trained = [weight for weight in model.parameters() if weight.requires_grad]
    if not trained:
        raise ValueError("no weight requires a gradient; call add_lora first")
    groups = [
        {"params": [weight for weight in trained if weight.ndim >= 2], "weight_decay": config.weight_decay},
        {"params": [weight for weight in trained if weight.ndim < 2], "weight_decay": 0.0},
    ]
    kept = [group for group in groups if group["params"]]
    return AdamW(kept, lr=config.learning_rate)


def check_frozen(model: "nn.Module", parts: Iterable[str]) -> None:
    """Raise ValueError if a weight whose name contains one of `parts` would be trained."""
    frozen = tuple(parts)
    trainable = [
        name
        for name, weight in model.named_parameters()
        if weight.requires_grad and any(part in name for part in frozen)
    ]
    if trainable:
        raise ValueError(
            f"{len(trainable)} weights of {', '.join(frozen)} are trainable, e.g. {trainable[0]}; only LoRA on the "
            "language model is trained (arXiv:2510.27571, section 4)"
        )
