"""The engine sentence-transformers: text-only and multimodal models in that library's layout."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from gve_ray.config import ModelConfig, resolve_model
from gve_ray.embedder.backends.backend import Backend, instruction_of, parts_of
from gve_ray.embedder.embeddings import Embeddings, Finished, ignore
from gve_ray.embedder.settings import EmbedderSettings
from gve_ray.media.video_metadata import video_metadata
from gve_ray.schema import Frames, Item


class SentenceTransformersBackend(Backend):
    """Runs a text-only or multimodal sentence-transformers model.

    A video is passed as the frames that gve_ray.media sampled. The model's video processor must not
    sample them again: it would pick frames by their numbers in the source.
    """

    def __init__(
        self, config: ModelConfig, settings: EmbedderSettings, *, revision: str | None, dtype: str
    ) -> None:
        from sentence_transformers import SentenceTransformer

        arguments: dict[str, Any] = {"model_kwargs": {"dtype": dtype}, **config.engine_args}
        if config.allow_remote_code:
            arguments["trust_remote_code"] = True
        self._model = SentenceTransformer(resolve_model(config.model), revision=revision, **arguments)
        limit = self._model.max_seq_length
        self._limit = min(limit, settings.max_tokens) if limit else settings.max_tokens
        self._model.max_seq_length = self._limit
        self._default, self._ended = settings.default_instruction, config.end_instructions
        self._modalities = set(getattr(self._model, "modalities", ["text"]))
        processor = self._model.tokenizer
        self._tokenizer = getattr(processor, "tokenizer", processor)

    def refuses(self, item: Item) -> str:
        """Refuse an item if the model does not declare its modalities or their combination."""
        slots = parts_of(item)
        combination = slots[0] if len(slots) == 1 else tuple(slots)
        if combination in self._modalities or "message" in self._modalities:
            return ""
        accepted = ", ".join(map(str, sorted(self._modalities, key=str)))
        return f"the model takes {accepted}, not {'+'.join(slots)}"

    def embed(self, items: Sequence[Item], finished: Finished = ignore) -> Embeddings:
        """See `Backend.embed`. The instruction becomes the prompt; `tokens` counts only text."""
        rows: list[np.ndarray | None] = [None] * len(items)
        groups: dict[tuple[str | None, bool], list[int]] = {}
        for i, item in enumerate(items):
            instruction = instruction_of(item, self._default, ended=self._ended)
            groups.setdefault((instruction, item.video is not None), []).append(i)
        for (instruction, has_video), where in groups.items():
            sampled = {"processing_kwargs": {"video": {"do_sample_frames": False}}} if has_video else {}
            encoded = self._model.encode(
                [sentence_input(items[i]) for i in where],
                prompt=instruction,
                normalize_embeddings=True,
                show_progress_bar=False,
                convert_to_numpy=True,
                **sampled,
            )
            for i, row in zip(where, encoded, strict=True):
                rows[i] = np.asarray(row, dtype=np.float32)
        tokens = np.array(
            [len(self._tokenizer(i.text, truncation=False)["input_ids"]) if i.text else 0 for i in items]
        )
        vectors = np.stack([row for row in rows if row is not None])
        return Embeddings(vectors=vectors, tokens=np.minimum(tokens, self._limit), cut=tokens > self._limit)


def sentence_input(item: Item) -> Any:
    """Return an item as `SentenceTransformer.encode` expects it: a text, or a dict of parts.

    A video is its frames, uint8 [T, H, W, 3], with the metadata of transformers' video processors.
    """
    from PIL import Image

    parts: dict[str, Any] = {"text": item.text} if item.text else {}
    if isinstance(item.image, Frames):
        parts["image"] = Image.fromarray(item.image.pixels[0])
    if isinstance(item.video, Frames):
        metadata = video_metadata(item.video)
        del metadata["do_sample_frames"]  # an argument of the processor here, not a fact of the video
        parts["video"] = {"array": item.video.pixels, "video_metadata": metadata}
    return parts["text"] if list(parts) == ["text"] else parts
