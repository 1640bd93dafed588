"""A folder behind a URI as a folder on this node, fetched once and again only when it has changed.

For what is read whole and by its path: models and adapters. Copies lie beside Hugging Face's own (`HF_HOME`), and
stay there.
"""

import hashlib
import json
import os
import shutil
import tempfile
from pathlib import Path

from pyarrow import fs

from gve_ray.store.runfolder import filesystem

_TRIES = 3  # of a folder that is written while it is read


def local_copy(uri: str) -> Path:
    """The folder, or its copy. Processes of one node may ask at the same time: the first copy that is whole counts.

    A copy's name is that of what the folder holds: names, sizes and times of change. Raises FileNotFoundError if
    there is none, OSError if it cannot be read.
    """
    files, path = filesystem(uri.rstrip("/"))
    if isinstance(files, fs.LocalFileSystem):
        return Path(path)
    for _ in range(_TRIES):
        held = folder_listing(uri)
        target = _cache() / f"{path.rpartition('/')[2]}-{_digest(uri, held)}"
        if target.is_dir():
            return target
        target.parent.mkdir(parents=True, exist_ok=True)
        part = Path(tempfile.mkdtemp(prefix=".part-", dir=target.parent))
        try:
            for name in held:
                (part / name).parent.mkdir(parents=True, exist_ok=True)
                fs.copy_files(
                    f"{path}/{name}",
                    str(part / name),
                    source_filesystem=files,
                    destination_filesystem=fs.LocalFileSystem(),
                )
            if folder_listing(uri) == held:
                _name(part, target)
                return target
        finally:
            shutil.rmtree(part, ignore_errors=True)
    raise OSError(f"{uri}: was written while it was copied, {_TRIES} times; try again when it is whole")


def folder_listing(uri: str) -> dict[str, tuple[int, int]]:
    """Size in bytes and time of change in ns, by name inside it, of all visible files of a folder and below.

    Raises FileNotFoundError if there are none.
    """
    files, path = filesystem(uri.rstrip("/"))
    listed = files.get_file_info(fs.FileSelector(path, allow_not_found=True, recursive=True))
    found = {
        one.path[len(path) :].lstrip("/"): (one.size, one.mtime_ns or 0)
        for one in listed
        if one.type == fs.FileType.File
    }
    visible = {name: found[name] for name in sorted(found) if not f"/{name}".count("/.")}
    if not visible:
        raise FileNotFoundError(f"{uri}: no files there")
    return visible


def _digest(uri: str, held: dict[str, tuple[int, int]]) -> str:
    return hashlib.sha256(json.dumps([uri.rstrip("/"), held]).encode()).hexdigest()[:16]


def _cache() -> Path:
    from huggingface_hub.constants import HF_HOME

    return Path(HF_HOME) / "gve_ray"


def _name(part: Path, target: Path) -> None:
    """Give a whole copy its name, unless another process has been faster."""
    try:
        os.rename(part, target)
    except OSError:
        if not target.is_dir():
            raise
