"""mteb's own tasks on a Ray cluster with our models. Needs the extra `mteb` (`pip install 'gve-ray[mteb]'`).

    encoder = RayEncoder(ModelConfig(name="gve-3b", model="Alibaba-NLP/GVE-3B"), folder="runs/mteb")
    mteb.evaluate(encoder, mteb.get_tasks(tasks=["MSRVTT-T2V"]), cache=mteb.ResultCache("runs/mteb/results"))

mteb brings the tasks, the ranking and the result files, which its own tools read; embedding is the stage of
`gve evaluate`: distinct items once, on any number of actors, kept in a cache and resumed after a kill. Videos and
images go to the actors as files and are decoded there by gve_ray.media, so torchcodec is not needed. Files that
a data set holds as bytes are written to `folder`, which all nodes must see: disk for one decode less.
"""

import hashlib
import os
from collections.abc import Iterator, Mapping
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
from gve_ray.evaluation.embed import ItemIndex, embed, pending_table, read_vectors
from gve_ray.job import JobError
from gve_ray.schema import Item

_MEDIA = {"image": Image, "video": Video}


class RayEncoder(AbsEncoder):
    """One of our models behind mteb's encoder protocol.

    settings: frames, pixels and tokens of an item; default the paper's (section 2). folder: on a disk that all
    nodes see; holds the cache of embeddings, media that came as bytes, and rejects. prompts: instructions by
    mteb's names of tasks, task types or sides, before a task's own. The Ray cluster is the one that is
    connected when mteb asks; Ray starts one on this machine otherwise.
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
        self._resources = resources or StageResources(batch_size=64)
        self._folder = Path(folder).resolve()
        self._facts = identify(config, self._settings, on_gpu=self._resources.num_gpus > 0)
        self._index = ItemIndex(self._folder / "embeddings")
        self.prompts_dict = dict(prompts) if prompts else None
        self.mteb_model_meta = _meta(config, self._settings, self._facts)

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
        """Unit vectors float32 [n, d] of a data loader's rows, in order; documents get no instruction.

        Raises JobError when an item could not be embedded: mteb has no word for a row without a vector.
        """
        instruction = None
        if prompt_type != PromptType.document:
            instruction = self.get_instruction(task_metadata, prompt_type) or None
        items = [replace(item, instruction=instruction) for item in self._items(inputs.dataset)]
        keys = self._index.keys(items)
        embedded = embed(
            pending_table(items, keys),
            self._config,
            self._settings,
            self._facts,
            cache=str(self._folder / "embeddings"),
            rejects=str(self._folder / "rejects" / f"{cache_name(self._facts)}.lance"),
            resources=self._resources,
        )
        lost = [key for key in keys if key in embedded.rejects]
        if lost:
            why = ": ".join(part for part in embedded.rejects[lost[0]] if part)
            raise JobError(
                f"{task_metadata.name} {hf_subset}/{hf_split}: {len(lost)} of {len(keys)} items cannot be embedded; "
                f"the first is row {keys.index(lost[0])}: {why}"
            )
        return read_vectors(embedded.store, keys)[0]

    def _items(self, rows: Any) -> Iterator[Item]:
        """The rows of a `datasets.Dataset`, media as files instead of decoded ones."""
        columns = getattr(rows, "features", {})
        for name, kind in _MEDIA.items():
            if isinstance(columns.get(name), kind):
                rows = rows.cast_column(name, kind(decode=False))
        for row in rows:
            media = {name: self._file(row[name]) for name in _MEDIA if row.get(name) is not None}
            yield Item(text=row.get("text") or None, **media)

    def _file(self, stored: Mapping[str, Any]) -> str:
        """The path of a medium as `datasets` stores it: a path, or bytes and the name they had."""
        path, data = stored.get("path"), stored.get("bytes")
        if data is None:
            return str(path)
        place = self._folder / "media" / f"{hashlib.sha256(data).hexdigest()}{Path(path or '').suffix}"
        if not place.exists():
            place.parent.mkdir(parents=True, exist_ok=True)
            part = place.with_name(f"{place.name}.{os.getpid()}.part")
            part.write_bytes(data)
            os.replace(part, place)
        return str(place)


def _meta(config: ModelConfig, settings: EmbedderSettings, facts: Mapping[str, Any]) -> ModelMeta:
    """What mteb keys its results by: the revision changes whenever a vector may."""
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
