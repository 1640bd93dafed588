"""Tests rotary positions and timing against hand-worked values and transformers."""

import numpy as np
import pytest
import torch
from transformers import AutoConfig, AutoModelForImageTextToText

from gve_ray.embedder.checkpoint import load_processor
from gve_ray.embedder.collate import Collator
from gve_ray.embedder.model_families import MODEL_FAMILIES, Span, model_family, positions
from gve_ray.embedder.settings import EmbedderSettings
from gve_ray.media.video_metadata import sampled_fps, source_fps
from gve_ray.schema import Item


def test_positions_by_hand() -> None:
    """Two text tokens, a 2x1x2 grid with time steps of 3.5, and one text token."""
    spans = [Span(ids=[5, 6]), Span(ids=[9] * 4, grid=(2, 1, 2), interval=3.5), Span(ids=[7])]
    assert positions(spans).tolist() == [
        [0, 1, 2, 2, 5, 5, 6],  # time: 2 + floor(0) and 2 + floor(3.5), then one past the largest
        [0, 1, 2, 2, 2, 2, 6],
        [0, 1, 2, 3, 2, 3, 6],
    ]


def test_sampled_fps_of_a_whole_video_equals_that_of_transformers(frames_like) -> None:
    from transformers.video_utils import VideoMetadata

    frames = frames_like(8, 56, 56, fps=24, seconds=10)
    theirs = VideoMetadata(total_num_frames=240, fps=24, frames_indices=frames.indices.tolist()).sampled_fps
    assert sampled_fps(frames) == pytest.approx(theirs) == pytest.approx(0.8)


def test_a_clip_has_the_timing_of_a_file_with_only_the_clip(frames_like) -> None:
    whole = frames_like(8, 56, 56, fps=24, seconds=5)
    clip = frames_like(8, 56, 56, fps=24, seconds=5, start=1000)
    assert sampled_fps(clip) == sampled_fps(whole) == pytest.approx(1.6)


def test_an_unknown_rate_counts_as_one_frame_per_second(frames_like) -> None:
    frames = frames_like(8, 56, 56, fps=0, seconds=0)
    unknown = type(frames)(**(vars(frames) | {"fps": 0.0, "indices": np.arange(8)}))
    assert sampled_fps(unknown) == 1.0
    assert source_fps(unknown) == 1.0


def batch_and_positions_of_transformers(folder, items):
    config = AutoConfig.from_pretrained(folder)
    family = model_family(config.model_type)
    collator = Collator(EmbedderSettings(), load_processor(folder), family=family, config=config)
    batch = collator(items)
    kinds = torch.zeros_like(batch.input_ids)
    kinds[batch.input_ids == config.image_token_id] = 1
    kinds[batch.input_ids == config.video_token_id] = 2
    timing = {}
    if hasattr(config.vision_config, "tokens_per_second"):
        timing["second_per_grid_ts"] = [2 / sampled_fps(item.video) for item in items if item.video]
    model = AutoModelForImageTextToText.from_pretrained(folder).model
    theirs, _ = model.get_rope_index(
        input_ids=batch.input_ids,
        mm_token_type_ids=kinds,
        image_grid_thw=batch.image_grid,
        video_grid_thw=batch.video_grid,
        attention_mask=batch.attention_mask,
        **timing,
    )
    return batch, theirs


def test_positions_equal_transformers_if_the_extent_in_space_is_larger(tiny_family, items) -> None:
    visual = [item for item in items.values() if item.image or item.video]
    batch, theirs = batch_and_positions_of_transformers(tiny_family, visual)
    assert torch.equal(batch.position_ids, theirs)


def test_text_after_a_long_video_gets_positions_past_the_frames(tiny, frames_like) -> None:
    """60 s give time steps of 30, so the last frames are at 90; transformers 5 puts the text at 4."""
    batch, theirs = batch_and_positions_of_transformers(
        tiny, [Item(video=frames_like(8, 112, 112, seconds=60), text="x")]
    )
    is_video = batch.input_ids[0] == AutoConfig.from_pretrained(tiny).video_token_id
    video_end = int(is_video.nonzero()[-1])
    ours = batch.position_ids[:, 0]
    assert torch.equal(ours[:, : video_end + 1], theirs[:, 0, : video_end + 1])
    last_frame = int(ours[0, video_end])
    assert int(ours[0, video_end + 1]) == last_frame + 1
    assert int(theirs[0, 0, video_end + 1]) < last_frame


def test_the_error_for_an_unsupported_model_type_lists_the_supported_ones() -> None:
    with pytest.raises(
        ValueError, match="'llama' is not supported; supported: qwen2_5_vl, qwen2_vl, qwen3_5, qwen3_vl"
    ):
        model_family("llama")


def test_lora_targets_only_the_language_model(tiny_family) -> None:
    import re

    model = AutoModelForImageTextToText.from_config(AutoConfig.from_pretrained(tiny_family))
    pattern = MODEL_FAMILIES[model.config.model_type].lora_targets
    chosen = [name for name, _ in model.named_modules() if re.fullmatch(pattern, name)]
    assert len(chosen) == 2 * 6  # layers x projections
    assert not any("visual" in name for name in chosen)
