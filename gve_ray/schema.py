"""The data types that all jobs share: frames, items, pairs and tasks, and their Arrow schemas.

An `Item` is the input of the embedder: any mix of video, image and text. The media of an item are
either in memory (`Frames`) or given by a reference: a path, a URI of pyarrow or fsspec, or an asset
reference `asset://<video_id>/video | frame/<i> | clip/<i>` to frames stored in assets.lance.
Embeddings may be cut to their first dimensions (`truncated`).
"""

from dataclasses import dataclass
from enum import StrEnum
from typing import Literal
from urllib.parse import quote, unquote

import numpy as np
import pyarrow as pa

ASSET_SCHEME = "asset://"


class Task(StrEnum):
    """The modalities of query and target of a training pair (arXiv:2510.27571, tables 6 and 7).

    T is text, I is an image and V is a video: the query of TI2V is a text with an image.
    """

    T2T = "T2T"
    T2I = "T2I"
    T2V = "T2V"
    TI2V = "TI2V"
    TV2V = "TV2V"
    I2V = "I2V"
    V2V = "V2V"
    I2T = "I2T"
    I2I = "I2I"
    T2TI = "T2TI"
    TI2T = "TI2T"
    TI2I = "TI2I"
    TI2TI = "TI2TI"

    @property
    def query(self) -> str:
        """The letters of the query's modalities, such as "TI"."""
        return self.value.partition("2")[0]

    @property
    def target(self) -> str:
        """The letters of the target's modalities."""
        return self.value.partition("2")[2]


# Pairs of each task in UVRD (arXiv:2510.27571, table 7).
UVRD_PAIRS = {
    Task.T2T: 100_000,
    Task.T2I: 210_000,
    Task.T2V: 879_000,
    Task.TI2V: 89_000,
    Task.TV2V: 35_000,
    Task.I2V: 200_000,
    Task.V2V: 36_000,
}
UVRD_TASKS = tuple(UVRD_PAIRS)  # the tasks that synthesis makes


@dataclass(frozen=True, kw_only=True, eq=False)
class Frames:
    """Frames sampled from one video, with the properties of the source that video processors need.

    pixels: uint8 [T, H, W, 3], RGB, as displayed. timestamps: float64 [T], seconds on the file's
    own clock (see `media.VideoInfo`). indices: int64 [T], frame numbers in display order. fps:
    frames per second of the source. duration: seconds of the source, counted from its first frame.
    total_frames: frame count of the source. A still picture has T = 1, fps 0 and duration 0.
    """

    pixels: np.ndarray
    timestamps: np.ndarray
    indices: np.ndarray
    fps: float
    duration: float
    total_frames: int

    def __post_init__(self) -> None:
        if self.pixels.dtype != np.uint8 or self.pixels.ndim != 4 or self.pixels.shape[-1] != 3:
            raise ValueError(
                f"pixels: {self.pixels.dtype} {self.pixels.shape}; frames must be uint8 [T, H, W, 3]"
            )
        if not len(self.pixels) == len(self.timestamps) == len(self.indices):
            raise ValueError(
                f"{len(self.pixels)} frames, {len(self.timestamps)} timestamps, {len(self.indices)} indices; "
                "give one timestamp and one index per frame"
            )


@dataclass(frozen=True)
class AssetRef:
    """A part of one row of assets.lance: the whole video, a reference frame or a clip."""

    video_id: str
    part: Literal["video", "frame", "clip"] = "video"
    index: int = 0

    def __str__(self) -> str:
        tail = "video" if self.part == "video" else f"{self.part}/{self.index}"
        return f"{ASSET_SCHEME}{quote(self.video_id, safe='')}/{tail}"

    @classmethod
    def parse(cls, ref: str) -> "AssetRef":
        """Parse the result of `str(ref)`. Raises ValueError for any other text."""
        body = ref.removeprefix(ASSET_SCHEME).split("/")
        if ref.startswith(ASSET_SCHEME) and body[0]:
            video_id = unquote(body[0])
            if body[1:] == ["video"]:
                return cls(video_id)
            if len(body) == 3 and body[1] in ("frame", "clip") and body[2].isdecimal():
                return cls(video_id, body[1], int(body[2]))  # type: ignore[arg-type]
        raise ValueError(
            f"asset reference {ref!r}: expected {ASSET_SCHEME}<video_id>/video, /frame/<i> or /clip/<i>"
        )


Media = str | Frames


@dataclass(frozen=True, kw_only=True)
class Item:
    """One input of the embedder: video, image and text, at least one of them, and an instruction.

    Only queries have an instruction (arXiv:2510.27571, section 2).
    """

    text: str | None = None
    image: Media | None = None
    video: Media | None = None
    instruction: str | None = None

    def __post_init__(self) -> None:
        if not self.text and self.image is None and self.video is None:
            raise ValueError("Item(): empty; give at least one of text, image, video")


ITEM_TYPE = pa.struct([("text", pa.string()), ("image", pa.string()), ("video", pa.string())])

PAIR_SCHEMA = pa.schema(
    [
        ("pair_id", pa.string()),
        # pandas and `pyarrow.parquet.read_table` derive this type from the folder name task=...; if
        # the files had plain strings, they would refuse to read the folder.
        ("task", pa.dictionary(pa.int32(), pa.string())),
        ("query", ITEM_TYPE),
        ("target", ITEM_TYPE),
        ("negatives", pa.list_(ITEM_TYPE)),
        ("instruction", pa.string()),
        ("domain", pa.string()),
        ("style", pa.string()),
    ]
)

CLIP_TYPE = pa.struct(
    [
        ("start", pa.float64()),  # seconds
        ("end", pa.float64()),
        ("frames", pa.list_(pa.binary())),  # JPEG, uniformly sampled over [start, end]
        ("timestamps", pa.list_(pa.float64())),
        ("indices", pa.list_(pa.int64())),
    ]
)

SHOT_TYPE = pa.struct(
    [
        ("parent_id", pa.string()),  # the long video in the manifest
        ("start", pa.float64()),  # seconds on the file's clock
        ("end", pa.float64()),
    ]
)

PARENT_TYPE = pa.struct([("duration", pa.float64()), ("signature", pa.binary())])

# A version that needs more columns adds them at the end: stores of earlier versions get them, see `Store.create`.
ASSET_SCHEMA = pa.schema(
    [
        ("video_id", pa.string()),
        ("uri", pa.string()),
        ("caption", pa.string()),  # raw caption; null if there is none or it is not descriptive
        ("content_hash", pa.string()),  # sha256 of the file's bytes
        ("repaired", pa.bool_()),
        ("container", pa.string()),
        ("codec", pa.string()),
        ("width", pa.int32()),  # of the source as displayed
        ("height", pa.int32()),
        ("fps", pa.float64()),
        ("duration", pa.float64()),  # seconds
        ("total_frames", pa.int64()),  # of a shot: those within its span
        ("frames", pa.list_(pa.binary())),  # JPEG: k uniform frames within the pixel budget
        ("timestamps", pa.list_(pa.float64())),
        ("indices", pa.list_(pa.int64())),
        ("reference_frames", pa.list_(pa.binary())),  # JPEG, off the uniform grid
        ("reference_timestamps", pa.list_(pa.float64())),
        ("clips", pa.list_(CLIP_TYPE)),
        ("signature", pa.binary()),  # perceptual hash used by near-duplicate removal
        ("motion", pa.float64()),
        ("consistency", pa.float64()),  # cosine of caption and video; null without a caption
        ("shot", SHOT_TYPE),  # the part of a long video that this one is; null for a whole video
        ("parent", PARENT_TYPE),  # of the long video; null for a whole video
    ]
)

TEXT_TYPE = pa.struct(
    [
        ("ref", pa.string()),  # asset reference of the video, frame or clip that the text describes
        ("style", pa.string()),  # of a caption; the strategy or relation of a composed query
        ("profile", pa.string()),  # information profile of a caption; null for a query
        ("text", pa.string()),
    ]
)

REJECTED_ANSWER_TYPE = pa.struct(
    [
        ("seed", pa.int64()),
        ("reason", pa.string()),
        ("detail", pa.string()),
        ("answer", pa.string()),
    ]
)

GENERATION_TYPE = pa.struct(
    [
        ("prompt_id", pa.string()),
        ("prompt_version", pa.int32()),
        ("ref", pa.string()),
        ("slots", pa.string()),  # JSON object
        ("model", pa.string()),
        ("revision", pa.string()),  # commit on the hub, digest of a local folder, or host of an endpoint
        ("sampling", pa.string()),  # JSON object
        ("seed", pa.int64()),  # of the last attempt
        ("attempts", pa.int32()),
        ("reason", pa.string()),  # why no text was accepted; null if one was
        ("rejected", pa.list_(REJECTED_ANSWER_TYPE)),
    ]
)

SPAN_TYPE = pa.struct([("start", pa.float64()), ("end", pa.float64())])  # seconds

ANNOTATION_SCHEMA = pa.schema(
    [
        ("video_id", pa.string()),
        ("duration", pa.float64()),  # seconds; copied from assets.lance, so that assembly opens no pixels
        ("reference_timestamps", pa.list_(pa.float64())),  # likewise
        ("clip_spans", pa.list_(SPAN_TYPE)),  # likewise
        ("captions", pa.list_(TEXT_TYPE)),  # prompt 1: five styles
        ("frame_captions", pa.list_(TEXT_TYPE)),  # prompt 4: five styles per captioned frame
        ("composed_image", pa.list_(TEXT_TYPE)),  # prompt 2: `ref` is the frame in the query
        ("composed_clip", pa.list_(TEXT_TYPE)),  # prompt 3: `ref` is the clip in the query
        ("generations", pa.list_(GENERATION_TYPE)),  # one per question, in the order of the prompts
        ("shot", SHOT_TYPE),  # copied from assets.lance
    ]
)


def truncated(vectors: np.ndarray, dimension: int) -> np.ndarray:
    """Return the first dimensions with unit norm, float32 [n, dimension] (Matryoshka).

    vectors: float32 [n, d]. A vector of zeros stays as it is. Raises ValueError if d is smaller.
    """
    if vectors.shape[1] < dimension:
        raise ValueError(f"dimension={dimension}: the vectors of this model have {vectors.shape[1]}")
    if vectors.shape[1] == dimension:
        return vectors
    head = vectors[:, :dimension]
    norms = np.linalg.norm(head, axis=1, keepdims=True)
    return np.asarray(head / np.where(norms > 0, norms, 1.0), dtype=np.float32)
