"""Request bodies: JSON in OpenAI's and vLLM's forms, and multipart, as checked values. Nothing is fetched here.

asked = EmbeddingBody.model_validate(json).asked()      # list[Asked], one an embedding
asked = SearchBody.model_validate(json).asked()         # one
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError
from pydantic_core import from_json

from gve_ray.serving.errors import ApiError

MOST_PARTS = 1_000_000  # commas and brackets of a body; what is between them takes far more memory than bytes
NO_CONTENT = "empty: give a text, an image or a video"


@dataclass(frozen=True, kw_only=True)
class Asked:
    """One thing to embed as a client gave it. image, video: a URL, or a file's bytes."""

    text: str | None = None
    image: str | bytes | None = None
    video: str | bytes | None = None
    instruction: str | None = None

    @property
    def is_visual(self) -> bool:
        return self.image is not None or self.video is not None


class _Body(BaseModel):
    # A misspelt field would otherwise be as good as left out.
    model_config = ConfigDict(extra="forbid")


class MediaUrl(_Body):
    """A `data:` URL, or one of an allowed host."""

    url: str
    detail: str | None = Field(None, description="Taken for compatibility; the model's own size is used.")


class TextPart(_Body):
    """Words."""

    type: Literal["text"]
    text: str


class ImagePart(_Body):
    """A picture."""

    type: Literal["image_url"]
    image_url: MediaUrl | str


class VideoPart(_Body):
    """A clip."""

    type: Literal["video_url"]
    video_url: MediaUrl | str


Part = Annotated[TextPart | ImagePart | VideoPart, Field(discriminator="type")]
# Without fail_fast a list of a million wrong items would be a million errors.
Content = str | Annotated[list[Part], Field(fail_fast=True)]


class Message(_Body):
    """A turn of vLLM's chat form: `system` is the instruction, `user` the thing to embed."""

    role: Literal["system", "user"]
    content: Content


class EmbeddingBody(_Body):
    """POST /v1/embeddings: `input` (OpenAI), or `messages` (vLLM's chat form)."""

    model: str | None = None
    input: str | Annotated[list[str], Field(fail_fast=True)] | None = None
    messages: Annotated[list[Message], Field(fail_fast=True)] | None = None
    instruction: str | None = Field(None, description="What is looked for, for queries; none for a corpus.")
    encoding_format: Literal["float", "base64"] = "float"
    dimensions: int | None = Field(None, description="Only for models trained with Matryoshka dimensions.")
    truncate_prompt_tokens: Literal[-1] | None = Field(
        None, description="-1 cuts texts above the model's limit; otherwise they are refused."
    )
    user: str | None = Field(None, description="Taken for compatibility; not used.")

    def asked(self) -> list[Asked]:
        """What to embed, in order. Raises ApiError."""
        if (self.input is None) == (self.messages is None):
            raise ApiError(400, "give either input or messages", param="input")
        if self.messages is not None:
            return [_of_messages(self.messages, self.instruction)]
        texts = [self.input] if isinstance(self.input, str) else self.input
        assert texts is not None
        if not texts:
            raise ApiError(400, "input=[]: give at least one text", param="input")
        for i, text in enumerate(texts):
            if not text:
                raise ApiError(400, f"input[{i}] is empty: give a text", param="input")
        return [Asked(text=text, instruction=self.instruction) for text in texts]


class SearchBody(_Body):
    """POST /v1/search: `content` in the form of a chat message's, or `like`, the id of a segment."""

    model: str | None = None
    content: Content | None = None
    like: str | None = Field(None, description="Segments that are like this one.")
    top_k: int = Field(10, ge=1)
    filter: dict[str, Any] | None = Field(
        None, description='Conditions on metadata, e.g. {"start": {"gte": 10}, "year": [2023, 2024]}.'
    )
    instruction: str | None = None

    def asked(self) -> Asked | None:
        """What to look for; None for `like`. Raises ApiError."""
        if (self.content is None) == (self.like is None):
            raise ApiError(400, "give either content or like", param="content")
        return None if self.content is None else _of_content(self.content, self.instruction)


def validated(kind: type[Any], values: Any) -> Any:
    """A body of this kind. Raises ApiError(400) that names the field at fault."""
    try:
        return kind.model_validate(values)
    except ValidationError as error:
        # Where several forms are possible there is an error for each: the one that got furthest is meant.
        furthest = max(
            error.errors(include_url=False, include_context=False, include_input=False),
            key=lambda one: len(one["loc"]),
        )
        where = _path(furthest["loc"]) or "body"
        raise ApiError(400, f"{where}: {furthest['msg']}", param=where, code="invalid_body") from error


def _path(loc: Sequence[int | str]) -> str:
    """The field that pydantic means, without the names of the forms that it tried."""
    path = ""
    for before, part in zip(("", *loc), loc, strict=False):
        if isinstance(part, int):
            path += f"[{part}]"
        elif part != before and "[" not in part and part not in ("str", "MediaUrl"):
            path += f".{part}" if path else part
    return path


def parsed(data: bytes, param: str | None = None) -> Any:
    """A JSON body, or a field of a form. Raises ApiError(400)."""
    if sum(data.count(sign) for sign in (b",", b"[", b"{")) > MOST_PARTS:
        raise ApiError(
            400, f"{param or 'the body'} has more than {MOST_PARTS} parts; send less", param, "too_many_parts"
        )
    try:
        return from_json(data)  # refuses halves of surrogate pairs, which no tokenizer takes
    except ValueError as error:
        raise ApiError(400, f"{param or 'the body'} is not JSON: {error}", param, "invalid_json") from error


def of_form(fields: Mapping[str, str], files: Mapping[str, bytes]) -> tuple[SearchBody, Asked | None]:
    """A multipart search: fields text, like, top_k, filter (JSON), instruction, model; files image, video.

    Raises ApiError.
    """
    known = {"text", "like", "top_k", "filter", "instruction", "model"}
    unknown = sorted(set(fields) - known) + sorted(set(files) - {"image", "video"})
    if unknown:
        raise ApiError(
            400,
            f"{unknown[0]}: no such field; fields are {', '.join(sorted(known))}, files image and video",
            param=unknown[0],
        )
    values: dict[str, Any] = {name: value for name, value in fields.items() if value and name != "text"}
    if "filter" in values:
        values["filter"] = parsed(values["filter"].encode(), "filter")
    text, like = fields.get("text"), values.get("like")
    given = bool(text) or bool(files)
    # Its own content is never read: what was uploaded takes its place.
    body: SearchBody = validated(SearchBody, values | ({"content": ""} if given else {}))
    if given == bool(like):
        raise ApiError(400, f"content: {NO_CONTENT}; or give like, alone", param="content")
    if like:
        return body, None
    return body, Asked(
        text=text or None,
        image=files.get("image"),
        video=files.get("video"),
        instruction=values.get("instruction"),
    )


def _of_messages(messages: Sequence[Message], instruction: str | None) -> Asked:
    roles = [message.role for message in messages]
    if roles not in (["user"], ["system", "user"]):
        raise ApiError(
            400,
            f"messages with roles {roles}: give one user message, a system one before it",
            param="messages",
        )
    if roles[0] == "system":
        system = messages[0].content
        parts = [TextPart(type="text", text=system)] if isinstance(system, str) else system
        texts = [part.text for part in parts if isinstance(part, TextPart)]
        if instruction is not None or len(texts) != len(parts):
            raise ApiError(
                400,
                "messages: the system message is the instruction: text alone, and no instruction beside it",
                param="messages",
            )
        instruction = "".join(texts)
    return _of_content(messages[-1].content, instruction)


def _of_content(content: Content, instruction: str | None) -> Asked:
    parts = [TextPart(type="text", text=content)] if isinstance(content, str) else content
    texts = [part.text for part in parts if isinstance(part, TextPart) and part.text]
    images = [_url(part.image_url) for part in parts if isinstance(part, ImagePart)]
    videos = [_url(part.video_url) for part in parts if isinstance(part, VideoPart)]
    for name, found in (("text", texts), ("image_url", images), ("video_url", videos)):
        if len(found) > 1:
            raise ApiError(
                400, f"content: {len(found)} parts of type {name}; give one at most", param="content"
            )
    if not (texts or images or videos):
        raise ApiError(400, f"content: {NO_CONTENT}", param="content")
    return Asked(
        text=next(iter(texts), None),
        image=next(iter(images), None),
        video=next(iter(videos), None),
        instruction=instruction or None,
    )


def _url(value: MediaUrl | str) -> str:
    return value if isinstance(value, str) else value.url
