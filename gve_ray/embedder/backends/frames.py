"""The engine frames: image-text models of transformers (CLIP, SigLIP, SigLIP 2) and X-CLIP on sampled frames.

An image-text model embeds each frame by itself; the vector of a video is the mean of the unit vectors
of its frames, scaled to unit length. X-CLIP is a video-text model and pools its frames itself. These
models were trained without instructions, so the instruction of an item is not used.
"""

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from gve_ray.config import ModelConfig, resolve_model
from gve_ray.embedder.backends.backend import Backend, parts_of
from gve_ray.embedder.embeddings import Embeddings, Finished, ignore
from gve_ray.embedder.model import as_dtype, default_device
from gve_ray.embedder.settings import EmbedderSettings
from gve_ray.schema import Frames, Item

# Pictures and texts of one forward pass.
_CPU_BATCH = 64
_GPU_BATCH = 512
# Trained on texts padded to their full length; other padding gives other vectors.
_PADDED_TO_THE_LIMIT = ("siglip", "siglip2")


class FramesBackend(Backend):
    """Runs a dual encoder of transformers. It accepts a text, an image or a video, but no mix of them."""

    def __init__(
        self, config: ModelConfig, settings: EmbedderSettings, *, revision: str | None, dtype: str
    ) -> None:
        """Load the model. Raises ValueError if it is no dual encoder or needs another number of frames."""
        from transformers import AutoModel, AutoProcessor

        folder = resolve_model(config.model)
        options = {"revision": revision, "trust_remote_code": config.allow_remote_code}
        device = default_device()
        model = AutoModel.from_pretrained(folder, dtype=as_dtype(dtype, device), **options)
        self._model: Any = model.to(device).eval()
        self._processor: Any = AutoProcessor.from_pretrained(folder, **options)
        kind = model.config.model_type
        self._is_video_model = hasattr(model, "get_video_features")
        if not hasattr(model, "get_text_features") or not (
            self._is_video_model or hasattr(model, "get_image_features")
        ):
            raise ValueError(
                f"models.{config.name}.model={config.model!r}: the engine frames runs models with a text and an image "
                f"or video encoder, such as CLIP, not the type {kind}; use another engine"
            )
        if self._is_video_model and (count := model.config.vision_config.num_frames) != settings.frames:
            raise ValueError(
                f"frames={settings.frames}: models.{config.name} was trained on {count}; set frames to {count}"
            )
        self._padding = "max_length" if kind in _PADDED_TO_THE_LIMIT else True
        self._limit = min(model.config.get_text_config().max_position_embeddings, settings.max_tokens)
        self._batch = _CPU_BATCH if device.type == "cpu" else _GPU_BATCH

    def refuses(self, item: Item) -> str:
        """Refuse a mix of text and media, which a dual encoder cannot embed, and images for a video model."""
        slots = parts_of(item)
        accepted = ("text", "video") if self._is_video_model else ("image", "text", "video")
        if len(slots) == 1 and slots[0] in accepted:
            return ""
        return f"the model takes {' or '.join(accepted)}, not {'+'.join(slots)}"

    @torch.inference_mode()
    def embed(self, items: Sequence[Item], finished: Finished = ignore) -> Embeddings:
        """See `Backend.embed`. Raises ValueError for an item that `refuses` refuses."""
        for item in items:
            if why := self.refuses(item):
                raise ValueError(why)
        texts = [i for i, item in enumerate(items) if item.text]
        visual = [i for i, item in enumerate(items) if not item.text]
        parts: list[tuple[list[int], Embeddings]] = []
        # By length, so that padding is small. Ties keep their order.
        texts.sort(key=lambda i: len(items[i].text or ""))
        for start in range(0, len(texts), self._batch):
            where = texts[start : start + self._batch]
            parts.append((where, self._embed_texts([items[i].text or "" for i in where])))
            finished(len(where))
        for where in self._visual_batches(items, visual):
            parts.append((where, self._embed_frames([_pixels(items[i]) for i in where])))
            finished(len(where))
        out = Embeddings.empty(len(items), parts[0][1].vectors.shape[1] if parts else 0)
        for where, part in parts:
            out.put(where, part)
        return out

    def _embed_texts(self, texts: list[str]) -> Embeddings:
        tokenizer = self._processor.tokenizer
        lengths = np.array([len(ids) for ids in tokenizer(texts, verbose=False)["input_ids"]])
        encoded = tokenizer(
            texts, padding=self._padding, truncation=True, max_length=self._limit, return_tensors="pt"
        )
        features = _pooled(self._model.get_text_features(**encoded.to(self._model.device)))
        return Embeddings(
            vectors=_unit(features), tokens=np.minimum(lengths, self._limit), cut=lengths > self._limit
        )

    def _visual_batches(self, items: Sequence[Item], where: Sequence[int]) -> Iterator[list[int]]:
        """Yield indices of items whose frames fit into one forward pass; an item is never divided."""
        batch: list[int] = []
        room = self._batch
        for i in where:
            count = len(_pixels(items[i]))
            if batch and count > room:
                yield batch
                batch, room = [], self._batch
            batch.append(i)
            room -= count
        if batch:
            yield batch

    def _embed_frames(self, videos: Sequence[np.ndarray]) -> Embeddings:
        """Return the embeddings of images and videos. videos: uint8 [T, H, W, 3] each."""
        # [3, H, W] each, as torch and torchvision have pictures; the processor groups equal sizes.
        frames = [torch.from_numpy(frame).permute(2, 0, 1) for video in videos for frame in video]
        # The processor of SigLIP 2 has settings of its own; that of X-CLIP drops the videos.
        process = self._processor.image_processor if self._is_video_model else self._processor
        inputs = process(images=frames, return_tensors="pt")
        inputs = {name: self._on_device(value) for name, value in inputs.items()}
        if self._is_video_model:
            pixels = inputs["pixel_values"].reshape(len(videos), -1, *inputs["pixel_values"].shape[-3:])
            vectors = _unit(_pooled(self._model.get_video_features(pixel_values=pixels)))
        else:
            features = F.normalize(_pooled(self._model.get_image_features(**inputs)).float(), dim=-1)
            means = [part.mean(dim=0) for part in features.split([len(video) for video in videos])]
            vectors = _unit(torch.stack(means))
        n = len(videos)
        return Embeddings(vectors=vectors, tokens=np.zeros(n, dtype=np.int64), cut=np.zeros(n, dtype=bool))

    def _on_device(self, value: Tensor) -> Tensor:
        dtype = self._model.dtype if value.is_floating_point() else value.dtype
        return value.to(self._model.device, dtype)


def _pixels(item: Item) -> np.ndarray:
    """Return the frames of an item with one medium, uint8 [T, H, W, 3]."""
    media = item.image if item.image is not None else item.video
    assert isinstance(media, Frames)
    return media.pixels


def _pooled(output: Any) -> Tensor:
    """Return the projected features, [n, d], of a model that returns them alone or with other outputs."""
    features: Tensor = getattr(output, "pooler_output", output)
    return features


def _unit(features: Tensor) -> np.ndarray:
    """Return unit vectors, float32 [n, d]."""
    vectors: np.ndarray = F.normalize(features.float(), dim=-1).cpu().numpy()
    return vectors
