"""Work on a folder through local files, also if the folder is in an object store.

    folder = SharedFolder("s3://bucket/run")
    (folder.path / "steps.jsonl").write_text(...)        # pathlib, as on a local disk
    folder.publish("steps.jsonl")                        # upload: now other processes see it
    folder.fetch("checkpoints/step-00000120")            # download what others have published

For a local folder, `path` is the folder itself, and publish and fetch transfer nothing. Otherwise
`path` is a temporary folder on this node, empty at first, which is deleted with the object or after
the process has ended. Each file is transferred once in each direction and needs space on the disk.
"""

import copy
import fcntl
import os
import shutil
import tempfile
import weakref
from pathlib import Path
from typing import IO

from pyarrow import fs

from gve_ray.store.runfolder import filesystem

_SCRATCH = "gve-shared-"


class SharedFolder:
    """A folder given by its path or URI. Raises the errors of `filesystem`.

    path: the local folder in which to read and write. The methods take names: paths inside the
    folder, with slashes. Publishing replaces a file as a whole; the files of a folder are published
    one by one.
    """

    def __init__(self, uri: str | os.PathLike[str]) -> None:
        self.uri = str(uri).rstrip("/") or "/"
        self._files, self._root = filesystem(self.uri)
        self.is_local = isinstance(self._files, fs.LocalFileSystem)
        self._outer: SharedFolder | None = None
        self.path = Path(self._root)
        if not self.is_local:
            self.path, lock = make_scratch()
            weakref.finalize(self, remove_scratch, self.path, lock)

    @property
    def name(self) -> str:
        """The last part of the URI."""
        return self._root.rpartition("/")[2]

    def below(self, name: str) -> "SharedFolder":
        """Return a folder inside this one, which shares its local files."""
        inner = copy.copy(self)
        inner.uri, inner._root = f"{self.uri}/{name}", f"{self._root}/{name}"
        inner.path = self.path / name
        inner._outer = self  # keeps the temporary folder alive
        return inner

    def publish(self, name: str = "", *, last: str | None = None) -> None:
        """Upload a file, or all files of a folder, from `path`; other published files stay.

        last: a file of the folder that is uploaded after all others, so that a folder that contains
        it is complete. Raises FileNotFoundError if `path` has no such file or folder.
        """
        if self.is_local:
            return
        source = self.path / name
        files = [source] if source.is_file() else sorted(file for file in source.rglob("*") if file.is_file())
        if not files:
            raise FileNotFoundError(f"{source}: no files to publish as {self.uri}/{name}; write them first")
        files.sort(key=lambda file: file.relative_to(source).as_posix() == last)
        for file in files:
            self._upload(file, file.relative_to(self.path).as_posix())

    def fetch(self, name: str) -> Path:
        """Download a file, or all files of a folder, as last published; return the local path.

        Other files in `path` stay. Raises FileNotFoundError if no such file or folder was
        published.
        """
        target = self.path / name
        if self.is_local:
            if not target.exists():
                raise FileNotFoundError(f"{target}: no such file or folder")
            return target
        remote = self._remote_path(name)
        kind = self._files.get_file_info(remote).type
        if kind == fs.FileType.NotFound:
            raise FileNotFoundError(f"{self.uri}/{name}: no such file or folder")
        paths = [remote]
        if kind == fs.FileType.Directory:
            target.mkdir(parents=True, exist_ok=True)
            listed = self._files.get_file_info(fs.FileSelector(remote, recursive=True))
            paths = [file.path for file in listed if file.type == fs.FileType.File]
        for path in paths:
            self._download(path, target / path[len(remote) :].lstrip("/") if path != remote else target)
        return target

    def names(self, name: str = "") -> list[str]:
        """Return the sorted names of the files and folders in a folder; empty if it does not exist."""
        remote = self._remote_path(name)
        if self._files.get_file_info(remote).type != fs.FileType.Directory:
            return []
        entries = self._files.get_file_info(fs.FileSelector(remote, allow_not_found=True))
        return sorted(entry.base_name for entry in entries)

    def exists(self, name: str) -> bool:
        """Return whether a file or folder was published or, on a local disk, exists."""
        return bool(self._files.get_file_info(self._remote_path(name)).type != fs.FileType.NotFound)

    def remove(self, name: str) -> None:
        """Delete a file or folder, both published and local; do nothing if it does not exist."""
        kind = self._files.get_file_info(self._remote_path(name)).type
        if kind == fs.FileType.Directory:
            self._files.delete_dir(self._remote_path(name))
        elif kind != fs.FileType.NotFound:
            self._files.delete_file(self._remote_path(name))
        if not self.is_local:
            local = self.path / name
            shutil.rmtree(local) if local.is_dir() else local.unlink(missing_ok=True)

    def _remote_path(self, name: str) -> str:
        return f"{self._root}/{name}" if name else self._root

    def _upload(self, source: Path, name: str) -> None:
        # Not by an output stream: closing it after an error would publish an incomplete file.
        fs.copy_files(
            str(source),
            self._remote_path(name),
            source_filesystem=fs.LocalFileSystem(),
            destination_filesystem=self._files,
        )

    def _download(self, remote: str, target: Path) -> None:
        target.parent.mkdir(parents=True, exist_ok=True)
        part = target.with_name(f".{target.name}.{os.getpid()}.part")
        try:
            fs.copy_files(
                remote, str(part), source_filesystem=self._files, destination_filesystem=fs.LocalFileSystem()
            )
            os.replace(part, target)
        finally:
            part.unlink(missing_ok=True)  # after an error


def make_scratch() -> tuple[Path, IO[bytes]]:
    """Create a temporary folder on this node and a file next to it that this process locks.

    Deletes the temporary folders of processes that were killed, which no longer hold their locks.
    """
    root = Path(tempfile.gettempdir())
    for abandoned in root.glob(f"{_SCRATCH}*.lock"):
        try:
            with abandoned.open("rb") as lock:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                shutil.rmtree(abandoned.with_suffix(""), ignore_errors=True)
                abandoned.unlink(missing_ok=True)
        except OSError:  # locked by a running process, owned by another user, or already deleted
            continue
    number, name = tempfile.mkstemp(prefix=_SCRATCH, suffix=".lock", dir=root)
    lock = os.fdopen(number, "rb")
    fcntl.flock(lock, fcntl.LOCK_EX)
    folder = Path(name).with_suffix("")
    folder.mkdir(mode=0o700)
    return folder, lock


def remove_scratch(folder: Path, lock: IO[bytes]) -> None:
    """Delete a folder of `make_scratch` and release its lock."""
    shutil.rmtree(folder, ignore_errors=True)
    folder.with_suffix(".lock").unlink(missing_ok=True)
    lock.close()
