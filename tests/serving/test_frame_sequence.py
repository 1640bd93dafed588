"""Tests videos that clients send as their frames: what our own engine sends is read as the same frames."""

import asyncio
from typing import Any

import numpy as np
import pytest

from gve_ray.embedder import EmbedderSettings
from gve_ray.embedder.backends.endpoint import chat_request
from gve_ray.media import Limits
from gve_ray.schema import Item
from gve_ray.serving.errors import ApiError
from gve_ray.serving.frame_sequence import FrameSequence
from gve_ray.serving.reader import MediaReader
from gve_ray.serving.requests import EmbeddingRequest, validate
from tests.embedder.conftest import make_frames

VIDEO = make_frames(8, 112, 140, seconds=3, fps=30)


def parsed(body: dict[str, Any]) -> Any:
    """Return the video of a request."""
    (query,) = validate(EmbeddingRequest, body).queries()
    return query.video


def test_the_frames_of_the_engine_openai_arrive_with_their_times() -> None:
    sequence = parsed(chat_request(Item(video=VIDEO, text="but slower"), None, "video"))
    assert isinstance(sequence, FrameSequence)
    reader = MediaReader(1, Limits())
    try:
        frames = asyncio.run(reader.read_sequence(sequence, EmbedderSettings()))
    finally:
        reader.close()
    assert frames.pixels.shape == VIDEO.pixels.shape
    assert np.abs(frames.pixels.astype(int) - VIDEO.pixels).mean() < 6  # JPEG changes them a little
    assert frames.indices.tolist() == VIDEO.indices.tolist()
    assert (frames.fps, frames.total_frames, frames.duration) == (30.0, 90, 3.0)


def test_without_numbers_the_frames_follow_each_other_at_one_a_second() -> None:
    body = chat_request(Item(video=VIDEO), None, "video")
    del body["media_io_kwargs"]
    sequence = parsed(body)
    assert (sequence.fps, sequence.indices, sequence.total_frames) == (1.0, tuple(range(8)), 8)


@pytest.mark.parametrize(
    "options,problem",
    [
        ({"frames_indices": [0, 1]}, "one increasing number for each of the 8 frames"),
        ({"frames_indices": [0, 1, 2, 3, 4, 5, 7, 6]}, "one increasing number"),
        ({"frames_indices": "all"}, "give a list of frame numbers"),
        ({"fps": 0}, "fps=0: give the frames a second"),
        ({"total_num_frames": 7}, "give at least 8"),
    ],
)
def test_wrong_numbers_are_refused(options: dict[str, Any], problem: str) -> None:
    body = chat_request(Item(video=VIDEO), None, "video") | {"media_io_kwargs": {"video": options}}
    with pytest.raises(ApiError, match=problem):
        parsed(body)


@pytest.mark.parametrize(
    "payload,problem", [("", "no frame"), ("%%%", "not in base64"), ("a," * 1100, "frames; send")]
)
def test_a_damaged_url_is_refused(payload: str, problem: str) -> None:
    part = {"type": "video_url", "video_url": {"url": f"data:video/jpeg;base64,{payload}"}}
    with pytest.raises(ApiError, match=problem):
        parsed({"messages": [{"role": "user", "content": [part]}]})
