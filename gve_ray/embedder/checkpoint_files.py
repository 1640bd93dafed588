"""Read the small files of a checkpoint: its settings and its model type. Needs neither torch nor transformers.

settings = resolve_settings("Alibaba-NLP/GVE-3B", None, None)
"""

import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

from gve_ray.embedder.model_families import ModelFamily, model_family
from gve_ray.embedder.settings import SETTINGS_FILE, EmbedderSettings, agreed

PathOrId = str | os.PathLike[str]


def resolve_settings(
    path_or_id: PathOrId,
    adapter: PathOrId | None,
    expected: EmbedderSettings | None,
    *,
    revision: str | None = None,
) -> EmbedderSettings:
    """Return the settings saved with the adapter, else with the model, else `expected`.

    Without any of them, returns the defaults. Raises ValueError if the saved settings differ from
    the expected ones.
    """
    for source, version in ((adapter, None), (path_or_id, revision)):
        path = _find(source, SETTINGS_FILE, version) if source is not None else None
        if path is not None:
            return agreed(EmbedderSettings.from_file(path), expected, str(source))
    return agreed(None, expected, str(path_or_id))


def complete_settings(
    path_or_id: PathOrId, adapter: PathOrId | None, expected: EmbedderSettings, revision: str | None
) -> EmbedderSettings:
    """Return the expected settings, with the model's default instruction if they have none.

    It is that saved with the weights, else that of the model's family. Raises ValueError if the
    family is not supported.
    """
    if expected.default_instruction is not None:
        return expected
    saved = resolve_settings(path_or_id, adapter, None, revision=revision)
    if saved.default_instruction is None:
        saved = family_of(path_or_id, revision=revision).complete(saved)
    return replace(expected, default_instruction=saved.default_instruction)


def family_of(path_or_id: PathOrId, *, revision: str | None = None) -> ModelFamily:
    """Return the family of a checkpoint in a folder or on the hub.

    Raises ValueError if it is not supported, OSError if there is no config.json, or if it cannot be read.
    """
    path = _find(path_or_id, "config.json", revision)
    if path is None:
        raise OSError(
            f"{path_or_id}: no config.json there, on the hub or in its cache; name a model folder or a hub id"
        )
    try:
        config = json.loads(path.read_bytes())
    except ValueError as error:
        raise OSError(f"{path}: not valid JSON ({error}); download the checkpoint again") from error
    return model_family(config.get("model_type"))


def _find(path_or_id: PathOrId, name: str, revision: str | None) -> Path | None:
    """Return the path of a file of a checkpoint, or None if the checkpoint has no such file.

    A file on the hub is downloaded if it is not in the cache.
    """
    if (folder := Path(path_or_id)).is_dir():
        return folder / name if (folder / name).is_file() else None
    from huggingface_hub import hf_hub_download
    from huggingface_hub.errors import EntryNotFoundError, HFValidationError, RevisionNotFoundError

    with hub_access(path_or_id):
        try:
            return Path(hf_hub_download(str(path_or_id), name, revision=revision))
        except EntryNotFoundError:  # also raised if the hub does not answer and the file is not in the cache
            return None
        except RevisionNotFoundError as error:
            raise OSError(
                f"{path_or_id}: the hub has no revision {revision!r}; name a branch, a tag or a commit"
            ) from error
        except HFValidationError as error:
            raise OSError(
                f"{path_or_id}: this folder does not exist, and the name is not a hub id ({error})"
            ) from error


@contextmanager
def hub_access(path_or_id: PathOrId) -> Iterator[None]:
    """Raise PermissionError that names the repository and HF_TOKEN if the hub refuses access."""
    try:
        yield
    except OSError as error:
        cause: BaseException | None = error
        while cause is not None:
            status = getattr(getattr(cause, "response", None), "status_code", None)
            if status in (401, 403):
                raise PermissionError(
                    f"{path_or_id}: the hub refused access (HTTP {status}); check the name, and if the repository is "
                    "gated or private, request access on its page and set HF_TOKEN to a token of that account"
                ) from error
            cause = cause.__cause__ or cause.__context__
        raise
