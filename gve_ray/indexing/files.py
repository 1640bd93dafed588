"""Look at the input of an index job: which videos there are, in which version, and with which subtitle files.

    look = look_at(config)
    look.files[0]["version"]        # changes when the file is written again

Each folder is listed once, which in an object store takes a thousandth of the requests that looking at each
file would take.
"""

import json
import logging
import os
from collections import defaultdict
from collections.abc import Collection, Mapping, Sequence, Set
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

from pyarrow import fs

from gve_ray.indexing.catalog import user_fields, version_of
from gve_ray.indexing.config import IndexConfig
from gve_ray.indexing.subtitles import words_version
from gve_ray.indexing.words import TRANSCRIPT
from gve_ray.inputs.listing import local_uri
from gve_ray.inputs.manifest import read_manifest
from gve_ray.media.digest import UNREADABLE, media_stamp
from gve_ray.media.source import local_path, raise_storage_fault
from gve_ray.media.subtitles import SUFFIXES, video_stems
from gve_ray.search.index import FieldType
from gve_ray.store.faults import is_refused
from gve_ray.store.runfolder import filesystem, in_uri

log = logging.getLogger(__name__)

_THREADS = 16  # that read stamps and list folders
_UNLISTED = ("http", "https", "slice", "cell")
_KEPT_NAMES = 1 << 18


@dataclass(frozen=True, kw_only=True)
class Look:
    """The input at one time.

    files: a row for each video, sorted by id: `video_id`, `uri`, `caption` and `metadata` of the manifest,
    `version` (`catalog.version_of`), `subtitle_files` (URI and stamp of each), and `words`
    (`subtitles.words_version`; None if subtitles are not read). fields: of the user's columns. unknown: ids of
    the videos that could not be looked at, or whose folder could not be listed.
    """

    files: Sequence[Mapping[str, Any]]
    fields: Mapping[str, FieldType]
    unknown: Set[str]


@dataclass(frozen=True, kw_only=True)
class FileState:
    """A video file at one time.

    stamp: changes when the file is written again (`media_stamp`). subtitles: URI and stamp of each subtitle file
    next to it. is_known: whether the file could be looked at, and its folder could be listed.
    """

    stamp: str
    subtitles: Sequence[tuple[str, str]]
    is_known: bool


def look_at(config: IndexConfig) -> Look:
    """Return the input as it is now. Raises the same errors as `read_manifest` and `user_fields`."""
    manifest = read_manifest(config.input, metadata=True).to_pylist()
    fields = user_fields(config.input, (_filtered_by(json.loads(row["metadata"])) for row in manifest))
    states = states_of([row["uri"] for row in manifest])
    files = []
    for row in manifest:
        state = states[row["uri"]]
        version = version_of(row["video_id"], row["uri"], state.stamp)
        subtitles = state.subtitles if config.words.subtitles else []
        words = words_version(version, subtitles) if config.words.subtitles else None
        files.append({**row, "version": version, "subtitle_files": subtitles, "words": words})
    unknown = {row["video_id"] for row in manifest if not states[row["uri"]].is_known}
    return Look(files=files, fields=fields, unknown=unknown)


def indexed_files(catalog: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Return the rows of `Look.files` from which a catalog was made (`catalog.CATALOG_SCHEMA`)."""
    files = []
    for row in catalog:
        caption, metadata = json.loads(row["metadata"])
        subtitles = [(uri, stamp) for uri, stamp in json.loads(row["subtitles"] or "[]")]
        files.append(
            {
                **{name: row[name] for name in ("video_id", "uri", "version")},
                "caption": caption,
                "metadata": json.dumps(metadata, ensure_ascii=False, sort_keys=True),
                "subtitle_files": subtitles,
                "words": None if row["subtitles"] is None else words_version(row["version"], subtitles),
            }
        )
    return files


def states_of(uris: Sequence[str]) -> dict[str, FileState]:
    """Return the state of each file. A folder that cannot be listed, such as one of a web server, has no subtitles."""
    by_folder: defaultdict[str, dict[str, str]] = defaultdict(dict)  # name by URI
    for uri in uris:
        folder, name = _split(uri)
        by_folder[folder][uri] = name
    states: dict[str, FileState] = {}
    with ThreadPoolExecutor(_THREADS) as pool:
        listed = list(pool.map(lambda item: _listed(item[0], set(item[1].values())), by_folder.items()))
        for names, listing in zip(by_folder.values(), listed, strict=True):
            found = listing or {}
            subtitles: defaultdict[str, list[tuple[str, str]]] = defaultdict(list)
            for name, file in found.items():
                if name.lower().endswith(SUFFIXES):
                    for stem in video_stems(name):
                        subtitles[stem].append(file)
            # Pictures of a folder, files inside others, and files that a listing does not have.
            others = [uri for uri, name in names.items() if name not in found]
            stamps = dict(zip(others, pool.map(media_stamp, others), strict=True))
            for uri, name in names.items():
                stamp = stamps[uri] if uri in stamps else found[name][1]
                states[uri] = FileState(
                    stamp=stamp,
                    subtitles=sorted(subtitles.get(os.path.splitext(name)[0], [])),
                    is_known=listing is not None and stamp != UNREADABLE,
                )
    return states


def _filtered_by(metadata: Mapping[str, Any]) -> dict[str, Any]:
    """Return the columns of a manifest to filter by: all but the transcript, which is searched."""
    return {name: value for name, value in metadata.items() if name != TRANSCRIPT}


# A file system is made for each URI, which takes half a millisecond in an object store.
@lru_cache(_KEPT_NAMES)
def _split(uri: str) -> tuple[str, str]:
    """Return the folder of a video and its name in there, as a file system has them.

    The folder is a path, or a URI with the query of the video's.
    """
    path = local_path(uri)
    if path is not None:
        return str(path.parent), path.name
    place, mark, query = uri.partition("?")
    folder = place.rstrip("/").rpartition("/")[0]
    try:
        name = filesystem(uri)[1].rstrip("/").rpartition("/")[2]
    except (OSError, ValueError, ImportError):
        name = place.rstrip("/").rpartition("/")[2]
    return folder + mark + query, name


def _listed(folder: str, names: Collection[str]) -> dict[str, tuple[str, str]] | None:
    """Return URI and stamp by name of the files in a folder that have these names or are subtitles.

    None if it cannot be listed. Raises OSError if an object store fails.
    """

    def is_wanted(name: str) -> bool:
        return name in names or name.lower().endswith(SUFFIXES)

    try:
        if "://" not in folder:
            with os.scandir(folder) as entries:
                wanted = [entry for entry in entries if is_wanted(entry.name) and entry.is_file()]
            found = [(entry, file) for entry in wanted if (file := _stat(entry))]
            return {
                entry.name: (local_uri(entry.path), _stamp(file.st_size, file.st_mtime_ns))
                for entry, file in found
            }
        if folder.partition("://")[0].lower() in _UNLISTED:
            return {}
        place, mark, query = folder.partition("?")
        files, path = filesystem(folder)
        return {
            info.base_name: (
                f"{place}/{in_uri(files, info.base_name)}{mark}{query}",
                _stamp(info.size, info.mtime_ns),
            )
            for info in files.get_file_info(fs.FileSelector(path))
            if info.type == fs.FileType.File and is_wanted(info.base_name)
        }
    except (OSError, ValueError, ImportError) as error:
        if not is_refused(error):  # the files of a bucket may be readable although it may not be listed
            raise_storage_fault(error)
        log.warning("%s: subtitle files cannot be listed: %s", folder, error)
        return None


def _stat(entry: "os.DirEntry[str]") -> os.stat_result | None:
    """Return the state of an entry of a folder; None if it was removed after the folder was listed."""
    try:
        return entry.stat()
    except FileNotFoundError:
        return None


def _stamp(size: int | None, changed: int | None) -> str:
    """Return what `media_stamp` does of a file."""
    return f"{-1 if size is None else size} {-1 if changed is None else changed}"
