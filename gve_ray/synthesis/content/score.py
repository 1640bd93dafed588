"""Score the content of a decoded video: all classical scores in one pass over its stored frames."""

import io
from collections.abc import Callable, Mapping, Sequence
from dataclasses import astuple, dataclass
from functools import cached_property
from typing import Any

import numpy as np
import pyarrow as pa
from PIL import Image

from gve_ray.store import Store
from gve_ray.synthesis.content.borders import Box, border_share, content_box
from gve_ray.synthesis.content.exposure import blur, darkness
from gve_ray.synthesis.content.slideshow import slideshow
from gve_ray.synthesis.content.text import text_share
from gve_ray.synthesis.motion import SIDE

CONTENT_SCHEMA = pa.schema(
    [
        ("video_id", pa.string()),
        ("text_overlay", pa.float64()),
        ("borders", pa.float64()),
        ("blur", pa.float64()),
        ("darkness", pa.float64()),
        ("slideshow", pa.float64()),
        ("box", pa.list_(pa.int32())),  # the picture within the borders: top, bottom, left, right in pixels
    ]
)
FORMAT = 1  # increase when the same frames give other scores
_COLUMNS = ["video_id", "frames", "timestamps", "reference_frames", "reference_timestamps", "clips"]


class ContentWorker:
    """Worker of the stage content: rows of video_id -> rows of `CONTENT_SCHEMA`.

    decoded: the store of decoded videos, from which the frames are read.
    """

    def __init__(self, decoded: Store) -> None:
        self._decoded = decoded

    def __call__(self, rows: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
        stored = self._decoded.take([row["video_id"] for row in rows], _COLUMNS).to_pylist()
        return [{"video_id": row["video_id"], **content_scores(row)} for row in stored]


def content_scores(row: Mapping[str, Any]) -> dict[str, Any]:
    """Return the scores of a video by filter, of which higher is worse, and its box. row: the columns `_COLUMNS`."""
    pictures = Pictures.of_row(row)
    return {name: measure(pictures) for name, measure in MEASURES.items()} | {"box": astuple(pictures.box)}


@dataclass(frozen=True, kw_only=True, eq=False)
class Pictures:
    """The decoded frames of a video. luma: uint8 [T, H, W], the uniform frames. small: uint8 [N, h, w, 3], all
    frames in the order of time, at a size at which motion can be measured.
    """

    luma: np.ndarray
    small: np.ndarray

    @classmethod
    def of_row(cls, row: Mapping[str, Any]) -> "Pictures":
        """Decode the frames of a row of `INGEST_SCHEMA`."""
        return cls(
            luma=np.stack([_luma(jpeg) for jpeg in row["frames"]]),
            small=np.stack([_small(jpeg) for jpeg in in_time(row)]),
        )

    @cached_property
    def box(self) -> Box:
        """The part of the pictures within the borders."""
        return content_box(self.luma)

    @property
    def inner(self) -> np.ndarray:
        """The luma within the borders."""
        return self.box.of(self.luma)


MEASURES: dict[str, Callable[[Pictures], float]] = {
    "text_overlay": lambda pictures: text_share(pictures.luma),
    "borders": lambda pictures: border_share(pictures.box, *pictures.luma.shape[1:]),
    "blur": lambda pictures: blur(pictures.inner),
    "darkness": lambda pictures: darkness(pictures.inner),
    "slideshow": lambda pictures: slideshow(pictures.small),
}


def in_time(row: Mapping[str, Any]) -> list[bytes]:
    """Return all stored frames of a video in the order of time, each moment once."""
    frames = dict(zip(row["timestamps"], row["frames"], strict=True))
    frames |= zip(row["reference_timestamps"], row["reference_frames"], strict=True)
    for clip in row["clips"]:
        frames |= zip(clip["timestamps"], clip["frames"], strict=True)
    return [frames[second] for second in sorted(frames)]


def _luma(jpeg: bytes) -> np.ndarray:
    picture = Image.open(io.BytesIO(jpeg))
    picture.draft("L", picture.size)  # decodes no color
    return np.asarray(picture.convert("L"))


def _small(jpeg: bytes) -> np.ndarray:
    """Decode at the smallest size at which motion can be measured, which takes a fraction of the time."""
    picture = Image.open(io.BytesIO(jpeg))
    scale = min(1.0, SIDE / max(picture.size))
    picture.draft("RGB", (int(picture.width * scale), int(picture.height * scale)))
    return np.asarray(picture.convert("RGB"))
