"""The engine openai: an OpenAI-compatible `/embeddings` endpoint, such as vLLM's or `gve serve`."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from gve_ray.config import ModelConfig, VideoAs
from gve_ray.embedder.backends.backend import Backend, instruction_of
from gve_ray.embedder.embeddings import Embeddings, Finished, ignore
from gve_ray.embedder.settings import EmbedderSettings
from gve_ray.endpoint import Endpoint, image_part, jpegs_of, video_options, video_part
from gve_ray.schema import Frames, Item

# The format that public instruction-following text embedders are trained with.
_WITH_INSTRUCTION = "Instruct: {instruction}\nQuery: {text}"


class EndpointBackend(Backend):
    """Calls an OpenAI-compatible `/embeddings` endpoint.

    Texts are sent as `input`, media as chat `messages` with JPEG frames. The `messages` form is an
    extension of vLLM; an endpoint without it refuses media, which only a request shows. The endpoint
    does not report token counts, nor whether it cut a text.
    """

    def __init__(self, config: ModelConfig, settings: EmbedderSettings) -> None:
        self._name = config.model
        self._endpoint = Endpoint(str(config.url), config.key_variable)
        self._default, self._ended = settings.default_instruction, config.end_instructions
        self._video_as: VideoAs = config.video_as

    def embed(self, items: Sequence[Item], finished: Finished = ignore) -> Embeddings:
        """See `Backend.embed`. Raises EndpointError with the endpoint's response if it refuses a request."""
        vectors: list[Any] = [None] * len(items)
        if self._ended:
            items = [replace(i, instruction=instruction_of(i, None, ended=True)) for i in items]
        texts = [i for i, item in enumerate(items) if item.image is None and item.video is None]
        if texts:
            embedded = self._request({"input": [_with_instruction(items[i]) for i in texts]})
            for i, vector in zip(texts, embedded, strict=True):
                vectors[i] = vector
        for i in sorted(set(range(len(items))) - set(texts)):
            (vectors[i],) = self._request(chat_request(items[i], self._default, self._video_as))
        matrix = np.asarray(vectors, dtype=np.float32)
        unknown = Embeddings.empty(len(items), 0)
        return replace(unknown, vectors=matrix / np.linalg.norm(matrix, axis=1, keepdims=True))

    def _request(self, inputs: Mapping[str, Any]) -> list[Any]:
        """Send one request and return the embeddings in the order of the inputs."""
        body = {"model": self._name, "encoding_format": "float", **inputs}
        return self._endpoint.post("embeddings", body, _embeddings)


def chat_request(item: Item, default_instruction: str | None, video_as: VideoAs) -> dict[str, Any]:
    """Return the fields of a request that embeds one item with media, in vLLM's chat form.

    The user's turn has the video, then the image, then the text. Without an instruction there is no
    system turn, so that the endpoint's template decides. video_as: "video" sends a video as
    `endpoint.video_part`, with the times of its frames; "images" sends each frame as an image, which gives
    the frames other positions in the model than those of a video.
    """
    content: list[dict[str, Any]] = []
    more: dict[str, Any] = {}
    if isinstance(item.video, Frames):
        jpegs = jpegs_of(item.video)
        if video_as == "video":
            content.append(video_part(jpegs))
            more = video_options(item.video)
        else:
            content += map(image_part, jpegs)
    if isinstance(item.image, Frames):
        content += map(image_part, jpegs_of(item.image))
    if item.text:
        content.append({"type": "text", "text": item.text})
    messages: list[dict[str, Any]] = [{"role": "user", "content": content}]
    if system := item.instruction or default_instruction:
        messages.insert(0, {"role": "system", "content": system})
    return {"messages": messages, **more}


def _embeddings(reply: Any) -> list[Any]:
    return [row["embedding"] for row in sorted(reply["data"], key=lambda row: row["index"])]


def _with_instruction(item: Item) -> str:
    if not item.instruction:
        return item.text or ""
    return _WITH_INSTRUCTION.format(instruction=item.instruction, text=item.text or "")
