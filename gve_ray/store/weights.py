"""Identify model weights: by commit for a hub model, by a digest of its files for a folder.

    weights_identity("Alibaba-NLP/GVE-3B", None)      # "Alibaba-NLP/GVE-3B@<commit>"
    weights_identity("/models/mine", None)            # "sha256:<64 hex digits>"

The identity is exact: it keys caches of embeddings. `sampled_folder_digest` is a cheap stand-in
where many processes identify the same large folder.
"""

import hashlib
import os
from pathlib import Path

from gve_ray.config import resolve_model

_SAMPLED_SUFFIXES = (".json", ".safetensors", ".jinja", ".bin")
_HASHED_WHOLE_BELOW = 2**30  # bytes
_SAMPLE = 2**20  # bytes


def weights_identity(name: str, revision: str | None, file: str = "config.json") -> str:
    """Return `sha256:<digest>` for a folder, `<id>@<commit>` for a hub model.

    name: a folder, URI, `package://` name or hub id. revision: of the hub model. file: a file that
    every such model has; it is downloaded to learn the commit. Raises OSError if the weights cannot
    be read.
    """
    folder = Path(resolve_model(name))
    if folder.is_dir():
        return f"sha256:{folder_digest(folder)}"
    from huggingface_hub import hf_hub_download

    path = Path(hf_hub_download(name, file, revision=revision))  # .../snapshots/<commit>/config.json
    return f"{name}@{path.parent.name}"


def folder_digest(folder: Path) -> str:
    """Return the sha256 (hex) of the names and contents of all visible files in and below a folder."""
    digest = hashlib.sha256()
    for path in sorted(folder.rglob("*")):
        inner = path.relative_to(folder)
        if path.is_file() and not any(part.startswith(".") for part in inner.parts):
            with path.open("rb") as file:
                content = hashlib.file_digest(file, "sha256").hexdigest()
            digest.update(f"{inner.as_posix()}\0{content}\n".encode())
    return digest.hexdigest()


def sampled_folder_digest(folder: Path) -> str:
    """Return a sha256 (hex) of a model folder's top-level files, without reading large files whole.

    Covers configs, templates and weights. Of files of 1 GiB or more it reads the first MiB, which
    holds the names and shapes of all tensors, and the last MiB.
    """
    digest = hashlib.sha256()
    for path in sorted(folder.iterdir()):
        if path.suffix not in _SAMPLED_SUFFIXES:
            continue
        size = path.stat().st_size
        digest.update(f"{path.name}:{size}:".encode())
        with path.open("rb") as file:
            if size < _HASHED_WHOLE_BELOW:
                digest.update(file.read())
            else:
                digest.update(file.read(_SAMPLE))
                file.seek(-_SAMPLE, os.SEEK_END)
                digest.update(file.read())
    return digest.hexdigest()
