"""The sources of training videos that the contamination check reads.

    for source in open_training(config.contamination):
        for table in source.tables(index, signatures_of): ...     # video_id, uri, content_hash, signature, duration

A source is an assets.lance, which has fingerprints, or a listing of videos as `gve synthesize` and
`gve index` take it (a manifest, a folder, a glob, one video), whose fingerprints are made here. A long video
is a training video if one of its shots is.
"""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from gve_ray.evaluation.config import ContaminationConfig
from gve_ray.evaluation.embed import ItemIndex
from gve_ray.inputs.manifest import read_manifest
from gve_ray.job import PreflightError
from gve_ray.media.signature import FRAME_BYTES
from gve_ray.schema import ASSET_SCHEMA
from gve_ray.store import Store

COLUMNS = ("video_id", "uri", "content_hash", "signature", "duration")
_PARENT_COLUMNS = ("shot", "parent")
ROWS = 8192  # videos in memory at once
_FRAMES = 8  # in a signature, as in the paper, where the source has none
# (signature, duration) by digest, of videos given as paths by digest.
SignaturesOf = Callable[[Mapping[str, str]], Mapping[str, tuple[bytes, float]]]


class TrainingVideos(Protocol):
    """One source of training videos.

    name: as in the config. frames: uniform frames in its signatures.
    """

    @property
    def name(self) -> str: ...

    @property
    def frames(self) -> int: ...

    def tables(self, index: ItemIndex, signatures_of: SignaturesOf | None) -> Iterator[pa.Table]:
        """Yield tables of `COLUMNS`, of at most `ROWS` videos.

        index: for digests of files. signatures_of: decodes videos; None: signatures are not needed.
        """
        ...


@dataclass(frozen=True, kw_only=True)
class Assets:
    """An assets.lance."""

    store: Store

    @property
    def name(self) -> str:
        """The path or URI of the store."""
        return self.store.uri

    @property
    def frames(self) -> int:
        """Frames per signature; 8 if the store has no signatures."""
        for batch in self.store.batches(["signature"], rows=ROWS):
            if longest := pc.max(pc.binary_length(batch["signature"])).as_py():
                return int(longest) // FRAME_BYTES
        return _FRAMES

    def tables(self, index: ItemIndex, signatures_of: SignaturesOf | None) -> Iterator[pa.Table]:
        """Yield the rows of the store, and one more for each long video of which there are shots."""
        columns = [*COLUMNS, *_PARENT_COLUMNS]
        if not set(columns) <= set(self.store.columns()):  # written by a version without shots
            columns = list(COLUMNS)
        for batch in self.store.batches(columns, rows=ROWS):
            yield pa.Table.from_batches([batch]).select(COLUMNS)
            if "shot" in columns and batch["shot"].null_count < batch.num_rows:
                yield _parents(batch)


def _parents(batch: pa.RecordBatch) -> pa.Table:
    """Return the long videos of which there are shots among some rows of assets.lance, as a table of `COLUMNS`."""
    shots = batch.filter(pc.is_valid(batch["shot"]))
    ids = pc.struct_field(shots["shot"], "parent_id")
    signatures, durations = (pc.struct_field(shots["parent"], name) for name in ("signature", "duration"))
    values = [ids, shots["uri"], shots["content_hash"], signatures, durations]
    _, first = np.unique(ids.to_numpy(zero_copy_only=False), return_index=True)
    return pa.table(values, names=COLUMNS).take(first)


@dataclass(frozen=True, kw_only=True)
class ListedVideos:
    """Videos of a manifest, a folder or a glob. listed: their video_id and uri."""

    name: str
    listed: pa.Table
    frames: int = _FRAMES

    def tables(self, index: ItemIndex, signatures_of: SignaturesOf | None) -> Iterator[pa.Table]:
        """Read digests, and decode the videos if signatures are needed."""
        for start in range(0, self.listed.num_rows, ROWS):
            part = self.listed.slice(start, ROWS)
            uris = part.column("uri").to_pylist()
            digests = index.digests(uris)
            made = {} if signatures_of is None else signatures_of(dict(zip(digests, uris, strict=True)))
            prints = [made.get(digest, (b"", np.nan)) for digest in digests]
            yield pa.table(
                {
                    "video_id": part.column("video_id"),
                    "uri": uris,
                    "content_hash": digests,
                    "signature": pa.array([frames for frames, _ in prints], pa.binary()),
                    "duration": pa.array([duration for _, duration in prints], pa.float64()),
                }
            )


def open_training(config: ContaminationConfig) -> list[TrainingVideos]:
    """The training sources of the config. Raises PreflightError for one that cannot be read."""
    return [_open(uri) for uri in config.sources]


def _open(uri: str) -> TrainingVideos:
    store, option = Store(uri, ASSET_SCHEMA), f"contamination.training={uri!r}"
    is_store = uri.rstrip("/").endswith(".lance")
    try:
        if store.exists():
            return Assets(store=store)
    except (OSError, ValueError) as error:
        if is_store:
            raise PreflightError(f"{option}: cannot be read ({error}); name an assets.lance") from error
    if is_store:
        raise PreflightError(
            f"{option}: no assets there; name the assets.lance that the models were trained on, or leave it out"
        )
    try:
        return ListedVideos(name=uri, listed=read_manifest(uri).select(["video_id", "uri"]))
    except PreflightError as error:
        why = str(error).removeprefix(f"input={uri!r}: ")
        raise PreflightError(f"{option}: {why}; an assets.lance is also possible") from error
