"""Export the pairs of a synthesis run, with their frames, for other programs: `gve export`.

    export("runs/mine", "shards", form="webdataset")     # shards/T2V/00000.tar, ...
    export("runs/mine", "parquet", form="datasets")      # for datasets.load_dataset("parquet", ...)

Media are the JPEG frames in assets.lance, as training uses them, or for videos their source files, which are
read again (videos="files"). The pairs of a task are written in the order
of the files of pairs, `shard_pairs` to a file, so the same run gives the same bytes. A file gets its name when
it is complete; an export that is started again leaves complete files as they are. Memory use is that of
a few pairs.
"""

import hashlib
import io
import json
import tarfile
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import PurePosixPath
from typing import Any, Literal, Protocol

import pyarrow as pa
import pyarrow.parquet as pq
from pyarrow import fs

from gve_ray.job import PreflightError
from gve_ray.media import Limits, MediaError
from gve_ray.media.source import VIDEO_SUFFIXES, open_source
from gve_ray.progress import Progress
from gve_ray.schema import ASSET_SCHEMA, PAIR_SCHEMA, AssetRef
from gve_ray.store import RunFolder, Store, StoreError
from gve_ray.store.assets import jpegs_of_row
from gve_ray.store.runfolder import filesystem, write_atomically

Form = Literal["webdataset", "datasets"]
Videos = Literal["frames", "files"]
SHARD_PAIRS = 1000
_ROWS = 64  # pairs whose frames are in memory at the same time
_SIDES = ("query", "target")
_FACTS = ("pair_id", "task", "instruction", "domain", "style")
_TIMES = ("fps", "duration")
_BYTES = 256 << 20  # of a row group at which it is written
_ASSET_COLUMNS = [
    "video_id", "uri", *_TIMES, "frames", "timestamps", "reference_frames", "reference_timestamps", "clips",
]  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class Side:
    """The query or the target of a pair: a text, a picture, the frames of a video, or a mix of them.

    image, frames: JPEG files. timestamps: of the frames, seconds on the clock of the file `uri`. fps, duration
    (seconds): of that file. ref: asset reference of the picture or video. video: the source file in place of
    frames. start, end: of a clip or a shot in it.
    """

    text: str | None = None
    image: bytes | None = None
    frames: Sequence[bytes] = ()
    timestamps: Sequence[float] = ()
    fps: float | None = None
    duration: float | None = None
    ref: str | None = None
    uri: str | None = None
    video: bytes | None = None
    start: float | None = None
    end: float | None = None

    @property
    def size(self) -> int:
        """The bytes of the media."""
        return sum(map(len, (self.image or b"", self.video or b"", *self.frames)))


@dataclass(frozen=True, kw_only=True)
class FullPair:
    """A pair with its media. facts: pair_id, task, instruction, domain and style."""

    facts: Mapping[str, str]
    query: Side
    target: Side


@dataclass(frozen=True, kw_only=True)
class Exported:
    """The printable result. pairs: by task, those in the run, all of which are in the export. files: by task."""

    output: str
    pairs: Mapping[str, int]
    files: Mapping[str, int]

    def __str__(self) -> str:
        rows = [f"{'task':<8}{'pairs':>12}{'files':>8}"]
        rows += [f"{task:<8}{count:>12,}{self.files[task]:>8,}" for task, count in self.pairs.items()]
        return "\n".join([*rows, f"{sum(self.pairs.values()):,} pairs in {self.output}"])


def export(
    source: str,
    output: str,
    *,
    form: Form,
    videos: Videos = "frames",
    tasks: Sequence[str] = (),
    shard_pairs: int = SHARD_PAIRS,
) -> Exported:
    """Write the pairs of a run as files for other programs, one folder for each task.

    source: output folder of `gve synthesize`. videos: as stored frames, or as their source files. tasks: those
    to export; by default all. shard_pairs: pairs per file.
    Raises PreflightError if there are no pairs, RunFolderError if the output folder has another export, and
    StoreError if assets.lance lacks a video, or its source file cannot be read.
    """
    source, output = source.rstrip("/"), output.rstrip("/")
    if shard_pairs < 1:
        raise PreflightError(f"shard_pairs={shard_pairs}: use at least 1")
    files = _files_of_pairs(source, tasks)
    identity = {
        "form": form,
        "videos": videos,
        "shard_pairs": shard_pairs,
        "pairs": {task: [part.sha256() for part in parts] for task, parts in files.items()},
    }
    counts = {task: sum(part.rows for part in parts) for task, parts in files.items()}
    with RunFolder(output, job="export", config=identity) as folder:
        assets = Store(f"{source}/assets.lance", ASSET_SCHEMA)
        progress = Progress("export", sum(counts.values()), unit="pairs")
        done, shards = 0, dict.fromkeys(files, 0)
        for task, parts in files.items():
            folder_of_task = _TaskFolder(f"{output}/{task}", _WRITERS[form])
            for number, start in enumerate(range(0, counts[task], shard_pairs)):
                rows = min(shard_pairs, counts[task] - start)
                if not folder_of_task.has(number):
                    pairs = _full_pairs(islice(_pairs(parts, start), rows), assets, videos)
                    folder_of_task.write(number, _counted(pairs, progress, done))
                done += rows
                shards[task] += 1
                progress.reach(done)  # also for a file that was there
        progress.close()
        if form == "datasets":
            card, path = filesystem(f"{output}/README.md")
            write_atomically(card, path, _card(files).encode())
        folder.record(finished=True, pairs=counts, files=shards)
    return Exported(output=output, pairs=counts, files=shards)


def _card(tasks: Iterable[str]) -> str:
    """Return a dataset card for a hub, from which `datasets` takes a configuration for each task."""
    lines = [f"- config_name: {task}\n  data_files: {task}/*.parquet" for task in tasks]
    return "\n".join(["---", "configs:", *lines, "---", "", "Training pairs made by gve_ray.", ""])


def _counted(pairs: Iterator[FullPair], progress: Progress, done: int) -> Iterator[FullPair]:
    """Yield the pairs, and report how many there were, in addition to `done`."""
    for number, pair in enumerate(pairs, 1):
        yield pair
        progress.reach(done + number)


# ---- Pairs and their media


@dataclass(frozen=True, kw_only=True)
class _File:
    """A Parquet file of pairs."""

    files: fs.FileSystem
    path: str
    rows: int

    def sha256(self) -> str:
        """Return the hex digest of the bytes."""
        digest = hashlib.sha256()
        with self.files.open_input_stream(self.path) as stream:
            while block := stream.read(1 << 20):
                digest.update(block)
        return digest.hexdigest()


def _files_of_pairs(source: str, tasks: Sequence[str]) -> dict[str, list[_File]]:
    """Return the files of pairs by task, both in the order of their names. Raises PreflightError without any."""
    files, root = filesystem(f"{source}/uvrd")
    listed = files.get_file_info(fs.FileSelector(root, recursive=True, allow_not_found=True))
    by_task: dict[str, list[_File]] = {}
    for info in sorted(listed, key=lambda info: info.path):
        path = PurePosixPath(info.path)
        task = path.parent.name.removeprefix("task=")
        if path.suffix == ".parquet" and not path.name.startswith(".") and task != path.parent.name:
            with files.open_input_file(info.path) as file:
                rows = pq.ParquetFile(file).metadata.num_rows
            by_task.setdefault(task, []).append(_File(files=files, path=info.path, rows=rows))
    if not by_task:
        raise PreflightError(f"{source!r}: has no pairs in uvrd/; name the output folder of `gve synthesize`")
    if unknown := sorted(set(tasks) - set(by_task)):
        raise PreflightError(f"tasks={unknown}: the run has no pairs of them; use {', '.join(by_task)}")
    return {task: parts for task, parts in by_task.items() if not tasks or task in tasks}


def _pairs(parts: Sequence[_File], start: int) -> Iterator[Mapping[str, Any]]:
    """Yield the pairs of files from the pair number `start` on."""
    for part in parts:
        if start >= part.rows:
            start -= part.rows
            continue
        with part.files.open_input_file(part.path) as file:
            for batch in pq.ParquetFile(file).iter_batches(_ROWS, columns=PAIR_SCHEMA.names):
                yield from batch.slice(min(start, batch.num_rows)).to_pylist()
                start = max(0, start - batch.num_rows)


def _full_pairs(pairs: Iterator[Mapping[str, Any]], assets: Store, videos: Videos) -> Iterator[FullPair]:
    """Yield each pair with its media."""
    # Stores of versions without shots lack that column.
    columns = [*_ASSET_COLUMNS, "shot"] if videos == "files" else _ASSET_COLUMNS
    while some := list(islice(pairs, _ROWS)):
        refs = [ref for pair in some for side in _SIDES if (ref := _ref(pair[side]))]
        ids = sorted({AssetRef.parse(ref).video_id for ref in refs})
        try:
            rows = {row["video_id"]: row for row in assets.take(ids, columns).to_pylist()} if ids else {}
        except KeyError as error:
            raise StoreError(f"{error.args[0]}; pairs and assets.lance are not of the same run") from error
        for pair in some:
            query, target = (_side(pair[side], rows, videos) for side in _SIDES)
            yield FullPair(facts={name: pair[name] for name in _FACTS}, query=query, target=target)


def _ref(item: Mapping[str, str | None]) -> str | None:
    return item["video"] or item["image"]


def _side(item: Mapping[str, str | None], rows: Mapping[str, Mapping[str, Any]], videos: Videos) -> Side:
    name = _ref(item)
    if name is None:
        return Side(text=item["text"])
    ref = AssetRef.parse(name)
    row = rows[ref.video_id]
    jpegs = jpegs_of_row(row, ref)
    facts = {"text": item["text"], "ref": name, "uri": row["uri"], **{key: row[key] for key in _TIMES}}
    if ref.part == "frame":
        return Side(image=jpegs[0], timestamps=[row["reference_timestamps"][ref.index]], **facts)
    if videos == "files":
        span = row["clips"][ref.index] if ref.part == "clip" else row["shot"] or {}
        return Side(video=_file(row), start=span.get("start"), end=span.get("end"), **facts)
    times = row["timestamps"] if ref.part == "video" else row["clips"][ref.index]["timestamps"]
    return Side(frames=jpegs, timestamps=times, **facts)


def _file(row: Mapping[str, Any]) -> bytes:
    """Return the source file of a video."""
    try:
        return open_source(row["uri"], Limits()).read()
    except (MediaError, OSError) as error:
        raise StoreError(
            f"{row['video_id']}: its file {row['uri']} cannot be read ({error}); restore it, or export frames"
        ) from error


# ---- Files


class _Writer(Protocol):
    suffix: str

    def __call__(self, stream: Any, pairs: Iterator[FullPair]) -> None:
        """Write pairs to a file that is open for writing."""
        ...


class _TaskFolder:
    """The files of one task in the order of their numbers."""

    def __init__(self, folder: str, writer: _Writer) -> None:
        self._fs, self._root = filesystem(folder)
        self._writer = writer
        self._fs.create_dir(self._root, recursive=True)

    def has(self, number: int) -> bool:
        info = self._fs.get_file_info(f"{self._root}/{self._name(number)}")
        return bool(info.type == fs.FileType.File)

    def write(self, number: int, pairs: Iterator[FullPair]) -> None:
        """Write a file, which gets its name when it is complete."""
        name = self._name(number)
        partial = f"{self._root}/.{name}.partial"
        with self._fs.open_output_stream(partial) as stream:
            self._writer(stream, pairs)
        self._fs.move(partial, f"{self._root}/{name}")

    def _name(self, number: int) -> str:
        return f"{number:05d}{self._writer.suffix}"


class _TarWriter:
    """Writes pairs as samples of WebDataset: files of a tar archive whose names begin with the pair's id."""

    suffix = ".tar"

    def __call__(self, stream: Any, pairs: Iterator[FullPair]) -> None:
        with tarfile.open(fileobj=stream, mode="w|", format=tarfile.USTAR_FORMAT) as archive:
            for pair in pairs:
                for name, data in self._members(pair):
                    info = tarfile.TarInfo(f"{pair.facts['pair_id']}.{name}")  # its times and owners are 0
                    info.size = len(data)
                    archive.addfile(info, io.BytesIO(data))

    def _members(self, pair: FullPair) -> Iterator[tuple[str, bytes]]:
        facts: dict[str, Any] = dict(pair.facts)
        for name, side in (("query", pair.query), ("target", pair.target)):
            if side.text is not None:
                yield f"{name}.txt", side.text.encode()
            if side.image is not None:
                yield f"{name}.jpg", side.image
            for number, frame in enumerate(side.frames):
                yield f"{name}.{number:03d}.jpg", frame
            if side.video is not None:
                suffix = PurePosixPath(str(side.uri)).suffix.lower()
                yield f"{name}{suffix if suffix in VIDEO_SUFFIXES else '.mp4'}", side.video
            if side.ref is not None:
                times = ("timestamps",) if side.video is None else ("start", "end")
                facts[name] = {key: getattr(side, key) for key in ("ref", "uri", *times, *_TIMES)}
        yield "json", json.dumps(facts, ensure_ascii=False, sort_keys=True).encode()


class _ParquetWriter:
    """Writes pairs as a Parquet file with the features that Hugging Face's `datasets` reads."""

    suffix = ".parquet"

    def __call__(self, stream: Any, pairs: Iterator[FullPair]) -> None:
        with pq.ParquetWriter(stream, PARQUET_SCHEMA, compression="zstd") as writer:
            for some in self._groups(pairs):
                writer.write_table(pa.Table.from_pylist([self._row(pair) for pair in some], PARQUET_SCHEMA))

    def _groups(self, pairs: Iterator[FullPair]) -> Iterator[list[FullPair]]:
        """Yield the pairs of each row group."""
        some, size = list[FullPair](), 0
        for pair in pairs:
            some.append(pair)
            size += pair.query.size + pair.target.size
            if len(some) == _ROWS or size >= _BYTES:
                yield some
                some, size = [], 0
        if some:
            yield some

    def _row(self, pair: FullPair) -> dict[str, Any]:
        row: dict[str, Any] = dict(pair.facts)
        for name, side in (("query", pair.query), ("target", pair.target)):
            values = vars(side) | {
                "image": None if side.image is None else {"bytes": side.image, "path": None},
                "frames": [{"bytes": frame, "path": None} for frame in side.frames],
                "video": None if side.video is None else {"bytes": side.video, "path": side.uri},
            }
            row |= {f"{name}_{key}": values[key] for key in _SIDE_TYPES}
        return row


_MEDIUM = pa.struct(
    [("bytes", pa.binary()), ("path", pa.string())]
)  # how `datasets` stores an Image or a Video
_SIDE_TYPES: Mapping[str, tuple[pa.DataType, Mapping[str, Any]]] = {
    "text": (pa.string(), {"dtype": "string", "_type": "Value"}),
    "image": (_MEDIUM, {"_type": "Image"}),
    "frames": (pa.list_(_MEDIUM), {"feature": {"_type": "Image"}, "_type": "Sequence"}),
    "timestamps": (
        pa.list_(pa.float64()),
        {"feature": {"dtype": "float64", "_type": "Value"}, "_type": "Sequence"},
    ),
    "fps": (pa.float64(), {"dtype": "float64", "_type": "Value"}),
    "duration": (pa.float64(), {"dtype": "float64", "_type": "Value"}),
    "ref": (pa.string(), {"dtype": "string", "_type": "Value"}),
    "uri": (pa.string(), {"dtype": "string", "_type": "Value"}),
    "video": (_MEDIUM, {"_type": "Video"}),
    "start": (pa.float64(), {"dtype": "float64", "_type": "Value"}),
    "end": (pa.float64(), {"dtype": "float64", "_type": "Value"}),
}


def _parquet_schema() -> pa.Schema:
    """Return the columns, and in the metadata `huggingface` their features, which `datasets` reads from there."""
    fields = {name: (pa.string(), {"dtype": "string", "_type": "Value"}) for name in _FACTS}
    fields |= {f"{side}_{name}": kind for side in _SIDES for name, kind in _SIDE_TYPES.items()}  # type: ignore[misc]
    features = {name: feature for name, (_, feature) in fields.items()}
    metadata = {"huggingface": json.dumps({"info": {"features": features}})}
    return pa.schema([(name, kind) for name, (kind, _) in fields.items()], metadata=metadata)


PARQUET_SCHEMA = _parquet_schema()
_WRITERS: Mapping[Form, _Writer] = {"webdataset": _TarWriter(), "datasets": _ParquetWriter()}
