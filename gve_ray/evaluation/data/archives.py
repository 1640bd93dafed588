"""Unpacks the archives below a folder: tar and zip files, also split into parts or nested in one another.

    for result in unpack_archives("uvrb"): ...      # UnpackedArchive, with the error if it failed

An archive is unpacked where it lies. Its members are written to a folder beside it and moved when
all are there, so an interrupted run leaves no half file under its final name, and the next run
repeats that archive. Archives that were unpacked before are recorded by name, size and time in
`.unpacked.json` and are skipped. The archives themselves are kept.
"""

import io
import itertools
import json
import os
import re
import shutil
import tarfile
import zipfile
import zlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import IO

from gve_ray.evaluation.data.jsonl_items import FRAMES, IMAGES, VIDEOS

RECORD = ".unpacked.json"
_STAGING = ".unpacking"
_NAME = re.compile(
    r"(?P<whole>.+?\.(?:tar\.(?:gz|bz2|xz)|tar|tgz|zip))"
    # as `split` names parts; other files may lie beside an archive, such as its checksum
    r"(?:[.\-_]?(?:part)?[.\-_]?(?P<part>\d{1,4}|(?!gz|xz|md|txt|sha|sig|asc|tmp|bak)[a-z]{2,3}))?",
    re.IGNORECASE,
)
_DEPTH = 3  # archives inside archives
_CHUNK = 1 << 20
_MEDIA_FOLDERS = (FRAMES, IMAGES, VIDEOS, "jsonl")


@dataclass(frozen=True, kw_only=True)
class UnpackedArchive:
    """What became of one archive.

    parts: its files, relative to the root. files: the number of files that it contains. is_new: whether
    this run has unpacked it. error: why it could not be unpacked, or an empty string.
    """

    parts: tuple[str, ...]
    files: int = 0
    is_new: bool = False
    error: str = ""


def unpack_archives(root: str | os.PathLike[str]) -> Iterator[UnpackedArchive]:
    """Unpack all archives below a folder, then those that were in them, and yield each when it is done."""
    folder = Path(root)
    record = folder / RECORD
    known: dict[str, list[object]] = json.loads(record.read_text()) if record.exists() else {}
    done: set[tuple[Path, ...]] = set()
    for _ in range(_DEPTH):
        waiting = [parts for parts in find_archives(folder) if parts not in done]
        for parts in waiting:
            done.add(parts)
            names = tuple(part.relative_to(folder).as_posix() for part in parts)
            stamp = [[part.stat().st_size, part.stat().st_mtime_ns] for part in parts]
            if (entry := known.get(names[0])) and entry[0] == stamp:
                yield UnpackedArchive(parts=names, files=int(str(entry[1])))
                continue
            try:
                files = _unpack(parts)
            except (OSError, ValueError, tarfile.TarError, zipfile.BadZipFile, EOFError, zlib.error) as error:
                yield UnpackedArchive(parts=names, error=str(error) or type(error).__name__)
                continue
            known[names[0]] = [stamp, files]
            part_file = record.with_suffix(".part")
            part_file.write_text(json.dumps(known, indent=1))
            part_file.replace(record)
            yield UnpackedArchive(parts=names, files=files, is_new=True)


def find_archives(folder: Path) -> list[tuple[Path, ...]]:
    """Return the archives below a folder, each as its parts in order."""
    groups: dict[Path, dict[str, Path]] = {}
    for parent, folders, names in os.walk(folder):
        folders[:] = sorted(name for name in folders if name != _STAGING)
        for name in sorted(names):
            if match := _NAME.fullmatch(name):
                whole = Path(parent) / match["whole"]
                groups.setdefault(whole, {})[match["part"] or ""] = Path(parent) / name
    archives: list[tuple[Path, ...]] = []
    for parts in groups.values():
        if "" in parts:  # the whole archive; parts beside it are those that it was joined from
            archives.append((parts[""],))
        else:
            order = sorted(parts, key=lambda part: (len(part) if part.isdigit() else 0, part))
            archives.append(tuple(parts[part] for part in order))
    return archives


def _unpack(parts: Sequence[Path]) -> int:
    """Unpack one archive where it lies and return the number of its files.

    Raises ValueError if a part is missing or a member would be written outside, OSError, and the errors
    of tarfile and zipfile.
    """
    match = _NAME.fullmatch(parts[0].name)
    assert match is not None
    if match["part"]:
        _check_parts(parts)
    stem = re.sub(r"\.(tar(\.\w+)?|tgz|zip)$", "", match["whole"], flags=re.IGNORECASE)
    staging = parts[0].parent / _STAGING
    shutil.rmtree(staging, ignore_errors=True)  # of an interrupted run
    staging.mkdir()
    try:
        with _JoinedFiles(parts) as joined, io.BufferedReader(joined, _CHUNK) as file:
            if match["whole"].lower().endswith(".zip"):
                files = _unzip(file, staging)
            else:
                with tarfile.open(fileobj=file, mode="r:*") as tar:
                    tar.extractall(staging, filter="data")
                    files = sum(member.isfile() for member in tar.getmembers())
        inner = [entry.name for entry in staging.iterdir()]
        # Some releases pack the content of videos_frames/ and not the folder itself.
        target = parts[0].parent
        if stem in _MEDIA_FOLDERS and stem not in inner and target.name != stem:
            target /= stem
        _move(staging, target)
    finally:
        shutil.rmtree(staging, ignore_errors=True)
    return files


def _check_parts(parts: Sequence[Path]) -> None:
    """Raise ValueError if a part is missing between the first and the last, or the first one is."""
    labels = [match["part"] for part in parts if (match := _NAME.fullmatch(part.name))]
    digits = labels[0].isdigit()
    if digits:
        first = int(labels[0])
        numbers = [int(label) for label in labels]
        missing = sorted(set(range(0 if first == 0 else 1, numbers[-1] + 1)) - set(numbers))
        gaps = [str(number).zfill(len(labels[0])) for number in missing]
    else:
        letters = "abcdefghijklmnopqrstuvwxyz"
        names = ["".join(name) for name in itertools.product(letters, repeat=len(labels[0]))]
        gaps = sorted(set(names[: names.index(labels[-1].lower()) + 1]) - {label.lower() for label in labels})
    if gaps:
        shown = ", ".join(gaps[:5])
        raise ValueError(f"part {shown} is missing beside {parts[0].name}; download it and run again")


class _JoinedFiles(io.RawIOBase):
    """The bytes of several files, one after the other, as one file that can be read and sought."""

    def __init__(self, paths: Sequence[Path]) -> None:
        self._files: list[IO[bytes]] = [path.open("rb") for path in paths]
        self._ends = list(itertools.accumulate(path.stat().st_size for path in paths))
        self._position = 0

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def tell(self) -> int:
        return self._position

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        base = {os.SEEK_SET: 0, os.SEEK_CUR: self._position, os.SEEK_END: self._ends[-1]}[whence]
        self._position = max(base + offset, 0)
        return self._position

    def readinto(self, buffer: memoryview) -> int:  # type: ignore[override]
        for file, start, end in zip(self._files, [0, *self._ends], self._ends, strict=False):
            if self._position < end:
                file.seek(self._position - start)
                data = file.read(min(len(buffer), end - self._position))
                buffer[: len(data)] = data
                self._position += len(data)
                return len(data)
        return 0

    def close(self) -> None:
        for file in self._files:
            file.close()
        super().close()


def _unzip(file: IO[bytes], target: Path) -> int:
    with zipfile.ZipFile(file) as archive:
        members = [member for member in archive.infolist() if not member.is_dir()]
        for member in members:
            # zipfile would write such a member under another name inside the folder.
            path = PurePosixPath(member.filename)
            if path.is_absolute() or ".." in path.parts:
                raise ValueError(f"{member.filename!r} would be written outside of the folder; not unpacked")
        archive.extractall(target)
    return len(members)


def _move(source: Path, target: Path) -> None:
    """Move the content of a folder into another; files of the same name are replaced, folders are merged."""
    target.mkdir(exist_ok=True)
    for entry in list(source.iterdir()):
        goal = target / entry.name
        if entry.is_dir() and goal.is_dir():
            _move(entry, goal)
        elif goal.is_dir():
            raise ValueError(
                f"{goal} is a folder, and the archive has a file of that name; move the folder away"
            )
        else:
            entry.replace(goal)
