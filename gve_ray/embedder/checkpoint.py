"""Load a base model with or without an adapter, add a new adapter, and save an adapter.

An adapter folder holds PEFT's `adapter_config.json` and `adapter_model.safetensors`, and
`embedder.json`, the settings with which the adapter was trained.
"""

import os
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from gve_ray.embedder.conversation import check_tokenizer
from gve_ray.embedder.model import GveModel, load_model
from gve_ray.embedder.model_families import model_family
from gve_ray.embedder.settings import SETTINGS_FILE, EmbedderSettings, agreed
from gve_ray.errors import shortened

PathOrId = str | os.PathLike[str]
_ADAPTER_NAMES = {
    r"^model\.(?=layers\.)": "model.language_model."
}  # old name -> new name, without PEFT's prefix


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
        path = _settings_file(source, version) if source is not None else None
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
    from transformers import AutoConfig

    if expected.default_instruction is not None:
        return expected
    saved = resolve_settings(path_or_id, adapter, None, revision=revision)
    if saved.default_instruction is None:
        config = AutoConfig.from_pretrained(path_or_id, revision=revision)
        saved = model_family(config.model_type).complete(saved)
    return replace(expected, default_instruction=saved.default_instruction)


def _settings_file(path_or_id: PathOrId, revision: str | None) -> str | None:
    from transformers.utils import cached_file

    with _hub_access(path_or_id):
        cached: str | None = cached_file(
            str(path_or_id),
            SETTINGS_FILE,
            revision=revision,
            _raise_exceptions_for_missing_entries=False,
        )
    return cached


@contextmanager
def _hub_access(path_or_id: PathOrId) -> Iterator[None]:
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


def load_processor(path_or_id: PathOrId, *, revision: str | None = None) -> Any:
    """Load the checkpoint's Hugging Face processor.

    Raises ValueError if its image processor, its special tokens or its chat template are missing,
    PermissionError if the hub refuses access.
    """
    from transformers import AutoProcessor

    with _hub_access(path_or_id):
        processor = AutoProcessor.from_pretrained(path_or_id, revision=revision)
    if getattr(processor, "image_processor", None) is None:
        raise ValueError(
            f"{path_or_id}: no image processor; a GVE model folder needs preprocessor_config.json next to "
            "the tokenizer files"
        )
    check_tokenizer(processor.tokenizer, str(path_or_id))
    if not (processor.chat_template or processor.tokenizer.chat_template):
        raise ValueError(f"{path_or_id}: no chat template; a GVE model folder needs chat_template.jinja")
    return processor


def load_torch_model(
    path_or_id: PathOrId,
    adapter: PathOrId | None = None,
    *,
    revision: str | None = None,
    dtype: torch.dtype | str | None = None,
    device: torch.device | str | None = None,
    attention: str | None = None,
    load_in_4bit: bool = False,
    processor: Any | None = None,
) -> GveModel:
    """Load a `GveModel` in eval mode, with the adapter applied if one is given.

    The other arguments are those of `load_model`.
    """
    model = load_model(
        path_or_id,
        revision=revision,
        dtype=dtype,
        device=device,
        attention=attention,
        load_in_4bit=load_in_4bit,
        processor=processor or load_processor(path_or_id, revision=revision),
    )
    if adapter is not None:
        model.language_model = _with_adapter(model.language_model, adapter)
        _keep_input_dtypes(model)
    return model.eval()


def _with_adapter(model: Any, adapter: PathOrId) -> Any:
    """Return the model with the adapter of a PEFT folder.

    Adapters that were trained before transformers 4.52 name the layers `model.layers`. Raises ValueError
    if the folder lacks weights that its config names, because PEFT would leave them at zero.
    """
    from peft import PeftModel

    names = {**getattr(model, "_checkpoint_conversion_mapping", {}), **_ADAPTER_NAMES}
    with warnings.catch_warnings():
        warnings.filterwarnings("error", message=".*missing adapter keys")
        try:
            return PeftModel.from_pretrained(model, str(adapter), key_mapping=names)
        except UserWarning as error:
            raise ValueError(
                f"{adapter}: its weights do not have the names of the model's layers ({shortened(str(error))}); merge "
                "it into the model with the library that trained it, and load the merged model without an adapter"
            ) from error


def add_lora(
    model: GveModel,
    *,
    r: int = 16,
    alpha: int = 32,
    dropout: float = 0.1,
    dora: bool = False,
    rslora: bool = False,
    seed: int = 0,
) -> GveModel:
    """Add new LoRA layers to the projections of the language model; freeze all other weights.

    The defaults are those of arXiv:2510.27571, section 5. The vision tower and the token embeddings
    stay frozen. dora: train the lengths of the weights' rows apart from their directions
    (arXiv:2402.09353). rslora: divide alpha by the root of r instead of r (arXiv:2312.03732).
    """
    from peft import LoraConfig, get_peft_model

    config = LoraConfig(
        r=r,
        lora_alpha=alpha,
        lora_dropout=dropout,
        use_dora=dora,
        use_rslora=rslora,
        target_modules=model.family.lora_targets,
        task_type="FEATURE_EXTRACTION",
        revision=model.revision,
    )
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        model.language_model = get_peft_model(model.language_model, config)
    _keep_input_dtypes(model)
    return model


def _keep_input_dtypes(model: GveModel) -> None:
    """Stop PEFT from casting the input of each LoRA layer to float32; `GveModel.forward` casts."""
    for module in model.modules():
        if hasattr(module, "cast_input_dtype_enabled"):
            module.cast_input_dtype_enabled = False


def save_adapter(model: GveModel, folder: PathOrId, settings: EmbedderSettings) -> Path:
    """Write the LoRA weights (safetensors), their config and the settings into `folder`.

    Raises ValueError if the model has no adapter.
    """
    if not hasattr(model.language_model, "peft_config"):
        raise ValueError("save_adapter: the model has no adapter; call add_lora or load one first")
    target = Path(folder)
    target.mkdir(parents=True, exist_ok=True)
    model.language_model.save_pretrained(str(target), safe_serialization=True)
    model.family.complete(settings).save(target)
    return target
