"""Contamination: evaluation videos that are among the training assets, so that zero-shot is no claim only.

    overlap(Store("runs/demo/assets.lance", ASSET_SCHEMA), ["uvrb/MSRVTT/videos/video7010.mp4", ...])

Three ways to be found, by what synthesis stored of each training video: the same path, the same bytes
(`content_hash`), or nearly the same frames (`signature`), which also finds copies that were encoded again and
folders of uniform frames. The training set is streamed, so it may be of any size.

What is not found: parts, for a clip cut out of a training video has other uniform frames; and most folders
extracted at 1 FPS from videos of few seconds, which show other moments (4 of 12 short moving scenes found).
So a find proves an overlap, and no find does not prove that there is none.
"""

import os
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from typing import Literal
from urllib.parse import unquote, urlsplit

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from gve_ray.media import DecodeProcess, FrameRequest, MediaError
from gve_ray.media.signature import (
    FRAME_BYTES,
    THRESHOLD,
    distances,
    lengths_agree,
    may_be_near,
    normalised,
    points,
    signature,
)
from gve_ray.store import Store

COLUMNS = ("video_id", "uri", "content_hash", "signature", "duration")
_NEIGHBOURS = 32  # of one evaluation video in one batch of training videos
_CHUNK = 1024  # evaluation videos a search; 12 kB each
_ROWS = 8192
_ORDER = ("uri", "exact", "near")


@dataclass(frozen=True, kw_only=True)
class Overlap:
    """An evaluation video and the training video it is. kind: the same path, the same bytes, or nearly the
    same frames. distance: of the signatures, 0 (the same) to the threshold; 0 for the first two."""

    video: str
    video_id: str
    kind: Literal["uri", "exact", "near"]
    distance: float

    def __str__(self) -> str:
        how = {"uri": "the same path", "exact": "the same bytes", "near": f"distance {self.distance:.3f}"}
        return f"{self.video}: is training video {self.video_id!r} ({how[self.kind]})"


@dataclass(frozen=True, kw_only=True)
class Fingerprint:
    """content_hash: sha256 hex of the bytes. signature: of k uniform frames, the same k for all that are compared;
    empty: compared by bytes alone. duration: seconds; NaN for a folder of frames, which does not tell how many
    there were a second."""

    content_hash: str
    signature: bytes
    duration: float


def overlap(
    assets: Store | pa.Table,
    videos: Sequence[str],
    *,
    threshold: float = THRESHOLD,
    workers: int = 1,
    known: Mapping[str, Fingerprint] | None = None,
) -> list[Overlap]:
    """The evaluation videos that are in the training assets, one entry each, in the order given.

    assets: assets.lance, or a table with video_id and any of the other `COLUMNS`; values may be null.
    videos: paths or URIs of files and folders of frames; those that do not decode are compared by path
    alone. threshold: largest distance of near copies; 0 leaves them out. workers: decoding processes.
    known: fingerprints by path; who gives them wants no decoding, and videos without are compared by path. A
    video found in several ways or places is told by the surest: path, bytes, then the least distance.
    Raises ValueError for a table without video_id and anything to compare by.
    """
    columns = _columns(assets)
    distinct = list(dict.fromkeys(videos))
    prints = known or {}
    if known is None and {"content_hash", "signature"} & set(columns):
        prints = fingerprints(distinct, frames=signature_frames(assets), workers=workers)
    found: dict[str, Overlap] = {}
    for batch in _batches(assets, columns):
        table = pa.Table.from_batches([batch]).select(columns)
        for one in _found_in(table, distinct, prints, threshold):
            if one.video not in found or _rank(one) < _rank(found[one.video]):
                found[one.video] = one
    return [found[video] for video in distinct if video in found]


def fingerprints(videos: Sequence[str], *, frames: int, workers: int = 1) -> dict[str, Fingerprint]:
    """By path, of those videos that decode. frames: uniform frames in a signature."""

    def some(start: int) -> dict[str, Fingerprint]:
        """Every `workers`-th video from `start` on, in one decoding process."""
        prints = {}
        with DecodeProcess() as process:
            for video in videos[start::workers]:
                try:
                    decoded = process.decode(video, [FrameRequest(k=frames)], strict=False)
                except (MediaError, OSError, ValueError, MemoryError):
                    continue  # `check` tells these; what nobody can open cannot be scored either
                folder = decoded.info.container == "folder"
                prints[video] = Fingerprint(
                    content_hash=decoded.content_hash,
                    signature=signature(decoded.samples[0].pixels),
                    duration=np.nan if folder else decoded.info.duration,
                )
        return prints

    with ThreadPoolExecutor(workers) as pool:
        return {video: one for part in pool.map(some, range(workers)) for video, one in part.items()}


def _found_in(
    table: pa.Table, videos: Sequence[str], prints: Mapping[str, Fingerprint], threshold: float
) -> Iterator[Overlap]:
    """All finds among some training videos."""
    by_path: dict[str, list[str]] = {}
    for video in videos:
        by_path.setdefault(_plain_path(video), []).append(video)
    yield from _equal(table, "uri", [_plain_path(one) for one in _values(table, "uri")], by_path)
    by_hash: dict[str, list[str]] = {}
    for video, one in prints.items():
        by_hash.setdefault(one.content_hash, []).append(video)
    yield from _equal(table, "exact", _values(table, "content_hash"), by_hash)
    if threshold > 0 and "signature" in table.column_names:
        # Data sets share videos: each is looked for once, and told by all of its names.
        for found in _near(table, {same[0]: prints[same[0]] for same in by_hash.values()}, threshold):
            for video in by_hash[prints[found.video].content_hash]:
                yield replace(found, video=video)


def _equal(
    table: pa.Table,
    kind: Literal["uri", "exact"],
    values: Sequence[str | None],
    wanted: Mapping[str, Sequence[str]],
) -> Iterator[Overlap]:
    for row, value in enumerate(values):
        for video in wanted.get(value, ()) if value else ():
            yield Overlap(video=video, video_id=table["video_id"][row].as_py(), kind=kind, distance=0.0)


def _near(table: pa.Table, prints: Mapping[str, Fingerprint], threshold: float) -> Iterator[Overlap]:
    """Near copies: the nearest by `points`, then judged by the whole signature."""
    import faiss

    size = max((len(one.signature) for one in prints.values()), default=0)
    videos = [video for video, one in prints.items() if len(one.signature) == size > 0]
    table = table.filter(pc.equal(pc.binary_length(table["signature"]), size))
    if not table.num_rows or not videos:
        return
    ids = table["video_id"].to_pylist()
    seconds = np.array(_values(table, "duration") or [None] * len(ids), dtype=np.float64)
    cells = normalised(table["signature"].to_pylist())  # float32 [m, T, 384]
    spots = points(cells)  # float32 [m, 128]
    for start in range(0, len(videos), _CHUNK):
        part = videos[start : start + _CHUNK]
        own = normalised([prints[video].signature for video in part])
        own_spots = points(own)
        _, near = faiss.knn(own_spots, spots, min(_NEIGHBOURS, len(spots)))  # int64 [n, neighbours]
        a = np.repeat(np.arange(len(part)), near.shape[1])
        b = near.ravel()
        own_seconds = np.array([prints[video].duration for video in part])
        unknown = np.isnan(own_seconds[a]) | np.isnan(seconds[b])
        likely = may_be_near(own_spots[a], spots[b], threshold)
        likely &= unknown | lengths_agree(own_seconds[a], seconds[b])
        for i, j in zip(a[likely], b[likely], strict=True):
            apart = float(distances(own[i : i + 1], cells[j : j + 1])[0])
            if apart <= threshold:
                yield Overlap(video=part[i], video_id=ids[j], kind="near", distance=apart)


def _rank(one: Overlap) -> tuple[int, float, str]:
    return _ORDER.index(one.kind), one.distance, one.video_id


def _columns(assets: Store | pa.Table) -> list[str]:
    names = assets.schema.names
    columns = [name for name in COLUMNS if name in names]
    if "video_id" not in columns or not {"uri", "content_hash", "signature"} & set(columns):
        raise ValueError(
            f"assets: columns {names}; give video_id and at least one of uri, content_hash, signature"
        )
    return columns


def signature_frames(assets: Store | pa.Table) -> int:
    """Frames in the signatures of this training set; 8, as in the paper, where it has none."""
    if "signature" in assets.schema.names:
        for batch in _batches(assets, ["signature"]):
            longest = pc.max(pc.binary_length(batch["signature"])).as_py()
            if longest:
                return longest // FRAME_BYTES
    return 8


def _batches(assets: Store | pa.Table, columns: Sequence[str]) -> Iterator[pa.RecordBatch]:
    if isinstance(assets, Store):
        return assets.batches(columns, rows=_ROWS)
    return iter(assets.select(list(columns)).to_batches(max_chunksize=_ROWS))


def _values(table: pa.Table, column: str) -> list:
    return table[column].to_pylist() if column in table.column_names else []


def _plain_path(uri: str | None) -> str:
    """An absolute path; other URIs as they are."""
    if not uri or ("://" in uri and not uri.startswith("file://")):
        return uri or ""
    return os.path.abspath(unquote(urlsplit(uri).path) if uri.startswith("file://") else uri)
