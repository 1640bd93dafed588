"""Run any embedding model behind one interface: GVE, sentence-transformers, or an HTTP endpoint.

    identity = identify(config, settings, on_gpu=False)    # in the driver: pins the weights
    model = open_model(config, settings, identity)         # once per actor: loads the weights
    embeddings = model.embed(items)                        # vectors: float32 [n, d], unit length

A backend is the program that runs a model; the architectures that GVE itself supports are in
`model_families`. gve_ray.media reads and samples the frames for every backend, so all models get
the same pixels.
"""

import base64
import json
import os
import urllib.error
import urllib.request
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import asdict, replace
from typing import Any, Protocol

import numpy as np

from gve_ray.config import ModelConfig, resolve_model
from gve_ray.embedder import Embedder, EmbedderSettings, Embeddings
from gve_ray.embedder.embeddings import Finished, ignore
from gve_ray.embedder.model import default_dtype
from gve_ray.media import encode_jpeg
from gve_ray.media.video_metadata import video_metadata
from gve_ray.schema import Frames, Item
from gve_ray.stage import Reject, row_finished
from gve_ray.store import fingerprint
from gve_ray.store.weights import weights_identity

NOT_FINITE = ("not_finite", "the model returned a vector with NaN or infinity; try dtype float32")
_ENDPOINT_TIMEOUT_SECONDS = 300.0
# The format that public instruction-following text embedders are trained with.
_WITH_INSTRUCTION = "Instruct: {instruction}\nQuery: {text}"


class Backend(Protocol):
    """Embeds items whose media are in memory. Used by one thread at a time."""

    def refuses(self, item: Item) -> str:
        """Return why the model cannot embed such an item, or an empty string, as by default."""
        return ""

    def embed(self, items: Sequence[Item], finished: Finished = ignore) -> Embeddings:
        """Return the embeddings in the order of the items.

        finished: called with the number of items that are done, by backends that know it before the
        end.
        """

    def close(self) -> None:
        """Stop processes that the backend has started; by default there are none."""
        return


def identify(config: ModelConfig, settings: EmbedderSettings, *, on_gpu: bool) -> dict[str, Any]:
    """Return everything besides the item that determines a vector; its fingerprint keys the cache.

    The values are plain JSON values. Local weights are identified by a content hash, hub weights by
    their commit, and a remote endpoint by its name only. Raises OSError if the weights cannot be
    read.
    """
    remote = config.engine == "openai"
    return {
        "engine": config.engine,
        "model": config.model if remote else weights_identity(config.model, config.revision),
        "adapter": weights_identity(config.adapter, None, "adapter_config.json") if config.adapter else None,
        "dtype": None if remote else config.dtype or default_dtype(on_gpu=on_gpu),
        "settings": asdict(settings),
        "engine_args": dict(config.engine_args),
        "url": config.url,
    }


def embed_readable(
    model: Backend, items: Sequence[Item | Reject], lock: AbstractContextManager[object]
) -> list[tuple[np.ndarray, bool] | Reject]:
    """Return for each item its vector, float32 [d], and whether its text was cut; keep rejects.

    items: items with their media in memory, or the reject of an item whose media could not be read.
    lock: held while the model runs, so that other threads can read media meanwhile. In a worker of a
    stage, items count as finished rows as the model finishes them.
    """
    readable = [i for i, item in enumerate(items) if isinstance(item, Item)]
    results: dict[int, tuple[np.ndarray, bool] | Reject] = {}
    if readable:
        with lock:
            embedded = model.embed([item for item in items if isinstance(item, Item)], row_finished)
        for i, vector, cut in zip(readable, embedded.vectors, embedded.cut, strict=True):
            results[i] = (vector, bool(cut)) if np.isfinite(vector).all() else Reject(*NOT_FINITE)
    return [item if isinstance(item, Reject) else results[i] for i, item in enumerate(items)]


def cache_name(identity: Mapping[str, Any]) -> str:
    """Return the name of the cache folder for embeddings of a model, given its `identify`."""
    return fingerprint(identity)[:32]


def open_model(config: ModelConfig, settings: EmbedderSettings, identity: Mapping[str, Any]) -> Backend:
    """Load a model with the weights and dtype that `identify` has pinned."""
    if config.engine == "openai":
        return EndpointBackend(config, settings)
    name, _, commit = str(identity["model"]).partition("@")
    pinned = commit if name == config.model and commit else None
    dtype = identity["dtype"]
    if config.engine == "sentence-transformers":
        return SentenceTransformersBackend(
            config, revision=pinned, dtype=dtype, max_tokens=settings.max_tokens
        )
    return GveBackend(config, settings, revision=pinned, dtype=dtype)


class GveBackend(Backend):
    """Runs GVE, or any other checkpoint that `Embedder` can load, on torch or vLLM.

    It accepts any mix of video, image and text.
    """

    def __init__(
        self, config: ModelConfig, settings: EmbedderSettings, *, revision: str | None, dtype: str
    ) -> None:
        assert config.engine in ("torch", "vllm")
        embedder = Embedder.from_pretrained(
            config.model,
            config.adapter or None,
            revision=revision,
            engine=config.engine,
            dtype=dtype,
            settings=None if config.rescale else settings,
            compile=config.compile,
            engine_args=dict(config.engine_args),
        )
        self._embedder = embedder.with_settings(**asdict(settings)) if config.rescale else embedder

    def embed(self, items: Sequence[Item], finished: Finished = ignore) -> Embeddings:
        """See `Backend.embed`."""
        return self._embedder.encode(items, finished=finished)

    def close(self) -> None:
        """Stop vLLM's processes, if there are any."""
        self._embedder.close()


class SentenceTransformersBackend(Backend):
    """Runs a text-only or multimodal sentence-transformers model."""

    def __init__(self, config: ModelConfig, *, revision: str | None, dtype: str, max_tokens: int) -> None:
        from sentence_transformers import SentenceTransformer

        arguments = {"model_kwargs": {"dtype": dtype}, **config.engine_args}
        self._model = SentenceTransformer(resolve_model(config.model), revision=revision, **arguments)
        limit = self._model.max_seq_length
        self._limit = min(limit, max_tokens) if limit else max_tokens
        self._model.max_seq_length = self._limit
        self._modalities = set(getattr(self._model, "modalities", ["text"]))
        processor = self._model.tokenizer
        self._tokenizer = getattr(processor, "tokenizer", processor)

    def refuses(self, item: Item) -> str:
        """Refuse an item if the model does not declare its modalities or their combination."""
        slots = [slot for slot in ("image", "text", "video") if getattr(item, slot)]
        combination = slots[0] if len(slots) == 1 else tuple(slots)
        if combination in self._modalities or "message" in self._modalities:
            return ""
        accepted = ", ".join(map(str, sorted(self._modalities, key=str)))
        return f"the model takes {accepted}, not {'+'.join(slots)}"

    def embed(self, items: Sequence[Item], finished: Finished = ignore) -> Embeddings:
        """See `Backend.embed`. The instruction becomes the prompt; `tokens` counts only text."""
        rows: list[np.ndarray | None] = [None] * len(items)
        for instruction in dict.fromkeys(item.instruction for item in items):
            where = [i for i, item in enumerate(items) if item.instruction == instruction]
            encoded = self._model.encode(
                [_sentence_input(items[i]) for i in where],
                prompt=instruction,
                normalize_embeddings=True,
                show_progress_bar=False,
                convert_to_numpy=True,
            )
            for i, row in zip(where, encoded, strict=True):
                rows[i] = np.asarray(row, dtype=np.float32)
        tokens = np.array(
            [len(self._tokenizer(i.text, truncation=False)["input_ids"]) if i.text else 0 for i in items]
        )
        vectors = np.stack([row for row in rows if row is not None])
        return Embeddings(vectors=vectors, tokens=np.minimum(tokens, self._limit), cut=tokens > self._limit)


class EndpointBackend(Backend):
    """Calls an OpenAI-compatible `/embeddings` endpoint.

    Texts are sent as `input`, media as chat `messages` with JPEG frames. The `messages` form is an
    extension of vLLM; an endpoint without it refuses media, which only a request shows. The endpoint
    does not report token counts, nor whether it cut a text.
    """

    def __init__(self, config: ModelConfig, settings: EmbedderSettings) -> None:
        self._name = config.model
        self._url = f"{str(config.url).rstrip('/')}/embeddings"
        self._key = os.environ.get(config.key_variable, "")
        self._default = settings.default_instruction

    def embed(self, items: Sequence[Item], finished: Finished = ignore) -> Embeddings:
        """See `Backend.embed`. Raises OSError with the endpoint's response if it refuses a request."""
        vectors: list[Any] = [None] * len(items)
        texts = [i for i, item in enumerate(items) if item.image is None and item.video is None]
        if texts:
            embedded = self._request({"input": [_with_instruction(items[i]) for i in texts]})
            for i, vector in zip(texts, embedded, strict=True):
                vectors[i] = vector
        for i in sorted(set(range(len(items))) - set(texts)):
            (vectors[i],) = self._request({"messages": chat_messages(items[i], self._default)})
        matrix = np.asarray(vectors, dtype=np.float32)
        unknown = Embeddings.empty(len(items), 0)
        return replace(unknown, vectors=matrix / np.linalg.norm(matrix, axis=1, keepdims=True))

    def _request(self, inputs: Mapping[str, Any]) -> list[Any]:
        """Send one request and return the embeddings in the order of the inputs."""
        body = json.dumps({"model": self._name, "encoding_format": "float", **inputs}).encode()
        headers = {"Content-Type": "application/json"}
        if self._key:
            headers["Authorization"] = f"Bearer {self._key}"
        request = urllib.request.Request(self._url, data=body, headers=headers)
        try:
            with urllib.request.urlopen(request, timeout=_ENDPOINT_TIMEOUT_SECONDS) as response:
                data = json.load(response)["data"]
        except urllib.error.HTTPError as error:
            message = error.read(300).decode(errors="replace")
            raise OSError(f"{self._url}: HTTP {error.code}: {message}") from error
        return [row["embedding"] for row in sorted(data, key=lambda row: row["index"])]


def chat_messages(item: Item, default_instruction: str) -> list[dict[str, Any]]:
    """Return an item as chat messages with data URLs: video frames, then the image, then the text."""
    content: list[dict[str, Any]] = []
    for media in (item.video, item.image):
        if isinstance(media, Frames):
            for pixels in media.pixels:
                url = "data:image/jpeg;base64," + base64.b64encode(encode_jpeg(pixels)).decode()
                content.append({"type": "image_url", "image_url": {"url": url}})
    if item.text:
        content.append({"type": "text", "text": item.text})
    system = item.instruction or default_instruction
    return [{"role": "system", "content": system}, {"role": "user", "content": content}]


def _with_instruction(item: Item) -> str:
    if not item.instruction:
        return item.text or ""
    return _WITH_INSTRUCTION.format(instruction=item.instruction, text=item.text or "")


def _sentence_input(item: Item) -> Any:
    """Return an item as `SentenceTransformer.encode` expects it: a text, or a dict of parts."""
    import torch
    from PIL import Image

    parts: dict[str, Any] = {"text": item.text} if item.text else {}
    if isinstance(item.image, Frames):
        parts["image"] = Image.fromarray(item.image.pixels[0])
    if isinstance(item.video, Frames):
        metadata = video_metadata(item.video)
        del metadata["do_sample_frames"]
        pixels = torch.from_numpy(item.video.pixels).permute(0, 3, 1, 2)  # uint8 [T, 3, H, W]
        parts["video"] = {"array": pixels, "video_metadata": metadata}
    return parts["text"] if list(parts) == ["text"] else parts
