"""A Qwen2.5-VL of six million parameters that sees and describes the miniature world.

`model/` loads with transformers and vLLM as any Qwen2.5-VL does; `adapter/` is the LoRA that makes it an
embedder. `train.py` and `train_adapter.py` made them; README.md is the model card.
"""

from pathlib import Path

MODEL = Path(__file__).parent / "model"
ADAPTER = Path(__file__).parent / "adapter"
MAX_PIXELS = 112 * 112  # the pixel budget a frame it was trained at: 16 visual tokens
MIN_PIXELS = 56 * 56
