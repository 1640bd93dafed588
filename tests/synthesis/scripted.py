"""A captioner without a model: each test supplies the answers and checks how they are processed."""

import io
import json
from collections.abc import Callable
from concurrent.futures import Future

import numpy as np
from PIL import Image

from gve_ray.schema import ASSET_SCHEMA
from gve_ray.synthesis.captioner import Completion, ModelInfo, Question, Sampling

CAPTIONS = {
    "1": "A small red circle moves left against a wide green meadow.",
    "2": " ".join(f"word{i}" for i in range(101)),
    "3": "A study of form and motion, told with very few means. The mood is calm and quiet, the order is "
    "plain, and one thing follows another without any hurry until the end.",
    "4": "red circle, green meadow, moves left",
    "5": "One part of what happens is that the red circle spins in the end.",
}
IMAGE_QUERY = "The same red circle as in this image, in the video where it never jumps but spins."
CLIP_QUERY = "The same red circle as in this clip, but it spins."


def good(question: Question, sampling: Sampling) -> Completion:
    """The answer that every check accepts."""
    texts: dict[str, str] = {
        "video_captions": CAPTIONS,
        "frame_captions": {**CAPTIONS, "5": "One part of the picture is a red circle on the left side."},
        "composed_image": {"query": IMAGE_QUERY},
        "composed_clip": {"query": CLIP_QUERY},
    }[question.prompt_id]
    return Completion(json.dumps(texts), "stop")


class Scripted:
    """A `Generator` that answers with a function's results and records the questions."""

    def __init__(self, script: Callable[[Question, Sampling], Completion] = good) -> None:
        self.info = ModelInfo(name="scripted", revision="1")
        self.calls: list[tuple[Question, Sampling]] = []
        self._script = script

    def submit(self, question: Question, sampling: Sampling) -> "Future[Completion]":
        self.calls.append((question, sampling))
        future: Future[Completion] = Future()
        try:
            future.set_result(self._script(question, sampling))
        except Exception as error:  # noqa: BLE001 - a future carries any error
            future.set_exception(error)
        return future


def asset_row(video_id: str, *, frames: int = 2, clips: int = 1, duration: float = 5.0, **changes) -> dict:
    """A row of ASSET_SCHEMA with small real JPEGs: grey levels tell the frames apart."""
    indices = [0, 8, 17, 25, 34, 42, 51, 59]
    row: dict = dict.fromkeys(ASSET_SCHEMA.names)
    row |= {
        "video_id": video_id,
        "content_hash": f"hash-{video_id}",
        "caption": "a red circle",
        "fps": 12.0,
        "duration": duration,
        "total_frames": 60,
        "frames": [_jpeg(i) for i in range(8)],
        "timestamps": [i / 12 for i in indices],
        "indices": indices,
        "reference_frames": [_jpeg(100 + i) for i in range(frames)],
        "reference_timestamps": [1.0 + i for i in range(frames)],
        "clips": [
            {
                "start": 1.0 + i,
                "end": 3.0 + i,
                "frames": [_jpeg(200 + j) for j in range(8)],
                "timestamps": [1.0 + i + j * 2 / 7 for j in range(8)],
                "indices": [12 + 12 * i + 3 * j for j in range(8)],
            }
            for i in range(clips)
        ],
    }
    return {**row, **changes}


def _jpeg(level: int) -> bytes:
    out = io.BytesIO()
    Image.fromarray(np.full((56, 84, 3), level, np.uint8)).save(out, "JPEG", quality=95)
    return out.getvalue()
