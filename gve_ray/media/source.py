"""Read bytes from a local path, any pyarrow or fsspec URI, a file inside another one, or a folder of frames.

A URI of a remote file system is a folder of frames if it ends in a slash, so no request is needed
to find out.
"""

import hashlib
import io
import os
import re
from collections.abc import Iterator
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path, PurePosixPath
from typing import Any, BinaryIO, cast
from urllib.parse import unquote_to_bytes, urlsplit

from gve_ray.media.limits import Limits, MediaError, Reason
from gve_ray.media.packed import Slice, parse_packed
from gve_ray.schema import ASSET_SCHEME

Source = str | Path | bytes

_CHUNK = 1 << 20
_BUFFER = 1 << 16  # bytes per request to a file with other files inside
_SCHEME = re.compile(r"^[A-Za-z][A-Za-z0-9+.-]+://")
_HEIC_SUFFIXES = {".heic", ".heif"} if find_spec("pillow_heif") else set()
PICTURE_SUFFIXES = frozenset({".jpg", ".jpeg", ".png", ".webp", ".bmp", ".avif"} | _HEIC_SUFFIXES)
VIDEO_SUFFIXES = frozenset(
    ".mp4 .m4v .mov .f4v .3gp .3g2 .mkv .webm .avi .flv .wmv .asf .mpg .mpeg .m2v .vob .ts .mts .m2ts "
    ".ogv .ogm .mxf .gif".split()
)


@dataclass(frozen=True, kw_only=True)
class Blob:
    """The bytes of one file: on disk, in memory, or behind a URI, from which each call reads again.

    name: for messages only. changed: time of the last change in ns; -1 if unknown.
    """

    name: str
    size: int
    path: Path | None = None
    data: bytes | None = None
    uri: str | None = None
    changed: int = -1

    def open(self) -> BinaryIO:
        return open(self.path, "rb") if self.path is not None else io.BytesIO(self.read())

    def read(self) -> bytes:
        if self.data is not None:
            return self.data
        if self.path is not None:
            return self.path.read_bytes()
        assert self.uri is not None
        with open_remote(self.uri) as file:
            return _read_at_most(file, self.size)

    def sha256(self) -> str:
        """Return the hex digest of the bytes. A file on disk is not held in memory."""
        if self.path is None:
            return hashlib.sha256(self.read()).hexdigest()
        with open(self.path, "rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()


def is_folder(source: Source) -> bool:
    """Whether this is a local path (or file:// URI) of a directory, or another URI that ends in a slash."""
    path = local_path(source)
    if path is not None:
        return path.is_dir()
    return isinstance(source, str) and source.endswith("/")


def folder_blobs(source: Source) -> Iterator[Blob]:
    """Yield the pictures of a folder of frames, sorted by name. Raises OSError if it does not exist."""
    folder = local_path(source)
    if folder is None:
        yield from _remote_blobs(str(source))
        return
    for path in sorted(folder.iterdir()):
        if path.suffix.lower() in PICTURE_SUFFIXES:
            facts = path.stat()
            yield Blob(name=str(path), size=facts.st_size, path=path, changed=facts.st_mtime_ns)


def _remote_blobs(uri: str) -> Iterator[Blob]:
    """Yield what `folder_blobs` does, from one listing of a remote folder."""
    from pyarrow.fs import FileSelector, FileType

    from gve_ray.store.runfolder import in_uri

    files, path = _filesystem(uri)
    for info in sorted(files.get_file_info(FileSelector(path)), key=lambda entry: entry.base_name):
        if info.type == FileType.File and PurePosixPath(info.base_name).suffix.lower() in PICTURE_SUFFIXES:
            own = uri + in_uri(files, info.base_name)
            yield Blob(name=own, size=info.size, uri=own, changed=info.mtime_ns or -1)


def open_source(source: Source, limits: Limits) -> Blob:
    """Return the bytes of one file, at most `limits.max_bytes`. A local file is not copied.

    Raises MediaError: unreadable, empty, too_large. Raises OSError if an object store fails, and ValueError for an
    asset reference, which only a store can resolve.
    """
    if isinstance(source, bytes):
        limits.check_bytes(len(source))
        return Blob(name=f"{len(source)} bytes", size=len(source), data=source)
    if str(source).startswith(ASSET_SCHEME):
        raise ValueError(f"{source}: an asset reference; read it with gve_ray.store.AssetReader.frames")
    path = local_path(source)
    if path is None:
        data = _fetch(str(source), limits)
        return Blob(name=str(source), size=len(data), data=data)
    try:
        size = path.stat().st_size
        with open(path, "rb"):  # so that the reason is "unreadable" and not "not a video"
            pass
    except (OSError, ValueError) as error:
        raise MediaError(Reason.UNREADABLE, f"{source}: {error}") from error
    limits.check_bytes(size)
    return Blob(name=str(source), size=size, path=path)


def file_facts(source: str) -> tuple[int, int]:
    """Return (bytes, time of the last change in ns) of a local file or a URI; -1 for what is unknown.

    Raises OSError if it does not exist.
    """
    path = local_path(source)
    if path is not None:
        facts = path.stat()
        return facts.st_size, facts.st_mtime_ns
    if packed := parse_packed(source):
        _, changed = file_facts(packed.source)
        return packed.size if isinstance(packed, Slice) else -1, changed
    files, name = _filesystem(source)
    info = files.get_file_info(name)
    if info.type.name == "NotFound":
        raise FileNotFoundError(source)
    return -1 if info.size is None else info.size, -1 if info.mtime_ns is None else info.mtime_ns


def open_binary(source: str, buffer: int) -> io.BufferedReader:
    """Open a local file or the one behind a URI. buffer: bytes per request. Raises as `open_remote`."""
    path = local_path(source)
    raw = cast(io.RawIOBase, open_remote(source)) if path is None else io.FileIO(path)
    return io.BufferedReader(raw, buffer)


def open_remote(uri: str) -> BinaryIO:
    """Open the file behind a URI for random access.

    Raises OSError if it does not exist, and ValueError or ImportError for an unsupported scheme.
    """
    if packed := parse_packed(uri):
        return packed.open(lambda source: cast(BinaryIO, open_binary(source, _BUFFER)))
    files, name = _filesystem(uri)
    opened: BinaryIO = files.open_input_file(name)
    return opened


def local_path(source: Source) -> Path | None:
    """Return the path on this machine; None for a URI of a remote file system, and for bytes."""
    if isinstance(source, bytes):
        return None
    text = str(source)
    if text.startswith("file://"):
        return Path(os.fsdecode(unquote_to_bytes(urlsplit(text).path)))  # which may not be UTF-8
    return None if _SCHEME.match(text) else Path(source)


def _filesystem(uri: str) -> tuple[Any, str]:
    """Return (file system, path in it) of a URI."""
    from gve_ray.store.runfolder import filesystem  # here, so that a decoder of local files starts faster

    return filesystem(uri)


def _fetch(uri: str, limits: Limits) -> bytes:
    try:
        with open_remote(uri) if parse_packed(uri) else _stream(uri) as stream:
            data = _read_at_most(stream, limits.max_bytes + 1)
    except (OSError, ValueError, ImportError) as error:
        raise_storage_fault(error)
        raise MediaError(Reason.UNREADABLE, f"{uri}: {error}") from error
    limits.check_bytes(len(data))
    return data


def raise_storage_fault(error: Exception) -> None:
    """Raise an error again that an object store is to blame for, and not one of its files."""
    from gve_ray.store.faults import is_storage_fault

    if is_storage_fault(error):
        raise error


def _stream(uri: str) -> BinaryIO:
    files, path = _filesystem(uri)
    stream: BinaryIO = files.open_input_stream(path)
    return stream


def _read_at_most(stream: BinaryIO, most: int) -> bytes:
    """Read up to `most` bytes, because the size that a server states may be wrong."""
    parts: list[bytes] = []
    left = most
    while left > 0 and (part := stream.read(min(_CHUNK, left))):
        parts.append(part)
        left -= len(part)
    return b"".join(parts)
