"""Search for nearest neighbours: exactly in arrays, or in an index with metadata and filters."""

from gve_ray.search.composition import composed
from gve_ray.search.confidence import Background
from gve_ray.search.exact import NONE, exact, within
from gve_ray.search.folder import create_index, open_index
from gve_ray.search.fusion import By, Ranking
from gve_ray.search.index import (
    ExclusiveIndexError,
    Filter,
    Hit,
    IndexFileError,
    IndexOptions,
    IndexSpec,
    Quote,
    SearchError,
    UnknownIdError,
    VectorIndex,
)
from gve_ray.search.library import Library, LibraryFacts, Pictures, open_library, read_library
from gve_ray.search.moments import Moment, search_moments

__all__ = [
    "NONE",
    "Background",
    "By",
    "ExclusiveIndexError",
    "Filter",
    "Hit",
    "IndexFileError",
    "IndexOptions",
    "IndexSpec",
    "Library",
    "LibraryFacts",
    "Moment",
    "Pictures",
    "Quote",
    "Ranking",
    "SearchError",
    "UnknownIdError",
    "VectorIndex",
    "composed",
    "create_index",
    "exact",
    "open_index",
    "open_library",
    "read_library",
    "search_moments",
    "within",
]
