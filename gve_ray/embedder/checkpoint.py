"""Load a base model with or without an adapter, add a new adapter, and save an adapter.

An adapter folder holds PEFT's `adapter_config.json` and `adapter_model.safetensors`, and
`embedder.json`, the settings with which the adapter was trained.
"""

import warnings
from pathlib import Path
from typing import Any

import torch

from gve_ray.embedder.checkpoint_files import PathOrId, hub_access
from gve_ray.embedder.conversation import check_tokenizer
from gve_ray.embedder.model import GveModel, load_model
from gve_ray.embedder.settings import EmbedderSettings
from gve_ray.errors import shortened

_ADAPTER_NAMES = {
    r"^model\.(?=layers\.)": "model.language_model."
}  # old name -> new name, without PEFT's prefix


def load_processor(path_or_id: PathOrId, *, revision: str | None = None) -> Any:
    """Load the checkpoint's Hugging Face processor.

    Raises ValueError if its image processor, its special tokens or its chat template are missing,
    PermissionError if the hub refuses access.
    """
    from transformers import AutoProcessor

    with hub_access(path_or_id):
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
