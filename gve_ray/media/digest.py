"""Detect whether a file has changed since it was read, by its bytes or by its size and time."""

import hashlib

from gve_ray.media.source import file_facts, folder_blobs, is_folder, open_binary, raise_storage_fault

_CHUNK = 8 << 20  # bytes per request, for a file behind a URI
UNREADABLE = "unreadable"  # the stamp of a file that cannot be read
# ValueError: not a valid path (a NUL in it) or URI. ImportError: its scheme is not supported.
_NOT_READ = (OSError, ValueError, ImportError)


def media_digest(path: str) -> str:
    """Return `Decoded.content_hash`: the sha256 (hex) of a file's bytes, or of a folder's pictures by name.

    A file behind a URI is read completely. For a file that cannot be read, it is the digest of its
    name. Raises OSError if an object store fails.
    """
    try:
        if is_folder(path):
            parts = [blob.sha256() for blob in folder_blobs(path)]
            return hashlib.sha256("".join(parts).encode()).hexdigest()
        with open_binary(path, _CHUNK) as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except _NOT_READ as error:
        raise_storage_fault(error)
        return hashlib.sha256(f"name\0{path}".encode()).hexdigest()


def media_stamp(path: str) -> str:
    """Return a text that changes when the file, or a picture of the folder, is written again.

    UNREADABLE if it cannot be read; reading the file will raise the reason. Raises OSError if an object store fails.
    """
    try:
        if not is_folder(path):
            return " ".join(map(str, file_facts(path)))
        blobs = list(folder_blobs(path))
        newest = max((blob.changed for blob in blobs), default=0)
        return f"{len(blobs)} {sum(blob.size for blob in blobs)} {newest}"
    except _NOT_READ as error:
        raise_storage_fault(error)
        return UNREADABLE
