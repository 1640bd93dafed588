"""Export a model as one folder for plain Hugging Face, for vLLM and for sentence-transformers.

The exported chat template implements the prompt format: it adds the default system turn, orders
video, image and text, and always ends with the generation prompt and `<|endoftext|>`. The pixel
budget is in the processor's config, pooling and normalisation are in `modules.json`.

Known limit: on Qwen2-VL and Qwen2.5-VL, transformers 5 gives wrong positions to the text after a
video whose extent in time is larger than in space (see `model_families.positions`), which happens
from about 10 s on at the default budget. Plain transformers and sentence-transformers then compute
other vectors than this package and vLLM.
"""

import json
from collections.abc import Mapping
from copy import deepcopy
from pathlib import Path
from typing import Any

import torch

from gve_ray.embedder.checkpoint import load_processor, load_torch_model
from gve_ray.embedder.checkpoint_files import PathOrId, resolve_settings
from gve_ray.embedder.model import GveModel
from gve_ray.embedder.settings import EMBED_TOKEN, EmbedderSettings

_ORDERED = "{%- for kind in ['video', 'image', 'text'] %}{% set turn.content = turn.content + " + (
    "message.content | selectattr('type', 'equalto', kind) | list %}{% endfor %}"
)
_PRELUDE = (
    "{%- set add_generation_prompt = true %}{%- set ordered = namespace(messages=[]) %}"
    "{%- if messages[0].role != 'system' %}{% set ordered.messages = "
    "[{'role': 'system', 'content': [{'type': 'text', 'text': DEFAULT}]}] %}{% endif %}"
    "{%- for message in messages %}{%- if message.content is string %}"
    "{% set ordered.messages = ordered.messages + [message] %}{%- else %}"
    "{%- set turn = namespace(content=[]) %}" + _ORDERED + "{% set ordered.messages = ordered.messages + "
    "[{'role': message.role, 'content': turn.content}] %}{%- endif %}{%- endfor %}"
    "{%- set messages = ordered.messages %}"
)
_MODULES = (
    ("", "sentence_transformers.base.modules.transformer.Transformer"),
    ("1_Pooling", "sentence_transformers.sentence_transformer.modules.pooling.Pooling"),
    ("2_Normalize", "sentence_transformers.base.modules.normalize.Normalize"),
)


def export_merged(
    path_or_id: PathOrId,
    adapter: PathOrId | None,
    folder: PathOrId,
    *,
    revision: str | None = None,
    dtype: torch.dtype | None = None,
    prompts: Mapping[str, str] | None = None,
) -> Path:
    """Load a model and its adapter, merge them in float32, and export the result.

    dtype: of the saved weights; by default that of the base checkpoint. See `export` for the rest.
    """
    processor = load_processor(path_or_id, revision=revision)
    settings = resolve_settings(path_or_id, adapter, None, revision=revision)
    model = load_torch_model(
        path_or_id, adapter, revision=revision, dtype=torch.float32, device="cpu", processor=processor
    )
    saved = dtype or _checkpoint_dtype(path_or_id, revision)
    return export(merge(model).to(saved), folder, settings, processor, prompts=prompts)


def merge(model: GveModel) -> GveModel:
    """Merge the adapter into the weights in place; afterwards the model has no adapter."""
    if hasattr(model.language_model, "merge_and_unload"):
        model.language_model = model.language_model.merge_and_unload()
    return model


def export(
    model: GveModel,
    folder: PathOrId,
    settings: EmbedderSettings,
    processor: Any,
    *,
    prompts: Mapping[str, str] | None = None,
) -> Path:
    """Write a model without an adapter, its processor and its settings into `folder`.

    prompts: named instructions for sentence-transformers; each becomes the system turn. Raises
    ValueError if the model still has an adapter.
    """
    if hasattr(model.language_model, "peft_config"):
        raise ValueError("export: the model still has an adapter; call merge first")
    target = Path(folder)
    target.mkdir(parents=True, exist_ok=True)
    model.plain.save_pretrained(target)
    _export_processor(processor, model, settings).save_pretrained(target)
    model.family.complete(settings).save(target)
    _write_sentence_transformers(target, model.dimension, prompts or {})
    return target


def embedding_template(template: str, settings: EmbedderSettings) -> str:
    """Return the model's chat template, changed so that it always produces the embedding prompt."""
    if template.startswith("{%- set add_generation_prompt = true %}"):
        return template  # the template of a folder that was exported before
    default = json.dumps(settings.default_instruction, ensure_ascii=False)
    return _PRELUDE.replace("DEFAULT", default) + template + "{{- " + repr(EMBED_TOKEN) + " }}"


def _export_processor(processor: Any, model: GveModel, settings: EmbedderSettings) -> Any:
    """Return a copy of the processor with the pixel budget, length limit and embedding template."""
    copied = deepcopy(processor)
    sizes = model.family.processor_sizes(settings)
    copied.image_processor.size = type(copied.image_processor.size)(**sizes["image"])
    copied.video_processor.size = type(copied.video_processor.size)(**sizes["video"])
    copied.video_processor.do_sample_frames = False
    copied.tokenizer.model_max_length = settings.max_tokens
    copied.tokenizer.padding_side = "left"
    copied.chat_template = embedding_template(
        processor.chat_template or processor.tokenizer.chat_template, model.family.complete(settings)
    )
    copied.tokenizer.chat_template = None
    return copied


def _write_sentence_transformers(target: Path, dimension: int, prompts: Mapping[str, str]) -> None:
    output = {"method": "forward", "method_output_name": "last_hidden_state"}
    kinds: dict[str, Any] = dict.fromkeys(("text", "image", "video"), output)
    files: dict[str, Any] = {
        "modules.json": [
            {"idx": i, "name": str(i), "path": path, "type": kind} for i, (path, kind) in enumerate(_MODULES)
        ],
        "1_Pooling/config.json": {
            "embedding_dimension": dimension,
            "pooling_mode": "lasttoken",
            "include_prompt": True,
        },
        "2_Normalize/config.json": {},
        "config_sentence_transformers.json": {
            "model_type": "SentenceTransformer",
            "prompts": {"query": "", "document": ""} | dict(prompts),
            "default_prompt_name": None,
            "similarity_fn_name": "cosine",
        },
        "sentence_bert_config.json": {
            "transformer_task": "feature-extraction",
            "modality_config": kinds | {"message": output | {"format": "structured"}},
            "module_output_name": "token_embeddings",
            "unpad_inputs": False,
        },
    }
    for name, content in files.items():
        path = target / name
        path.parent.mkdir(exist_ok=True)
        path.write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")


def _checkpoint_dtype(path_or_id: PathOrId, revision: str | None) -> torch.dtype:
    from transformers import AutoConfig

    dtype = AutoConfig.from_pretrained(path_or_id, revision=revision).dtype
    return dtype if isinstance(dtype, torch.dtype) else torch.float32
