"""Describe the HTTP interface of one service as an OpenAPI document.

document(api, operations)    # the JSON of GET /openapi.json

The document states the limits of this service: the names of its models, the fields of their
indexes, and the sizes of its config. The service accepts a request that fits the schemas, except for
what JSON Schema cannot express: a text with too many tokens, a file or a `data:` URL that is no
readable image or video, frames that do not fit `media_io_kwargs`, a URL of another host, and an unknown
segment. Such a request gets one of the documented errors. The service also reads some `data:` URLs
(percent-encoded) and empty texts between other parts, which the document leaves out.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from inspect import getdoc
from typing import Any, get_args

from pydantic import BaseModel

from gve_ray import __version__
from gve_ray.search.filters import MAX_VALUES, SIGNS
from gve_ray.search.fusion import By
from gve_ray.search.index import FieldType, Source
from gve_ray.search.indexing_progress import STEPS
from gve_ray.serving.config import RequestLimits
from gve_ray.serving.guard import COOKIE
from gve_ray.serving.hits import MIN_CONFIDENCE
from gve_ray.serving.requests import JSON_FIELDS, MAX_LIKE, EmbeddingRequest, SearchRequest

Schema = dict[str, Any]


@dataclass(frozen=True, kw_only=True)
class Api:
    """What the document says about one service.

    models: names of all models. searched: names of those with an index. dimensions: Matryoshka
    dimensions of any model. indexes: fields of each index, as far as they can be read. limits: of
    a request. has_key: whether requests need the API key.
    """

    models: Sequence[str]
    searched: Sequence[str]
    dimensions: Sequence[int]
    indexes: Sequence[Mapping[str, FieldType]]
    limits: RequestLimits
    has_key: bool


@dataclass(frozen=True, kw_only=True)
class Operation:
    """One path with its endpoint.

    tag: group of the operation. success: status -> content types of the reply, with their schemas.
    errors: statuses in addition to `COMMON_ERRORS`. body: name of the schema of the request body. is_public:
    whether it needs no key.
    """

    path: str
    endpoint: Callable[..., Any]
    tag: str
    success: Mapping[int, Mapping[str, Schema]]
    methods: Sequence[str] = ("GET",)
    errors: Sequence[int] = ()
    body: str | None = None
    is_public: bool = False


# Every operation can answer with these; 401 only with a key, and 403 only without one.
COMMON_ERRORS = (400, 401, 403, 408, 413, 500, 503, 504)
_MEANINGS = {
    200: "Success.",
    204: "Success, without a body.",
    206: "The requested part of the file.",
    400: "The request is invalid; `error.param` names the field at fault.",
    401: "The API key is missing or wrong.",
    403: "The request is refused: the service has no API key and answers only this machine, or the URL of "
    "an image or a clip has a host that is not allowed.",
    404: "The model, the segment or the file is unknown.",
    408: "The body did not arrive in time.",
    409: "The model was replaced during the request; try again.",
    410: "The file was changed or deleted after it was indexed.",
    413: "The body, the image, the clip or the work for the model is above a limit.",
    415: "The image or the clip has a format that is not read.",
    416: "The requested range lies outside the file; `Content-Range` has the size.",
    422: "The image or the clip is damaged or cannot be used.",
    429: "This client has too much work waiting; try again after `Retry-After`.",
    500: "The service failed; its log says why.",
    502: "The host of a URL failed.",
    503: "The service is busy or not ready; try again after `Retry-After`.",
    504: "The request was not done in time.",
}
_FROM_PROXY = (500, 503)  # Ray Serve itself answers in plain text if no replica can


def document(api: Api, operations: Sequence[Operation]) -> Schema:
    """Return the OpenAPI document of a service with these operations."""
    paths: dict[str, Schema] = {}
    for operation in operations:
        item = paths.setdefault(operation.path, {})
        for method in operation.methods:
            item[method.lower()] = _operation(api, operation, method)
    components: Schema = {"schemas": _requests(api) | _REPLIES}
    if api.has_key:
        components["securitySchemes"] = {
            "key": {"type": "http", "scheme": "bearer", "description": "The API key."},
            "session": {
                "type": "apiKey",
                "in": "cookie",
                "name": COOKIE,
                "description": "The cookie of POST /v1/session.",
            },
        }
    return {
        "openapi": "3.1.0",
        "info": {
            "title": "gve_ray",
            "version": __version__,
            "description": "Finds moments of videos by text, picture, clip, or a mix of them. Null fields of "
            "JSON bodies are ignored.",
        },
        "paths": paths,
        "components": components,
    }


def json_of(name: str) -> Mapping[str, Schema]:
    """Return the content of a JSON reply with a schema of the document."""
    return {"application/json": {"schema": _ref(name)}}


def _ref(name: str) -> Schema:
    return {"$ref": f"#/components/schemas/{name}"}


def _operation(api: Api, operation: Operation, method: str) -> Schema:
    summary, _, description = (getdoc(operation.endpoint) or "").partition("\n\n")
    name = operation.endpoint.__name__
    entry: Schema = {
        "tags": [operation.tag],
        "summary": " ".join(summary.split()),
        "operationId": name if method == operation.methods[0] else f"{name}_{method.lower()}",
    }
    if description:
        entry["description"] = " ".join(description.split())
    if parameters := _parameters(api, operation.path):
        entry["parameters"] = parameters
    if operation.body is not None:
        entry["requestBody"] = {"required": True, "content": _bodies(operation.body)}
    entry["responses"] = _responses(api, operation, method)
    if api.has_key:
        entry["security"] = [] if operation.is_public else [{"key": []}, {"session": []}]
    return entry


def _responses(api: Api, operation: Operation, method: str) -> Schema:
    has_content = method != "HEAD"
    responses: Schema = {}
    for status, content in operation.success.items():
        responses[str(status)] = {"description": _MEANINGS[status]}
        if content:
            # A reply to HEAD has the type of the content, but none of it.
            responses[str(status)]["content"] = (
                dict(content) if has_content else {kind: {} for kind in content}
            )
    never = 403 if api.has_key else 401
    for status in sorted({*COMMON_ERRORS, *operation.errors}):
        if (status == never and status not in operation.errors) or (status == 401 and operation.is_public):
            continue
        reply: Schema = {"description": _MEANINGS[status]}
        if status == 416:
            reply["headers"] = {"Content-Range": {"schema": {"type": "string"}}}
        else:
            reply["content"] = {"application/json": {"schema": _ref("Error")} if has_content else {}}
            if status in _FROM_PROXY:
                reply["content"]["text/plain"] = {"schema": {"type": "string"}} if has_content else {}
        if status == 401:
            reply["headers"] = {"WWW-Authenticate": {"schema": {"const": "Bearer"}}}
        if status in (429, 503):
            reply["headers"] = {
                "Retry-After": {"description": "Seconds.", "schema": {"type": "integer", "minimum": 0}}
            }
        responses[str(status)] = reply
    return responses


def _parameters(api: Api, path: str) -> list[Schema]:
    schemas: dict[str, Schema] = {
        "model": {"type": "string", "enum": list(api.models)},
        "segment": {"type": "string", "pattern": r"^[^/\\?#]+$", "description": "The ID of a segment."},
        "picture": {"type": "string", "enum": ["poster", "strip"]},
    }
    return [
        {"name": name, "in": "path", "required": True, "schema": schema}
        for name, schema in schemas.items()
        if f"{{{name}}}" in path
    ]


def _bodies(name: str) -> Schema:
    content: Schema = {
        "application/json": {"schema": _ref(name), "examples": _EXAMPLES[name]},
    }
    if name == "SearchRequest":
        content["multipart/form-data"] = {
            "schema": _ref("SearchForm"),
            "examples": _EXAMPLES["SearchForm"],
            "encoding": {
                "image": {"contentType": "image/jpeg, image/png, image/webp, image/gif"},
                "video": {"contentType": "video/mp4, video/webm, video/quicktime"},
                "filter": {"contentType": "application/json"},
            },
        }
    return content


_EXAMPLES: dict[str, Schema] = {
    "EmbeddingRequest": {
        "texts": {"value": {"input": ["a red ball", "two cats"]}},
        "chat": {
            "value": {
                "messages": [
                    {"role": "system", "content": "Find the video."},
                    {"role": "user", "content": [{"type": "text", "text": "a red ball"}]},
                ]
            }
        },
    },
    "SearchRequest": {
        "text": {"value": {"content": "a red ball rolls to the left", "top_k": 5}},
        "parts": {"value": {"content": [{"type": "text", "text": "a red ball"}], "overlapping": True}},
        "without": {"value": {"content": "a red ball", "without": "a blue ball"}},
    },
    "SearchForm": {"text": {"value": {"text": "a red ball rolls to the left", "top_k": 5}}},
}

# Simpler than what the service reads, so that every URL of this form is read or gets 403, 415 or 422.
_BASE64 = "([A-Za-z0-9+/]{4})*([A-Za-z0-9+/]{4}|[A-Za-z0-9+/]{3}=|[A-Za-z0-9+/]{2}==)"
_DATA = f"data:[A-Za-z0-9.+/;=-]*;base64,{_BASE64}"
_HTTP = r"https?://[A-Za-z0-9]+([.-][A-Za-z0-9]+)*(:[1-9][0-9]{0,3})?(/[A-Za-z0-9._~/?=&+-]*)?"
_INT64 = {"minimum": -(2**63), "maximum": 2**63 - 1}
_NULL: Schema = {"type": "null"}


def _requests(api: Api) -> dict[str, Schema]:
    """Return the schemas of the bodies of requests."""
    text: Schema = {"type": "string", "maxLength": api.limits.max_text}
    return _parts(text) | _embedding_requests(api, text) | _search_requests(api, text)


def _embedding_requests(api: Api, text: Schema) -> dict[str, Schema]:
    full_text = text | {"minLength": 1}
    texts = {"type": "array", "items": full_text, "minItems": 1, "maxItems": api.limits.max_inputs}
    fields = {
        "model": _nullable(_names(api.models)),
        "instruction": _nullable(text),
        "encoding_format": {"enum": ["float", "base64", None], "default": "float"},
        "dimensions": {"enum": [*api.dimensions, None]},
        "truncate_prompt_tokens": {"enum": [-1, None]},
        "media_io_kwargs": _nullable({"type": "object", "additionalProperties": {"type": "object"}}),
        "user": _nullable({"type": "string"}),
        "add_generation_prompt": _nullable({"type": "boolean"}),
        "continue_final_message": _nullable({"type": "boolean"}),
        "add_special_tokens": _nullable({"type": "boolean"}),
    }
    by_input = {"input": {"anyOf": [full_text, texts]}, "messages": _NULL, **fields}
    by_messages = {"messages": _turns("UserMessage"), "input": _NULL, **fields}
    instructed = by_messages | {"messages": _turns("SystemMessage", "UserMessage"), "instruction": _NULL}
    return {
        "EmbeddingRequest": {
            "description": "`input` (OpenAI) or `messages` (the chat format of vLLM).",
            "anyOf": [
                _ref(name) for name in ("TextsToEmbed", "MessagesToEmbed", "InstructedMessagesToEmbed")
            ],
        },
        "TextsToEmbed": _described(_object(by_input, "input"), EmbeddingRequest),
        "MessagesToEmbed": _described(_object(by_messages, "messages"), EmbeddingRequest),
        "InstructedMessagesToEmbed": _described(_object(instructed, "messages"), EmbeddingRequest),
    }


def _search_requests(api: Api, text: Schema) -> dict[str, Schema]:
    fields: dict[str, Schema] = {
        "model": _names(api.searched),
        "instruction": text,
        "top_k": {"type": "integer", "minimum": 1, "maximum": api.limits.max_top_k, "default": 10},
        "filter": _ref("Filter"),
        "overlapping": {"type": "boolean", "default": False},
        "by": {"type": "string", "enum": list(get_args(By)), "default": "both"},
        "group_by": {"type": "string", "enum": ["video"]},
        "min_confidence": {"type": "number", "minimum": 0, "maximum": 1, "default": MIN_CONFIDENCE},
        "rerank": {"type": "boolean", "default": True},
    }
    in_json = {name: _nullable(schema) for name, schema in fields.items()}
    # A form has these as JSON, so null is possible; the others are texts as they are.
    in_form = fields | {name: in_json[name] for name in JSON_FIELDS}
    segment: Schema = {"type": "string", "minLength": 1}
    like = {"anyOf": [segment, {"type": "array", "items": segment, "minItems": 1, "maxItems": MAX_LIKE}]}
    without = text | {"minLength": 1}
    media: dict[str, Schema] = {
        name: {"type": "string", "format": "binary", "minLength": 1, "description": f"The file of {what}."}
        for name, what in (("image", "an image"), ("video", "a clip"))
    }
    form = _described(
        _object({"text": text, **media, "like": like, "without": without, **in_form}, extra=False),
        SearchRequest,
    )
    # Clients look for the fields in `properties` of the form itself.
    form["anyOf"] = [
        {"required": ["text"], "properties": {"text": {"minLength": 1}}},
        *({"required": [name]} for name in (*media, "like")),
    ]
    in_json |= {"without": _nullable(_ref("Content"))}
    return {
        "Filter": {
            "description": "Conditions on the metadata of segments, all of which must hold.",
            "anyOf": [_filter(index) for index in api.indexes] or [{"type": "object"}],
        },
        "SearchRequest": {
            "description": "`content`, as in a chat message, `like`, IDs of segments, or both.",
            "anyOf": [_ref("SearchByContent"), _ref("SearchByLike")],
        },
        "SearchByContent": _described(
            _object({"content": _ref("Content"), "like": _nullable(like), **in_json}, "content"),
            SearchRequest,
        ),
        "SearchByLike": _described(
            _object({"like": like, "content": _NULL, **in_json}, "like"), SearchRequest
        ),
        "SearchForm": {
            "description": "`text`, `image`, `video`, `like`, or a mix of them. `like` may occur several times.",
            **form,
        },
    }


def _parts(text: Schema) -> dict[str, Schema]:
    """Return the schemas of messages and their parts."""
    full_text = text | {"minLength": 1}
    kinds = ("TextPart", "ImagePart", "VideoPart")
    return {
        "UserMessage": _object({"role": {"const": "user"}, "content": _ref("Content")}, "role", "content"),
        "SystemMessage": {
            "description": "The instruction, instead of the field `instruction`.",
            **_object(
                {
                    "role": {"enum": ["system", "developer"]},
                    "content": {
                        "anyOf": [text, {"type": "array", "items": _part(text, "text", "input_text")}, _NULL]
                    },
                },
                "role",
            ),
        },
        "AssistantMessage": {
            "description": "Empty, as the clients of Qwen send it.",
            **_object(
                {
                    "role": {"const": "assistant"},
                    "content": {
                        "anyOf": [
                            {"type": "array", "items": _part({"const": ""}, "text", "input_text")},
                            {"enum": ["", None]},
                        ]
                    },
                },
                "role",
            ),
        },
        "Content": {
            "description": "A text, or parts: a text, an image, a clip, or a mix of them.",
            "anyOf": [
                full_text,
                {
                    "type": "array",
                    "items": {"anyOf": [_ref(kind) for kind in kinds]},
                    "minItems": 1,
                    "maxItems": len(kinds),
                    "allOf": [{"contains": _ref(kind), "minContains": 0, "maxContains": 1} for kind in kinds],
                },
            ],
        },
        "TextPart": _part(full_text, "text", "input_text"),
        "ImagePart": _part(_ref("ImageUrl"), "image_url", "input_image", "image"),
        "VideoPart": _part(_ref("VideoUrl"), "video_url", None, "video"),
        "ImageUrl": _url(f"^({_HTTP}|{_DATA})$"),
        "VideoUrl": _url(f"^({_HTTP}|{_DATA}|data:video/jpeg;base64,{_BASE64}(,{_BASE64})*)$"),
    }


def _part(value: Schema, name: str, other_type: str | None, other: str | None = None) -> Schema:
    """Return the schema of a part in each spelling that clients use."""
    types = [name, None] if other_type is None else [name, other_type, None]
    spellings = [_object({"type": {"enum": types}, name: value}, name)]
    if other is not None:
        spellings.append(_object({"type": {"const": other}, other: value}, "type", other))
    else:
        spellings.append(value)
    return {"anyOf": spellings}


def _url(pattern: str) -> Schema:
    url: Schema = {"type": "string", "pattern": pattern}
    return {
        "description": "A `data:` URL in base64, or a URL of a host that the service allows.",
        "anyOf": [url, _object({"url": url, "detail": _nullable({"type": "string"})}, "url")],
    }


def _turns(*names: str) -> Schema:
    return {
        "type": "array",
        "prefixItems": [_ref(name) for name in (*names, "AssistantMessage")],
        "items": False,
        "minItems": len(names),
        "maxItems": len(names) + 1,
    }


def _filter(fields: Mapping[str, FieldType]) -> Schema:
    """Return the schema of the filters for an index with these fields."""
    return {
        "type": "object",
        "properties": {name: _condition(kind) for name, kind in fields.items()},
        "additionalProperties": False,
    }


def _condition(kind: FieldType) -> Schema:
    values_of: dict[str, Schema] = {
        "string": {"type": "string"},
        "bool": {"type": "boolean"},
        "int": {"type": "integer", **_INT64},
        "float": {"type": "number"},
    }
    value = values_of[kind]
    signs = SIGNS if kind in ("int", "float") else ("eq", "ne")
    comparisons = _object(dict.fromkeys(signs, value), extra=False) | {"minProperties": 1}
    values = {"type": "array", "items": value, "minItems": 1, "maxItems": MAX_VALUES}
    return {"anyOf": [value, values, comparisons, _NULL]}


def _names(names: Sequence[str]) -> Schema:
    return {"type": "string", "enum": list(names)} if names else {"not": {}}


def _nullable(schema: Schema) -> Schema:
    return {"anyOf": [schema, _NULL]}


def _object(properties: Mapping[str, Schema], *required: str, extra: Schema | bool = _NULL) -> Schema:
    """Return the schema of an object. extra: of further fields; the service ignores null ones in JSON."""
    return {
        "type": "object",
        "properties": dict(properties),
        "required": list(required),
        "additionalProperties": extra,
    }


def _described(schema: Schema, model: type[BaseModel]) -> Schema:
    """Return the schema of a body with the descriptions that the fields have in its class."""
    properties = dict(schema["properties"])
    for name, field in model.model_fields.items():
        if name in properties and field.description:
            properties[name] = {"description": field.description, **properties[name]}
    return schema | {"properties": properties}


def _list_of(item: Schema, **more: Schema) -> Schema:
    properties: dict[str, Schema] = {
        "object": {"const": "list"},
        "data": {"type": "array", "items": item},
        **more,
    }
    return _object(properties, *properties, extra=False)


def _all_of(**properties: Schema) -> Schema:
    return _object(properties, *properties, extra=False)


_STRING: Schema = {"type": "string"}
_COUNT: Schema = {"type": "integer", "minimum": 0}
_SECONDS: Schema = {"type": "number", "description": "Seconds from the start of the video."}
_HIT: dict[str, Schema] = {
    "id": {"type": "string", "description": "The ID of the segment."},
    "score": {"type": "number", "description": "Cosine similarity."},
    "confidence": {
        "type": ["number", "null"],
        "description": "Probability that nothing would match as well if the index had no answer; null if the "
        "index was made by an earlier version, for a query of several parts (`like`, `without`), and if words match, "
        "because it is about pictures only.",
    },
    "confident": {
        "type": ["boolean", "null"],
        "description": "Whether the confidence reaches `min_confidence`, or the reranker says yes; null if there "
        "is no confidence.",
    },
    "rank_before": {
        "type": ["integer", "null"],
        "minimum": 1,
        "description": "The rank before reranking; null without reranking.",
    },
    "rerank_score": {
        "type": ["number", "null"],
        "minimum": 0,
        "maximum": 1,
        "description": "How sure the reranker is that this is what was searched for; null if it was not judged.",
    },
    "uri": _STRING,
    "start": _SECONDS,
    "end": _SECONDS,
    "extent": {
        "description": "Of the overlapping segments around it that match about as well.",
        **_all_of(start=_SECONDS, end=_SECONDS),
    },
    "metadata": {"type": "object"},
    "matched": {
        "type": "array",
        "items": {"enum": ["picture", "words"]},
        "description": "What has matched the query.",
    },
    "words": _nullable(
        _all_of(
            source={"enum": list(get_args(Source))},
            text={"type": "string", "description": "A part of the words of the moment or the video."},
            marks={
                "type": "array",
                "items": {"type": "array", "items": _COUNT, "minItems": 2, "maxItems": 2},
                "description": "Start and end of each word that matches, in Unicode characters of the text.",
            },
        )
    ),
    "links": _all_of(video=_STRING, moment=_STRING, poster=_STRING, strip=_STRING),
}
_REPLIES: dict[str, Schema] = {
    "Error": _all_of(
        error=_all_of(
            message={"type": "string", "description": "What is wrong, and what to change."},
            type=_STRING,
            param={"type": ["string", "null"], "description": "The field at fault."},
            code={"type": ["string", "null"], "description": "The error, for programs."},
        )
    ),
    "Embeddings": _list_of(
        _all_of(
            object={"const": "embedding"},
            index=_COUNT,
            embedding={
                "anyOf": [{"type": "array", "items": {"type": "number"}}, {"type": "string"}],
                "description": "Numbers, or little-endian float32 in base64.",
            },
        ),
        model=_STRING,
        usage=_all_of(prompt_tokens=_COUNT, total_tokens=_COUNT),
    ),
    "Hit": _object(
        _HIT | {"moments": {"type": "array", "items": _ref("Hit"), "description": "With `group_by`."}},
        *_HIT,
        extra=False,
    ),
    "Moment": _all_of(
        object={"const": "moment"},
        **{name: _HIT[name] for name in ("id", "uri", "start", "end", "metadata", "links")},
    ),
    "Hits": _list_of(
        _ref("Hit"),
        model=_STRING,
        rerank={
            "description": "The number of hits given to the reranker, how many it judged, and why not all; null "
            "without reranking.",
            **_nullable(_all_of(candidates=_COUNT, judged=_COUNT, problem={"type": ["string", "null"]})),
        },
    ),
    "Models": _list_of(
        _all_of(
            id=_STRING,
            object={"const": "model"},
            created={"type": "integer", "description": "Unix time of the start of the service."},
            owned_by={"const": "gve_ray"},
            dimension=_COUNT,
            dimensions={"type": "array", "items": _COUNT},
            max_model_len=_COUNT,
            index=_nullable(
                _all_of(
                    segments=_COUNT,
                    fields={
                        "type": "object",
                        "additionalProperties": {"enum": list(get_args(FieldType))},
                    },
                    strip_frames=_COUNT,
                    indexing=_nullable(_all_of(step={"enum": list(STEPS)}, done=_COUNT, total=_COUNT))
                    | {
                        "description": "How many new and changed files the job has checked or embedded that works "
                        "on the index now; null if none does."
                    },
                )
            ),
        )
    ),
}
