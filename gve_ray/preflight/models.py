"""Check that the weights a job names can be loaded as its config says, without loading them.

Embedder(option="model", model=config.model, settings=settings).check()   # raises PreflightError
"""

import hashlib
import json
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from gve_ray.config import AdaptedModel, ModelConfig, ModelReference, is_uri, resolve_model
from gve_ray.embedder import EmbedderSettings
from gve_ray.embedder.checkpoint_files import resolve_settings
from gve_ray.embedder.dtypes import default_dtype, itemsize
from gve_ray.endpoint import Endpoint, EndpointError
from gve_ray.job import PreflightError
from gve_ray.store.model_cache import folder_listing
from gve_ray.store.runfolder import filesystem

_SAMPLE_BYTES = 1 << 16
# The packages that are no dependency of this one, by the engine that imports them.
_PACKAGES = {"vllm": "vllm", "sentence-transformers": "sentence_transformers"}


@dataclass(frozen=True, kw_only=True)
class Weights:
    """A model or an adapter: a folder that contains `file`, on disk or behind a URI, or a hub id.

    option: the config option that names it. dtype: of the loaded weights; None: bfloat16 on a GPU, and
    on a CPU what suits it; "auto": as stored. dtype_option: the config option that sets it, if there is
    one. values: their number, if it is known without the files.
    """

    option: str
    name: str
    revision: str | None = None
    file: str = "config.json"
    dtype: str | None = None
    dtype_option: str | None = None
    values: int | None = None

    def check(self) -> None:
        """Check that the weights exist or can be downloaded. Raises PreflightError.

        Files behind a URI are listed only, since weights are large.
        """
        where = f"{self.option}={self.name!r}"
        try:
            if is_uri(self.name):
                has_file = self.file in folder_listing(self.name)
            elif (folder := Path(resolve_model(self.name))).is_dir():
                has_file = (folder / self.file).is_file()
            elif self.name.startswith((".", "/", "~")) or self.name.count("/") > 1:
                raise PreflightError(f"{where}: no such folder; name a model folder or a hub id")
            else:
                self._download()
                return
        except (OSError, ValueError, ImportError) as error:
            raise PreflightError(
                f"{where}: cannot be read ({_first_line(error)}); name a model folder or a hub id"
            ) from error
        if not has_file:
            raise PreflightError(
                f"{where}: has no {self.file}; point it to a model in the Hugging Face layout"
            )

    def sizes(self) -> dict[str, int]:
        """Return the bytes of the weights in memory by dtype: as they are loaded on a CPU, then bfloat16.

        Empty if they are unknown, because a hub does not say how large its files are. Quantised weights
        keep their dtype.
        """
        values, stored, is_fixed = self.values, "bfloat16", False
        if values is None:
            try:
                sizes, config = self._files()
            except (OSError, ValueError, PreflightError):
                return {}
            suffixes = (".safetensors", ".bin")  # a folder may have its weights in both forms
            by_suffix = (sum(size for name, size in sizes.items() if name.endswith(end)) for end in suffixes)
            stored_bytes = next(filter(None, by_suffix), 0)
            inner = config.get("text_config") or {}
            stored = str(config.get("dtype") or config.get("torch_dtype") or inner.get("dtype") or "float32")
            values, is_fixed = stored_bytes // itemsize(stored), "quantization_config" in config
        if not values:
            return {}
        loaded = self.dtype or default_dtype(on_gpu=False)
        if loaded == "auto" or is_fixed:
            return {stored: values * itemsize(stored)}
        return {name: values * itemsize(name) for name in (loaded, "bfloat16")}

    def _files(self) -> tuple[Mapping[str, int], Mapping[str, Any]]:
        """Return the size of each file by name, and the content of config.json, {} if there is none."""
        if is_uri(self.name):
            listing = {name: size for name, (size, _) in folder_listing(self.name).items()}
            files, path = filesystem(f"{self.name.rstrip('/')}/config.json")
            if "config.json" not in listing:
                return listing, {}
            with files.open_input_stream(path) as stream:
                return listing, json.loads(stream.read())
        folder = Path(resolve_model(self.name))
        listing = {}
        if not folder.is_dir():
            from huggingface_hub import HfApi
            from huggingface_hub.errors import HfHubHTTPError, OfflineModeIsEnabled

            folder = self._download().parent
            with suppress(HfHubHTTPError, OfflineModeIsEnabled, OSError):
                facts = HfApi().model_info(self.name, revision=self.revision, files_metadata=True)
                listing = {file.rfilename: file.size or 0 for file in facts.siblings or ()}
        listing = listing or {
            path.relative_to(folder).as_posix(): path.stat().st_size
            for path in folder.rglob("*")
            if path.is_file()
        }
        config = folder / "config.json"
        return listing, json.loads(config.read_text()) if config.is_file() else {}

    def digest(self) -> str:
        """Return 8 hex digits that differ if two nodes have other weights here. Raises PreflightError.

        They are of the commit of a hub id; of the names, sizes and times of the files behind a URI; or
        of the names, sizes, first and last 64 KiB of a folder's visible files, since it takes too long
        to read all of them before every job. Fine-tuned copies of a model differ only in content.
        """
        self.check()
        folder = None if is_uri(self.name) else Path(resolve_model(self.name))
        if folder is not None and not folder.is_dir():
            return self._download().parent.name[:8]
        files = folder_listing(self.name) if folder is None else _samples(folder)
        return hashlib.sha256(json.dumps(files, sort_keys=True).encode()).hexdigest()[:8]

    def _download(self) -> Path:
        """Return the path of `file` of a hub id, which is downloaded if necessary. Raises PreflightError."""
        from huggingface_hub import hf_hub_download
        from huggingface_hub.errors import HfHubHTTPError, HFValidationError

        try:
            return Path(hf_hub_download(self.name, self.file, revision=self.revision))
        except (OSError, HfHubHTTPError, HFValidationError) as error:
            raise PreflightError(
                f"{self.option}={self.name!r} (revision {self.revision or 'main'}): not a folder on this "
                f"machine, not in the Hugging Face cache, and the download failed ({type(error).__name__}: "
                f"{_first_line(error)}); check the name; if it is gated or private, "
                "request access on its page and set HF_TOKEN; or name a local folder"
            ) from error


def _samples(folder: Path) -> dict[str, tuple[int, str]]:
    """Return size and digest of the first and last 64 KiB by name of all visible files."""
    samples = {}
    for path in folder.rglob("*"):
        name = path.relative_to(folder).as_posix()
        if path.is_file() and "/." not in f"/{name}":
            size = path.stat().st_size
            with path.open("rb") as file:
                digest = hashlib.sha256(file.read(_SAMPLE_BYTES))
                file.seek(max(0, size - _SAMPLE_BYTES))
                digest.update(file.read(_SAMPLE_BYTES))
            samples[name] = (size, digest.hexdigest())
    return samples


def weights_of(
    section: str,
    model: ModelReference,
    *,
    file: str = "config.json",
    dtype: str | None = None,
    dtype_option: str | None = None,
) -> list[Weights]:
    """Return the weights of a model, if it is named, and of its adapter, if it has one.

    section: the config section with the options `model` and `adapter`; empty at the top. file: of
    the model. dtype, dtype_option: of `Weights`, for the model.
    """
    prefix = f"{section}." if section else ""
    weights = []
    if model.model is not None:
        weights.append(
            Weights(
                option=f"{prefix}model",
                name=model.model,
                revision=model.revision,
                file=file,
                dtype=dtype,
                dtype_option=dtype_option and f"{prefix}{dtype_option}",
            )
        )
    if isinstance(model, AdaptedModel) and model.adapter is not None:
        weights.append(Weights(option=f"{prefix}adapter", name=model.adapter, file="adapter_config.json"))
    return weights


@dataclass(frozen=True, kw_only=True)
class Embedder:
    """An embedding model and the settings with which a job uses it.

    option: the config section of the model. settings: None if the job takes the saved ones.
    """

    option: str
    model: ModelConfig
    settings: EmbedderSettings | None

    @property
    def weights(self) -> Sequence[Weights]:
        """The weights that workers load: none if the model is a remote endpoint."""
        model = self.model
        if model.engine == "openai":
            return []
        file = "modules.json" if model.engine == "sentence-transformers" else "config.json"
        return weights_of(self.option, model, file=file, dtype=model.dtype, dtype_option="dtype")

    def check(self) -> None:
        """Check that the weights exist and were saved with these settings. Raises PreflightError."""
        model = self.model
        package = _PACKAGES.get(model.engine)
        if package is not None and find_spec(package) is None:
            raise PreflightError(
                f"{self.option}.engine={model.engine}: the package {package} is not installed; "
                f"pip install {model.engine}"
            )
        if model.url is not None:
            check_endpoint(self.option, Endpoint(model.url, model.key_variable))
        for weights in self.weights:
            weights.check()
        if self.settings is None or model.rescale or model.engine not in ("torch", "vllm"):
            return
        adapter = resolve_model(model.adapter) if model.adapter else None
        try:
            resolve_settings(resolve_model(model.model), adapter, self.settings, revision=model.revision)
        except ValueError as error:
            raise PreflightError(
                f"{self.option}: {error}. In this config: set frames, max_pixels, min_pixels and "
                "max_tokens to the saved ones, or set rescale: true on the model to change them on purpose"
            ) from error


def check_endpoint(section: str, endpoint: Endpoint) -> None:
    """Check that an endpoint answers and takes the key. Raises PreflightError.

    section: the config section with the options `url` and `key_variable`.
    """
    try:
        endpoint.check()
    except EndpointError as error:
        where, fix = f"{section}.url={endpoint.url!r}", "start the endpoint, or correct the address"
        if error.kind == "denied":
            where = f"{section}.key_variable={endpoint.key_variable!r}"
            fix = "set the variable to a key of the endpoint, on every node, or name another variable"
        raise PreflightError(f"{where}: {_first_line(error)}; {fix}") from error


def _first_line(error: Exception) -> str:
    return (str(error).strip().splitlines() or [""])[0][:200]
