"""Create an index in a folder, and open it again.

    index = create_index(folder, spec, options)
    index = open_index(folder)                    # as it was last saved

A folder is a path or a URI. Its `index.json` states the kind of index; the other files depend on
the kind. FAISS's file is downloaded and uploaded as a whole, Lance reads and writes in place.
"""

import json
import os
import secrets
from collections.abc import Callable
from dataclasses import asdict, fields
from pathlib import Path
from typing import Any

from pyarrow import fs

from gve_ray.search.flat import FlatIndex
from gve_ray.search.index import ExclusiveIndexError, IndexFileError, IndexOptions, IndexSpec, VectorIndex
from gve_ray.search.milvus import MilvusIndex
from gve_ray.search.ondisk import LanceIndex
from gve_ray.store import SharedFolder
from gve_ray.store.runfolder import write_atomically

FILE = "index.json"
_FORMAT = 2
_BEFORE_STRUCTURES = 1  # the format in which only lance had a structure
PathOrUri = str | os.PathLike[str]


def create_index(uri: PathOrUri, spec: IndexSpec, options: IndexOptions) -> VectorIndex:
    """Create an index in a new or empty folder. Raises IndexFileError if the folder has an index."""
    folder = SharedFolder(uri)
    if folder.exists(FILE):
        raise IndexFileError(f"{uri}: already contains an index; open it, or name another folder")
    folder.path.mkdir(parents=True, exist_ok=True)
    facts: dict[str, Any] = {"format": _FORMAT, "spec": asdict(spec), "options": asdict(options)}
    index: VectorIndex
    if options.kind == "lance":
        return LanceIndex.create(folder, spec, options, _version_writer(folder, facts))
    if options.kind == "milvus":
        facts["collection"] = f"gve_{secrets.token_hex(8)}"
        index = MilvusIndex.create(_local(folder, options), spec, options, facts["collection"])
    else:
        index = FlatIndex.create(folder, spec, options)
    _write(folder, facts)  # last, because a folder without this file counts as having no index
    return index


def open_index(uri: PathOrUri, *, shared: bool = False) -> VectorIndex:
    """Open the index as it was last saved.

    shared: another process has the same index open. Raises IndexFileError if the index is missing
    or unreadable, and ExclusiveIndexError if it is an embedded Milvus and `shared` is true.
    """
    folder = SharedFolder(uri)
    facts = _read(folder)
    spec, options = IndexSpec(**facts["spec"]), IndexOptions(**facts["options"])
    if options.kind == "lance":
        return LanceIndex.load(folder, spec, options, _version_writer(folder, facts), facts["version"])
    if options.kind == "milvus":
        if shared and options.uri is None:
            raise ExclusiveIndexError(f"{uri}: only one process can open an embedded Milvus; give search.uri")
        return MilvusIndex.load(_local(folder, options), spec, options, facts["collection"])
    return FlatIndex.load(folder, options)


def _read(folder: SharedFolder) -> dict[str, Any]:
    """Return the content of `index.json`: spec, options, and values of the kind.

    Raises IndexFileError if it is missing or was written by another version.
    """
    try:
        facts = json.loads(folder.fetch(FILE).read_text(encoding="utf-8"))
        if facts["format"] == _BEFORE_STRUCTURES and facts["options"]["kind"] != "lance":
            facts["options"]["structure"] = None
        if facts["format"] not in (_BEFORE_STRUCTURES, _FORMAT) or set(facts["options"]) - {
            option.name for option in fields(IndexOptions)
        }:
            raise ValueError("written by another version of gve_ray")
    except (OSError, ValueError, KeyError, TypeError) as error:
        advice = f"no index ({error}); create it, or name the folder of an index"
        raise IndexFileError.of(error, f"{folder.uri}/{FILE}", advice) from error
    return dict(facts)


def _local(folder: SharedFolder, options: IndexOptions) -> Path:
    """Return the folder for the file of an embedded Milvus.

    Raises IndexFileError if that would not be on a local disk.
    """
    if options.uri is None and not folder.is_local:
        raise IndexFileError(
            f"{folder.uri}: an embedded Milvus needs a local disk for its file; give search.uri, use another "
            "search.kind, or a local folder"
        )
    return folder.path


def _version_writer(folder: SharedFolder, facts: dict[str, Any]) -> Callable[[int], None]:
    return lambda version: _write(folder, facts | {"version": version})


def _write(folder: SharedFolder, facts: dict[str, Any]) -> None:
    data = (json.dumps(facts, indent=2) + "\n").encode()
    write_atomically(fs.LocalFileSystem(), str(folder.path / FILE), data)
    folder.publish(FILE)
