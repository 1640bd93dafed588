"""The differences between the supported vision-language architectures, by Hugging Face model type.

Each family is one entry of `MODEL_FAMILIES`. It defines how the single video placeholder of the
chat template expands into tokens, and how far apart in time the frames are placed. Everything else
is shared by all families.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from gve_ray.embedder.conversation import ended_instruction
from gve_ray.embedder.settings import EmbedderSettings
from gve_ray.media.video_metadata import sampled_fps, source_fps
from gve_ray.schema import Frames

Grid = tuple[int, int, int]
Encode = Callable[[str], list[int]]

LORA_PROJECTIONS = ("q_proj", "k_proj", "v_proj", "up_proj", "down_proj", "gate_proj")


@dataclass(frozen=True, kw_only=True)
class Span:
    """A run of text tokens (grid is None), or of visual tokens laid out on a grid.

    grid: (t, h, w) in visual tokens, t*h*w = len(ids). interval: position steps from one time step
    of the grid to the next.
    """

    ids: Sequence[int]
    grid: Grid | None = None
    interval: float = 1.0


@dataclass(frozen=True, kw_only=True)
class TokenIds:
    """Ids of the placeholder tokens and of the tokens that enclose visual content."""

    image: int
    video: int
    vision_start: int
    vision_end: int


VideoSpans = Callable[[Frames, Grid, TokenIds, Any, Encode], list[Span]]


@dataclass(frozen=True, kw_only=True)
class ModelFamily:
    """One supported architecture.

    video_spans: (frames, token grid, ids, vision config, encode) -> spans. budget_is_total: whether
    the family's own video processor applies its pixel budget to all frames of a video together
    rather than to each frame. default_instruction: the system turn of an item without an
    instruction, if no other one was saved with the weights. ends_instructions: whether an
    instruction that does not end in a punctuation mark gets a full stop.
    """

    model_type: str
    video_spans: VideoSpans
    budget_is_total: bool = False
    default_instruction: str = "You are a helpful assistant."  # arXiv:2510.27571, section 2
    ends_instructions: bool = False

    def complete(self, settings: EmbedderSettings) -> EmbedderSettings:
        """Return the settings with the family's default instruction, unless they have another one."""
        if settings.default_instruction is not None:
            return settings
        return replace(settings, default_instruction=self.default_instruction)

    def system_turn(self, instruction: str) -> str:
        """Return the text of the system turn for an instruction."""
        return ended_instruction(instruction) if self.ends_instructions else instruction

    def processor_sizes(self, settings: EmbedderSettings) -> dict[str, dict[str, int]]:
        """Return the pixel budget as the `size` of the family's image and video processors.

        Despite their names, the values are numbers of pixels: Qwen's processors define them so.
        """
        frames = settings.frames if self.budget_is_total else 1
        minimum, maximum = settings.min_pixels, settings.max_pixels
        return {
            "image": {"shortest_edge": minimum, "longest_edge": maximum},
            "video": {"shortest_edge": minimum * frames, "longest_edge": maximum * frames},
        }

    @property
    def lora_targets(self) -> str:
        """A regular expression for the modules that get LoRA layers: the language model's only.

        The vision tower gets none (arXiv:2510.27571, section 5).
        """
        return rf".*language_model\..*\.({'|'.join(LORA_PROJECTIONS)})"


def _one_block(frames: Frames, grid: Grid, ids: TokenIds, vision: Any, encode: Encode) -> list[Span]:
    """Qwen2-VL: one block of visual tokens, with time steps of 1."""
    return [Span(ids=[ids.video] * int(np.prod(grid)), grid=grid)]


def _timed_block(frames: Frames, grid: Grid, ids: TokenIds, vision: Any, encode: Encode) -> list[Span]:
    """Qwen2.5-VL: one block, placed at absolute times (`tokens_per_second` steps per second)."""
    # Rounded to float32, because the Hugging Face processor passes it in a float32 tensor.
    seconds = float(np.float32(vision.temporal_patch_size / sampled_fps(frames)))
    return [
        Span(ids=[ids.video] * int(np.prod(grid)), grid=grid, interval=seconds * vision.tokens_per_second)
    ]


def _timestamped_frames(frames: Frames, grid: Grid, ids: TokenIds, vision: Any, encode: Encode) -> list[Span]:
    """Qwen3-VL and Qwen3.5: each temporal patch is a block with one time step, preceded by its time as text."""
    t, h, w = grid
    patch = vision.temporal_patch_size
    seconds = (frames.indices - frames.indices[0]) / source_fps(frames)
    spans = []
    for step in range(t):
        chunk = seconds[step * patch : (step + 1) * patch]
        timestamp = encode(f"<{(chunk[0] + chunk[-1]) / 2:.1f} seconds>")
        spans.append(Span(ids=[*timestamp, ids.vision_start]))
        spans.append(Span(ids=[ids.video] * (h * w), grid=(1, h, w)))
        spans.append(Span(ids=[ids.vision_end]))
    return spans


MODEL_FAMILIES = {
    family.model_type: family
    for family in (
        ModelFamily(model_type="qwen2_5_vl", video_spans=_timed_block),
        ModelFamily(model_type="qwen2_vl", video_spans=_one_block),
        ModelFamily(
            model_type="qwen3_vl",
            video_spans=_timestamped_frames,
            budget_is_total=True,
            default_instruction="Represent the user's input.",  # that of Qwen3-VL-Embedding
            ends_instructions=True,
        ),
        ModelFamily(model_type="qwen3_5", video_spans=_timestamped_frames, budget_is_total=True),
    )
}


def model_family(model_type: str) -> ModelFamily:
    """Return the family of a Hugging Face model type. Raises ValueError if it is not supported."""
    if model_type not in MODEL_FAMILIES:
        raise ValueError(
            f"model type {model_type!r} is not supported; supported: {', '.join(sorted(MODEL_FAMILIES))}. "
            "To support another family, add an entry to gve_ray.embedder.model_families.MODEL_FAMILIES"
        )
    return MODEL_FAMILIES[model_type]


def positions(spans: Sequence[Span]) -> np.ndarray:
    """Return the multimodal rotary positions of a sequence, int64 [3, L]: time, height and width.

    Text positions increase by 1 on all three axes. A grid starts at the next free position on all
    axes and extends along each; the text after it starts past the largest position that the grid
    uses. Qwen2-VL and Qwen2.5-VL were trained with this rule, and vLLM follows it. transformers 5
    advances by the spatial extent only, so its positions differ after a video whose extent in time
    is larger than in space.
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
