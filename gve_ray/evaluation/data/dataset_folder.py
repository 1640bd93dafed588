"""The folder of a data set, on disk or behind a URI: which files it has, and their paths.

    folder = open_folder("s3://bucket/uvrb/MSRVTT")
    folder.is_file("jsonl/queries.jsonl")
    folder.media("videos/video7010.mp4")          # the path or URI that workers open

Names are paths inside the folder, separated by slashes. A folder behind a URI is listed once,
recursively: one request per media file would take longer than the evaluation.
"""

import os
from collections.abc import Sequence
from functools import cached_property
from pathlib import Path

from pyarrow import fs

from gve_ray.media.source import PICTURE_SUFFIXES
from gve_ray.store.runfolder import filesystem, in_uri


class DatasetFolder:
    """A data set's folder on disk. No method raises for a name that does not exist or is invalid.

    Media are absolute paths, since workers run in other directories.
    """

    def __init__(self, path: str) -> None:
        self._path = path

    @property
    def name(self) -> str:
        """The last part of the folder's path."""
        return os.path.basename(self._path.rstrip("/"))

    def is_file(self, name: str) -> bool:
        """Whether this file exists."""
        return os.path.isfile(self.media(name))

    def is_folder(self, name: str) -> bool:
        """Whether this folder exists."""
        return os.path.isdir(self.media(name))

    def has_pictures(self, name: str) -> bool:
        """Whether this is a folder that contains pictures."""
        try:
            with os.scandir(self.media(name)) as entries:
                return any(_is_picture(entry.name) for entry in entries)
        except (OSError, ValueError):
            return False

    def names(self, name: str = "") -> Sequence[str]:
        """The entries of a folder, sorted, without hidden ones."""
        try:
            return sorted(entry for entry in os.listdir(self.media(name)) if not entry.startswith("."))
        except (OSError, ValueError):
            return []

    def below(self, name: str) -> "DatasetFolder":
        """A folder inside this one, which need not exist."""
        return DatasetFolder(self.media(name))

    def media(self, name: str) -> str:
        """The path or URI of a file, or of a folder of frames."""
        return os.path.join(self._path, name) if name else self._path


class RemoteFolder(DatasetFolder):
    """A data set's folder behind a URI, listed as a whole on first access.

    URIs of frame folders end in a slash, as gve_ray.media.source expects.
    """

    def __init__(self, files: fs.FileSystem, path: str, uri: str) -> None:
        super().__init__(path)
        self._files, self._uri = files, uri.rstrip("/")

    @cached_property
    def _folders(self) -> dict[str, dict[str, bool]]:
        """By folder, its entries and whether each is a file; '' is the data set's own folder."""
        folders: dict[str, dict[str, bool]] = {}
        selector = fs.FileSelector(self._path, allow_not_found=True, recursive=True)
        for info in self._files.get_file_info(selector):
            inner = info.path[len(self._path) :].strip("/")
            if inner:
                is_file = info.type == fs.FileType.File
                folders.setdefault(os.path.dirname(inner), {})[os.path.basename(inner)] = is_file
                if not is_file:
                    folders.setdefault(inner, {})
        return folders

    def below(self, name: str) -> DatasetFolder:
        return RemoteFolder(self._files, f"{self._path.rstrip('/')}/{name}", f"{self._uri}/{name}")

    def is_file(self, name: str) -> bool:
        return self._folders.get(os.path.dirname(name), {}).get(os.path.basename(name), False)

    def is_folder(self, name: str) -> bool:
        return name in self._folders

    def has_pictures(self, name: str) -> bool:
        return any(is_file and _is_picture(entry) for entry, is_file in self._folders.get(name, {}).items())

    def names(self, name: str = "") -> Sequence[str]:
        return sorted(entry for entry in self._folders.get(name, {}) if not entry.startswith("."))

    def media(self, name: str) -> str:
        return f"{self._uri}/{in_uri(self._files, name)}" + ("/" if self.is_folder(name) else "")


def open_folder(folder: str | Path) -> DatasetFolder:
    """Open a data set's folder, given as a path or URI; nothing is read yet."""
    files, path = filesystem(str(folder))
    is_local = isinstance(files, fs.LocalFileSystem)
    return DatasetFolder(path) if is_local else RemoteFolder(files, path, str(folder))


def is_folder(path: str) -> bool:
    """Whether a path or URI is a folder."""
    files, inner = filesystem(path)
    return bool(files.get_file_info(inner).type == fs.FileType.Directory)


def is_file(path: str) -> bool:
    """Whether a path or URI is a file."""
    files, path = filesystem(path)
    return bool(files.get_file_info(path).type == fs.FileType.File)


def _is_picture(name: str) -> bool:
    return os.path.splitext(name)[1].lower() in PICTURE_SUFFIXES
