"""A run's folder that code works on as local files, wherever it is kept.

    folder = SharedFolder("s3://bucket/run")
    (folder.path / "steps.jsonl").write_text(...)        # pathlib, as on any disk
    folder.publish("steps.jsonl")                        # now others see it
    folder.fetch("checkpoints/step-00000120")            # what others published, as a local path

On a local disk `path` is the folder itself, and publish and fetch do nothing. Elsewhere it is a scratch copy on this
node, empty at first, that goes with the object or its process: one transfer of each file each way, and disk for it.
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
    """A folder by its path or URI. path: where it is worked on. Raises what `filesystem` raises.

    Names are paths inside the folder, with slashes. Who publishes a file replaces it as a whole; of a tree that is
    published each file appears by itself.
    """

    def __init__(self, uri: str | os.PathLike[str]) -> None:
        self.uri = str(uri).rstrip("/") or "/"
        self._files, self._root = filesystem(self.uri)
        self.is_local = isinstance(self._files, fs.LocalFileSystem)
        self._outer: SharedFolder | None = None
        self.path = Path(self._root)
        if not self.is_local:
            self.path, lock = _make_scratch()
            weakref.finalize(self, _remove_scratch, self.path, lock)

    @property
    def name(self) -> str:
        """The last part of the URI."""
        return self._root.rpartition("/")[2]

    def below(self, name: str) -> "SharedFolder":
        """A folder inside this one, worked on in the same place."""
        inner = copy.copy(self)
        inner.uri, inner._root = f"{self.uri}/{name}", f"{self._root}/{name}"
        inner.path = self.path / name
        inner._outer = self  # whose scratch it is
        return inner

    def publish(self, name: str = "", *, last: str | None = None) -> None:
        """Show others a file, or all files of a folder, as they are in `path` now; what else is there stays.

        last: a file of that folder that is to appear after all others, so that a tree which has it is whole.
        Raises FileNotFoundError if nothing of that name was made.
        """
        if self.is_local:
            return
        source = self.path / name
        made = [source] if source.is_file() else sorted(one for one in source.rglob("*") if one.is_file())
        if not made:
            raise FileNotFoundError(f"{source}: nothing was made there to be published as {self.uri}/{name}")
        made.sort(key=lambda one: one.relative_to(source).as_posix() == last)
        for one in made:
            self._send(one, one.relative_to(self.path).as_posix())

    def fetch(self, name: str) -> Path:
        """A file, or all files of a folder, as they were last published: where they are now. What else is in
        `path` stays. Raises FileNotFoundError if nothing of that name was published."""
        target = self.path / name
        if self.is_local:
            if not target.exists():
                raise FileNotFoundError(f"{target}: no such file or folder")
            return target
        place = self._at(name)
        kind = self._files.get_file_info(place).type
        if kind == fs.FileType.NotFound:
            raise FileNotFoundError(f"{self.uri}/{name}: no such file or folder")
        found = [place]
        if kind == fs.FileType.Directory:
            target.mkdir(parents=True, exist_ok=True)
            listed = self._files.get_file_info(fs.FileSelector(place, recursive=True))
            found = [one.path for one in listed if one.type == fs.FileType.File]
        for one in found:
            self._bring(one, target / one[len(place) :].lstrip("/") if one != place else target)
        return target

    def names(self, name: str = "") -> list[str]:
        """What a folder holds, sorted; nothing if it is not there."""
        place = self._at(name)
        if self._files.get_file_info(place).type != fs.FileType.Directory:
            return []
        return sorted(
            one.base_name for one in self._files.get_file_info(fs.FileSelector(place, allow_not_found=True))
        )

    def exists(self, name: str) -> bool:
        """Whether a file or folder was published (on a local disk: is there)."""
        return bool(self._files.get_file_info(self._at(name)).type != fs.FileType.NotFound)

    def remove(self, name: str) -> None:
        """Delete a file or folder, here and for all; nothing if it is not there."""
        kind = self._files.get_file_info(self._at(name)).type
        if kind == fs.FileType.Directory:
            self._files.delete_dir(self._at(name))
        elif kind != fs.FileType.NotFound:
            self._files.delete_file(self._at(name))
        if not self.is_local:
            here = self.path / name
            shutil.rmtree(here) if here.is_dir() else here.unlink(missing_ok=True)

    def _at(self, name: str) -> str:
        return f"{self._root}/{name}" if name else self._root

    def _send(self, source: Path, name: str) -> None:
        # Not by a stream of ours: closing it after an error would show others the part that was written.
        fs.copy_files(
            str(source),
            self._at(name),
            source_filesystem=fs.LocalFileSystem(),
            destination_filesystem=self._files,
        )

    def _bring(self, place: str, target: Path) -> None:
        target.parent.mkdir(parents=True, exist_ok=True)
        part = target.with_name(f".{target.name}.{os.getpid()}.part")
        fs.copy_files(
            place, str(part), source_filesystem=self._files, destination_filesystem=fs.LocalFileSystem()
        )
        os.replace(part, target)


def _make_scratch() -> tuple[Path, IO[bytes]]:
    """A new folder on this node, and a lock beside it that this process holds; away with those of the killed."""
    root = Path(tempfile.gettempdir())
    for left in root.glob(f"{_SCRATCH}*.lock"):
        try:
            with left.open("rb") as lock:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                shutil.rmtree(left.with_suffix(""), ignore_errors=True)
                left.unlink(missing_ok=True)
        except OSError:  # held by a process that lives, another user's, or just gone
            continue
    number, name = tempfile.mkstemp(prefix=_SCRATCH, suffix=".lock", dir=root)
    lock = os.fdopen(number, "rb")
    fcntl.flock(lock, fcntl.LOCK_EX)
    folder = Path(name).with_suffix("")
    folder.mkdir(mode=0o700)
    return folder, lock


def _remove_scratch(folder: Path, lock: IO[bytes]) -> None:
    shutil.rmtree(folder, ignore_errors=True)
    folder.with_suffix(".lock").unlink(missing_ok=True)
    lock.close()
