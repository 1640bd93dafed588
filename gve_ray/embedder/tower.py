"""The vision towers of all families, made fast on a GPU without changing what they compute.

transformers' towers attend window by window in a Python loop unless the package flash-attn is installed: 60
calls a video a layer at the default budget. PyTorch has the same kernel. And they embed patches by a
convolution whose stride is its kernel, which is a matrix product. CPUs do not mind either (docs/LOG.md).
"""

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.attention.varlen import varlen_attn

# transformers hands all windows over in one call only to implementations with "flash" in their name.
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

    Its attention is left alone in float32, which the kernel does not take, and where another
    implementation than the default was asked for.
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
    """Each window attends to itself, all in one call. An attention function of transformers.

    query, key, value: [1, heads, N, d]. cu_seq_lens_q: int32 [windows + 1], where windows begin and end.
    max_length_q: of the longest. Returns [N, heads, d].
    """
    q, k, v = (x[0].transpose(0, 1) for x in (query, key, value))  # [N, heads, d]
    windows, longest = cu_seq_lens_q, max_length_q
    return varlen_attn(q, k, v, windows, windows, longest, longest, scale=scaling), None
