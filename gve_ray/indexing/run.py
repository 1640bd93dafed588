"""Videos -> an index of their segments, on Ray; a second run does only what has changed since the first.

output/videos.lance      one row a file: facts, and where its segments begin and end
output/segments.lance    one row a segment: vector, poster, strip of frames (library.SEGMENT_SCHEMA)
output/rejects.lance     one row a file or segment that could not be used, and why
output/index-<hash>/     vectors and metadata to search in (gve_ray.search)
output/catalog.parquet   one row a video of the last finished run (catalog.CATALOG_SCHEMA)
output/library.json      what searches it begins with (gve_ray.search.library)

Rows are keyed by the files' content or time of change, so a killed run goes on where it was. The index is made
to hold what the stores say; then library.json and the catalog are replaced, and last of all what is no longer
wanted is deleted, but for the index that was searched until then.
"""

import dataclasses
import json
import logging
import time
from collections import Counter
from collections.abc import Callable, Collection, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from gve_ray.embedder import EmbedderSettings
from gve_ray.embedder.models import identify
from gve_ray.indexing.catalog import (
    compare,
    field_values,
    read_catalog,
    user_fields,
    version_of,
    write_catalog,
)
from gve_ray.indexing.config import IndexConfig
from gve_ray.indexing.embed import SegmentWorker
from gve_ray.indexing.needs import needs_of, settings_of
from gve_ray.indexing.probe import PENDING_VIDEOS, VIDEO_SCHEMA, ProbeWorker
from gve_ray.indexing.segments import PENDING_SEGMENTS, pending_segments, segment_id
from gve_ray.inputs.manifest import read_manifest
from gve_ray.job import JobError
from gve_ray.media.digest import media_stamp
from gve_ray.preflight import absolute, check_cluster, check_request, live_nodes
from gve_ray.search import IndexFileError, IndexSpec, SearchError, VectorIndex, create_index, open_index
from gve_ray.search.folder import FILE as INDEX_FILE
from gve_ray.search.index import FieldType, Value, matrix_of
from gve_ray.search.library import FIELDS, LibraryFacts, read_library, segment_store
from gve_ray.search.library import FILE as LIBRARY_FILE
from gve_ray.stage import REJECT_SCHEMA, StageCounts, run_stage
from gve_ray.store import RunFolder, SharedFolder, Store, fingerprint
from gve_ray.store.runfolder import filesystem, plain, write_atomically

log = logging.getLogger(__name__)

PROBE, EMBED = "probe", "embed"
# A file that was refused for one of these may be sound: it is tried again by every run.
_TRANSIENT = ("unreadable", "timeout", "crashed", "out_of_memory", "quarantined", "error", "changed")
_ROWS_AT_ONCE = 1024
_STAMPERS = 16  # threads that ask for the files' times


@dataclasses.dataclass(frozen=True, kw_only=True)
class IndexResult:
    """What a run did. videos: counts by state. segments: in, out, rejected, and embedded by this run (new).
    reasons: why videos were rejected, by count."""

    output: str
    videos: Mapping[str, int]
    segments: Mapping[str, int]
    reasons: Mapping[str, int]
    kind: str
    seconds: Mapping[str, float]

    def __str__(self) -> str:
        """The lines that end a run's log."""
        v, s = self.videos, self.segments
        lines = [
            f"videos    {v['in']} in: {v['added']} added, {v['changed']} changed, {v['unchanged']} unchanged, "
            f"{v['rejected']} rejected; {v['removed']} removed",
            f"segments  {s['in']} in = {s['out']} out + {s['rejected']} rejected; {s['new']} embedded now",
        ]
        if self.reasons:
            told = ", ".join(f"{count} {reason}" for reason, count in sorted(self.reasons.items()))
            lines.append(f"rejected  {told}; catalog.parquet has each")
        spent = ", ".join(f"{name} {value:.1f} s" for name, value in self.seconds.items())
        lines.append(f"index     {self.output} ({self.kind}); {spent}")
        return "\n".join(lines)


def index(config: IndexConfig, *, connect: Callable[[], object] = lambda: None) -> IndexResult:
    """Bring the index in `config.output` up to date with `config.input`.

    connect: called once the checks that need no cluster have passed, to see that Ray is connected. Raises
    PreflightError or RunFolderError before any work, StageError or JobError when it failed on the way; the
    same call then goes on.
    """
    check_request(needs_of(config))
    settings = settings_of(config)
    output = absolute(config.output)
    manifest = read_manifest(config.input, metadata=True).to_pylist()
    fields = user_fields(config.input, (json.loads(row["metadata"]) for row in manifest))
    facts = identify(config.model, settings, on_gpu=config.resources.embed.num_gpus > 0)
    identity = config.identity() | {"model": facts}
    with RunFolder(output, job=config.job, config=identity) as run:
        connect()
        check_cluster(needs_of(config, lambda: [row["uri"] for row in manifest]), live_nodes())
        result = _Run(config, settings, facts, fields, output).update(manifest)
        run.record(result=asdict(result))
    return result


class _Run:
    """One run over one output folder, which it has to itself."""

    def __init__(
        self,
        config: IndexConfig,
        settings: EmbedderSettings,
        facts: Mapping[str, Any],
        fields: Mapping[str, FieldType],
        output: str,
    ) -> None:
        self._config, self._settings, self._facts = config, settings, facts
        self._fields, self._output = fields, output
        self._folder = SharedFolder(output)
        self._videos = Store(f"{output}/videos.lance", VIDEO_SCHEMA, key="version")
        self._segments = segment_store(output)
        self._rejects = Store(f"{output}/rejects.lance", REJECT_SCHEMA)

    def update(self, manifest: Sequence[Mapping[str, Any]]) -> IndexResult:
        """Everything, in the order that makes it safe to be killed anywhere."""
        with ThreadPoolExecutor(_STAMPERS) as pool:
            stamps = list(pool.map(media_stamp, [row["uri"] for row in manifest]))
        files = [
            {**row, "version": version_of(row["video_id"], row["uri"], stamp)}
            for row, stamp in zip(manifest, stamps, strict=True)
        ]
        reasons = ", ".join(f"'{one}'" for one in _TRANSIENT)
        self._rejects.delete(self._rejects.keys(f"reason in ({reasons})"))
        probed = self._probe(files)
        videos = {row["version"]: row for row in self._videos.table().to_pylist()}
        wanted = [
            row
            for file in files
            if file["version"] in videos
            for row in pending_segments(file["video_id"], file["uri"], videos[file["version"]])
        ]
        before = len(self._segments.keys() & {row["segment"] for row in wanted})
        embedded = self._embed(wanted)

        there = self._segments.keys()
        why = {row["video_id"]: (row["reason"], row["detail"]) for row in self._rejects.table().to_pylist()}
        now = [self._catalog_row(file, videos.get(file["version"]), there, why) for file in files]
        change = compare(read_catalog(self._output), now)
        entries = self._entries(files, videos, there)
        name, seconds = self._fill(entries)
        before_it = self._publish(name)
        write_catalog(self._output, now)
        self._sweep(files, entries, wanted, {name, before_it})
        return IndexResult(
            output=self._output,
            videos={"in": len(files), **change.counts()},
            segments={
                "in": embedded.n_in,
                "out": embedded.n_out,
                "rejected": embedded.n_rejected,
                "new": embedded.n_out - before,
            },
            reasons=dict(Counter(row["reason"] for row in now if row["reason"] is not None)),
            kind=self._config.search.kind,
            seconds={
                "probe": round(probed.seconds, 2),
                "embed": round(embedded.seconds, 2),
                "index": round(seconds, 2),
            },
        )

    # ---- stages

    def _probe(self, files: Sequence[Mapping[str, Any]]) -> StageCounts:
        rows = [{name: file[name] for name in PENDING_VIDEOS.names} for file in files]
        return run_stage(
            PROBE,
            pending=pa.Table.from_pylist(rows, schema=PENDING_VIDEOS),
            worker=ProbeWorker,
            worker_args={"segments": self._config.segments, "media": self._config.media},
            out=self._videos,
            rejects=self._rejects,
            resources=self._config.resources.probe,
            commit_seconds=self._config.commit_seconds,
        )

    def _embed(self, wanted: Sequence[Mapping[str, Any]]) -> StageCounts:
        needs = self._config.resources.embed
        return run_stage(
            EMBED,
            pending=pa.Table.from_pylist([dict(row) for row in wanted], schema=PENDING_SEGMENTS),
            worker=SegmentWorker,
            worker_args={
                "model": self._config.model,
                "settings": self._settings,
                "facts": dict(self._facts),
                "pictures": self._config.pictures,
                "limits": self._config.media.limits,
                "readers": max(1, int(needs.num_cpus)),
            },
            out=self._segments,
            rejects=self._rejects,
            resources=needs,
            unit="segment",
            commit_seconds=self._config.commit_seconds,
        )

    def _catalog_row(
        self,
        file: Mapping[str, Any],
        video: Mapping[str, Any] | None,
        there: set[str],
        why: Mapping[str, tuple[str, str]],
    ) -> dict[str, Any]:
        row = {name: file[name] for name in ("video_id", "uri", "version")}
        row["metadata"] = json.dumps([file["caption"], json.loads(file["metadata"])], sort_keys=True)
        row |= {"fingerprint": None, "segments": 0, "lost": 0, "reason": None, "detail": None}
        if video is None:
            row["reason"], row["detail"] = why[file["version"]]
            return row
        segments = [row["segment"] for row in pending_segments(file["video_id"], file["uri"], video)]
        lost = [one for one in segments if one not in there]
        if len(lost) == len(segments):
            row["reason"], row["detail"] = why[lost[0]]
        return {
            **row,
            "fingerprint": video["fingerprint"],
            "segments": len(segments) - len(lost),
            "lost": len(lost),
        }

    # ---- the index

    def _entries(
        self, files: Sequence[Mapping[str, Any]], videos: Mapping[str, Mapping[str, Any]], there: set[str]
    ) -> dict[str, dict[str, Value]]:
        """Metadata by segment of all that belongs into the index."""
        found: dict[str, dict[str, Value]] = {}
        for file in files:
            video = videos.get(file["version"])
            if video is None:
                continue
            shared = {
                **{name: file[name] for name in ("video_id", "uri", "caption")},
                **{name: video[name] for name in ("duration", "width", "height", "size", "fingerprint")},
                **field_values(json.loads(file["metadata"]), self._fields),
            }
            for number, (start, end) in enumerate(zip(video["starts"], video["ends"], strict=True)):
                key = segment_id(file["video_id"], video["fingerprint"], start, end)
                if key in there:
                    found[key] = {**shared, "segment": number, "start": start, "end": end}
        return found

    def _fill(self, entries: Mapping[str, dict[str, Value]]) -> tuple[str, float]:
        """Make the index hold exactly the entries, and save it; returns its folder's name, and seconds.

        What it holds is asked of itself: the catalog knows nothing of a run that was killed after it had saved.
        """
        begun = time.monotonic()
        fields = {**FIELDS, **self._fields}
        # By what it is, so that a killed run finds the one it began.
        name = f"index-{fingerprint({'fields': fields, 'search': self._config.search})[:12]}"
        found = self._open(name, fields, sorted(entries))
        try:
            right, stale = set(), []
            for key, row in found.metadata():
                if row == entries.get(key):
                    right.add(key)
                else:
                    stale.append(key)
            if stale:
                found.delete(sorted(stale))
            new = sorted(set(entries) - right)
            for at in range(0, len(new), _ROWS_AT_ONCE):
                self._add(found, new[at : at + _ROWS_AT_ONCE], entries)
            if stale or new:
                found.save()
            if found.count() != len(entries):
                raise JobError(
                    f"{self._output}/{name}: {found.count()} segments, not {len(entries)}; delete it"
                )
        finally:
            found.close()
        return name, time.monotonic() - begun

    def _open(self, name: str, fields: Mapping[str, FieldType], keys: Sequence[str]) -> VectorIndex:
        try:
            if self._folder.exists(f"{name}/{INDEX_FILE}"):
                return open_index(f"{self._output}/{name}")
            if not keys:
                raise JobError(
                    "no segment of any video could be embedded; catalog.parquet and the log say why"
                )
            self._folder.remove(name)  # a run was killed while it made it
            dimension = self._vectors(keys[:1]).shape[1]
            return create_index(
                f"{self._output}/{name}",
                IndexSpec(dimension=dimension, fields=dict(fields)),
                self._config.search,
            )
        except IndexFileError as error:
            raise JobError(str(error)) from error

    def _add(self, found: VectorIndex, keys: Sequence[str], entries: Mapping[str, dict[str, Value]]) -> None:
        """Raises JobError, naming the video, for a row that the index does not take."""
        try:
            found.add(keys, self._vectors(keys), [entries[key] for key in keys])
        except SearchError as error:
            if len(keys) > 1:
                for key in keys:  # which one it is, is seen alone
                    self._add(found, [key], entries)
            row = entries[keys[0]]
            raise JobError(
                f"video {row['video_id']!r}, {row['uri']}: not taken by the index: {error}; correct its row "
                "in the manifest"
            ) from error

    def _vectors(self, keys: Sequence[str]) -> np.ndarray:
        column = self._segments.take(keys, ["vector"]).column("vector")
        return matrix_of(column, len(column[0]))

    def _publish(self, name: str) -> str | None:
        """Name the index to those who search; returns the one that was named before."""
        before = read_library(self._output) if self._folder.exists(LIBRARY_FILE) else None
        facts = LibraryFacts(
            generation=1 if before is None else before.generation + 1,
            index=name,
            model=_findable(plain(self._config.model)),
            settings=asdict(self._settings),
            identity=dict(self._facts),
            strip_frames=self._config.pictures.strip_frames,
        )
        files, where = filesystem(f"{self._output}/{LIBRARY_FILE}")
        write_atomically(files, where, (json.dumps(asdict(facts), indent=2) + "\n").encode())
        return None if before is None else before.index

    def _sweep(
        self,
        files: Sequence[Mapping[str, Any]],
        entries: Mapping[str, object],
        wanted: Sequence[Mapping[str, Any]],
        kept: Collection[str | None],
    ) -> None:
        """Delete what no video of this run needs, and all indexes but those kept.

        That of the run before is: whoever searches in it has until the next run to open the new one.
        """
        versions = {file["version"] for file in files}
        self._videos.delete(self._videos.keys() - versions)
        self._segments.delete(self._segments.keys() - set(entries))
        self._rejects.delete(self._rejects.keys() - versions - {row["segment"] for row in wanted})
        for name in self._folder.names():
            if name.startswith("index-") and name not in kept:
                try:
                    if self._folder.exists(f"{name}/{INDEX_FILE}"):
                        open_index(f"{self._output}/{name}").drop()
                except Exception as error:  # noqa: BLE001 - a client's own kinds; the run is published, and good
                    log.warning("%s: what it kept elsewhere is left there: %s", name, error)
                self._folder.remove(name)


def _findable(model: dict[str, Any]) -> dict[str, Any]:
    """A model's config with local folders made absolute: a server may start in another one."""
    local = {
        name: str(Path(str(model[name])).resolve())
        for name in ("model", "adapter")
        if model[name] and Path(str(model[name])).is_dir()
    }
    return model | local
