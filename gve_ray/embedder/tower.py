"""The vision towers of all families, made fast on accelerators without changing what they compute.

transformers' towers attend window by window in a Python loop unless FlashAttention is installed: 60 calls
a video a layer at the default budget. And they embed patches by a convolution whose stride is its kernel,
which is a matrix product. CPUs do not mind either (docs/LOG.md).
"""

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

# transformers hands a tower's windows over in one call only to implementations with "flash" in the name.
ATTENTION = "gve_flash"


class PatchProjection(nn.Module):
    """A tower's patch embedding as the matrix product it is. Holds the convolution, so weights keep their names.

    pixels [N, K] -> [N, d], in the convolution's dtype.
    """

    def __init__(self, proj: nn.Conv3d) -> None:
        super().__init__()
        self.proj = proj

    def forward(self, pixels: Tensor) -> Tensor:
        weight = self.proj.weight
        return F.linear(pixels.to(weight.dtype), weight.flatten(1), self.proj.bias)


def quicken(tower: Any) -> None:
    """Change a `...VisionTransformer` of transformers in place.

    Its attention is left alone where FlashAttention was asked for, which needs no help.
    """
    from transformers import AttentionInterface

    tower.patch_embed = PatchProjection(tower.patch_embed.proj)
    if "flash" not in tower.config._attn_implementation:
        AttentionInterface.register(ATTENTION, attend_windows)
        tower.config._attn_implementation = ATTENTION


@torch.compiler.disable  # how many lengths there are is known only at run time
def attend_windows(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: None,
    *,
    scaling: float,
    cu_seq_lens_q: Tensor,
    **_: Any,
) -> tuple[Tensor, None]:
    """Each window attends to itself; those of equal length in one call. An attention function of transformers.

    query, key, value: [1, heads, N, d]. cu_seq_lens_q: int [windows + 1], where windows begin and end.
    Returns [N, heads, d].
    """
    packed = torch.stack((query[0], key[0], value[0])).transpose(1, 2)  # [3, N, heads, d]
    starts, lengths = cu_seq_lens_q[:-1], cu_seq_lens_q.diff()
    out = torch.empty_like(packed[0])
    for length in lengths.unique().tolist():
        rows = (starts[lengths == length, None] + torch.arange(length, device=starts.device)).flatten()
        q, k, v = packed[:, rows].unflatten(1, (-1, length)).transpose(2, 3)  # [windows, heads, length, d]
        attended = F.scaled_dot_product_attention(q, k, v, scale=scaling)
        out[rows] = attended.transpose(1, 2).flatten(0, 1)
    return out, None
