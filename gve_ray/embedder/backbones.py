"""What differs between the supported vision-language families, keyed by Hugging Face model type.

A family is one entry of `BACKBONES`: how the single video placeholder of the chat template grows
into tokens, and how far apart in time its frames are placed. Everything else is shared.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from gve_ray.embedder.settings import EmbedderSettings
from gve_ray.schema import Frames

Grid = tuple[int, int, int]
Encode = Callable[[str], list[int]]

LORA_PROJECTIONS = ("q_proj", "k_proj", "v_proj", "up_proj", "down_proj", "gate_proj")


@dataclass(frozen=True, kw_only=True)
class Span:
    """A run of tokens: text (grid None), or visual tokens laid out on a grid.

    grid: (t, h, w) in visual tokens, t*h*w = len(ids). interval: position steps between grid rows in time.
    """

    ids: Sequence[int]
    grid: Grid | None = None
    interval: float = 1.0


@dataclass(frozen=True, kw_only=True)
class TokenIds:
    """Ids of the tokens that frame visual content."""

    image: int
    video: int
    vision_start: int
    vision_end: int


VideoSpans = Callable[[Frames, Grid, TokenIds, Any, Encode], list[Span]]


@dataclass(frozen=True, kw_only=True)
class Backbone:
    """One family.

    video_spans: (frames, token grid, ids, vision config, encode) -> spans. budget_is_total: the family's own
    video processor counts its pixel budget over all frames of a clip, not for each.
    """

    model_type: str
    video_spans: VideoSpans
    budget_is_total: bool = False

    def processor_sizes(self, settings: EmbedderSettings) -> dict[str, dict[str, int]]:
        """The pixel budget in the words of the family's image and video processors."""
        frames = settings.frames if self.budget_is_total else 1
        least, most = settings.min_pixels, settings.max_pixels
        return {
            "image": {"shortest_edge": least, "longest_edge": most},
            "video": {"shortest_edge": least * frames, "longest_edge": most * frames},
        }

    @property
    def lora_targets(self) -> str:
        """Regular expression of the paper's LoRA modules: the language model only, never the vision tower."""
        return rf".*language_model\..*\.({'|'.join(LORA_PROJECTIONS)})"


def sampled_fps(frames: Frames) -> float:
    """Frames sampled a second of source, as the Hugging Face processors compute it.

    Theirs is frames / total_frames * fps for a whole video. Counting the source frames from the first
    to the last sample gives the same for uniform samples of a whole video, and for a clip what it would
    be were the clip a file of its own. An unknown rate counts as 1, the paper's sampling rate.
    """
    if frames.fps <= 0:
        return 1.0
    covered = int(frames.indices[-1]) - int(frames.indices[0]) + 1
    return len(frames.indices) / covered * frames.fps


def source_fps(frames: Frames) -> float:
    """fps of the source; for an unknown rate, the one that makes `sampled_fps` 1."""
    if frames.fps > 0:
        return frames.fps
    return (int(frames.indices[-1]) - int(frames.indices[0]) + 1) / len(frames.indices)


def _one_block(frames: Frames, grid: Grid, ids: TokenIds, vision: Any, encode: Encode) -> list[Span]:
    """Qwen2-VL: one block of visual tokens, a time step of one."""
    return [Span(ids=[ids.video] * int(np.prod(grid)), grid=grid)]


def _timed_block(frames: Frames, grid: Grid, ids: TokenIds, vision: Any, encode: Encode) -> list[Span]:
    """Qwen2.5-VL: one block, rows placed at absolute time (`tokens_per_second` steps a second)."""
    seconds = float(np.float32(vision.temporal_patch_size / sampled_fps(frames)))  # float32 as in the tensors
    return [
        Span(ids=[ids.video] * int(np.prod(grid)), grid=grid, interval=seconds * vision.tokens_per_second)
    ]


def _timestamped_frames(frames: Frames, grid: Grid, ids: TokenIds, vision: Any, encode: Encode) -> list[Span]:
    """Qwen3-VL: every temporal patch is a still, preceded by its time in words."""
    t, h, w = grid
    patch = vision.temporal_patch_size
    seconds = (frames.indices - frames.indices[0]) / source_fps(frames)
    spans = []
    for row in range(t):
        chunk = seconds[row * patch : (row + 1) * patch]
        stamp = encode(f"<{(chunk[0] + chunk[-1]) / 2:.1f} seconds>")
        spans.append(Span(ids=[*stamp, ids.vision_start]))
        spans.append(Span(ids=[ids.video] * (h * w), grid=(1, h, w)))
        spans.append(Span(ids=[ids.vision_end]))
    return spans


BACKBONES = {
    backbone.model_type: backbone
    for backbone in (
        Backbone(model_type="qwen2_5_vl", video_spans=_timed_block),
        Backbone(model_type="qwen2_vl", video_spans=_one_block),
        Backbone(model_type="qwen3_vl", video_spans=_timestamped_frames, budget_is_total=True),
    )
}


def backbone_for(model_type: str) -> Backbone:
    """The family of a checkpoint. Raises ValueError for a model type without an entry."""
    if model_type not in BACKBONES:
        raise ValueError(
            f"model type {model_type!r} is not supported; supported: {', '.join(sorted(BACKBONES))}. "
            "A new family is one entry of gve_ray.embedder.backbones.BACKBONES"
        )
    return BACKBONES[model_type]


def positions(spans: Sequence[Span]) -> np.ndarray:
    """Multimodal rotary positions of a sequence: int64 [3, L] for time, height and width.

    Text counts up on all three axes. A grid starts at the next free position on all axes and spreads;
    the text after it starts past the largest position it used. That is the rule Qwen2-VL and
    Qwen2.5-VL were trained with and vLLM follows; transformers 5 advances by the spatial extent alone,
    so its own positions differ after a video longer in time than in space.
    """
    parts = []
    start = 0
    for span in spans:
        if span.grid is None:
            part = np.broadcast_to(np.arange(len(span.ids)), (3, len(span.ids)))
        else:
            part = np.indices(span.grid).reshape(3, -1)
            part[0] = (part[0] * span.interval).astype(np.int64)
        if part.size:
            parts.append(part + start)
            start = int(parts[-1].max()) + 1
    return np.concatenate(parts, axis=1)
