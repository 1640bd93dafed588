"""An indexed folder of videos, as whoever searches it sees it: jobs/index.py writes it, serving reads it.

    library = open_library(folder)
    hits = library.index.search(vectors, 10)            # of queries embedded as library.facts.model says
    pictures = library.pictures(hits[0].id)             # JPEG: a poster, and a strip of frames

A folder is a path or a URI. library.json is replaced last, when everything it names is there; a new `generation` says
to open it again.
"""

import json
import threading
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import pyarrow as pa

from gve_ray.config import ModelConfig
from gve_ray.search.folder import Place, open_index
from gve_ray.search.index import FieldType, IndexFileError, VectorIndex
from gve_ray.store import Store
from gve_ray.store.runfolder import filesystem

FILE = "library.json"
SEGMENTS = "segments.lance"
FORMAT = 2

# What every segment in the index says of itself; columns of a manifest come beside these.
FIELDS: Mapping[str, FieldType] = {
    "video_id": "string",
    "uri": "string",  # of the video's file
    "segment": "int",  # its number in the video, from 0
    "start": "float",  # seconds
    "end": "float",
    "duration": "float",  # of the video
    "width": "int",
    "height": "int",
    "size": "int",  # bytes of the file
    "fingerprint": "string",  # sha256 of the file
    "caption": "string",
}

SEGMENT_SCHEMA = pa.schema(
    [
        ("segment", pa.string()),  # the id in the index
        ("vector", pa.list_(pa.float32())),
        ("poster", pa.binary()),  # JPEG
        ("strip", pa.binary()),  # JPEG: pictures of equal width, side by side
    ]
)


@dataclass(frozen=True, kw_only=True)
class LibraryFacts:
    """What library.json says. index: name of its folder. model, settings, identity: what embedded the segments
    (`ModelConfig`, `EmbedderSettings` and `identify`), and so must embed the queries, as plain values.
    strip_frames: pictures in every strip."""

    generation: int
    index: str
    model: Mapping[str, Any]
    settings: Mapping[str, Any]
    identity: Mapping[str, Any]
    strip_frames: int
    format: int = FORMAT

    @property
    def model_config(self) -> ModelConfig:
        """The model for queries, for `gve_ray.embedder.models.open_model`; not compiled, or the first would wait."""
        return replace(ModelConfig(**self.model), compile=False)


@dataclass(frozen=True, kw_only=True)
class Pictures:
    """Of one segment, as JPEG. strip: `LibraryFacts.strip_frames` pictures of equal width, side by side."""

    poster: bytes
    strip: bytes


class Library:
    """An index, and the pictures of what is in it. Make one with `open_library`."""

    def __init__(self, folder: Place, facts: LibraryFacts, index: VectorIndex) -> None:
        self.folder = folder
        self.facts = facts
        self.index = index
        self._segments = segment_store(folder)
        self._reopening = threading.Lock()

    def pictures(self, segment: str) -> Pictures:
        """Of a segment by its id; threads may ask at the same time. Raises KeyError if there is none, or no
        longer."""
        store = self._segments
        try:
            return _pictures(store, segment)
        except (OSError, ValueError):
            # An indexing run has meanwhile rewritten files that this reader had open.
            with self._reopening:
                if self._segments is store:
                    self._segments = segment_store(self.folder)
            return _pictures(self._segments, segment)

    def is_current(self) -> bool:
        """False once an indexing run has finished since this was opened."""
        return read_library(self.folder).generation == self.facts.generation

    def close(self) -> None:
        """Close the index."""
        self.index.close()


def _pictures(store: Store, segment: str) -> Pictures:
    (row,) = store.take([segment], ["segment", "poster", "strip"]).to_pylist()
    if row["segment"] != segment:  # never another one's pictures
        raise ValueError(f"{store.uri}: {row['segment']} is in the place of {segment}")
    return Pictures(poster=row["poster"], strip=row["strip"])


def open_library(folder: Place) -> Library:
    """What the last finished indexing run left in `folder`. Raises IndexFileError."""
    facts = read_library(folder)
    return Library(folder, facts, open_index(_inside(folder, facts.index)))


def read_library(folder: Place) -> LibraryFacts:
    """library.json. Raises IndexFileError if there is none, or one of another version."""
    uri = _inside(folder, FILE)
    try:
        files, path = filesystem(uri)
        with files.open_input_stream(path) as stream:
            facts = LibraryFacts(**json.loads(stream.read()))
        if facts.format != FORMAT:
            raise ValueError(f"format {facts.format}, not {FORMAT}")
    except (OSError, ValueError, TypeError, ImportError) as error:
        raise IndexFileError(f"{uri}: no index of videos ({error}); make one with gve index") from error
    return facts


def segment_store(folder: Place) -> Store:
    """Vectors and pictures by segment."""
    return Store(_inside(folder, SEGMENTS), SEGMENT_SCHEMA, key="segment")


def _inside(folder: Place, name: str) -> str:
    return f"{str(folder).rstrip('/')}/{name}"
