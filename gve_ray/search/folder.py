"""An index's folder: `index.json` says what kind it is; the rest is the kind's own.

create_index(folder, spec, options) makes one, open_index(folder) opens what was last saved there. A folder is a path
or a URI: FAISS's one file is fetched from there and back, Lance reads and writes in place.
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
from gve_ray.search.index import IndexFileError, IndexOptions, IndexSpec, VectorIndex
from gve_ray.search.milvus import MilvusIndex
from gve_ray.search.ondisk import LanceIndex
from gve_ray.store import SharedFolder
from gve_ray.store.runfolder import write_atomically

FILE = "index.json"
_FORMAT = 1
Place = str | os.PathLike[str]


def create_index(place: Place, spec: IndexSpec, options: IndexOptions) -> VectorIndex:
    """A new index in a folder that is made, or empty. Raises IndexFileError if an index is there."""
    folder = SharedFolder(place)
    if folder.exists(FILE):
        raise IndexFileError(f"{place}: holds an index; open it, or name another folder")
    folder.path.mkdir(parents=True, exist_ok=True)
    facts: dict[str, Any] = {"format": _FORMAT, "spec": asdict(spec), "options": asdict(options)}
    index: VectorIndex
    if options.kind == "lance":
        return LanceIndex.create(folder, spec, options, _version_writer(folder, facts))
    if options.kind == "milvus":
        facts["collection"] = f"gve_{secrets.token_hex(8)}"
        index = MilvusIndex.create(_local(folder, options), spec, options, facts["collection"])
    else:
        index = FlatIndex.create(folder, spec)
    _write(folder, facts)  # last: a folder without it holds no index
    return index


def open_index(place: Place) -> VectorIndex:
    """The index as it was last saved. Raises IndexFileError if there is none, or it cannot be read."""
    folder = SharedFolder(place)
    facts = _read(folder)
    spec, options = IndexSpec(**facts["spec"]), IndexOptions(**facts["options"])
    if options.kind == "lance":
        return LanceIndex.load(folder, spec, options, _version_writer(folder, facts), facts["version"])
    if options.kind == "milvus":
        return MilvusIndex.load(_local(folder, options), spec, options, facts["collection"])
    return FlatIndex.load(folder)


def _read(folder: SharedFolder) -> dict[str, Any]:
    """What `index.json` says: spec, options, and the kind's own. Raises IndexFileError."""
    try:
        facts = json.loads(folder.fetch(FILE).read_text(encoding="utf-8"))
        if facts["format"] != _FORMAT or set(facts["options"]) != {one.name for one in fields(IndexOptions)}:
            raise ValueError("written by another version of gve_ray")
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise IndexFileError(
            f"{folder.uri}/{FILE}: no index ({error}); make it, or name its folder"
        ) from error
    return dict(facts)


def _local(folder: SharedFolder, options: IndexOptions) -> Path:
    """Where an embedded Milvus keeps its file. Raises IndexFileError where that is no local disk."""
    if options.uri is None and not folder.is_local:
        raise IndexFileError(
            f"{folder.uri}: an embedded Milvus keeps a file that only a local disk can hold; give search.uri, use "
            "another search.kind, or a local folder"
        )
    return folder.path


def _version_writer(folder: SharedFolder, facts: dict[str, Any]) -> Callable[[int], None]:
    return lambda version: _write(folder, facts | {"version": version})


def _write(folder: SharedFolder, facts: dict[str, Any]) -> None:
    data = (json.dumps(facts, indent=2) + "\n").encode()
    write_atomically(fs.LocalFileSystem(), str(folder.path / FILE), data)
    folder.publish(FILE)
