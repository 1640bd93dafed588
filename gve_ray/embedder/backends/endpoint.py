"""The engine openai: an OpenAI-compatible `/embeddings` endpoint, such as vLLM's or `gve serve`."""

import base64
import json
import os
import urllib.error
import urllib.request
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any, Literal

import numpy as np

from gve_ray.config import ModelConfig
from gve_ray.embedder.backends.backend import Backend, instruction_of
from gve_ray.embedder.embeddings import Embeddings, Finished, ignore
from gve_ray.embedder.settings import EmbedderSettings
from gve_ray.media import encode_jpeg
from gve_ray.media.video_metadata import video_metadata
from gve_ray.schema import Frames, Item

VideoAs = Literal["video", "images"]
_TIMEOUT_SECONDS = 300.0
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
        self._url = f"{str(config.url).rstrip('/')}/embeddings"
        self._key = os.environ.get(config.key_variable, "")
        self._default, self._ended = settings.default_instruction, config.end_instructions
        self._video_as: VideoAs = config.video_as

    def embed(self, items: Sequence[Item], finished: Finished = ignore) -> Embeddings:
        """See `Backend.embed`. Raises OSError with the endpoint's response if it refuses a request."""
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
        body = json.dumps({"model": self._name, "encoding_format": "float", **inputs}).encode()
        headers = {"Content-Type": "application/json"}
        if self._key:
            headers["Authorization"] = f"Bearer {self._key}"
        request = urllib.request.Request(self._url, data=body, headers=headers)
        try:
            with urllib.request.urlopen(request, timeout=_TIMEOUT_SECONDS) as response:
                data = json.load(response)["data"]
        except urllib.error.HTTPError as error:
            message = error.read(300).decode(errors="replace")
            raise OSError(f"{self._url}: HTTP {error.code}: {message}") from error
        return [row["embedding"] for row in sorted(data, key=lambda row: row["index"])]


def chat_request(item: Item, default_instruction: str | None, video_as: VideoAs) -> dict[str, Any]:
    """Return the fields of a request that embeds one item with media, in vLLM's chat form.

    The user's turn has the video, then the image, then the text. Without an instruction there is no
    system turn, so that the endpoint's template decides. video_as: "video" sends the frames of a
    video as the data URL `data:video/jpeg;base64,FRAME,FRAME,...`, with their numbers and frame rate
    in `media_io_kwargs`, so that the endpoint neither decodes nor samples; "images" sends each frame
    as an image, which gives the frames other positions in the model than those of a video.
    """
    content: list[dict[str, Any]] = []
    more: dict[str, Any] = {}
    if isinstance(item.video, Frames):
        frames = [_base64(pixels) for pixels in item.video.pixels]
        if video_as == "video":
            content.append(_part("video_url", f"data:video/jpeg;base64,{','.join(frames)}"))
            metadata = video_metadata(item.video)
            names = ("fps", "duration", "total_num_frames", "frames_indices", "do_sample_frames")
            more["media_io_kwargs"] = {
                "video": {"num_frames": -1, **{name: metadata[name] for name in names}}
            }
        else:
            content += [_part("image_url", f"data:image/jpeg;base64,{frame}") for frame in frames]
    if isinstance(item.image, Frames):
        content.append(_part("image_url", f"data:image/jpeg;base64,{_base64(item.image.pixels[0])}"))
    if item.text:
        content.append({"type": "text", "text": item.text})
    messages: list[dict[str, Any]] = [{"role": "user", "content": content}]
    if system := item.instruction or default_instruction:
        messages.insert(0, {"role": "system", "content": system})
    return {"messages": messages, **more}


def _part(kind: str, url: str) -> dict[str, Any]:
    return {"type": kind, kind: {"url": url}}


def _base64(pixels: np.ndarray) -> str:
    """Return a picture, uint8 [H, W, 3], as JPEG in base64."""
    return base64.b64encode(encode_jpeg(pixels)).decode()


def _with_instruction(item: Item) -> str:
    if not item.instruction:
        return item.text or ""
    return _WITH_INSTRUCTION.format(instruction=item.instruction, text=item.text or "")
