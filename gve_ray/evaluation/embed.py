"""Embeds each distinct item once, however many data sets contain it, and caches the vectors.

    index = ItemIndex(cache); keys = index.keys(items)          # content fingerprints
    with ItemEmbedder(model, ...) as embedder:                  # a Ray stage: exactly once, resumable
        embedded = embedder.embed(pending_table(items, keys))
    vectors, cut = read_vectors(store, keys)                    # float32 [n, d], bool [n]

A cache has one Lance store per model (fingerprint of weights, settings, dtype and engine). Its keys
are hashes of an item's text, instruction and media bytes, so a copy of a video under another name
is the same item.
"""

import hashlib
import json
import logging
import os
import threading
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from pyarrow import fs

from gve_ray.config import ModelConfig, StageResources
from gve_ray.embedder import EmbedderSettings
from gve_ray.embedder.backends import cache_name, embed_readable, open_model
from gve_ray.embedder.load_media import load_media
from gve_ray.media import MediaError
from gve_ray.media.digest import media_digest, media_stamp
from gve_ray.media.picture.folder import FRAMES_PER_SECOND
from gve_ray.media.signature import signature
from gve_ray.media.source import is_folder
from gve_ray.progress import Progress
from gve_ray.schema import Frames, Item
from gve_ray.stage import REJECT_SCHEMA, Reject, StageCounts, StageRunner, report_status
from gve_ray.store import FolderLock, Store
from gve_ray.store.runfolder import filesystem, write_atomically

log = logging.getLogger(__name__)

KEY = "item"
EMBEDDING_SCHEMA = pa.schema(
    [
        (KEY, pa.string()),
        ("vector", pa.list_(pa.float32())),
        ("cut", pa.bool_()),
        # gve_ray.media.signature of the embedded frames; null: no video
        ("signature", pa.binary()),
        ("duration", pa.float64()),  # of the video, seconds; null if unknown (a folder of frames)
    ]
)
_PARTS = ("text", "image", "video", "instruction")
PENDING_SCHEMA = pa.schema(
    # media: paths or URIs. folder_fps: pictures a second if the video is a folder of frames.
    [*((name, pa.string()) for name in (KEY, *_PARTS)), ("folder_fps", pa.float64())]
)
_MEDIA_SCHEMA = pa.schema([("path", pa.string()), ("stamp", pa.string()), ("digest", pa.string())])
_READERS = 8  # threads that read files to fingerprint them


class ItemIndex:
    """Fingerprints items by content.

    Digests of media are kept in `folder`, a path or URI; a file is read again only if its size or
    time changed.
    """

    def __init__(self, folder: str | os.PathLike[str]) -> None:
        self._files, self._folder = filesystem(str(folder))
        self._file = f"{self._folder}/media.parquet"
        self._entries: dict[str, tuple[str, str]] = {}
        if self._files.get_file_info(self._file).type == fs.FileType.File:
            table = pq.read_table(self._file, schema=_MEDIA_SCHEMA, filesystem=self._files)
            self._entries = {row["path"]: (row["stamp"], row["digest"]) for row in table.to_pylist()}

    def keys(self, items: Sequence[Item], folder_fps: float = FRAMES_PER_SECOND) -> list[str]:
        """One fingerprint (hex) per item; raises ValueError for media without a path.

        folder_fps: pictures a second of videos that are folders of frames.
        """
        media = sorted(
            {medium for item in items for medium in (item.image, item.video) if medium is not None}, key=str
        )
        if in_memory := next((medium for medium in media if not isinstance(medium, str)), None):
            raise ValueError(
                f"{type(in_memory).__name__} in an item: evaluation items name their media by path"
            )
        self._update([medium for medium in media if isinstance(medium, str)])
        return [self._key(item, folder_fps) for item in items]

    def digests(self, paths: Sequence[str]) -> list[str]:
        """`media_digest` of media that need not belong to items."""
        self._update(list(dict.fromkeys(paths)))
        return [self.digest(path) for path in paths]

    def digest(self, path: str) -> str:
        """`media_digest` of a medium of an item passed to `keys` before."""
        return self._entries[path][1]

    def _key(self, item: Item, folder_fps: float) -> str:
        media = [
            self._entries[medium][1] if isinstance(medium, str) else None
            for medium in (item.image, item.video)
        ]
        parts: list[Any] = [item.instruction or None, item.text or None, *media]
        if folder_fps != FRAMES_PER_SECOND and isinstance(item.video, str) and is_folder(item.video):
            parts.append(folder_fps)
        text = json.dumps(parts, ensure_ascii=False)
        return hashlib.sha256(text.encode()).hexdigest()

    def _update(self, paths: Sequence[str]) -> None:
        changed, progress = False, Progress("fingerprints", len(paths), unit="media")
        with ThreadPoolExecutor(_READERS) as pool:
            for done, (path, entry) in enumerate(zip(paths, pool.map(self._read, paths), strict=True), 1):
                changed |= entry != self._entries.get(path)
                self._entries[path] = entry
                progress.reach(done)
        if changed:
            self._save()

    def _read(self, path: str) -> tuple[str, str]:
        stamp = media_stamp(path)
        stored = self._entries.get(path)
        return stored if stored is not None and stored[0] == stamp else (stamp, media_digest(path))

    def _save(self) -> None:
        rows = [
            {"path": path, "stamp": entry[0], "digest": entry[1]}
            for path, entry in sorted(self._entries.items())
        ]
        sink = pa.BufferOutputStream()
        pq.write_table(pa.Table.from_pylist(rows, schema=_MEDIA_SCHEMA), sink)
        self._files.create_dir(self._folder, recursive=True)
        write_atomically(self._files, self._file, sink.getvalue().to_pybytes())


def pending_table(
    items: Sequence[Item], keys: Sequence[str], folder_fps: Sequence[float] | None = None
) -> pa.Table:
    """Distinct items (`PENDING_SCHEMA`), for even batches: visual ones, then texts by length.

    folder_fps: of each item, as given to `ItemIndex.keys`; None: the default.
    """
    rates = [FRAMES_PER_SECOND] * len(keys) if folder_fps is None else folder_fps
    distinct = dict(zip(keys, zip(items, rates, strict=True), strict=True))
    rows = [
        {KEY: key, **{name: getattr(item, name) for name in _PARTS}, "folder_fps": rate}
        for key, (item, rate) in distinct.items()
    ]
    rows.sort(key=lambda row: (not (row["video"] or row["image"]), -len(row["text"] or ""), row[KEY]))
    return pa.Table.from_pylist(rows, schema=PENDING_SCHEMA)


class EmbedWorker:
    """Worker of the embedding stage: rows of `PENDING_SCHEMA` -> rows of `EMBEDDING_SCHEMA`.

    Thread-safe: with `concurrency` above 1, one batch is read while another is in the model.
    """

    def __init__(
        self, config: ModelConfig, settings: EmbedderSettings, facts: Mapping[str, Any], readers: int
    ) -> None:
        self._settings = settings
        report_status(f"loading {config.name}")
        self._model = open_model(config, settings, facts)
        self._pool = ThreadPoolExecutor(readers, thread_name_prefix="gve-read")
        self._lock = threading.Lock()

    def __call__(self, rows: Sequence[Mapping[str, Any]]) -> list[dict[str, Any] | Reject]:
        items = list(self._pool.map(self._read, rows))
        embedded = embed_readable(self._model, items, self._lock)
        return [
            outcome if isinstance(outcome, Reject) else _result(row, item, *outcome)
            for row, item, outcome in zip(rows, items, embedded, strict=True)
        ]

    def _read(self, row: Mapping[str, Any]) -> Item | Reject:
        item = Item(**{name: row[name] for name in _PARTS})
        if why := self._model.refuses(item):
            return Reject("unsupported", why)
        try:
            (read,) = load_media([item], self._settings, None)
        except MediaError as error:
            return Reject(str(error.reason), error.detail)
        if isinstance(item.video, str) and is_folder(item.video) and isinstance(read.video, Frames):
            return replace(read, video=_at_rate(read.video, row["folder_fps"]))
        return read


def _at_rate(frames: Frames, fps: float) -> Frames:
    """Return frames of a folder with the times that they have at `fps` pictures a second."""
    return replace(frames, timestamps=frames.indices / fps, fps=fps, duration=frames.total_frames / fps)


def _result(row: Mapping[str, Any], item: Item | Reject, vector: np.ndarray, cut: bool) -> dict[str, Any]:
    result = {KEY: row[KEY], "vector": vector.tolist(), "cut": cut, "signature": None, "duration": None}
    if isinstance(item, Item) and isinstance(item.video, Frames):
        # 3 kB per video, so that the contamination check need not decode it again.
        result["signature"] = signature(item.video.pixels)
        result["duration"] = None if is_folder(row["video"]) else item.video.duration
    return result


@dataclass(frozen=True, kw_only=True)
class Embedded:
    """A model's vectors.

    n_found: items that were in the cache when this run began; the run embedded counts.n_out -
    n_found. rejects: (reason, detail) by item.
    """

    store: Store
    counts: StageCounts
    n_found: int
    rejects: Mapping[str, tuple[str, str]]

    @property
    def n_new(self) -> int:
        """Number of items embedded by this run."""
        return self.counts.n_out - self.n_found


class ItemEmbedder:
    """A context manager that embeds items with one model on Ray actors, and keeps the vectors in the model's cache.

    cache: a folder, by path or URI. rejects: a Lance data set that belongs to this run and not to
    the cache, so that other runs try rejected items again. keeps_actors: the actors, which load the model,
    stay from one call of `embed` to the next. Entering raises RunFolderError while another run writes to the
    same model's cache.
    """

    def __init__(
        self,
        config: ModelConfig,
        settings: EmbedderSettings,
        facts: Mapping[str, Any],
        *,
        cache: str,
        rejects: str,
        resources: StageResources,
        commit_seconds: float = 5.0,
        keeps_actors: bool = False,
    ) -> None:
        self._facts, self._folder = dict(facts), f"{cache}/{cache_name(facts)}"
        self._store = Store(f"{self._folder}/embeddings.lance", EMBEDDING_SCHEMA, key=KEY)
        self._refused = Store(rejects, REJECT_SCHEMA)
        self._stage = f"embed {config.name}"
        self._lock = FolderLock(self._folder)
        self._runner = StageRunner(
            self._stage,
            worker=EmbedWorker,
            worker_args={
                "config": config,
                "settings": settings,
                "facts": self._facts,
                "readers": max(1, int(resources.demands.get("CPU", 0))),
            },
            out=self._store,
            rejects=self._refused,
            resources=resources,
            unit="item",
            commit_seconds=commit_seconds,
            keeps_actors=keeps_actors,
        )

    def __enter__(self) -> "ItemEmbedder":
        self._lock.__enter__()
        return self

    def __exit__(self, *_: object) -> None:
        try:
            self._runner.stop()
        finally:
            self._lock.release()

    def embed(self, pending: pa.Table) -> "Embedded":
        """Embed the items that the cache does not have yet. pending: of `PENDING_SCHEMA`.

        Raises StageError as `StageRunner.run`.
        """
        files, path = filesystem(f"{self._folder}/model.json")
        write_atomically(files, path, (json.dumps(self._facts, indent=2) + "\n").encode())
        present = self._store.keys()
        n_found = len(present & set(pending.column(KEY).to_pylist()))
        if present & self._refused.keys():  # another run has embedded them in the meantime
            self._refused.drop()
        log.info(
            "%s: %d distinct items, %d of them in %s", self._stage, pending.num_rows, n_found, self._folder
        )
        with self._runner as runner:
            counts = runner.run(pending)
        rows = self._refused.table().to_pylist()
        why = {row["video_id"]: (row["reason"], row["detail"]) for row in rows}
        return Embedded(store=self._store, counts=counts, n_found=n_found, rejects=why)


def read_vectors(store: Store, keys: Sequence[str]) -> tuple[np.ndarray, np.ndarray]:
    """Vectors float32 [n, d] and whether each text was cut, bool [n]; d = 0 without keys."""
    distinct = list(dict.fromkeys(keys))
    if not distinct:
        return np.empty((0, 0), dtype=np.float32), np.empty(0, dtype=bool)
    table = store.take(distinct, [KEY, "vector", "cut"])
    flat = table.column("vector").combine_chunks().flatten().to_numpy()
    vectors = flat.reshape(len(distinct), -1).astype(np.float32, copy=False)
    cut = np.array(table.column("cut").to_pylist(), dtype=bool)
    position = {key: i for i, key in enumerate(distinct)}
    rows = np.array([position[key] for key in keys])
    return vectors[rows], cut[rows]


def read_signatures(store: Store, keys: Sequence[str]) -> dict[str, tuple[bytes, float]]:
    """(signature, duration in seconds or NaN) by key, for the items that have a vector and a video."""
    stored = store.keys()
    table = store.take([key for key in dict.fromkeys(keys) if key in stored], [KEY, "signature", "duration"])
    return {
        row[KEY]: (row["signature"], np.nan if row["duration"] is None else row["duration"])
        for row in table.to_pylist()
        if row["signature"]
    }
