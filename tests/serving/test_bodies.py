"""Requests' bodies as values: OpenAI's form, vLLM's chat form, a search's, a form with files."""

from typing import Any

import pytest

from gve_ray.serving.bodies import Asked, EmbeddingBody, SearchBody, of_form, parsed, validated
from gve_ray.serving.errors import ApiError

PICTURE = {"type": "image_url", "image_url": {"url": "data:image/png;base64,AA==", "detail": "high"}}
CLIP = {"type": "video_url", "video_url": "https://example.org/a.mp4"}
TEXT = {"type": "text", "text": "a ball"}


def embedding(**values: Any) -> list[Asked]:
    body: EmbeddingBody = validated(EmbeddingBody, values)
    return body.asked()


def search(**values: Any) -> Asked | None:
    body: SearchBody = validated(SearchBody, values)
    return body.asked()


def test_texts() -> None:
    assert embedding(input="a", model="m", user="me") == [Asked(text="a")]
    assert embedding(input=["a", "b"], instruction="Find it.") == [
        Asked(text="a", instruction="Find it."),
        Asked(text="b", instruction="Find it."),
    ]


def test_chat_messages() -> None:
    user = {"role": "user", "content": [CLIP, PICTURE, TEXT]}
    expected = Asked(text="a ball", image="data:image/png;base64,AA==", video="https://example.org/a.mp4")
    assert embedding(messages=[user]) == [expected]
    for system in ("Find it.", [{"type": "text", "text": "Find it."}]):
        (found,) = embedding(messages=[{"role": "system", "content": system}, user])
        assert found.instruction == "Find it."
    assert embedding(messages=[{"role": "user", "content": "a"}]) == [Asked(text="a")]


def test_searches() -> None:
    assert search(content="a", instruction="Find it.") == Asked(text="a", instruction="Find it.")
    assert search(content=[PICTURE]) == Asked(image="data:image/png;base64,AA==")
    assert search(like="0a") is None


@pytest.mark.parametrize(
    "values,said",
    [
        ({}, "either input or messages"),
        ({"input": "a", "messages": []}, "either input or messages"),
        ({"input": []}, r"input=\[\]"),
        ({"input": ""}, r"input\[0\] is empty"),
        ({"input": [[1, 2]]}, "input"),  # token ids of a tokenizer that is not ours
        ({"input": "a", "encoding_format": "hex"}, "encoding_format"),
        ({"input": "a", "truncate_prompt_tokens": 5}, "truncate_prompt_tokens"),
        ({"input": "a", "inputs": "b"}, "inputs"),
        ({"messages": []}, "one user message"),
        ({"messages": [{"role": "user", "content": "a"}] * 2}, "one user message"),
        ({"messages": [{"role": "assistant", "content": "a"}]}, "role"),
        ({"messages": [{"role": "system", "content": [PICTURE]}, {"role": "user", "content": "a"}]}, "text alone"),
        ({"messages": [{"role": "user", "content": [PICTURE, PICTURE]}]}, "2 parts of type image_url"),
        ({"messages": [{"role": "user", "content": []}]}, "give a text"),
    ],
)  # fmt: skip
def test_bad_embedding_bodies(values: dict[str, Any], said: str) -> None:
    with pytest.raises(ApiError, match=said) as caught:
        embedding(**values)
    assert caught.value.status == 400


def test_a_form() -> None:
    body, asked = of_form(
        {"text": "a", "top_k": "3", "filter": '{"x": 1}', "instruction": "Find it."}, {"image": b"i"}
    )
    assert (body.top_k, body.filter) == (3, {"x": 1})
    assert asked == Asked(text="a", image=b"i", instruction="Find it.")
    body, asked = of_form({"like": "0a", "text": ""}, {})
    assert (body.like, asked) == ("0a", None)


@pytest.mark.parametrize(
    "fields,files,said",
    [
        ({}, {}, "give a text"),
        ({"text": "a", "like": "b"}, {}, "like, alone"),
        ({"query": "a"}, {}, "query: no such field"),
        ({"text": "a"}, {"file": b""}, "file: no such field"),
        ({"text": "a", "filter": "{"}, {}, "not JSON"),
        ({"text": "a", "filter": "[]"}, {}, "filter"),
        ({"text": "a", "top_k": "many"}, {}, "top_k"),
    ],
)
def test_bad_forms(fields: dict[str, str], files: dict[str, bytes], said: str) -> None:
    with pytest.raises(ApiError, match=said):
        of_form(fields, files)


def test_what_is_not_json() -> None:
    for data in (b"", b"{", b"\xff", b"[" * 10**5, b'"\\ud800"'):
        with pytest.raises(ApiError, match="not JSON"):
            parsed(data)


def test_bodies_of_many_parts_cost_little() -> None:
    with pytest.raises(ApiError, match="more than 1000000 parts"):
        parsed(b"[" + b"1," * 10**6 + b"1]")
    with pytest.raises(ApiError, match=r"input\[0\]") as caught:
        embedding(input=[1] * 10**5)
    cause = caught.value.__cause__
    assert cause is not None
    assert cause.error_count() < 5  # type: ignore[attr-defined]


def test_errors_travel() -> None:
    """Between Ray's processes."""
    import pickle

    error = pickle.loads(pickle.dumps(ApiError(503, "busy", "model", "busy", 1.5)))
    assert (str(error), error.status, error.headers()) == ("busy", 503, {"Retry-After": "2"})
    assert error.body() == {
        "error": {"message": "busy", "type": "server_error", "param": "model", "code": "busy"}
    }
