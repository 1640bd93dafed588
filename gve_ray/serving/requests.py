"""Parse and validate request bodies: JSON in the formats of OpenAI and vLLM, and multipart forms.

URLs in a body are not fetched here.

queries = validate(EmbeddingRequest, json).queries()    # list[Query], one per embedding
query = validate(SearchRequest, json).query()           # SearchQuery
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated, Any, Literal, TypeVar

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError, model_validator
from pydantic_core import from_json

from gve_ray.embedder.conversation import VISION_TOKENS
from gve_ray.errors import shortened, shown
from gve_ray.search import By, Filter
from gve_ray.serving.errors import ApiError
from gve_ray.serving.frame_sequence import PREFIX, FrameSequence, parse_frames
from gve_ray.serving.hits import MIN_CONFIDENCE

VISION_START, VISION_END, IMAGE_TOKEN, VIDEO_TOKEN = VISION_TOKENS
MAX_LIKE = 100  # segments of a query
MAX_PARTS = 1_000_000  # commas and brackets of a body; a parsed value takes far more memory than its JSON
NO_CONTENT = "empty: give a text, an image or a video"
M = TypeVar("M", bound=BaseModel)


@dataclass(frozen=True, kw_only=True)
class Query:
    """One item to embed, as the client sent it. image, video: a URL, the bytes of a file, or frames."""

    text: str | None = None
    image: str | bytes | None = None
    video: str | bytes | FrameSequence | None = None
    instruction: str | None = None

    @property
    def is_visual(self) -> bool:
        return self.image is not None or self.video is not None


@dataclass(frozen=True, kw_only=True)
class SearchQuery:
    """What a search is about: the sum of its parts (`gve_ray.search.composed`).

    content: an item to embed. like: IDs of segments, whose vectors the index has. without: an item to embed, whose
    vector is subtracted. There is a content, or at least one segment.
    """

    content: Query | None = None
    like: Sequence[str] = ()
    without: Query | None = None


@dataclass(frozen=True, kw_only=True)
class SearchOptions:
    """How a search is done, and what it returns; see `gve_ray.search.search_moments` and `By`."""

    top_k: int
    filter: Filter | None = None
    overlapping: bool = False
    by_video: bool = False
    by: By = "both"


class _Model(BaseModel):
    # Otherwise a misspelt field would be ignored silently.
    model_config = ConfigDict(extra="forbid")

    @model_validator(mode="before")
    @classmethod
    def _without_nulls(cls, values: Any) -> Any:
        """Drop null fields: some clients send null for a field that is not set (LiteLLM:
        encoding_format).
        """
        if isinstance(values, Mapping):
            return {name: value for name, value in values.items() if value is not None}
        return values


def _whole(value: Any) -> Any:
    """Return a number without a fraction as int, as JSON Schema counts it; a text is no number."""
    if isinstance(value, float) and value.is_integer():
        return int(value)
    return value


Integer = Annotated[int, Field(strict=True), BeforeValidator(_whole)]
Boolean = Annotated[bool, Field(strict=True)]
Number = Annotated[float, Field(strict=True)]


class MediaUrl(_Model):
    """A `data:` URL, or a URL of an allowed host."""

    url: str
    detail: str | None = Field(None, description="Accepted for compatibility; the size is that of the model.")


class TextPart(_Model):
    """A text."""

    type: Literal["text"]
    text: str


class ImagePart(_Model):
    """An image."""

    type: Literal["image_url"]
    image_url: MediaUrl | str


class VideoPart(_Model):
    """A clip."""

    type: Literal["video_url"]
    video_url: MediaUrl | str


# Other types of a part -> (our type, the field with the content). The Responses API of OpenAI and
# vLLM have input_text and input_image; the client of Qwen sends image and video.
_SPELLINGS = {
    "input_text": ("text", "text"),
    "input_image": ("image_url", "image_url"),
    "image": ("image_url", "image"),
    "video": ("video_url", "video"),
}
_PARTS = ("text", "image_url", "video_url")


def _as_part(value: Any) -> Any:
    """Convert a part to one of our three types.

    As in vLLM, it may also be a plain string or have no type.
    """
    if isinstance(value, str):
        return {"type": "text", "text": value}
    if not isinstance(value, Mapping):
        return value
    kind = value.get("type")
    if kind is None:
        kind = next((name for name in _PARTS if value.get(name) is not None), None)
        return {**value, "type": kind}
    if not isinstance(kind, str):
        raise ValueError(f"type={shown(kind)}: give text, image_url or video_url")
    if kind in _SPELLINGS:
        name, key = _SPELLINGS[kind]
        rest = {field: content for field, content in value.items() if field not in ("type", key)}
        return {**rest, "type": name, name: value.get(key)}
    if kind not in _PARTS:
        raise ValueError(f"parts of type {shown(kind)} are not read; send text, image_url or video_url")
    return value


Part = Annotated[TextPart | ImagePart | VideoPart, Field(discriminator="type"), BeforeValidator(_as_part)]
# Without fail_fast a list of a million wrong items would give a million errors.
Content = str | Annotated[list[Part], Field(fail_fast=True)]


class Message(_Model):
    """A message in the chat format of vLLM.

    `system` or `developer` holds the instruction and `user` the item to embed. An empty `assistant`
    message may follow, as the clients of Qwen send it.
    """

    role: Literal["system", "developer", "user", "assistant"]
    content: Content = ""


def _as_text(value: Any) -> Any:
    """Check an item of `input`.

    For items that only other services accept, the ValueError says what to send.
    """
    if isinstance(value, int | list):
        # vLLM would read ids of any tokenizer as its own, and embed a different text.
        raise ValueError(
            "token ids of another tokenizer than that of this model; send the text itself (LangChain: "
            "OpenAIEmbeddings(check_embedding_ctx_length=False))"
        )
    if isinstance(value, Mapping):
        raise ValueError(
            "an object; input takes texts. Send an image or a clip as messages, one in each request: "
            '[{"role": "user", "content": [{"type": "image_url", "image_url": {"url": "..."}}]}]'
        )
    return value


Text = Annotated[str, BeforeValidator(_as_text)]


def _as_message(value: Any) -> Any:
    if isinstance(value, list):
        raise ValueError("a list; send one conversation a request, as one list of messages")
    return value


Turn = Annotated[Message, BeforeValidator(_as_message)]


class EmbeddingRequest(_Model):
    """Body of POST /v1/embeddings: `input` (OpenAI) or `messages` (the chat format of vLLM)."""

    model: str | None = None
    input: str | Annotated[list[Text], Field(fail_fast=True)] | None = None
    messages: Annotated[list[Turn], Field(fail_fast=True)] | None = None
    instruction: str | None = Field(
        None, description="The retrieval task, for queries; leave it out for a corpus."
    )
    encoding_format: Literal["float", "base64"] = "float"
    dimensions: Integer | None = Field(
        None, description="Only for models trained with Matryoshka dimensions."
    )
    truncate_prompt_tokens: Literal[-1] | None = Field(
        None, description="-1 cuts texts above the model's limit; otherwise they are refused."
    )
    media_io_kwargs: dict[str, dict[str, Any]] | None = Field(
        None,
        description="As in vLLM: `video` has `fps`, `frames_indices` and `total_num_frames` of a video that is sent "
        "as data:video/jpeg;base64,FRAME,FRAME,...; nothing else is used.",
    )
    user: str | None = Field(None, description="Accepted for compatibility; not used.")
    add_generation_prompt: Boolean | None = Field(None, description="Accepted for compatibility; not used.")
    continue_final_message: Boolean | None = Field(None, description="Accepted for compatibility; not used.")
    add_special_tokens: Boolean | None = Field(None, description="Accepted for compatibility; not used.")

    def queries(self) -> list[Query]:
        """Return the items to embed, in order. Raises ApiError."""
        if (self.input is None) == (self.messages is None):
            raise ApiError(400, "give either input or messages", param="input")
        if self.messages is not None:
            video = (self.media_io_kwargs or {}).get("video", {})
            return [_query_of_messages(self.messages, self.instruction, video)]
        texts = [self.input] if isinstance(self.input, str) else self.input
        assert texts is not None
        if not texts:
            raise ApiError(400, "input=[]: give at least one text", param="input")
        for i, text in enumerate(texts):
            if not text:
                raise ApiError(400, f"input[{i}] is empty: give a text", param="input")
        return [Query(text=text, instruction=self.instruction) for text in texts]


def _as_list(value: Any) -> Any:
    return [value] if isinstance(value, str) else value


class SearchRequest(_Model):
    """Body of POST /v1/search: `content`, as in a chat message, `like`, IDs of segments, or both."""

    model: str | None = None
    content: Content | None = None
    like: Annotated[list[str], Field(min_length=1, max_length=MAX_LIKE), BeforeValidator(_as_list)] | None = (
        Field(
            None,
            description="The ID of a segment, or several: the result is the segments most similar to all of them, "
            "and to `content` if there is one.",
        )
    )
    without: Content | None = Field(
        None,
        description="What the pictures should not show: like `content`, but hits that are similar to it are ranked "
        "lower.",
    )
    top_k: Integer = Field(10, ge=1)
    filter: dict[str, Any] | None = Field(
        None, description='Conditions on metadata, e.g. {"start": {"gte": 10}, "year": [2023, 2024]}.'
    )
    instruction: str | None = None
    overlapping: Boolean = Field(False, description="Also return segments that overlap a better one in time.")
    by: By = Field(
        "both",
        description="What is searched: pictures, words (subtitles, captions, names), or both. Only a query with a "
        "text can be searched by words.",
    )
    group_by: Literal["video"] | None = Field(
        None,
        description="`video`: each video once, with its best moment and, in `moments`, its further ones.",
    )
    min_confidence: Number = Field(
        MIN_CONFIDENCE,
        ge=0,
        le=1,
        description="Hits with less confidence have `confident: false`; with 0, no hit has.",
    )
    rerank: Boolean = Field(
        True,
        description="Whether the best hits of a text are reranked, if the service has a reranker.",
    )

    def query(self) -> SearchQuery:
        """Return what is searched. Raises ApiError."""
        return self.query_with(
            None if self.content is None else _query_of_content(self.content, self.instruction)
        )

    def query_with(self, content: Query | None) -> SearchQuery:
        """Return what is searched if the content is not in the body. Raises ApiError."""
        if content is None and not self.like:
            raise ApiError(400, f"content: {NO_CONTENT}; or give like", param="content")
        without = None
        if self.without is not None:
            without = _query_of_content(self.without, self.instruction, field="without")
        # A segment that is given twice does not count twice.
        return SearchQuery(content=content, like=tuple(dict.fromkeys(self.like or ())), without=without)

    def options(self, top_k: int) -> SearchOptions:
        """Return the options of the search, with the number of hits that it is to return."""
        return SearchOptions(
            top_k=top_k,
            filter=self.filter,
            overlapping=self.overlapping,
            by_video=self.group_by == "video",
            by=self.by,
        )


JSON_FIELDS = {"top_k", "filter", "overlapping", "min_confidence", "rerank"}  # of a form
FORM_FIELDS = SearchRequest.model_fields.keys() - {"content"} | {"text"}


def validate(kind: type[M], values: Any) -> M:
    """Return `values` as a request of this class. Raises ApiError(400) that names the field at fault."""
    try:
        return kind.model_validate(values)
    except ValidationError as error:
        # There is an error for each form that a value may have; the deepest one belongs to the
        # intended form.
        deepest = max(
            error.errors(include_url=False, include_context=False, include_input=False),
            key=lambda details: len(details["loc"]),
        )
        where = shortened(_path(deepest["loc"])) or "body"
        message = deepest["msg"].removeprefix("Value error, ")
        if deepest["type"] == "extra_forbidden":
            message = "not a field here; leave it out"
            if len(deepest["loc"]) == 1:
                message += f". There are {', '.join(kind.model_fields)}"
        raise ApiError(400, f"{where}: {message}", param=where, code="invalid_body") from error


def _path(loc: Sequence[int | str]) -> str:
    """Return the field of a pydantic error location, without the names of the union members."""
    path = ""
    for before, part in zip(("", *loc), loc, strict=False):
        if isinstance(part, int):
            path += f"[{part}]"
        elif part != before and "[" not in part and part not in ("str", "MediaUrl"):
            path += f".{part}" if path else part
    return path


def parse_json(data: bytes, param: str | None = None) -> Any:
    """Parse a JSON body, or the field `param` of a form. Raises ApiError(400)."""
    if sum(data.count(sign) for sign in (b",", b"[", b"{")) > MAX_PARTS:
        raise ApiError(
            400, f"{param or 'the body'} has more than {MAX_PARTS} parts; send less", param, "too_many_parts"
        )
    try:
        return from_json(data)  # refuses lone surrogates, which no tokenizer accepts
    except ValueError as error:
        raise ApiError(400, f"{param or 'the body'} is not JSON: {error}", param, "invalid_json") from error


def parse_form(
    fields: Mapping[str, str], like: Sequence[str], files: Mapping[str, bytes]
) -> tuple[SearchRequest, SearchQuery]:
    """Return the body and the query of a multipart search.

    fields: those of `FORM_FIELDS` except `like`; those of `JSON_FIELDS` in JSON. like: IDs of segments. files: image,
    video. Raises ApiError.
    """
    unknown = sorted(set(fields) - FORM_FIELDS) + sorted(set(files) - {"image", "video"})
    if unknown:
        raise ApiError(
            400,
            f"{shortened(unknown[0])}: unknown field; fields are {', '.join(sorted(FORM_FIELDS))}, "
            "files are image and video",
            param=unknown[0],
        )
    values: dict[str, Any] = {name: value for name, value in fields.items() if value and name != "text"}
    for name in JSON_FIELDS & set(values):
        # Python writes True.
        value = values[name].lower() if name in ("overlapping", "rerank") else values[name]
        values[name] = parse_json(value.encode(), name)
    if segments := [segment for segment in like if segment]:
        values["like"] = segments
    body = validate(SearchRequest, values)
    content = Query(
        text=fields.get("text") or None,
        image=files.get("image"),
        video=files.get("video"),
        instruction=values.get("instruction"),
    )
    return body, body.query_with(content if content.text or content.is_visual else None)


def _query_of_messages(
    messages: Sequence[Message], instruction: str | None, video_options: Mapping[str, Any]
) -> Query:
    turns = list(messages)
    if turns and turns[-1].role == "assistant":
        if any(not isinstance(part, TextPart) or part.text for part in _parts(turns[-1].content)):
            raise ApiError(
                400,
                "messages: the last message, of the role assistant, has content; leave it empty, because the embedding "
                "is read where the answer would begin",
                param="messages",
            )
        turns.pop()
    roles = [message.role for message in turns]
    if roles not in (["user"], ["system", "user"], ["developer", "user"]):
        raise ApiError(
            400,
            f"messages with roles {shown([message.role for message in messages])}: give one user message, "
            "optionally with a system message before it and an empty assistant message after it",
            param="messages",
        )
    if len(turns) == 2:
        parts = _parts(turns[0].content)
        texts = [part.text for part in parts if isinstance(part, TextPart)]
        if instruction is not None or len(texts) != len(parts):
            raise ApiError(
                400,
                "messages: the system message is the instruction: give only text in it, and leave out the "
                "field instruction",
                param="messages",
            )
        instruction = "".join(texts)
    return _query_of_content(turns[-1].content, instruction, video_options)


def _parts(content: Content) -> Sequence[Part]:
    return [TextPart(type="text", text=content)] if isinstance(content, str) else content


def _query_of_content(
    content: Content,
    instruction: str | None,
    video_options: Mapping[str, Any] | None = None,
    field: str = "content",
) -> Query:
    parts = _parts(content)
    texts = [part.text for part in parts if isinstance(part, TextPart) and part.text]
    images = [_url(part.image_url) for part in parts if isinstance(part, ImagePart)]
    videos = [_url(part.video_url) for part in parts if isinstance(part, VideoPart)]
    for name, parts_of_type in (("text", texts), ("image_url", images), ("video_url", videos)):
        if len(parts_of_type) > 1:
            raise ApiError(
                400, f"{field}: {len(parts_of_type)} parts of type {name}; give one at most", param=field
            )
    if not (texts or images or videos):
        raise ApiError(400, f"{field}: {NO_CONTENT}", param=field)
    text = next(iter(texts), "")
    for medium, token in ((images, IMAGE_TOKEN), (videos, VIDEO_TOKEN)):
        placeholder = f"{VISION_START}{token}{VISION_END}"
        if medium and text.startswith(placeholder):  # the examples of vLLM mark the place of the medium
            text = text.removeprefix(placeholder).lstrip()
    return Query(
        text=text or None,
        image=next(iter(images), None),
        video=_video(next(iter(videos), None), video_options or {}),
        instruction=instruction or None,
    )


def _video(url: str | None, options: Mapping[str, Any]) -> str | FrameSequence | None:
    """Return the frames of a URL that has them, and other URLs unchanged. Raises ApiError."""
    return parse_frames(url, options) if url is not None and url.startswith(PREFIX) else url


def _url(value: MediaUrl | str) -> str:
    return value if isinstance(value, str) else value.url
