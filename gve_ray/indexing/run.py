"""Build an index of video segments on Ray; a second run processes only what has changed.

output/videos.lance      one row per file: its properties and its segments (probe.VIDEO_SCHEMA)
output/segments.lance    one row per segment: vector, poster, strip (library.SEGMENT_SCHEMA)
output/subtitles.lance   one row per file: the cues of its subtitles (subtitles.SUBTITLE_SCHEMA)
output/speech.lance      one row per file: its spoken words (speech.SPEECH_SCHEMA)
output/rejects.lance     one row per file or segment that could not be used, with the reason
output/index-<hash>/     the searchable index: vectors and metadata (gve_ray.search)
output/words-<hash>/     the index of words (gve_ray.search.words)
output/background.npz    what scores of queries are compared with (gve_ray.search.confidence)
output/catalog.parquet   one row per video of the last finished run (catalog.CATALOG_SCHEMA)
output/library.json      the entry point for readers (gve_ray.search.library)

Rows are keyed by the content or the modification time of the files, so a job that was killed
continues where it stopped. When the stages have finished, the indexes are changed to match the stores,
then library.json and the catalog are replaced. At the end, data that is no longer needed is
deleted, except for the index that library.json named before. While a run is at work, progress.json says how
far it is (gve_ray.search.indexing_progress).
"""

import dataclasses
import hashlib
import json
import logging
import shlex
import time
from collections import Counter
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence, Set
from contextlib import closing, contextmanager
from dataclasses import asdict
from itertools import groupby
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from gve_ray.embedder import EmbedderSettings
from gve_ray.embedder.backends import identify
from gve_ray.indexing.catalog import (
    STATES,
    compare,
    field_values,
    read_catalog,
    write_catalog,
)
from gve_ray.indexing.config import IndexConfig
from gve_ray.indexing.embed import CHANGED, SegmentWorker
from gve_ray.indexing.files import Look, look_at
from gve_ray.indexing.needs import needs_of
from gve_ray.indexing.probe import PENDING_VIDEOS, VIDEO_SCHEMA, ProbeWorker
from gve_ray.indexing.segments import PENDING_SEGMENTS, pending_segments, segment_id
from gve_ray.indexing.speech import NOT_TRANSCRIBED
from gve_ray.indexing.watch import NoSegmentsError, only_news, watch
from gve_ray.indexing.words import Words
from gve_ray.inputs.listing import NoVideosError
from gve_ray.job import JobError
from gve_ray.preflight import absolute, check_cluster, check_request, fit_to_cluster, live_nodes
from gve_ray.search import IndexFileError, IndexSpec, SearchError, VectorIndex, create_index, open_index
from gve_ray.search.confidence import SAMPLE, background_of
from gve_ray.search.folder import FILE as INDEX_FILE
from gve_ray.search.index import FieldType, Value, matrix_of
from gve_ray.search.indexing_progress import ProgressFile
from gve_ray.search.library import BACKGROUND, FIELDS, LibraryFacts, read_library, segment_store
from gve_ray.search.library import FILE as LIBRARY_FILE
from gve_ray.search.recall import recall_of
from gve_ray.stage import REJECT_SCHEMA, StageCounts, StageRunner, run_stage
from gve_ray.store import RunFolder, SharedFolder, Store, fingerprint
from gve_ray.store.runfolder import filesystem, plain, write_atomically

log = logging.getLogger(__name__)

PROBE, EMBED = "probe", "embed"
# A file that was rejected for one of these reasons may be valid, so each run tries it again.
_TRANSIENT = ("unreadable", "timeout", "crashed", "out_of_memory", "quarantined", "error", NOT_TRANSCRIBED)
_ROWS_AT_ONCE = 1024
_SEARCHED = 100  # segments with which recall is measured
_DEMO_MODELS = "package://demo/"


@dataclasses.dataclass(frozen=True, kw_only=True)
class IndexResult:
    """The summary of a run.

    model: its name or folder. videos: counts by state. segments: counts of in, out, rejected and new
    (embedded by this run). reasons: number of rejected videos by reason. kind: of the index. recall: of
    the index, if it was changed and is approximate (`gve_ray.search.recall`). not_transcribed: number of
    videos whose speech is missing. seconds: by step.
    """

    output: str
    model: str
    videos: Mapping[str, int]
    segments: Mapping[str, int]
    reasons: Mapping[str, int]
    kind: str
    recall: float | None
    not_transcribed: int
    seconds: Mapping[str, float]

    def __str__(self) -> str:
        """Return the summary that is printed when the job ends."""
        v, s = self.videos, self.segments
        lines = [
            f"videos    {v['in']} in: {v['added']} added, {v['changed']} changed, {v['unchanged']} unchanged, "
            f"{v['rejected']} rejected; {v['removed']} removed",
            f"segments  {s['in']} in = {s['out']} out + {s['rejected']} rejected; {s['new']} embedded now",
        ]
        if self.reasons:
            counts = ", ".join(f"{count} {reason}" for reason, count in sorted(self.reasons.items()))
            lines.append(f"rejected  {counts}; see catalog.parquet")
        if self.not_transcribed:
            lines.append(
                f"speech    missing of {self.not_transcribed} videos; rejects.lance and the log say why. Run again "
                "to transcribe them"
            )
        spent = ", ".join(f"{name} {value:.1f} s" for name, value in self.seconds.items())
        lines.append(f"index     {self.output} ({self.kind}); {spent}")
        if self.recall is not None:
            lines.append(
                f"recall    {self.recall:.3f} of the 10 nearest segments are found (exact search: 1)"
            )
        if self.model.startswith(_DEMO_MODELS):
            lines.append(
                "note      the demo's model knows rendered shapes only: texts will not find real videos"
            )
        lines.append(f"next      gve serve --index {shlex.quote(self.output)}")
        return "\n".join(lines)


def run(config: IndexConfig, *, connect: Callable[[], object] = lambda: None) -> IndexResult | str:
    """Run the job: `index`, or with `config.watch` an update after each change of the input, until it is stopped.

    In the second case, returns the final message. Raises the same errors as `index`.
    """
    if not config.watch:
        return index(config, connect=connect)
    with only_news() as next_look, _folder_of(config, connect) as (folder, _, update_of):
        return watch(config, update_of, record=folder.record, next_look=next_look)


def index(config: IndexConfig, *, connect: Callable[[], object] = lambda: None) -> IndexResult:
    """Update the index in `config.output` to match `config.input`.

    connect: connects to Ray; called after the checks that need no cluster. Raises PreflightError or
    RunFolderError before any work is done, and StageError or JobError if the work fails; calling
    again continues it.
    """
    with _folder_of(config, connect) as (folder, look, update_of):
        with closing(update_of(look.fields)) as update:
            result = update(look.files)
        folder.record(result=asdict(result))
    return result


@contextmanager
def _folder_of(
    config: IndexConfig, connect: Callable[[], object]
) -> "Iterator[tuple[RunFolder, Look, Callable[[Mapping[str, FieldType]], _Run]]]":
    """Check everything, and yield the locked output folder, the input, and what makes a `_Run` from its fields."""
    check_request(needs_of(config))
    settings = EmbedderSettings(**config.sequence_settings)
    output = absolute(config.output)
    look = _first_look(config)
    connect()
    needs = needs_of(config)
    config = fit_to_cluster(config, needs.workers, together=needs.together)
    model_identity = identify(config.model, settings, on_gpu="GPU" in config.resources.embed.demands)
    identity = config.identity() | {"model": model_identity}
    with RunFolder(output, job=config.job, config=identity) as folder:
        check_cluster(needs_of(config, lambda: [file["uri"] for file in look.files]), live_nodes())
        yield folder, look, lambda fields: _Run(config, settings, model_identity, fields, output)


def _first_look(config: IndexConfig) -> Look:
    try:
        return look_at(config)
    except NoVideosError:
        if not config.watch:
            raise
        return Look(files=(), fields={}, unknown=frozenset())  # videos may come


class _Run:
    """Updates of one output folder, which no other process changes meanwhile.

    update = _Run(...)
    result = update(look.files)

    The actors with the model stay between the updates of a config with `watch`. fields: of the user's columns.
    """

    def __init__(
        self,
        config: IndexConfig,
        settings: EmbedderSettings,
        model_identity: Mapping[str, Any],
        fields: Mapping[str, FieldType],
        output: str,
    ) -> None:
        self._config, self._settings, self._model_identity = config, settings, model_identity
        self._fields, self._output = fields, output
        self._folder = SharedFolder(output)
        self._videos = Store(f"{output}/videos.lance", VIDEO_SCHEMA, key="version")
        self._segments = segment_store(output)
        self._rejects = Store(f"{output}/rejects.lance", REJECT_SCHEMA)
        self._words = Words(config, output, {**FIELDS, **fields}, self._rejects)

        self._embedding = self._embedding_stage()

    def __call__(self, files: Sequence[Mapping[str, Any]], *, again: bool = True) -> IndexResult:
        """Do all steps, in an order in which the process may be killed at any point.

        files: see `files.Look`. again: whether to try files again that were rejected for a reason that may have
        passed. Raises StageError, StoreError or JobError.
        """
        with ProgressFile(self._output) as self._progress:
            return self._update(files, again=again)

    def has_transient_rejects(self) -> bool:
        """Return whether a file or segment was rejected for a reason that may have passed."""
        return self._rejects.count(_one_of(_TRANSIENT)) > 0

    def close(self) -> None:
        """End the actors."""
        self._embedding.stop()

    def _update(self, files: Sequence[Mapping[str, Any]], *, again: bool) -> IndexResult:
        retried = (CHANGED[0], *(_TRANSIENT if again else ()))
        self._rejects.delete(self._rejects.keys(_one_of(retried)))
        probed = self._probe(files)
        videos = {row["version"]: row for row in self._videos.table().to_pylist()}
        read = self._words.read(files, videos)
        transcribed = self._words.transcribe(files, videos)
        pending = [
            row
            for file in files
            if file["version"] in videos
            for row in pending_segments(file["video_id"], file["uri"], videos[file["version"]])
        ]
        known = self._segments.keys()
        embedded_before = sum(row["segment"] in known for row in pending)
        embedded = self._embed(pending, known)

        segments = self._segments.keys()
        rejects = {
            row["video_id"]: (row["reason"], row["detail"]) for row in self._rejects.table().to_pylist()
        }
        catalog = [self._catalog_row(file, videos.get(file["version"]), segments, rejects) for file in files]
        states = Counter(compare(read_catalog(self._output), catalog).values())
        entries = self._entries(files, videos, segments)
        name, recall, seconds = self._fill(entries)
        self._write_background(entries)
        before = self._published()
        words = self._words.fill(files, entries, before)
        previous = self._publish(name, words)
        write_catalog(self._output, catalog)
        self._delete_unused(files, entries, pending, {name, previous})
        kept = [facts["index"] for facts in (words, before and before.words) if facts]
        self._words.delete_unused(files, kept)
        return IndexResult(
            output=self._output,
            model=self._config.model.model,
            videos={"in": len(files), **{state: states[state] for state in STATES}},
            segments={
                "in": embedded.n_in,
                "out": embedded.n_out,
                "rejected": embedded.n_rejected,
                "new": embedded.n_out - embedded_before,
            },
            reasons=dict(Counter(row["reason"] for row in catalog if row["reason"] is not None)),
            kind=self._config.search.kind,
            recall=recall,
            not_transcribed=0 if transcribed is None else transcribed.n_rejected,
            seconds={
                "probe": round(probed.seconds, 2),
                **({} if read is None else {"subtitles": round(read.seconds, 2)}),
                **({} if transcribed is None else {"speech": round(transcribed.seconds, 2)}),
                "embed": round(embedded.seconds, 2),
                "index": round(seconds, 2),
            },
        )

    # ---- Stages

    def _probe(self, files: Sequence[Mapping[str, Any]]) -> StageCounts:
        rows = [{name: file[name] for name in PENDING_VIDEOS.names} for file in files]
        with self._progress.step("check"):
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

    def _embed(self, pending: Sequence[Mapping[str, Any]], known: Set[str]) -> StageCounts:
        """Embed the segments that are not `known` yet."""
        done = known | self._rejects.keys(f"stage = '{EMBED}'")
        todo = [row["uri"] for row in pending if row["segment"] not in done]
        rows = pa.Table.from_pylist([dict(row) for row in pending], schema=PENDING_SEGMENTS)
        sizes = [len(list(segments)) for _, segments in groupby(todo)]
        with self._progress.step("embed", sizes), self._embedding as stage:
            return stage.run(rows)

    def _embedding_stage(self) -> StageRunner:
        resources = self._config.resources.embed
        return StageRunner(
            EMBED,
            worker=SegmentWorker,
            worker_args={
                "model": self._config.model,
                "settings": self._settings,
                "identity": dict(self._model_identity),
                "pictures": self._config.pictures,
                "limits": self._config.media.limits,
                "readers": max(1, int(resources.demands.get("CPU", 0))),
            },
            out=self._segments,
            rejects=self._rejects,
            resources=resources,
            unit="segment",
            commit_seconds=self._config.commit_seconds,
            keeps_actors=self._config.watch,
        )

    def _catalog_row(
        self,
        file: Mapping[str, Any],
        video: Mapping[str, Any] | None,
        embedded: set[str],
        rejects: Mapping[str, tuple[str, str]],
    ) -> dict[str, Any]:
        row = {name: file[name] for name in ("video_id", "uri", "version")}
        row["subtitles"] = None if file["words"] is None else json.dumps(file["subtitle_files"])
        row["metadata"] = json.dumps([file["caption"], json.loads(file["metadata"])], sort_keys=True)
        row |= {"fingerprint": None, "segments": 0, "lost": 0, "reason": None, "detail": None}
        if video is None:
            row["reason"], row["detail"] = rejects[file["version"]]
            return row
        segments = [row["segment"] for row in pending_segments(file["video_id"], file["uri"], video)]
        lost = [segment for segment in segments if segment not in embedded]
        if len(lost) == len(segments):
            row["reason"], row["detail"] = rejects[lost[0]]
        return {
            **row,
            "fingerprint": video["fingerprint"],
            "segments": len(segments) - len(lost),
            "lost": len(lost),
        }

    # ---- The index

    def _entries(
        self, files: Sequence[Mapping[str, Any]], videos: Mapping[str, Mapping[str, Any]], embedded: set[str]
    ) -> dict[str, dict[str, Value]]:
        """Return the metadata, by segment, of all rows that belong in the index."""
        entries: dict[str, dict[str, Value]] = {}
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
                if key in embedded:
                    entries[key] = {**shared, "segment": number, "start": start, "end": end}
        return entries

    def _fill(self, entries: Mapping[str, dict[str, Value]]) -> tuple[str, float | None, float]:
        """Change the index so that it has exactly the entries, and save it.

        Returns the name of its folder, its recall if it has changed, and the seconds it took. The
        present content is read from the index and not from the catalog, which does not include a run
        that was killed after saving.
        """
        started = time.monotonic()
        fields = {**FIELDS, **self._fields}
        # Named by its properties, so that a run after a crash finds the same index.
        name = f"index-{fingerprint({'fields': fields, 'search': self._config.search})[:12]}"
        index = self._open(name, fields, sorted(entries))
        try:
            current, stale = set(), []
            for key, row in index.metadata():
                if row == entries.get(key):
                    current.add(key)
                else:
                    stale.append(key)
            if stale:
                index.delete(sorted(stale))
            new = sorted(set(entries) - current)
            for start in range(0, len(new), _ROWS_AT_ONCE):
                self._add(index, new[start : start + _ROWS_AT_ONCE], entries)
            if stale or new:
                index.save()
            if index.count() != len(entries):
                raise JobError(
                    f"{self._output}/{name}: has {index.count()} segments instead of {len(entries)}; delete "
                    "this folder and run the job again"
                )
            recall = None
            if (stale or new) and self._config.search.is_approximate(len(entries)):
                recall = recall_of(index, _sample(entries, _SEARCHED), self._all_vectors(entries))
        finally:
            index.close()
        return name, recall, time.monotonic() - started

    def _open(self, name: str, fields: Mapping[str, FieldType], keys: Sequence[str]) -> VectorIndex:
        try:
            if self._folder.exists(f"{name}/{INDEX_FILE}"):
                return open_index(f"{self._output}/{name}")
            if not keys:
                raise NoSegmentsError(
                    "no segment of any video could be embedded; rejects.lance and the log have the reasons"
                )
            self._folder.remove(name)  # left by a run that was killed while it created the index
            dimension = self._vectors(keys[:1]).shape[1]
            return create_index(
                f"{self._output}/{name}",
                IndexSpec(dimension=dimension, fields=dict(fields)),
                self._config.search,
            )
        except IndexFileError as error:
            raise JobError(str(error)) from error

    def _add(self, index: VectorIndex, keys: Sequence[str], entries: Mapping[str, dict[str, Value]]) -> None:
        """Add rows to the index. Raises JobError, naming the video, if a row is refused."""
        try:
            index.add(keys, self._vectors(keys), [entries[key] for key in keys])
        except SearchError as error:
            if len(keys) > 1:
                for key in keys:  # one by one, to find the row that is refused
                    self._add(index, [key], entries)
            row = entries[keys[0]]
            raise JobError(
                f"video {row['video_id']!r}, {row['uri']}: refused by the index: {error}; correct its row in "
                "the manifest"
            ) from error

    def _vectors(self, keys: Sequence[str]) -> np.ndarray:
        column = self._segments.take(keys, ["vector"]).column("vector")
        return matrix_of(column, len(column[0]))

    def _all_vectors(self, keys: Collection[str]) -> Iterator[np.ndarray]:
        for batch in self._segments.select(pa.array(sorted(keys)), ["vector"]):
            column = pa.chunked_array([batch.column("vector")])
            yield matrix_of(column, len(column[0]))

    def _write_background(self, entries: Mapping[str, dict[str, Value]]) -> None:
        """Write what the scores of queries are compared with, from a sample of the segments.

        It is written before library.json, so that an index is never published without it.
        """
        keys = _sample(entries, SAMPLE)
        films = [str(entries[key]["fingerprint"]) for key in keys]
        background = background_of(self._vectors(keys), films) if keys else None
        if background is None:
            self._folder.remove(BACKGROUND)  # of an earlier run
            return
        files, path = filesystem(f"{self._output}/{BACKGROUND}")
        write_atomically(files, path, background.to_bytes())

    def _published(self) -> LibraryFacts | None:
        """Return library.json as the run before has left it."""
        return read_library(self._output) if self._folder.exists(LIBRARY_FILE) else None

    def _publish(self, name: str, words: Mapping[str, Any] | None = None) -> str | None:
        """Write library.json so that readers use this index; return the name of the index before.

        words: `LibraryFacts.words`.
        """
        previous = self._published()
        facts = LibraryFacts(
            generation=1 if previous is None else previous.generation + 1,
            index=name,
            model=_with_absolute_paths(plain(self._config.model)),
            settings=asdict(self._settings),
            identity=dict(self._model_identity),
            strip_frames=self._config.pictures.strip_frames,
            words=words,
        )
        files, path = filesystem(f"{self._output}/{LIBRARY_FILE}")
        write_atomically(files, path, (json.dumps(asdict(facts), indent=2) + "\n").encode())
        return None if previous is None else previous.index

    def _delete_unused(
        self,
        files: Sequence[Mapping[str, Any]],
        entries: Mapping[str, object],
        pending: Sequence[Mapping[str, Any]],
        kept: Collection[str | None],
    ) -> None:
        """Delete rows that no video of this run needs, and all indexes except those in `kept`.

        The index of the run before is kept: its readers have until the next run to open the new
        one.
        """
        versions = {file["version"] for file in files}
        self._videos.delete(self._videos.keys() - versions)
        self._segments.delete(self._segments.keys() - set(entries))
        words = {file["words"] for file in files} | self._words.speech_keys(files)
        self._rejects.delete(self._rejects.keys() - versions - words - {row["segment"] for row in pending})
        for name in self._folder.names():
            if name.startswith("index-") and name not in kept:
                try:
                    if self._folder.exists(f"{name}/{INDEX_FILE}"):
                        open_index(f"{self._output}/{name}").drop()
                # The run is complete and published, so errors of any client class only cause a
                # warning.
                except Exception as error:  # noqa: BLE001
                    log.warning("%s: its data outside the folder could not be deleted: %s", name, error)
                self._folder.remove(name)


def _sample(keys: Collection[str], size: int) -> list[str]:
    """Return up to `size` of the keys, always the same ones."""
    return sorted(keys, key=lambda key: hashlib.sha256(key.encode()).digest())[:size]


def _one_of(reasons: Sequence[str]) -> str:
    """Return the SQL condition for rejects with these reasons."""
    return "reason in ({})".format(", ".join(f"'{reason}'" for reason in reasons))


def _with_absolute_paths(model: dict[str, Any]) -> dict[str, Any]:
    """Make local paths absolute, because a server may run in another working directory."""
    local = {
        name: str(Path(str(model[name])).resolve())
        for name in ("model", "adapter")
        if model[name] and Path(str(model[name])).is_dir()
    }
    return model | local
