"""The OpenAPI document: what it allows is accepted, what it forbids is refused, and every reply is in it."""

import base64
import io
import json
from collections.abc import Iterator, Mapping
from dataclasses import replace
from typing import Any

import httpx
import pytest
from jsonschema import Draft202012Validator
from PIL import Image

from gve_ray.serving.config import RequestLimits
from gve_ray.serving.openapi import Api, Operation
from gve_ray.serving.openapi import document as document_of
from gve_ray.serving.requests import EmbeddingRequest, SearchRequest
from tests.serving.conftest import Service

pytestmark = pytest.mark.timeout(600)

INT64 = 2**63
CHAT = {"role": "user", "content": "a ball"}
EMPTY = {"role": "assistant"}
ALLOWED: list[Any] = [
    ("/v1/embeddings", {"input": "a", "model": "demo", "dimensions": None, "unknown": None}),
    pytest.param("/v1/embeddings", {"input": ["a"] * 2048}, marks=pytest.mark.slow),
    pytest.param(
        "/v1/embeddings", {"input": "a " * 50_000, "truncate_prompt_tokens": -1}, marks=pytest.mark.slow
    ),
    ("/v1/embeddings", {"messages": [CHAT], "instruction": "Find it.", "media_io_kwargs": {"video": {}}}),
    ("/v1/embeddings", {"messages": [{"role": "developer", "content": ["Find", ""]}, CHAT, EMPTY]}),
    ("/v1/search", {"content": "a", "top_k": 1}),
    ("/v1/search", {"content": "a", "without": ["b"], "like": None}),
    ("/v1/search", {"content": "a", "top_k": 1000.0, "overlapping": True}),
    ("/v1/search", {"content": ["a"], "filter": {"segment": INT64 - 1}}),
    ("/v1/search", {"content": "a", "group_by": "video", "min_confidence": 0, "rerank": False}),
    ("/v1/search", {"content": [{"text": "a"}], "filter": {"segment": {"gte": -INT64}}}),
    ("/v1/search", {"content": [{"type": "input_text", "text": "a"}], "filter": {"segment": [0] * 1000}}),
    ("/v1/search", {"content": "a", "filter": {"duration": {"lt": 2**64, "gt": -1e308}}}),
    ("/v1/search", {"content": "a", "filter": {"duration": {"lt": 1, "ne": 0.5}, "caption": None}}),
]
FORBIDDEN: list[tuple[str, dict[str, Any], int]] = [
    ("/v1/embeddings", {}, 400),
    ("/v1/embeddings", {"input": "a", "messages": [CHAT]}, 400),
    ("/v1/embeddings", {"input": ["a"] * 2049}, 400),
    ("/v1/embeddings", {"input": "a" * 100_001}, 400),
    ("/v1/embeddings", {"input": "", "model": "demo"}, 400),
    ("/v1/embeddings", {"input": "a", "dimensions": 8}, 400),
    ("/v1/embeddings", {"input": "a", "add_special_tokens": "yes"}, 400),
    ("/v1/embeddings", {"input": "a", "model": "other"}, 404),
    ("/v1/embeddings", {"messages": []}, 400),
    ("/v1/embeddings", {"messages": [CHAT, CHAT]}, 400),
    ("/v1/embeddings", {"messages": [{"role": "system"}, CHAT], "instruction": "Find it."}, 400),
    ("/v1/search", {"without": "a"}, 400),
    ("/v1/search", {"content": "a", "like": []}, 400),
    ("/v1/search", {"content": "a", "like": ["b"] * 101}, 400),
    ("/v1/search", {"content": "a", "without": [{"type": "text"}]}, 400),
    ("/v1/search", {"content": "a", "top_k": 0}, 400),
    ("/v1/search", {"content": "a", "top_k": 1001}, 400),
    ("/v1/search", {"content": "a", "top_k": "5"}, 400),
    ("/v1/search", {"content": "a", "top_k": True}, 400),
    ("/v1/search", {"content": "a", "overlapping": 1}, 400),
    ("/v1/search", {"content": "a", "rerank": "no"}, 400),
    ("/v1/search", {"content": "a", "group_by": "film"}, 400),
    ("/v1/search", {"content": "a", "min_confidence": 1.1}, 400),
    ("/v1/search", {"content": ["a", "b"]}, 400),
    ("/v1/search", {"content": [{"image_url": "data:image/png;base64,A"}]}, 400),
    ("/v1/search", {"content": [{"image_url": "ftp://example.org/a.png"}]}, 400),
    ("/v1/search", {"content": "a", "filter": {"unknown": 1}}, 400),
    ("/v1/search", {"content": "a", "filter": {"segment": INT64}}, 400),
    ("/v1/search", {"content": "a", "filter": {"segment": [0] * 1001}}, 400),
    ("/v1/search", {"content": "a", "filter": {"caption": {"lt": "b"}}}, 400),
    ("/v1/search", {"content": "a", "filter": {"duration": {}}}, 400),
]


@pytest.fixture(scope="module")
def http(server: Service) -> Iterator[httpx.Client]:
    with httpx.Client(base_url=server.url, timeout=60, trust_env=False) as client:
        yield client


@pytest.fixture(scope="module")
def document(http: httpx.Client) -> dict[str, Any]:
    answer: dict[str, Any] = http.get("/openapi.json").json()
    return answer


def is_valid(document: Mapping[str, Any], schema: Mapping[str, Any], value: Any) -> bool:
    components = {"components": document["components"]}
    return bool(Draft202012Validator({**schema, **components}).is_valid(value))


def bodies(document: Mapping[str, Any]) -> Iterator[tuple[str, str, dict[str, Any]]]:
    """Yield the path, the content type and the description of each body of a request."""
    for path, item in document["paths"].items():
        for operation in item.values():
            for kind, body in operation.get("requestBody", {}).get("content", {}).items():
                yield path, kind, body


def check_reply(document: Mapping[str, Any], path: str, answer: httpx.Response) -> None:
    """Check that the status, the content type and the body of a reply are in the document."""
    method = answer.request.method
    responses = document["paths"][path][method.lower()]["responses"]
    assert str(answer.status_code) in responses, (method, path, answer.status_code)
    content = responses[str(answer.status_code)].get("content", {})
    kind = answer.headers.get("content-type", "").partition(";")[0]
    assert kind in content if content else not answer.content, (method, path, kind)
    if kind == "application/json" and method != "HEAD":
        assert is_valid(document, content[kind]["schema"], answer.json()), answer.text


def test_the_document_of_a_service_with_a_key_and_two_indexes() -> None:
    """A service without a key has neither the security schemes nor the status 401."""

    async def endpoint() -> None:
        """Do something."""

    operations = [
        Operation(path="/private", endpoint=endpoint, tag="api", success={204: {}}),
        Operation(path="/public", endpoint=endpoint, tag="api", success={204: {}}, is_public=True),
    ]
    api = Api(models=["a", "b", "c"], searched=["a", "b"], dimensions=[8], indexes=[{"x": "int"}, {"y": "string"}],
              limits=RequestLimits(), has_key=True)  # fmt: skip
    answer = document_of(api, operations)
    paths = answer["paths"]
    assert paths["/private"]["get"]["security"] == [{"key": []}, {"session": []}]
    assert "401" in paths["/private"]["get"]["responses"]
    assert paths["/public"]["get"]["security"] == []
    assert not {"401", "403"} & set(paths["/public"]["get"]["responses"])
    for filter, expected in (
        ({"x": 1}, True),
        ({"y": "z"}, True),
        ({"x": "z"}, False),
        ({"x": 1, "y": "z"}, False),
    ):
        assert is_valid(answer, {"$ref": "#/components/schemas/Filter"}, filter) is expected
    open_service = document_of(replace(api, has_key=False), operations)
    assert "securitySchemes" not in open_service["components"]
    assert not {"401"} & set(open_service["paths"]["/private"]["get"]["responses"])


def test_the_document_itself(document: dict[str, Any]) -> None:
    for schema in document["components"]["schemas"].values():
        Draft202012Validator.check_schema(schema)
    operations = [operation for item in document["paths"].values() for operation in item.values()]
    assert len({operation["operationId"] for operation in operations}) == len(operations) == 15
    assert all(operation["summary"] for operation in operations)


@pytest.mark.parametrize(
    "name,kind", [("TextsToEmbed", EmbeddingRequest), ("SearchByContent", SearchRequest)]
)
def test_the_fields_of_a_body_are_those_of_its_class(document: dict[str, Any], name: str, kind: Any) -> None:
    assert set(document["components"]["schemas"][name]["properties"]) == set(kind.model_fields)


def test_the_examples_are_accepted(document: dict[str, Any], http: httpx.Client) -> None:
    sent = 0
    for path, kind, body in bodies(document):
        for example in body["examples"].values():
            value = example["value"]
            assert is_valid(document, body["schema"], value)
            if kind == "application/json":
                answer = http.post(path, json=value)
            else:
                answer = http.post(path, files={name: (None, str(text)) for name, text in value.items()})
            assert answer.status_code == 200, answer.text
            check_reply(document, path, answer)
            sent += 1
    assert sent >= 5


@pytest.mark.parametrize("path,body", ALLOWED, ids=[str(i) for i in range(len(ALLOWED))])
def test_what_the_document_allows(
    document: dict[str, Any], http: httpx.Client, path: str, body: dict[str, Any]
) -> None:
    schema = document["paths"][path]["post"]["requestBody"]["content"]["application/json"]["schema"]
    assert is_valid(document, schema, body)
    answer = http.post(path, json=body)
    assert answer.status_code == 200, answer.text
    check_reply(document, path, answer)


@pytest.mark.parametrize("path,body,status", FORBIDDEN, ids=[str(i) for i in range(len(FORBIDDEN))])
def test_what_the_document_forbids(
    document: dict[str, Any], http: httpx.Client, path: str, body: dict[str, Any], status: int
) -> None:
    schema = document["paths"][path]["post"]["requestBody"]["content"]["application/json"]["schema"]
    assert not is_valid(document, schema, body)
    answer = http.post(path, json=body)
    assert answer.status_code == status, answer.text
    check_reply(document, path, answer)


def test_images(document: dict[str, Any], http: httpx.Client) -> None:
    """In each spelling, with the other parts in any order; what is not an image is refused with 415."""
    out = io.BytesIO()
    Image.new("RGB", (64, 64)).save(out, "PNG")
    for data, status in ((out.getvalue(), 200), (b"no image", 415)):
        url = f"data:image/png;base64,{base64.b64encode(data).decode()}"
        for part in (
            {"type": "image_url", "image_url": {"url": url, "detail": "high"}},
            {"type": "input_image", "image_url": url},
            {"type": "image", "image": url},
            {"image_url": url},
        ):
            for content in ([part, "a"], ["a", part]):
                assert is_valid(document, {"$ref": "#/components/schemas/Content"}, content)
                answer = http.post("/v1/search", json={"content": content})
                assert answer.status_code == status, answer.text
                check_reply(document, "/v1/search", answer)


def test_a_form_with_all_fields(document: dict[str, Any], http: httpx.Client) -> None:
    fields = {"text": "a", "without": "b", "top_k": 1000, "filter": {"segment": 0}, "instruction": "Find it.",
              "model": "demo", "overlapping": True, "group_by": "video", "min_confidence": 0.5,
              "rerank": True}  # fmt: skip
    assert is_valid(document, {"$ref": "#/components/schemas/SearchForm"}, fields)
    parts = {
        name: (None, value if isinstance(value, str) else json.dumps(value)) for name, value in fields.items()
    }
    answer = http.post("/v1/search", files=parts)
    assert answer.status_code == 200, answer.text
    for name in ("top_k", "filter", "overlapping", "min_confidence", "rerank"):
        assert is_valid(document, {"$ref": "#/components/schemas/SearchForm"}, {**fields, name: None})
        assert http.post("/v1/search", files={**parts, name: (None, "null")}).status_code == 200
    for name, value in (
        ("top_k", 1001),
        ("top_k", "x"),
        ("overlapping", 2),
        ("group_by", 1),
        ("min_confidence", -1),
        ("filter", []),
    ):
        assert not is_valid(document, {"$ref": "#/components/schemas/SearchForm"}, {**fields, name: value})
        answer = http.post("/v1/search", files={**parts, name: (None, json.dumps(value))})
        assert answer.status_code == 400, answer.text
        check_reply(document, "/v1/search", answer)


def test_replies_without_a_body_of_the_request(document: dict[str, Any], http: httpx.Client) -> None:
    hit = http.post("/v1/search", json={"content": "anything"}).json()["data"][0]["id"]
    media, previews = "/media/{model}/{segment}", "/previews/{model}/{segment}/{picture}.jpg"
    moments, known = "/moments/{model}/{segment}.mp4", "/v1/moments/{model}/{segment}"
    requests: list[tuple[str, str, dict[str, str], int]] = [
        (media, f"/media/demo/{hit}", {}, 200),
        (media, f"/media/demo/{hit}", {"Range": "bytes=0-9"}, 206),
        (media, f"/media/demo/{hit}", {"Range": "bytes=999999999-"}, 416),
        (media, "/media/demo/0", {}, 404),
        (media, f"/media/other/{hit}", {}, 404),
        (moments, f"/moments/demo/{hit}.mp4", {}, 200),
        (moments, f"/moments/demo/{hit}.mp4", {"Range": "bytes=0-9"}, 206),
        (moments, "/moments/demo/0.mp4", {}, 404),
        (known, f"/v1/moments/demo/{hit}", {}, 200),
        (known, "/v1/moments/demo/0", {}, 404),
        (previews, f"/previews/demo/{hit}/strip.jpg", {}, 200),
        (previews, f"/previews/demo/{hit}/other.jpg", {}, 404),
        *((path, path, {}, 200) for path in ("/v1/models", "/metrics", "/healthz", "/readyz")),
        *((path, path, {"Origin": "http://example.org"}, 403) for path in ("/v1/models", "/metrics")),
    ]
    for path, url, headers, status in requests:
        for method in document["paths"][path]:
            answer = http.request(method.upper(), url, headers=headers)
            assert answer.status_code == status, (method, url)
            check_reply(document, path, answer)
    check_reply(document, "/v1/session", http.post("/v1/session"))
    check_reply(document, "/v1/session", http.post("/v1/session", content=bytes(4_000_000)))
