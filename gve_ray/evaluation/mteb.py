"""Runs mteb's tasks with our models on Ray. Needs `pip install 'gve-ray[mteb]'`.

    tasks = mteb.get_benchmark("MVEB(text, video, v1)")
    with RayEncoder(ModelConfig(name="gve-3b", model="Alibaba-NLP/GVE-3B"), folder="runs/mteb") as encoder:
        mteb.evaluate(encoder, tasks, cache=mteb.ResultCache("runs/mteb/results"))

mteb provides tasks, ranking and result files. Embedding is the stage of `gve evaluate`: each
distinct item once, on any number of actors, cached, and resumed if it was interrupted. Actors get
videos and images as files and decode them with gve_ray.media, so torchcodec is not needed. Media
that a data set stores as bytes are first written to `folder`, which all nodes must see.
"""

import hashlib
import os
from collections.abc import Iterator, Mapping
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from datasets import Image, Video
from mteb.models.abs_encoder import AbsEncoder
from mteb.models.model_meta import ModelMeta
from mteb.types import PromptType

from gve_ray.config import ModelConfig, StageResources
from gve_ray.embedder import EmbedderSettings
from gve_ray.embedder.backends import cache_name, identify
from gve_ray.evaluation.embed import ItemEmbedder, ItemIndex, pending_table, read_vectors
from gve_ray.job import JobError
from gve_ray.schema import Item

_MEDIA = {"image": Image, "video": Video}


class RayEncoder(AbsEncoder):
    """One of our models as an mteb encoder.

    settings: frames, pixels and tokens of an item; defaults to the paper's (arXiv:2510.27571,
    section 2). folder: on a disk that all nodes see; has the embedding cache, media stored as
    bytes, and rejects. resources: in numbers, without `auto`. prompts: instructions by mteb's task
    name, task type or prompt type, used instead of a task's own. Uses the Ray cluster that is connected
    when mteb calls the encoder, or else starts Ray on this machine.

    As a context manager, it keeps the actors, with the model, until its end; otherwise each call of mteb
    starts new ones. Entering raises RunFolderError while another run writes to the same cache.
    """

    def __init__(
        self,
        config: ModelConfig,
        *,
        folder: str | os.PathLike[str],
        settings: EmbedderSettings | None = None,
        resources: StageResources | None = None,
        prompts: Mapping[str, str] | None = None,
    ) -> None:
        self._config = config
        self._settings = settings or EmbedderSettings()
        self._resources = resources or StageResources(actors=1, batch_size=64)
        self._folder = Path(folder).resolve()
        self._facts = identify(config, self._settings, on_gpu="GPU" in self._resources.demands)
        self._index = ItemIndex(self._folder / "embeddings")
        self._open: ItemEmbedder | None = None
        self.prompts_dict = dict(prompts) if prompts else None
        self.mteb_model_meta = _meta(config, self._settings, self._facts)

    def __enter__(self) -> "RayEncoder":
        self._open = self._embedder(keeps_actors=True).__enter__()
        return self

    def __exit__(self, *_: object) -> None:
        embedder, self._open = self._open, None
        assert embedder is not None, "it was entered"
        embedder.__exit__()

    def _embedder(self, *, keeps_actors: bool = False) -> ItemEmbedder:
        return ItemEmbedder(
            self._config,
            self._settings,
            self._facts,
            cache=str(self._folder / "embeddings"),
            rejects=str(self._folder / "rejects" / f"{cache_name(self._facts)}.lance"),
            resources=self._resources,
            keeps_actors=keeps_actors,
        )

    def encode(
        self,
        inputs: Any,
        *,
        task_metadata: Any,
        hf_split: str,
        hf_subset: str,
        prompt_type: PromptType | None = None,
        **_: Any,
    ) -> np.ndarray:
        """Unit vectors float32 [n, d] of a data loader's rows; documents get no instruction.

        Raises JobError if an item cannot be embedded, since mteb has no way to mark a row without a
        vector.
        """
        instruction = None
        if prompt_type != PromptType.document:
            instruction = self.get_instruction(task_metadata, prompt_type) or None
        items = [replace(item, instruction=instruction) for item in self._items(inputs.dataset)]
        keys = self._index.keys(items)
        with nullcontext(self._open) if self._open else self._embedder() as embedder:
            embedded = embedder.embed(pending_table(items, keys))
        rejected = [key for key in keys if key in embedded.rejects]
        if rejected:
            reason = ": ".join(part for part in embedded.rejects[rejected[0]] if part)
            raise JobError(
                f"{task_metadata.name} {hf_subset}/{hf_split}: {len(rejected)} of {len(keys)} items cannot be "
                f"embedded; the first is row {keys.index(rejected[0])}: {reason}"
            )
        return read_vectors(embedded.store, keys)[0]

    def _items(self, rows: Any) -> Iterator[Item]:
        """Items from the rows of a `datasets.Dataset`, with media as files that are not decoded."""
        columns = getattr(rows, "features", {})
        for name, kind in _MEDIA.items():
            if isinstance(columns.get(name), kind):
                rows = rows.cast_column(name, kind(decode=False))
        for row in rows:
            media = {name: self._file(row[name]) for name in _MEDIA if row.get(name) is not None}
            yield Item(text=row.get("text") or None, **media)

    def _file(self, stored: Mapping[str, Any]) -> str:
        """The path of a medium as `datasets` stores it: a path, or bytes and their original name."""
        path, data = stored.get("path"), stored.get("bytes")
        if data is None:
            return str(path)
        target = self._folder / "media" / f"{hashlib.sha256(data).hexdigest()}{Path(path or '').suffix}"
        if not target.exists():
            target.parent.mkdir(parents=True, exist_ok=True)
            part = target.with_name(f"{target.name}.{os.getpid()}.part")
            part.write_bytes(data)
            os.replace(part, target)
        return str(target)


def _meta(config: ModelConfig, settings: EmbedderSettings, facts: Mapping[str, Any]) -> ModelMeta:
    """The model metadata that mteb keys its results by; the revision changes whenever vectors may."""
    return ModelMeta(
        loader=None,
        name=f"gve_ray/{config.name.replace(' ', '-')}",
        revision=cache_name(facts),
        release_date=None,
        languages=None,
        n_parameters=None,
        memory_usage_mb=None,
        max_tokens=settings.max_tokens,
        embed_dim=None,
        license=None,
        open_weights=None,
        public_training_code=None,
        public_training_data=None,
        framework=["PyTorch"],
        similarity_fn_name="cosine",
        use_instructions=True,
        training_datasets=None,
        modalities=["text", "image", "video"],
    )
