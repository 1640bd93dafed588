"""The folder of a data set, on this machine's disks or behind a URI: which files it has, and what they are called.

    place = place_of("s3://bucket/uvrb/MSRVTT")
    place.is_file("jsonl/queries.jsonl")
    place.media("videos/video7010.mp4")          # what an item names it by; workers open that

Names are paths inside the folder, with slashes. A folder behind a URI is listed once, with all below it: asking for
each medium by itself would take longer than an evaluation.
"""

import os
from collections.abc import Sequence
from functools import cached_property
from pathlib import Path
from typing import Protocol

from pyarrow import fs

from gve_ray.media.source import PICTURE_SUFFIXES
from gve_ray.store.runfolder import filesystem, in_uri


class Place(Protocol):
    """Nothing here raises for a name that is not there, or that no file system can hold."""

    @property
    def name(self) -> str:
        """The last part of its path."""

    def is_file(self, name: str) -> bool:
        """Whether there is such a file."""

    def is_folder(self, name: str) -> bool:
        """Whether there is such a folder."""

    def has_pictures(self, name: str) -> bool:
        """Whether this is a folder with pictures in it."""

    def names(self, name: str = "") -> Sequence[str]:
        """What a folder holds, sorted, but for what begins with a dot."""

    def media(self, name: str) -> str:
        """The path or URI of a file, or of a folder of frames."""


def place_of(folder: str | Path) -> Place:
    """Opens nothing that is on a disk; lists what is behind a URI at the first question."""
    files, path = filesystem(str(folder))
    return (
        LocalPlace(path) if isinstance(files, fs.LocalFileSystem) else RemotePlace(files, path, str(folder))
    )


def is_folder(place: str) -> bool:
    """Whether a path or URI is a folder."""
    files, path = filesystem(place)
    return bool(files.get_file_info(path).type == fs.FileType.Directory)


def is_file(place: str) -> bool:
    """Whether a path or URI is a file."""
    files, path = filesystem(place)
    return bool(files.get_file_info(path).type == fs.FileType.File)


class LocalPlace:
    """`Place` on a disk. Media are absolute paths: workers stand in other folders."""

    def __init__(self, path: str) -> None:
        self._path = path

    @property
    def name(self) -> str:
        return os.path.basename(self._path)

    def is_file(self, name: str) -> bool:
        return os.path.isfile(self.media(name))

    def is_folder(self, name: str) -> bool:
        return os.path.isdir(self.media(name))

    def has_pictures(self, name: str) -> bool:
        try:
            with os.scandir(self.media(name)) as entries:
                return any(_is_picture(entry.name) for entry in entries)
        except (OSError, ValueError):
            return False

    def names(self, name: str = "") -> Sequence[str]:
        try:
            return sorted(one for one in os.listdir(self.media(name)) if not one.startswith("."))
        except (OSError, ValueError):
            return []

    def media(self, name: str) -> str:
        return os.path.join(self._path, name) if name else self._path


class RemotePlace:
    """`Place` behind a URI. A folder of frames ends in a slash there, as gve_ray.media.source wants it."""

    def __init__(self, files: fs.FileSystem, path: str, uri: str) -> None:
        self._files, self._path, self._uri = files, path, uri.rstrip("/")

    @property
    def name(self) -> str:
        return self._path.rstrip("/").rpartition("/")[2]

    @cached_property
    def _folders(self) -> dict[str, dict[str, bool]]:
        """What each folder holds: names, and whether they are files. The folder itself is called ''."""
        found: dict[str, dict[str, bool]] = {}
        selector = fs.FileSelector(self._path, allow_not_found=True, recursive=True)
        for info in self._files.get_file_info(selector):
            inner = info.path[len(self._path) :].strip("/")
            if inner:
                is_file = info.type == fs.FileType.File
                found.setdefault(os.path.dirname(inner), {})[os.path.basename(inner)] = is_file
                if not is_file:
                    found.setdefault(inner, {})
        return found

    def is_file(self, name: str) -> bool:
        return self._folders.get(os.path.dirname(name), {}).get(os.path.basename(name), False)

    def is_folder(self, name: str) -> bool:
        return name in self._folders

    def has_pictures(self, name: str) -> bool:
        return any(is_file and _is_picture(one) for one, is_file in self._folders.get(name, {}).items())

    def names(self, name: str = "") -> Sequence[str]:
        return sorted(one for one in self._folders.get(name, {}) if not one.startswith("."))

    def media(self, name: str) -> str:
        return f"{self._uri}/{in_uri(self._files, name)}" + ("/" if self.is_folder(name) else "")


def _is_picture(name: str) -> bool:
    return os.path.splitext(name)[1].lower() in PICTURE_SUFFIXES
