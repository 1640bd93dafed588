"""Keep the index of words in step with the videos: read subtitles, transcribe speech, then change the index.

words = Words(config, output, fields, rejects)
counts = words.read(files, videos)                 # a stage: reads the subtitles of new videos
counts = words.transcribe(files, videos)           # a stage: transcribes those without subtitles
facts = words.fill(files, entries, previous)       # changes the index; library.json names its version
"""

import bisect
import json
import os
import re
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import replace
from itertools import groupby
from typing import Any
from urllib.parse import unquote

import pyarrow as pa

from gve_ray.indexing.config import IndexConfig
from gve_ray.indexing.speech import PENDING_SPEECH, SPEECH_SCHEMA, SpeechWorker, speech_version
from gve_ray.indexing.subtitles import PENDING_SUBTITLES, SUBTITLE_SCHEMA, SubtitleWorker
from gve_ray.job import JobError
from gve_ray.media.source import local_path
from gve_ray.media.subtitles import Cue, joined
from gve_ray.search.index import FieldType, IndexFileError, Source, Value
from gve_ray.search.library import LibraryFacts
from gve_ray.search.words import SEGMENT_FIELDS, WordIndex, WordRow
from gve_ray.stage import StageCounts, run_stage
from gve_ray.store import SharedFolder, Store, fingerprint

STAGE = "subtitles"
SPEECH_STAGE = "speech"
PREFIX = "words-"
TRANSCRIPT = "transcript"  # the column of a manifest with the words of a video
_VIDEOS_AT_ONCE = 512
# "RedBall2024_final" has the words Red, Ball, 2024 and final.
_JOINT = re.compile(r"[\W_]+|(?<=[a-z])(?=[A-Z])|(?<=[^\W\d_])(?=\d)|(?<=\d)(?=[^\W\d_])")


class Words:
    """The words of the videos of one output folder.

    fields: of the index of segments. rejects: the store for videos that killed their worker.
    """

    def __init__(
        self, config: IndexConfig, output: str, fields: Mapping[str, FieldType], rejects: Store
    ) -> None:
        self._config, self._output, self._fields, self._rejects = config, output, fields, rejects
        self._subtitles = Store(f"{output}/subtitles.lance", SUBTITLE_SCHEMA, key="words")
        self._speech = Store(f"{output}/speech.lance", SPEECH_SCHEMA, key="speech")

    @property
    def are_indexed(self) -> bool:
        """Whether the config asks for any words."""
        options = self._config.words
        return options.subtitles or options.names or options.captions or options.speech.name is not None

    def read(
        self, files: Sequence[Mapping[str, Any]], videos: Mapping[str, Mapping[str, Any]]
    ) -> StageCounts | None:
        """Read the subtitles that have not been read yet; None if the config does not ask for them.

        files: rows of the manifest with `version`, `words` and `subtitle_files`. videos: rows of
        `probe.VIDEO_SCHEMA` by version; files without one are left out.
        """
        if not self._config.words.subtitles:
            return None
        rows = [
            {
                "words": file["words"],
                "uri": file["uri"],
                "start": min(videos[file["version"]]["starts"], default=0.0),
                "files": [uri for uri, _ in file["subtitle_files"]],
            }
            for file in files
            if file["version"] in videos
        ]
        return run_stage(
            STAGE,
            pending=pa.Table.from_pylist(rows, schema=PENDING_SUBTITLES),
            worker=SubtitleWorker,
            worker_args={"limits": self._config.media.limits},
            out=self._subtitles,
            rejects=self._rejects,
            resources=self._config.resources.probe,
            commit_seconds=self._config.commit_seconds,
        )

    def transcribe(
        self, files: Sequence[Mapping[str, Any]], videos: Mapping[str, Mapping[str, Any]]
    ) -> StageCounts | None:
        """Transcribe the videos that have not been transcribed yet; None if the config does not ask for it.

        files, videos: as for `read`, which is done before.
        """
        speech = self._config.words.speech
        if speech.name is None:
            return None
        rows = [
            {"speech": self._speech_key(file), "uri": file["uri"]}
            for file in self._to_transcribe(files)
            if file["version"] in videos
        ]
        return run_stage(
            SPEECH_STAGE,
            pending=pa.Table.from_pylist(rows, schema=PENDING_SPEECH),
            worker=SpeechWorker,
            worker_args={"config": speech, "limits": self._config.media.limits},
            out=self._speech,
            rejects=self._rejects,
            # A batch has as many videos as are transcribed at the same time. Requests have their own time limits.
            resources=replace(self._config.resources.probe, batch_size=speech.concurrency, stall_seconds=-1),
            commit_seconds=self._config.commit_seconds,
        )

    def fill(
        self,
        files: Sequence[Mapping[str, Any]],
        entries: Mapping[str, Mapping[str, Value]],
        previous: LibraryFacts | None,
    ) -> dict[str, Any] | None:
        """Change the index so that it has exactly the words of the videos; None if the config asks for none.

        entries: the metadata, by segment, of the index of segments, video by video. previous: what
        readers have open. Returns `LibraryFacts.words`.
        """
        if not self.are_indexed:
            return None
        name = f"{PREFIX}{fingerprint({'fields': self._fields})[:12]}"
        index = self._open(name, previous)
        current = index.digests()
        wanted = {row.key: row.digest for row in self._rows(files, entries)}
        removed = sorted(key for key, digest in current.items() if wanted.get(key) != digest)
        added = {key for key, digest in wanted.items() if current.get(key) != digest}
        if removed or added:
            index.update(removed, (row for row in self._rows(files, entries) if row.key in added))
        if index.count() != len(wanted):
            raise JobError(
                f"{self._output}/{name}: has {index.count()} texts instead of {len(wanted)}; delete this "
                "folder and run the job again"
            )
        return {"index": name, "version": index.version}

    def delete_unused(self, files: Sequence[Mapping[str, Any]], kept: Collection[str]) -> None:
        """Delete words that no file of this run has, and all indexes except those in `kept`.

        Without speech recognition, earlier transcripts are kept, because they took long to make.
        """
        self._subtitles.delete(self._subtitles.keys() - {file["words"] for file in files})
        if self._config.words.speech.name is not None:
            self._speech.delete(self._speech.keys() - self.speech_keys(files))
        folder = SharedFolder(self._output)
        for name in folder.names():
            if name.startswith(PREFIX) and name not in kept:
                folder.remove(name)

    def _open(self, name: str, previous: LibraryFacts | None) -> WordIndex:
        uri = f"{self._output}/{name}"
        if previous is not None and previous.words is not None and previous.words["index"] == name:
            try:
                return WordIndex.open(uri, self._fields, previous.words["version"])
            except IndexFileError as error:
                raise JobError(str(error)) from error
        SharedFolder(self._output).remove(name)  # left by a run that was killed before it published it
        return WordIndex.create(uri, self._fields)

    def _rows(
        self, files: Sequence[Mapping[str, Any]], entries: Mapping[str, Mapping[str, Value]]
    ) -> Iterator[WordRow]:
        """Yield all texts that belong in the index."""
        file_of = {file["video_id"]: file for file in files}
        waiting = [
            (file_of[video_id], dict(segments))
            for video_id, segments in groupby(entries.items(), key=lambda entry: entry[1]["video_id"])
        ]
        known = self._subtitles.keys() if self._config.words.subtitles else set()
        transcribed = {self._speech_key(file) for file in self._to_transcribe(files)} & self._speech.keys()
        for start in range(0, len(waiting), _VIDEOS_AT_ONCE):
            some = waiting[start : start + _VIDEOS_AT_ONCE]
            cues = _cues(self._subtitles, [file["words"] for file, _ in some if file["words"] in known])
            speech = _cues(self._speech, sorted(transcribed & {self._speech_key(file) for file, _ in some}))
            for file, segments in some:
                yield from self._of_video(file, next(iter(segments.values())))
                yield from _of_segments(segments, "subtitles", cues.get(file["words"], []))
                yield from _of_segments(segments, "speech", speech.get(self._speech_key(file), []))

    def speech_keys(self, files: Sequence[Mapping[str, Any]]) -> set[str]:
        """Return the keys of files in the stage that transcribes; none if the config does not ask for it."""
        return set() if self._config.words.speech.name is None else {self._speech_key(file) for file in files}

    def _speech_key(self, file: Mapping[str, Any]) -> str:
        return speech_version(file["version"], self._config.words.speech)

    def _to_transcribe(self, files: Sequence[Mapping[str, Any]]) -> list[Mapping[str, Any]]:
        """Return the files to transcribe: by default, those without subtitles."""
        speech = self._config.words.speech
        if speech.name is None:
            return []
        with_subtitles: set[str] = set()
        if self._config.words.subtitles and not speech.subtitled:
            with_subtitles = self._subtitles.keys("array_length(texts) > 0")
        return [file for file in files if file["words"] not in with_subtitles]

    def _of_video(self, file: Mapping[str, Any], first: Mapping[str, Value]) -> Iterator[WordRow]:
        """Yield the texts about a whole video. first: metadata of its first segment."""
        metadata = {name: None if name in SEGMENT_FIELDS else value for name, value in first.items()}
        texts: dict[Source, str | None] = {}
        if self._config.words.names:
            texts["name"] = words_of_name(file["uri"])
        if self._config.words.captions:
            transcript = json.loads(file["metadata"]).get(TRANSCRIPT)
            texts |= {
                "caption": file["caption"],
                "transcript": transcript if isinstance(transcript, str) else None,
            }
        for source, text in texts.items():
            if text and text.strip():
                yield WordRow(segment=None, source=source, text=text, metadata=metadata)


def _cues(store: Store, keys: Sequence[str]) -> dict[str, list[Cue]]:
    """Return the cues in rows of subtitles or of speech, by key."""
    rows = store.take(keys).to_pylist() if keys else []
    return {
        row[store.key]: [Cue(*cue) for cue in zip(row["starts"], row["ends"], row["texts"], strict=True)]
        for row in rows
    }


def _of_segments(
    segments: Mapping[str, Mapping[str, Value]], source: Source, cues: Sequence[Cue]
) -> Iterator[WordRow]:
    """Yield the text about each segment: that of the cues which overlap it in time. cues: by start."""
    starts = [cue.start for cue in cues]
    longest = max((cue.end - cue.start for cue in cues), default=0.0)
    for segment, metadata in segments.items():
        start, end = metadata["start"], metadata["end"]
        assert isinstance(start, float)
        assert isinstance(end, float)
        near = cues[bisect.bisect_left(starts, start - longest) : bisect.bisect_left(starts, end)]
        if text := joined(cue for cue in near if cue.end > start):
            yield WordRow(segment=segment, source=source, text=text, metadata=metadata)


def words_of_name(uri: str) -> str:
    """Return the words of a file's name: `Red Ball 2024` for `file:///videos/RedBall_2024.mp4`."""
    path = local_path(uri)
    name = unquote(uri.partition("?")[0].rstrip("/").rpartition("/")[2]) if path is None else path.name
    stem = os.fsencode(os.path.splitext(name)[0]).decode("utf-8", "replace")
    return " ".join(part for part in _JOINT.split(stem) if part)
