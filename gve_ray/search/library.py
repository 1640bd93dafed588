"""Read an indexed folder of videos, which the index job writes and the service searches.

    library = open_library(folder)
    hits = library.index.search(vectors, 10)            # of queries embedded by library.facts.model
    pictures = library.pictures(hits[0].id)             # JPEG: a poster and a strip of frames

A folder is a path or a URI. The index job replaces library.json last, when all files that it names
exist. If its `generation` has changed, a reader has to open the folder again.
"""

import json
import threading
from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import pyarrow as pa

from gve_ray.config import ModelConfig
from gve_ray.search.confidence import Background
from gve_ray.search.folder import PathOrUri, open_index
from gve_ray.search.index import FieldType, IndexFileError, Value, VectorIndex
from gve_ray.search.words import WordIndex
from gve_ray.store import Store
from gve_ray.store.runfolder import filesystem

FILE = "library.json"
BACKGROUND = "background.npz"
SEGMENTS = "segments.lance"
FORMAT = 2

# The metadata of every segment in the index. The user's columns of a manifest are added to these.
FIELDS: Mapping[str, FieldType] = {
    "video_id": "string",
    "uri": "string",  # of the video's file
    "segment": "int",  # number of the segment within the video, from 0
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
    """The content of library.json.

    index: name of the index's folder. model, settings, identity: the `ModelConfig`, the
    `EmbedderSettings` and the result of `identify` for the model that has embedded the segments and
    must embed the queries, as plain values. strip_frames: number of frames in each strip. words: name of the
    folder and version of the index of words (`gve_ray.search.words`); None if there is none.
    """

    generation: int
    index: str
    model: Mapping[str, Any]
    settings: Mapping[str, Any]
    identity: Mapping[str, Any]
    strip_frames: int
    words: Mapping[str, Any] | None = None
    format: int = FORMAT

    @property
    def model_config(self) -> ModelConfig:
        """The model for queries, to be opened by `gve_ray.embedder.backends.open_model`.

        It is not compiled, because the first query would wait for the compilation.
        """
        return replace(ModelConfig(**self.model), compile=False)


@dataclass(frozen=True, kw_only=True)
class Pictures:
    """The pictures of one segment as JPEG. strip: `LibraryFacts.strip_frames` frames side by side."""

    poster: bytes
    strip: bytes


class Library:
    """An index of segments, their words if there are any, and their pictures.

    Create one with `open_library`.
    """

    def __init__(
        self, folder: PathOrUri, facts: LibraryFacts, index: VectorIndex, words: WordIndex | None = None
    ) -> None:
        self.folder = folder
        self.facts = facts
        self.index = index
        self.words = words
        self._segments = segment_store(folder)
        self._reopening = threading.Lock()

    def record(self, segment: str) -> dict[str, Value]:
        """Return the metadata of a segment by its id. Raises UnknownIdError if it does not exist."""
        return self.index.metadata_of(segment)

    def pictures(self, segment: str) -> Pictures:
        """Return the pictures of a segment by its id. Thread-safe.

        Raises KeyError if the segment does not exist, or no longer exists.
        """
        store = self._segments
        try:
            return _pictures(store, segment)
        except (OSError, ValueError):
            # An index job has rewritten files that this reader had open.
            with self._reopening:
                if self._segments is store:
                    self._segments = segment_store(self.folder)
            return _pictures(self._segments, segment)

    @cached_property
    def background(self) -> Background | None:
        """What the scores of a query are compared with.

        None if the index has too few films, or was made by a version that did not keep it.
        """
        files, path = filesystem(_inside(self.folder, BACKGROUND))
        try:
            with files.open_input_stream(path) as stream:
                return Background.from_bytes(stream.read())
        except FileNotFoundError:
            return None

    def is_current(self) -> bool:
        """Return False if an index job has finished since this library was opened."""
        return read_library(self.folder).generation == self.facts.generation

    def close(self) -> None:
        """Close the index."""
        self.index.close()


def _pictures(store: Store, segment: str) -> Pictures:
    (row,) = store.take([segment], ["segment", "poster", "strip"]).to_pylist()
    if row["segment"] != segment:  # never return the pictures of another segment
        raise ValueError(f"{store.uri}: found {row['segment']} instead of {segment}")
    return Pictures(poster=row["poster"], strip=row["strip"])


def open_library(folder: PathOrUri, *, shared: bool = False) -> Library:
    """Open the result of the last finished index job in `folder`.

    shared: another process has its index open. Raises what `open_index` raises.
    """
    facts = read_library(folder)
    index = open_index(_inside(folder, facts.index), shared=shared)
    return Library(folder, facts, index, open_words(folder, facts, index.spec.fields))


def open_words(folder: PathOrUri, facts: LibraryFacts, fields: Mapping[str, FieldType]) -> WordIndex | None:
    """Open the words that library.json names; None if it names none. Raises IndexFileError.

    fields: of the index.
    """
    if facts.words is None:
        return None
    return WordIndex.open(_inside(folder, facts.words["index"]), fields, facts.words["version"])


def read_library(folder: PathOrUri) -> LibraryFacts:
    """Read library.json. Raises IndexFileError if it is missing or of another version."""
    uri = _inside(folder, FILE)
    try:
        files, path = filesystem(uri)
        with files.open_input_stream(path) as stream:
            facts = LibraryFacts(**json.loads(stream.read()))
        if facts.format != FORMAT:
            raise ValueError(f"format {facts.format}, not {FORMAT}")
    except (OSError, ValueError, TypeError, ImportError) as error:
        advice = f"no index of videos ({error}); create one with gve index"
        raise IndexFileError.of(error, uri, advice) from error
    return facts


def segment_store(folder: PathOrUri) -> Store:
    """Return the store with the vectors and pictures of all segments."""
    return Store(_inside(folder, SEGMENTS), SEGMENT_SCHEMA, key="segment")


def _inside(folder: PathOrUri, name: str) -> str:
    return f"{str(folder).rstrip('/')}/{name}"
