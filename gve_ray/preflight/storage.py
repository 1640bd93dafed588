"""Check on one node that inputs can be read, and that outputs are on storage that all nodes share.

size = file_size("/shared/videos/a.mp4")        # the same on every node, or an OSError
files = ProbeFiles.create("/shared/run")
files.write(DRIVER)                             # then on a node: files.exists(DRIVER)
"""

import secrets
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass

from pyarrow import fs

from gve_ray.media.source import file_facts, folder_blobs, is_folder, local_path, open_remote
from gve_ray.store.runfolder import filesystem

DRIVER = "driver"


def first_files(uri: str, limit: int) -> list[str]:
    """Return URIs of at most `limit` files: the file itself, or one file of each folder level.

    Takes the first visible file by name, then continues in the first visible folder. Raises
    FileNotFoundError if there is none.
    """
    files, path = filesystem(uri)
    uri = uri.rstrip("/")
    kind = files.get_file_info(path).type
    if kind == fs.FileType.NotFound:
        raise FileNotFoundError("no such file or folder")
    if kind == fs.FileType.File:
        return [uri]
    uris: list[str] = []
    inner: str | None = ""
    while inner is not None and len(uris) < limit:
        entries = files.get_file_info(fs.FileSelector(f"{path}{inner}"))
        visible = {entry.base_name: entry.type for entry in entries if not entry.base_name.startswith(".")}
        first_file, first_folder = (
            min((name for name, type_ in visible.items() if type_ == wanted), default=None)
            for wanted in (fs.FileType.File, fs.FileType.Directory)
        )
        uris += [f"{uri}{inner}/{first_file}"] if first_file else []
        inner = f"{inner}/{first_folder}" if first_folder else None
    if not uris:
        raise FileNotFoundError("a folder without files")
    return uris


def readable_sizes(uris: Sequence[str]) -> dict[str, int]:
    """Return the size of each file that can be read. Raises the last error if none can."""
    sizes, problem = {}, None
    for uri in uris:
        try:
            sizes[uri] = file_size(uri)
        except (OSError, ValueError, ImportError) as error:
            problem = error
    if not sizes and problem is not None:
        raise problem
    return sizes


def file_size(uri: str) -> int:
    """Return the bytes of a file after reading the first, or the frames in a folder. Raises OSError."""
    if is_folder(uri):
        return sum(1 for _ in folder_blobs(uri))
    size, _ = file_facts(uri)
    path = local_path(uri)
    with path.open("rb") if path is not None else open_remote(uri) as file:
        file.read(1)
    return size


@dataclass(frozen=True, kw_only=True)
class ProbeFiles:
    """Small files in an output folder, one by the driver and one by each node.

    levels: how far above `uri` the nearest existing local folder is. The files go there, so that no
    folder is made. The path is resolved on each node, so a relative path means that node's own
    folder. An object store may keep an empty marker of the folder.
    """

    uri: str
    levels: int
    token: str

    @classmethod
    def create(cls, uri: str) -> "ProbeFiles":
        """Find the existing folder on this machine, and choose a random name for the files."""
        files, path = filesystem(uri)
        levels = 0
        if isinstance(files, fs.LocalFileSystem):
            while files.get_file_info(path or "/").type != fs.FileType.Directory:
                path, levels = path.rpartition("/")[0], levels + 1
        return cls(uri=uri, levels=levels, token=secrets.token_hex(8))

    def write(self, author: str) -> None:
        """Write the author's file. Raises OSError."""
        files, path = self._file(author)
        try:
            with files.open_output_stream(path) as stream:
                stream.write(self._content(author))
        except OSError as error:
            raise OSError(f"cannot be written: {error}") from error

    def exists(self, author: str) -> bool:
        """Return whether the author's file is there, with the content that was written."""
        files, path = self._file(author)
        try:
            with files.open_input_stream(path) as stream:
                return bool(stream.read() == self._content(author))
        except FileNotFoundError:
            return False

    def remove(self, author: str) -> None:
        """Delete the author's file if it exists."""
        files, path = self._file(author)
        with suppress(OSError):  # object stores report a missing file in different ways
            files.delete_file(path)

    def _file(self, author: str) -> tuple[fs.FileSystem, str]:
        files, path = filesystem(self.uri)
        for _ in range(self.levels):
            path = path.rpartition("/")[0]
        return files, f"{path}/.gve-doctor-{self.token}-{author}"

    def _content(self, author: str) -> bytes:
        return f"{self.token} {author}\n".encode()
