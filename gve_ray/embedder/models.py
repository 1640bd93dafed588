"""What can be evaluated, behind one small Protocol: GVE on torch or vLLM, sentence-transformers, an endpoint.

    facts = identify(config, settings, on_gpu=False)    # pins the weights; on the driver
    model = open_model(config, settings, facts)         # loads them; once an actor
    found = model.embed(items)                          # Embeddings: float32 [n, d] of unit length, and more

Frames are read and sampled by gve_ray.media for all of them, so models differ in nothing but themselves.
"""

import base64
import hashlib
import json
import os
import urllib.error
import urllib.request
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from gve_ray.config import ModelConfig, resolve_model
from gve_ray.embedder import Embedder, EmbedderSettings, Embeddings
from gve_ray.media import encode_jpeg
from gve_ray.schema import Frames, Item
from gve_ray.stage import Reject
from gve_ray.store import fingerprint

NOT_FINITE = ("not_finite", "the model gave a vector with NaN or infinity; try dtype float32")
_ENDPOINT_SECONDS = 300.0
_INSTRUCTED = "Instruct: {instruction}\nQuery: {text}"  # how public instruction-following embedders take it


class Model(Protocol):
    """Embeds items whose media are in memory. Used by one thread at a time."""

    def refuses(self, item: Item) -> str:
        """Why the model cannot take such an item, or an empty text."""

    def embed(self, items: Sequence[Item]) -> Embeddings:
        """In the order of the items."""

    def close(self) -> None:
        """Give back what the model holds outside this process."""


def identify(config: ModelConfig, settings: EmbedderSettings, *, on_gpu: bool) -> dict[str, Any]:
    """All that decides a vector beside the item, as plain values; its fingerprint keys the cache.

    Weights are pinned by content: a folder's digest, a hub's commit. An endpoint can only be taken at its
    word. Raises OSError when the weights cannot be had.
    """
    remote = config.engine == "openai"
    return {
        "engine": config.engine,
        "model": config.model if remote else weights(config.model, config.revision),
        "adapter": weights(config.adapter, None, "adapter_config.json") if config.adapter else None,
        "dtype": None if remote else config.dtype or ("bfloat16" if on_gpu else "float32"),
        "settings": asdict(settings),
        "engine_args": dict(config.engine_args),
        "url": config.url,
    }


def weights(name: str, revision: str | None, file: str = "config.json") -> str:
    """`sha256:<digest>` of a folder's files, or `<id>@<commit>` of a hub's."""
    folder = Path(resolve_model(name))
    if folder.is_dir():
        return f"sha256:{folder_digest(folder)}"
    from huggingface_hub import hf_hub_download

    found = Path(hf_hub_download(name, file, revision=revision))  # .../snapshots/<commit>/config.json
    return f"{name}@{found.parent.name}"


def folder_digest(folder: Path) -> str:
    """sha256 (hex) over the names and contents of a folder's visible files, subfolders included."""
    digest = hashlib.sha256()
    for path in sorted(folder.rglob("*")):
        inner = path.relative_to(folder)
        if path.is_file() and not any(part.startswith(".") for part in inner.parts):
            with path.open("rb") as file:
                content = hashlib.file_digest(file, "sha256").hexdigest()
            digest.update(f"{inner.as_posix()}\0{content}\n".encode())
    return digest.hexdigest()


def embed_readable(
    model: Model, items: Sequence[Item | Reject], lock: AbstractContextManager[object]
) -> list[tuple[np.ndarray, bool] | Reject]:
    """For each item its vector, float32 [d], and whether its text was cut; rejects pass through.

    items: with media in memory, or why they could not be read. lock: held while the model works, so that
    threads may read while another one embeds.
    """
    good = [i for i, item in enumerate(items) if isinstance(item, Item)]
    found: dict[int, tuple[np.ndarray, bool] | Reject] = {}
    if good:
        with lock:
            embedded = model.embed([item for item in items if isinstance(item, Item)])
        for i, vector, cut in zip(good, embedded.vectors, embedded.cut, strict=True):
            found[i] = (vector, bool(cut)) if np.isfinite(vector).all() else Reject(*NOT_FINITE)
    return [item if isinstance(item, Reject) else found[i] for i, item in enumerate(items)]


def cache_name(facts: Mapping[str, Any]) -> str:
    """The folder of a model's embeddings in a cache."""
    return fingerprint(facts)[:32]


def open_model(config: ModelConfig, settings: EmbedderSettings, facts: Mapping[str, Any]) -> Model:
    """Load a model as `identify` has pinned it."""
    if config.engine == "openai":
        return EndpointModel(config, settings)
    name, _, commit = str(facts["model"]).partition("@")
    pinned = commit if name == config.model and commit else None
    if config.engine == "sentence-transformers":
        return SentenceModel(config, revision=pinned, dtype=facts["dtype"], max_tokens=settings.max_tokens)
    return GveModel(config, settings, revision=pinned, dtype=facts["dtype"])


class GveModel:
    """GVE and every checkpoint that gve_ray.embedder opens."""

    def __init__(
        self, config: ModelConfig, settings: EmbedderSettings, *, revision: str | None, dtype: str
    ) -> None:
        assert config.engine in ("torch", "vllm")
        embedder = Embedder.from_pretrained(
            resolve_model(config.model),
            resolve_model(config.adapter) if config.adapter else None,
            revision=revision,
            engine=config.engine,
            dtype=dtype,
            settings=None if config.rescale else settings,
            compile=config.compile,
            engine_args=dict(config.engine_args),
        )
        self._embedder = embedder.with_settings(**asdict(settings)) if config.rescale else embedder

    def refuses(self, item: Item) -> str:
        """Takes any mix."""
        return ""

    def embed(self, items: Sequence[Item]) -> Embeddings:
        """As `Model.embed`."""
        return self._embedder.encode(items)

    def close(self) -> None:
        """Stop vLLM's processes, if it is vLLM."""
        self._embedder.close()


class SentenceModel:
    """A sentence-transformers model, text-only or multimodal; it says itself what it takes."""

    def __init__(self, config: ModelConfig, *, revision: str | None, dtype: str, max_tokens: int) -> None:
        from sentence_transformers import SentenceTransformer

        arguments = {"model_kwargs": {"dtype": dtype}, **config.engine_args}
        self._model = SentenceTransformer(resolve_model(config.model), revision=revision, **arguments)
        limit = self._model.max_seq_length
        self._limit = min(limit, max_tokens) if limit else max_tokens
        self._model.max_seq_length = self._limit
        self._takes = set(getattr(self._model, "modalities", ["text"]))
        processor = self._model.tokenizer
        self._tokenizer = getattr(processor, "tokenizer", processor)

    def refuses(self, item: Item) -> str:
        """Named modalities the model lacks."""
        slots = [slot for slot in ("image", "text", "video") if getattr(item, slot)]
        known = slots[0] in self._takes if len(slots) == 1 else tuple(slots) in self._takes
        if known or "message" in self._takes:
            return ""
        return f"the model takes {', '.join(map(str, sorted(self._takes, key=str)))}, not {'+'.join(slots)}"

    def embed(self, items: Sequence[Item]) -> Embeddings:
        """As `Model.embed`; the instruction is the model's prompt. Only the text's tokens are counted."""
        rows: list[np.ndarray | None] = [None] * len(items)
        for instruction in dict.fromkeys(item.instruction for item in items):
            where = [i for i, item in enumerate(items) if item.instruction == instruction]
            found = self._model.encode(
                [_sentence_input(items[i]) for i in where],
                prompt=instruction,
                normalize_embeddings=True,
                show_progress_bar=False,
                convert_to_numpy=True,
            )
            for i, row in zip(where, found, strict=True):
                rows[i] = np.asarray(row, dtype=np.float32)
        tokens = np.array(
            [len(self._tokenizer(i.text, truncation=False)["input_ids"]) if i.text else 0 for i in items]
        )
        vectors = np.stack([row for row in rows if row is not None])
        return Embeddings(vectors=vectors, tokens=np.minimum(tokens, self._limit), cut=tokens > self._limit)

    def close(self) -> None:
        """Nothing outside this process."""


class EndpointModel:
    """An OpenAI-compatible `/embeddings`. Texts go as `input`, media as chat `messages` with JPEG frames.

    The second form is vLLM's extension; an endpoint without it refuses media. Cuts are made out of sight.
    """

    def __init__(self, config: ModelConfig, settings: EmbedderSettings) -> None:
        self._name = config.model
        self._url = f"{str(config.url).rstrip('/')}/embeddings"
        self._key = os.environ.get(config.key_variable, "")
        self._default = settings.default_instruction

    def refuses(self, item: Item) -> str:
        """Known only by asking."""
        return ""

    def embed(self, items: Sequence[Item]) -> Embeddings:
        """As `Model.embed`. Raises OSError with the endpoint's own words when it refuses."""
        vectors: list[Any] = [None] * len(items)
        texts = [i for i, item in enumerate(items) if item.image is None and item.video is None]
        if texts:
            answer = self._ask({"input": [_instructed(items[i]) for i in texts]})
            for i, vector in zip(texts, answer, strict=True):
                vectors[i] = vector
        for i in sorted(set(range(len(items))) - set(texts)):
            (vectors[i],) = self._ask({"messages": chat_messages(items[i], self._default)})
        found = np.asarray(vectors, dtype=np.float32)
        unknown = Embeddings.empty(len(items), 0)
        return replace(unknown, vectors=found / np.linalg.norm(found, axis=1, keepdims=True))

    def close(self) -> None:
        """Nothing to stop."""

    def _ask(self, question: Mapping[str, Any]) -> list[Any]:
        body = json.dumps({"model": self._name, "encoding_format": "float", **question}).encode()
        headers = {"Content-Type": "application/json"}
        if self._key:
            headers["Authorization"] = f"Bearer {self._key}"
        request = urllib.request.Request(self._url, data=body, headers=headers)
        try:
            with urllib.request.urlopen(request, timeout=_ENDPOINT_SECONDS) as response:
                data = json.load(response)["data"]
        except urllib.error.HTTPError as error:
            said = error.read(300).decode(errors="replace")
            raise OSError(f"{self._url}: HTTP {error.code}: {said}") from error
        return [one["embedding"] for one in sorted(data, key=lambda one: one["index"])]


def chat_messages(item: Item, default_instruction: str) -> list[dict[str, Any]]:
    """An item as chat messages with data URLs: video frames, then the image, then the text."""
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


def _instructed(item: Item) -> str:
    if not item.instruction:
        return item.text or ""
    return _INSTRUCTED.format(instruction=item.instruction, text=item.text or "")


def _sentence_input(item: Item) -> Any:
    """What SentenceTransformer.encode takes: a text, or a dict of parts."""
    import torch
    from PIL import Image

    from gve_ray.embedder.vllm_engine import video_metadata

    parts: dict[str, Any] = {"text": item.text} if item.text else {}
    if isinstance(item.image, Frames):
        parts["image"] = Image.fromarray(item.image.pixels[0])
    if isinstance(item.video, Frames):
        metadata = video_metadata(item.video)
        del metadata["do_sample_frames"]
        pixels = torch.from_numpy(item.video.pixels).permute(0, 3, 1, 2)  # uint8 [T, 3, H, W]
        parts["video"] = {"array": pixels, "video_metadata": metadata}
    return parts["text"] if list(parts) == ["text"] else parts
