import numpy as np
import pytest
import torch
from transformers import AutoConfig, AutoModelForImageTextToText

from gve_ray.embedder.backbones import BACKBONES, Span, backbone_for, positions, sampled_fps, source_fps
from gve_ray.embedder.checkpoint import load_processor
from gve_ray.embedder.collate import Collator
from gve_ray.embedder.settings import EmbedderSettings
from gve_ray.schema import Item


def test_positions_by_hand() -> None:
    """Two words, a 2x1x2 grid three steps apart in time, one word."""
    spans = [Span(ids=[5, 6]), Span(ids=[9] * 4, grid=(2, 1, 2), interval=3.5), Span(ids=[7])]
    assert positions(spans).tolist() == [
        [0, 1, 2, 2, 5, 5, 6],  # time: 2 + floor(0), 2 + floor(3.5); then past the largest
        [0, 1, 2, 2, 2, 2, 6],
        [0, 1, 2, 3, 2, 3, 6],
    ]


def test_sampled_fps_is_the_processors_for_a_whole_video(frames_like) -> None:
    from transformers.video_utils import VideoMetadata

    frames = frames_like(8, 56, 56, fps=24, seconds=10)
    theirs = VideoMetadata(total_num_frames=240, fps=24, frames_indices=frames.indices.tolist()).sampled_fps
    assert sampled_fps(frames) == pytest.approx(theirs) == pytest.approx(0.8)


def test_a_clip_is_timed_like_a_file_of_its_own(frames_like) -> None:
    whole = frames_like(8, 56, 56, fps=24, seconds=5)
    clip = frames_like(8, 56, 56, fps=24, seconds=5, start=1000)
    assert sampled_fps(clip) == sampled_fps(whole) == pytest.approx(1.6)


def test_an_unknown_rate_counts_as_one_frame_a_second(frames_like) -> None:
    frames = frames_like(8, 56, 56, fps=0, seconds=0)
    unknown = type(frames)(**(vars(frames) | {"fps": 0.0, "indices": np.arange(8)}))
    assert sampled_fps(unknown) == 1.0
    assert source_fps(unknown) == 1.0


def own_positions(folder, items):
    config = AutoConfig.from_pretrained(folder)
    backbone = backbone_for(config.model_type)
    collator = Collator(EmbedderSettings(), load_processor(folder), backbone=backbone, config=config)
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


def test_positions_equal_transformers_where_space_outruns_time(tiny_family, items) -> None:
    visual = [item for item in items.values() if item.image or item.video]
    batch, theirs = own_positions(tiny_family, visual)
    assert torch.equal(batch.position_ids, theirs)


def test_after_a_long_video_text_is_not_placed_among_the_frames(tiny, frames_like) -> None:
    """60 s: time steps of 30, so the last frames are at 90; transformers 5 puts the text at 4."""
    batch, theirs = own_positions(tiny, [Item(video=frames_like(8, 112, 112, seconds=60), text="x")])
    is_video = batch.input_ids[0] == AutoConfig.from_pretrained(tiny).video_token_id
    video_end = int(is_video.nonzero()[-1])
    ours = batch.position_ids[:, 0]
    assert torch.equal(ours[:, : video_end + 1], theirs[:, 0, : video_end + 1])
    last_frame = int(ours[0, video_end])
    assert int(ours[0, video_end + 1]) == last_frame + 1
    assert int(theirs[0, 0, video_end + 1]) < last_frame


def test_unknown_model_type_names_the_known_ones() -> None:
    with pytest.raises(
        ValueError, match="'llama' is not supported; supported: qwen2_5_vl, qwen2_vl, qwen3_vl"
    ):
        backbone_for("llama")


def test_lora_goes_to_the_language_model_only(tiny_family) -> None:
    import re

    model = AutoModelForImageTextToText.from_config(AutoConfig.from_pretrained(tiny_family))
    pattern = BACKBONES[model.config.model_type].lora_targets
    chosen = [name for name, _ in model.named_modules() if re.fullmatch(pattern, name)]
    assert len(chosen) == 2 * 6  # layers x projections
    assert not any("visual" in name for name in chosen)
