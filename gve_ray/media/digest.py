"""Whether a file is still the one that was read: by its bytes, or at a glance by its size and time."""

import hashlib
from pathlib import Path

from gve_ray.media.source import file_facts, folder_blobs, is_folder

UNREADABLE = "unreadable"  # the stamp of what is not there
# ValueError: no path (a NUL in it) or URI. ImportError: nothing installed speaks its scheme.
_NOT_READ = (OSError, ValueError, ImportError)


def media_digest(path: str) -> str:
    """sha256 (hex) of a file's bytes, or of a folder's pictures in the order of their names: `content_hash`.

    Of a URI that is no local file, and of a path that cannot be read, the digest of its name.
    """
    try:
        if is_folder(path):
            parts = [blob.sha256() for blob in folder_blobs(path)]
            return hashlib.sha256("".join(parts).encode()).hexdigest()
        with open(path, "rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except _NOT_READ:
        return hashlib.sha256(f"name\0{path}".encode()).hexdigest()


def media_stamp(path: str) -> str:
    """Changes when the file, local or behind a URI, or a picture of the folder, is written anew. UNREADABLE where
    that cannot be told: reading the file will say why."""
    try:
        if not is_folder(path):
            return " ".join(map(str, file_facts(path)))
        stats = [Path(blob.path).stat() for blob in folder_blobs(path) if blob.path is not None]
        newest = max((one.st_mtime_ns for one in stats), default=0)
        return f"{len(stats)} {sum(one.st_size for one in stats)} {newest}"
    except _NOT_READ:
        return UNREADABLE
