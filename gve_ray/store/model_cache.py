"""Cache models and adapters from object stores on the local disk.

A folder is downloaded once, and again only if it has changed. Copies are kept next to Hugging
Face's own cache (in `HF_HOME`) and are not deleted.
"""

import hashlib
import json
import os
import shutil
import tempfile
from pathlib import Path

from pyarrow import fs

from gve_ray.store.runfolder import filesystem

_MAX_TRIES = 3  # for a folder that changes while it is copied


def local_copy(uri: str) -> Path:
    """Return the path of a folder if it is local, else that of its local copy, made if necessary.

    A copy is named by a digest of the names, sizes and modification times of the files. Several
    processes on a node may copy the same folder; the first complete copy is used by all. Raises
    FileNotFoundError if the folder does not exist, OSError if it cannot be read.
    """
    files, path = filesystem(uri.rstrip("/"))
    if isinstance(files, fs.LocalFileSystem):
        return Path(path)
    for _ in range(_MAX_TRIES):
        listing = folder_listing(uri)
        target = _cache() / f"{path.rpartition('/')[2]}-{_digest(uri, listing)}"
        if target.is_dir():
            return target
        target.parent.mkdir(parents=True, exist_ok=True)
        part = Path(tempfile.mkdtemp(prefix=".part-", dir=target.parent))
        try:
            for name in listing:
                (part / name).parent.mkdir(parents=True, exist_ok=True)
                fs.copy_files(
                    f"{path}/{name}",
                    str(part / name),
                    source_filesystem=files,
                    destination_filesystem=fs.LocalFileSystem(),
                )
            if folder_listing(uri) == listing:
                _publish(part, target)
                return target
        finally:
            shutil.rmtree(part, ignore_errors=True)
    raise OSError(
        f"{uri}: its files changed during each of {_MAX_TRIES} copies; try again when it is complete"
    )


def folder_listing(uri: str) -> dict[str, tuple[int, int]]:
    """Return size in bytes and modification time in ns by path of all visible files.

    Includes subfolders. Raises FileNotFoundError if there are no files.
    """
    files, path = filesystem(uri.rstrip("/"))
    listed = files.get_file_info(fs.FileSelector(path, allow_not_found=True, recursive=True))
    sizes_and_times = {
        file.path[len(path) :].lstrip("/"): (file.size, file.mtime_ns or 0)
        for file in listed
        if file.type == fs.FileType.File
    }
    visible = {name: sizes_and_times[name] for name in sorted(sizes_and_times) if not f"/{name}".count("/.")}
    if not visible:
        raise FileNotFoundError(f"{uri}: no files there")
    return visible


def _digest(uri: str, listing: dict[str, tuple[int, int]]) -> str:
    return hashlib.sha256(json.dumps([uri.rstrip("/"), listing]).encode()).hexdigest()[:16]


def _cache() -> Path:
    from huggingface_hub.constants import HF_HOME

    return Path(HF_HOME) / "gve_ray"


def _publish(part: Path, target: Path) -> None:
    """Rename a complete copy to its final name, unless another process has done so first."""
    try:
        os.rename(part, target)
    except OSError:
        if not target.is_dir():
            raise
