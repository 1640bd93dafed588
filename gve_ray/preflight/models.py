"""Check that the weights a job names can be loaded as its config says, without loading them.

Embedder(option="model", model=config.model, settings=settings).check()   # raises PreflightError
"""

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from gve_ray.config import ModelConfig, is_uri, resolve_model
from gve_ray.job import PreflightError
from gve_ray.store.model_cache import folder_listing

_SAMPLE_BYTES = 1 << 16

if TYPE_CHECKING:  # it loads torch, which the nodes' checks do not need
    from gve_ray.embedder import EmbedderSettings


@dataclass(frozen=True, kw_only=True)
class Weights:
    """A model or an adapter: a folder that contains `file`, on disk or behind a URI, or a hub id.

    option: the config option that names it.
    """

    option: str
    name: str
    revision: str | None = None
    file: str = "config.json"

    def check(self) -> None:
        """Check that the weights are there, or can be downloaded. Raises PreflightError."""
        check_model(self.option, self.name, self.revision, self.file)

    def digest(self) -> str:
        """Return 8 hex digits that differ if two nodes have other weights here. Raises PreflightError.

        They are of the commit of a hub id; of the names, sizes and times of the files behind a URI; or
        of the names, sizes, first and last 64 KiB of a folder's files, since it takes too long to read
        all of them before every job. Fine-tuned copies of one model differ in nothing but content.
        """
        self.check()
        if is_uri(self.name):
            return _short_digest(folder_listing(self.name))
        folder = Path(resolve_model(self.name))
        if not folder.is_dir():
            from huggingface_hub import hf_hub_download

            config = hf_hub_download(self.name, self.file, revision=self.revision)
            return Path(config).parent.name[:8]
        inner = {path: path.relative_to(folder) for path in folder.rglob("*") if path.is_file()}
        visible = {
            path: name for path, name in inner.items() if not any(part.startswith(".") for part in name.parts)
        }
        return _short_digest({name.as_posix(): _sample(path) for path, name in visible.items()})


def _sample(path: Path) -> tuple[int, str]:
    """Return a file's size in bytes and the digest of its first and last 64 KiB."""
    size = path.stat().st_size
    with path.open("rb") as file:
        digest = hashlib.sha256(file.read(_SAMPLE_BYTES))
        file.seek(max(0, size - _SAMPLE_BYTES))
        digest.update(file.read(_SAMPLE_BYTES))
    return size, digest.hexdigest()


def _short_digest(files: Mapping[str, object]) -> str:
    return hashlib.sha256(json.dumps(files, sort_keys=True).encode()).hexdigest()[:8]


def weights_of(
    section: str,
    model: str,
    adapter: str | None,
    *,
    revision: str | None = None,
    file: str = "config.json",
) -> list[Weights]:
    """Return the weights of a model and of its adapter, if it has one.

    section: the config section with the options `model` and `adapter`.
    """
    weights = [Weights(option=f"{section}.model", name=model, revision=revision, file=file)]
    if adapter is not None:
        weights.append(Weights(option=f"{section}.adapter", name=adapter, file="adapter_config.json"))
    return weights


@dataclass(frozen=True, kw_only=True)
class Embedder:
    """An embedding model with the settings that a job uses it with.

    option: the config section of the model. settings: None if the job takes the saved ones.
    """

    option: str
    model: ModelConfig
    settings: "EmbedderSettings | None"

    @property
    def weights(self) -> Sequence[Weights]:
        """What workers load: nothing if the model is a remote endpoint."""
        model = self.model
        if model.engine == "openai":
            return []
        file = "modules.json" if model.engine == "sentence-transformers" else "config.json"
        return weights_of(self.option, model.model, model.adapter, revision=model.revision, file=file)

    def check(self) -> None:
        """Check that the weights are there and were made with these settings. Raises PreflightError."""
        for weights in self.weights:
            weights.check()
        model = self.model
        if self.settings is None or model.rescale or model.engine in ("openai", "sentence-transformers"):
            return
        from gve_ray.embedder.checkpoint import resolve_settings

        adapter = resolve_model(model.adapter) if model.adapter else None
        try:
            resolve_settings(resolve_model(model.model), adapter, self.settings, revision=model.revision)
        except ValueError as error:
            raise PreflightError(
                f"{self.option}: {error}. In this config: set frames, max_pixels, min_pixels and "
                "max_tokens to the saved ones, or set rescale: true on the model to change them on purpose"
            ) from error


def check_model(option: str, name: str, revision: str | None, file: str = "config.json") -> None:
    """Check that a model is there: a folder with `file`, here or behind a URI, or a hub id.

    Files behind a URI are listed only, since weights are large. Raises PreflightError.
    """
    if is_uri(name):
        _check_remote_model(option, name, file)
        return
    try:
        folder = Path(resolve_model(name))
    except FileNotFoundError as error:
        raise PreflightError(f"{option}: {error}") from error
    if folder.is_dir():
        if not (folder / file).is_file():
            raise PreflightError(
                f"{option}={name!r}: the folder {folder} has no {file}; point it to a model in the "
                "Hugging Face layout"
            )
        return
    if name.startswith((".", "/", "~")) or name.count("/") > 1:
        raise PreflightError(f"{option}={name!r}: no such folder; name a model folder or a hub id")
    from huggingface_hub import hf_hub_download
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError

    try:
        hf_hub_download(name, file, revision=revision)
    except (OSError, HfHubHTTPError, HFValidationError) as error:
        raise PreflightError(
            f"{option}={name!r} (revision {revision or 'main'}): not a folder on this machine, not in "
            f"the Hugging Face cache, and the download failed ({type(error).__name__}: "
            f"{_first_line(error)}); check the name, log in if it is gated, or name a local folder"
        ) from error


def _check_remote_model(option: str, uri: str, file: str) -> None:
    try:
        files = folder_listing(uri)
    except (OSError, ValueError, ImportError) as error:
        raise PreflightError(
            f"{option}={uri!r}: cannot be read ({_first_line(error)}); name a model folder or a hub id"
        ) from error
    if file not in files:
        raise PreflightError(
            f"{option}={uri!r}: has no {file}; point it to a model in the Hugging Face layout"
        )


def _first_line(error: Exception) -> str:
    return (str(error).strip().splitlines() or [""])[0][:200]
