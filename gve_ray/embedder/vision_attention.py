"""Make the vision towers of all families faster on a GPU without changing their result.

Unless the package flash-attn is installed, the towers of transformers attend to one window after
another in a Python loop: 60 calls per video and layer at the default budget. PyTorch has a kernel
that handles all windows in one call. The towers also embed patches by a convolution whose stride
equals its kernel size, which a matrix product computes faster. `model.load_model` applies both on
accelerators only. docs/LOG.md has the measurements.
"""

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.attention.varlen import varlen_attn

# transformers passes all windows in one call only to implementations with "flash" in their name.
ATTENTION = "gve_flash"


class PatchProjection(nn.Module):
    """The patch embedding of a vision tower, computed as a matrix product.

    It keeps the convolution as its submodule, so that the names of the weights do not change.
    Input: pixels [N, K]; output: [N, d] in the dtype of the convolution.
    """

    def __init__(self, proj: nn.Conv3d) -> None:
        super().__init__()
        self.proj = proj

    def forward(self, pixels: Tensor) -> Tensor:
        weight = self.proj.weight
        return F.linear(pixels.to(weight.dtype), weight.flatten(1), self.proj.bias)


def use_fast_attention(tower: Any) -> None:
    """Replace the patch embedding and the attention of a vision tower in place.

    tower: a `...VisionTransformer` of transformers. Its attention is not replaced in float32, which
    the kernel does not support, nor if another implementation than the default was chosen.
    """
    from transformers import AttentionInterface

    tower.patch_embed = PatchProjection(tower.patch_embed.proj)
    if tower.dtype in (torch.bfloat16, torch.float16) and tower.config._attn_implementation == "sdpa":
        AttentionInterface.register(ATTENTION, attend_windows)
        tower.config._attn_implementation = ATTENTION


def attend_windows(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: None,
    *,
    scaling: float,
    cu_seq_lens_q: Tensor,
    max_length_q: int,
    **_: Any,
) -> tuple[Tensor, None]:
    """Compute attention within each window, for all windows in one call.

    The signature is that of an attention function of transformers. query, key, value: [1, heads, N,
    d]. cu_seq_lens_q: int32 [windows + 1], the boundaries of the windows. max_length_q: the length
    of the longest window. Returns [N, heads, d].
    """
    q, k, v = (x[0].transpose(0, 1) for x in (query, key, value))  # [N, heads, d]
    bounds, longest = cu_seq_lens_q, max_length_q
    return varlen_attn(q, k, v, bounds, bounds, longest, longest, scale=scaling), None
