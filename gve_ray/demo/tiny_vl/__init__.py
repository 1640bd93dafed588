"""A Qwen2.5-VL of six million parameters that describes the videos of the miniature world.

`model/` loads with transformers and vLLM like any other Qwen2.5-VL. `adapter/` is the LoRA adapter
that turns it into an embedder. README.md is the model card; the scripts that trained both are in
the repository's tools/tiny_vl.
"""

from pathlib import Path

MODEL = Path(__file__).parent / "model"
ADAPTER = Path(__file__).parent / "adapter"
MAX_PIXELS = 112 * 112  # pixel budget of a frame during training: 16 visual tokens
MIN_PIXELS = 56 * 56
