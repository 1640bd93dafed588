"""Reads the annotation files with which public text-to-video benchmarks are distributed.

    load_annotations("MSRVTT_JSFUSION_test.csv", format="msrvtt", videos="MSRVTT/videos", name="MSRVTT-1kA")

Captions are the queries, and the videos that they describe are the corpus. What each format reads:

    msrvtt        MSRVTT_JSFUSION_test.csv or another table with video_id and sentence or caption;
                  or MSRVTT_data.json (test_videodatainfo.json) with `videos` and `sentences`
    didemo        test_data.json: moments with `video` and `description`
    activitynet   val_1.json (val_2.json): for each video id, its `sentences`
    vatex         vatex_validation_v1.0.json and later ones: `videoID` and the English captions `enCap`
    lsmdc         LSMDC16_challenge_1000_publictect.csv: lines of a clip's name, times and a sentence,
                  with tabs between them

The descriptions of one video of DiDeMo and of ActivityNet are joined into one query, as is usual in
paragraph-to-video retrieval. In the other sets, each caption is a query of its own.
"""

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path, PurePosixPath
from typing import Any, NamedTuple

from gve_ray.errors import shown
from gve_ray.evaluation.data.data_errors import DataErrorLog
from gve_ray.evaluation.data.dataset_folder import DatasetFolder, open_folder
from gve_ray.evaluation.data.jsonl_items import id_of, is_unicode, table_rows, where
from gve_ray.evaluation.data.retrieval_set import RetrievalSet
from gve_ray.inputs import cells
from gve_ray.inputs.encoding import NotTextError, open_text
from gve_ray.media.source import VIDEO_SUFFIXES, raise_storage_fault
from gve_ray.schema import Item

JOINED = ("didemo", "activitynet")  # formats in which all texts of a video make one query
_CAPTION_COLUMNS = ("sentence", "caption")


class _Caption(NamedTuple):
    """One text of the file. where: its place, for messages. video: the id of its video, text: as written."""

    where: str
    video: Any
    text: Any


class _Source(NamedTuple):
    """An annotation file: the folder that contains it, its name, and the split that is read."""

    folder: DatasetFolder
    file: str
    split: str


def load_annotations(
    file: str | Path, *, format: str, videos: str | Path, name: str, split: str = "test"
) -> RetrievalSet:
    """Load an annotation file and find its videos; corpus ids are the video ids of the file.

    file: path or URI. format: a key of `FORMATS`. videos: the folder of the videos, which may lie
    in folders of their own: files named by the video's id and any extension of a video, or folders
    of frames named by the id. A video that does not exist stays in the data set, where it counts as a
    miss (`scores.scoring`). split: for MSR-VTT's JSON, whose videos have one each. Invalid lines are
    left out and listed in `skipped`; does not raise on bad data.
    """
    errors = DataErrorLog(name)
    folder, _, base = str(file).rpartition("/")
    captions = FORMATS[format](_Source(open_folder(folder or "."), base, split), errors)
    texts: dict[str, list[str]] = {}
    for caption in captions:
        if fault := _fault(caption):
            errors.add(caption.where, fault)
            continue
        texts.setdefault(str(id_of(caption.video)), []).append(caption.text.strip())
    if format in JOINED:
        texts = {video: [" ".join(parts)] for video, parts in texts.items()}
    root = open_folder(videos)
    paths = _find_videos(root, errors)
    queries = {f"{video}#{i}": text for video, parts in texts.items() for i, text in enumerate(parts)}
    return RetrievalSet(
        name=name,
        query_ids=list(queries),
        queries=[Item(text=text) for text in queries.values()],
        corpus_ids=list(texts),
        corpus=[Item(video=paths.get(_key(video)) or root.media(f"{_key(video)}.mp4")) for video in texts],
        positives={query_id: frozenset({query_id.rpartition("#")[0]}) for query_id in queries},
        candidates=None,
        skipped=errors.all(),
    )


def _fault(caption: _Caption) -> str:
    """What is wrong with a text, or an empty string."""
    video = id_of(caption.video)
    if video is None:
        return f"video={shown(caption.video)}: give the id of a video"
    if not isinstance(caption.text, str) or cells.is_missing(caption.text) or not is_unicode(caption.text):
        return f"video {shown(video)}: {shown(caption.text)} is not a caption"
    return ""


def _find_videos(folder: DatasetFolder, errors: DataErrorLog) -> dict[str, str]:
    """The paths of the videos in a folder and the folders in it, by `_key` of their names."""
    found: dict[str, str] = {}
    waiting = [""]
    while waiting:
        parent = waiting.pop()
        for entry in folder.names(parent):
            name = f"{parent}/{entry}" if parent else entry
            if not is_unicode(name):
                continue
            is_frames = folder.is_folder(name) and folder.has_pictures(name)
            if folder.is_folder(name) and not is_frames:
                waiting.append(name)
            elif is_frames or PurePosixPath(entry).suffix.lower() in VIDEO_SUFFIXES:
                path = folder.media(name)
                if (other := found.setdefault(_key(entry), path)) != path:
                    errors.add(name, f"has the same id as {shown(other)}, which is used")
    return found


def _key(name: str) -> str:
    """The id of a video without folder and extensions, and without the `v_` of ActivityNet.

    An id may contain dots, and an AVI that was converted may be called `a.avi.mp4`.
    """
    name = PurePosixPath(name).name
    while (suffix := PurePosixPath(name).suffix).lower() in VIDEO_SUFFIXES and suffix:
        name = name.removesuffix(suffix)
    return name.removeprefix("v_")


def _read_json(source: _Source, errors: DataErrorLog, kind: type) -> Any:
    """The value of a JSON file if it is of this kind, else an empty one, and an error."""
    try:
        with open_text(source.folder.media(source.file)) as file:
            value = json.load(file)
    except (OSError, ValueError, NotTextError) as error:
        raise_storage_fault(error)
        errors.add(source.file, f"cannot be read as JSON: {error}")
        return kind()
    if not isinstance(value, kind):
        errors.add(source.file, f"holds a {type(value).__name__}; the format has a {kind.__name__}")
        return kind()
    return value


def _objects(source: _Source, errors: DataErrorLog, values: Sequence[Any]) -> Iterator[tuple[str, Any]]:
    """The objects of a JSON list, each with its place; anything else is an error."""
    for number, value in enumerate(values, 1):
        place = f"{source.file} entry {number}"
        if isinstance(value, Mapping):
            yield place, value
        else:
            errors.add(place, f"{shown(value)}: not an object")


def _msrvtt(source: _Source, errors: DataErrorLog) -> Iterator[_Caption]:
    if source.file.lower().endswith(".json"):
        yield from _msrvtt_json(source, errors)
        return
    for row in table_rows(source.folder, source.file, errors, columns=("video_id",)):
        text = next((row.cells[column] for column in _CAPTION_COLUMNS if column in row.cells), None)
        yield _Caption(where(source.file, row), row.cells.get("video_id"), text)


def _msrvtt_json(source: _Source, errors: DataErrorLog) -> Iterator[_Caption]:
    """MSR-VTT's own file is an object; the files of single splits on hubs are lists of videos."""
    value = _read_json(source, errors, object)
    if isinstance(value, list):
        for place, entry in _objects(source, errors, value):
            captions = entry.get("caption")
            for text in captions if isinstance(captions, list) else [captions]:
                yield _Caption(place, entry.get("video_id"), text)
        return
    sentences = value.get("sentences") if isinstance(value, dict) else None
    if not isinstance(sentences, list):
        errors.add(source.file, "has no list `sentences`; give MSR-VTT's JSON, or a table")
        return
    splits = {
        entry.get("video_id"): entry.get("split")
        for entry in value.get("videos") or ()
        if isinstance(entry, Mapping)
    }
    kept = 0
    for place, entry in _objects(source, errors, sentences):
        if splits.get(entry.get("video_id")) in (None, source.split):
            kept += 1
            yield _Caption(place, entry.get("video_id"), entry.get("caption"))
    if sentences and not kept:
        names = ", ".join(sorted({str(split) for split in splits.values()}))
        errors.add(source.file, f"no video has split={source.split!r}; its splits are {names}")


def _didemo(source: _Source, errors: DataErrorLog) -> Iterator[_Caption]:
    for place, entry in _objects(source, errors, _read_json(source, errors, list)):
        yield _Caption(place, entry.get("video"), entry.get("description"))


def _activitynet(source: _Source, errors: DataErrorLog) -> Iterator[_Caption]:
    for video, entry in _read_json(source, errors, dict).items():
        sentences = entry.get("sentences") if isinstance(entry, Mapping) else None
        for text in sentences if isinstance(sentences, list) and sentences else [None]:
            yield _Caption(f"{source.file} {shown(video)}", video, text)


def _vatex(source: _Source, errors: DataErrorLog) -> Iterator[_Caption]:
    for place, entry in _objects(source, errors, _read_json(source, errors, list)):
        captions = entry.get("enCap")
        for text in captions if isinstance(captions, list) and captions else [None]:
            yield _Caption(place, entry.get("videoID"), text)


def _lsmdc(source: _Source, errors: DataErrorLog) -> Iterator[_Caption]:
    try:
        with open_text(source.folder.media(source.file)) as file:
            lines = file.read().splitlines()
    except (OSError, ValueError, NotTextError) as error:
        raise_storage_fault(error)
        errors.add(source.file, f"cannot be read as text: {error}")
        return
    for number, line in enumerate(lines, 1):
        parts = line.split("\t")
        place = f"{source.file} line {number}"
        if len(parts) > 1:
            yield _Caption(place, parts[0], parts[-1])
        elif line.strip():
            errors.add(place, f"{shown(line)}: give a clip's name and a sentence with tabs between them")


FORMATS: Mapping[str, Callable[[_Source, DataErrorLog], Iterator[_Caption]]] = {
    "msrvtt": _msrvtt,
    "didemo": _didemo,
    "activitynet": _activitynet,
    "vatex": _vatex,
    "lsmdc": _lsmdc,
}
