"""Request bodies: the format of OpenAI, the chat format of vLLM, searches, and forms with files."""

from typing import Any

import pytest

from gve_ray.serving.errors import ApiError
from gve_ray.serving.requests import (
    EmbeddingRequest,
    Query,
    SearchOptions,
    SearchQuery,
    SearchRequest,
    parse_form,
    parse_json,
    validate,
)

PICTURE = {"type": "image_url", "image_url": {"url": "data:image/png;base64,AA==", "detail": "high"}}
CLIP = {"type": "video_url", "video_url": "https://example.org/a.mp4"}
TEXT = {"type": "text", "text": "a ball"}


def embedding(**values: Any) -> list[Query]:
    body: EmbeddingRequest = validate(EmbeddingRequest, values)
    return body.queries()


def search(**values: Any) -> SearchQuery:
    body: SearchRequest = validate(SearchRequest, values)
    return body.query()


def test_texts() -> None:
    assert embedding(input="a", model="m", user="me") == [Query(text="a")]
    assert embedding(input=["a", "b"], instruction="Find it.") == [
        Query(text="a", instruction="Find it."),
        Query(text="b", instruction="Find it."),
    ]


def test_chat_messages() -> None:
    user = {"role": "user", "content": [CLIP, PICTURE, TEXT]}
    expected = Query(text="a ball", image="data:image/png;base64,AA==", video="https://example.org/a.mp4")
    assert embedding(messages=[user]) == [expected]
    for system in ("Find it.", [{"type": "text", "text": "Find it."}]):
        (query,) = embedding(messages=[{"role": "system", "content": system}, user])
        assert query.instruction == "Find it."
    assert embedding(messages=[{"role": "user", "content": "a"}]) == [Query(text="a")]


CHAT = [{"role": "user", "content": "a ball"}]


@pytest.mark.parametrize(
    "name", ["model", "instruction", "encoding_format", "dimensions", "truncate_prompt_tokens", "user", "messages",
             "add_generation_prompt", "continue_final_message", "add_special_tokens", "extra_of_a_client"],
)  # fmt: skip
def test_a_null_field_is_ignored(name: str) -> None:
    assert embedding(**{"input": "a ball", name: None}) == [Query(text="a ball")]


def test_null_within_messages_and_searches() -> None:
    user = {"role": "user", "content": [{**TEXT, "uuid": None}], "name": None}
    assert embedding(messages=[user], input=None) == [Query(text="a ball")]
    body: SearchRequest = validate(
        SearchRequest, {"content": "a", "top_k": None, "filter": None, "like": None, "instruction": None}
    )
    assert (body.top_k, body.query()) == (10, SearchQuery(content=Query(text="a")))


@pytest.mark.parametrize("content", ["", None, [], [{"type": "text", "text": ""}]])
@pytest.mark.parametrize("instruction", ["Represent the user's input.", None])
def test_messages_as_in_the_examples_of_qwen3_vl_embedding(content: Any, instruction: str | None) -> None:
    """A system message, a user message and an empty assistant message."""
    user = {"role": "user", "content": [PICTURE, {"type": "text", "text": ""}]}
    messages = [user, {"role": "assistant", "content": content}]
    if instruction is not None:
        messages.insert(0, {"role": "system", "content": [{"type": "text", "text": instruction}]})
    queries = embedding(messages=messages, continue_final_message=True, add_special_tokens=True)
    assert queries == [Query(image="data:image/png;base64,AA==", instruction=instruction)]


@pytest.mark.parametrize(
    "part,expected",
    [
        ("a ball", Query(text="a ball")),
        ({"text": "a ball"}, Query(text="a ball")),
        ({"type": "input_text", "text": "a ball"}, Query(text="a ball")),
        ({"image_url": {"url": "data:,a"}}, Query(image="data:,a")),
        ({"type": "input_image", "image_url": "data:,a", "detail": None}, Query(image="data:,a")),
        ({"type": "image", "image": "https://example.org/a.jpg"}, Query(image="https://example.org/a.jpg")),
        ({"type": "video", "video": "https://example.org/a.mp4"}, Query(video="https://example.org/a.mp4")),
    ],
)
def test_other_spellings_of_a_part(part: Any, expected: Query) -> None:
    assert embedding(messages=[{"role": "user", "content": [part]}]) == [expected]
    assert search(content=[part]) == SearchQuery(content=expected)


def test_a_media_placeholder_before_the_text_is_removed() -> None:
    """The example of vLLM for Qwen3-VL has such a placeholder.

    Without media it is part of the text.
    """
    placeholder = "<|vision_start|><|image_pad|><|vision_end|>"
    for text, expected in (
        (placeholder, None),
        (f"{placeholder}\na ball", "a ball"),
        ("\na ball", "\na ball"),
    ):
        parts = [PICTURE, {"type": "text", "text": text}]
        assert embedding(messages=[{"role": "user", "content": parts}])[0].text == expected
    assert embedding(messages=[{"role": "user", "content": placeholder}])[0].text == placeholder


def test_searches() -> None:
    ball = Query(text="a", instruction="Find it.")
    assert search(content="a", instruction="Find it.") == SearchQuery(content=ball)
    picture = Query(image="data:image/png;base64,AA==")
    assert search(content=[PICTURE]) == SearchQuery(content=picture)
    assert search(like="0a") == SearchQuery(like=("0a",))
    dog = Query(text="a dog", instruction="Find it.")
    assert search(
        content="a", like=["0a", "0b", "0a"], without="a dog", instruction="Find it."
    ) == SearchQuery(content=ball, like=("0a", "0b"), without=dog)
    assert search(like=["0a"], without=[PICTURE]) == SearchQuery(like=("0a",), without=picture)


@pytest.mark.parametrize(
    "values,message",
    [
        ({"without": "a dog"}, "content: empty: give a text, an image or a video; or give like"),
        ({"content": "a", "without": []}, "without: empty: give a text"),
        ({"content": "a", "without": ""}, "without: empty: give a text"),
        ({"content": "a", "without": ["a dog", "a cat"]}, "without: 2 parts of type text"),
        ({"like": []}, "like: "),
        ({"like": [1]}, r"like\[0\]: "),
    ],
)
def test_searches_that_are_refused(values: dict[str, Any], message: str) -> None:
    with pytest.raises(ApiError, match=message):
        search(**values)


@pytest.mark.parametrize(
    "values,message",
    [
        ({}, "either input or messages"),
        ({"input": "a", "messages": []}, "either input or messages"),
        ({"input": []}, r"input=\[\]"),
        ({"input": ""}, r"input\[0\] is empty"),
        ({"input": [[1, 2]]}, r"input\[0\]: token ids.*check_embedding_ctx_length=False"),  # LangChain's default
        ({"input": [1, 2]}, r"input\[0\]: token ids.*send the text"),
        ({"input": ["a", {"image": "https://example.org/a.jpg"}]}, r"input\[1\]: an object.*as messages"),  # Jina's
        ({"input": CHAT}, r"input\[0\]: an object.*as messages"),
        ({"texts": ["a"]}, "texts: not a field here.*input, messages"),  # Cohere's
        ({"input": "a", "chat_template": "x"}, "chat_template: not a field here; leave it out"),
        ({"input": "a", "encoding_format": "hex"}, "encoding_format"),
        ({"input": "a", "truncate_prompt_tokens": 5}, "truncate_prompt_tokens"),
        ({"input": "a", "inputs": "b"}, "inputs"),
        ({"messages": []}, "one user message"),
        ({"messages": [{"role": "user", "content": "a"}] * 2}, "one user message"),
        ({"messages": [{"role": "assistant", "content": "a"}]}, "role"),
        ({"messages": [*CHAT, {"role": "assistant", "content": "yes"}]}, "leave it empty"),
        ({"messages": [*CHAT, {"role": "assistant", "content": ""}, *CHAT]}, "one user message"),
        ({"messages": [{"role": "tool", "content": "a"}]}, r"messages\[0\].role"),
        ({"messages": [CHAT, CHAT]}, r"messages\[0\]: a list; send one conversation a request"),
        ({"messages": [{"role": "user", "content": [{"type": "image_embeds", "image_embeds": "AA=="}]}]},
         r"content\[0\]: parts of type 'image_embeds' are not read; send text, image_url or video_url"),
        ({"messages": [{"role": "user", "content": [{"type": {}, "image": "data:,a"}]}]},
         r"content\[0\]: type=.*give text, image_url or video_url"),
        ({"messages": [{"role": "user", "content": [{"type": "image", "image": "data:,a", "max_pixels": 9}]}]},
         "max_pixels: not a field here; leave it out"),
        ({"messages": [{"role": "system", "content": [PICTURE]}, {"role": "user", "content": "a"}]}, "give only text"),
        ({"messages": [{"role": "user", "content": [PICTURE, PICTURE]}]}, "2 parts of type image_url"),
        ({"messages": [{"role": "user", "content": []}]}, "give a text"),
    ],
)  # fmt: skip
def test_bad_embedding_bodies(values: dict[str, Any], message: str) -> None:
    with pytest.raises(ApiError, match=message) as caught:
        embedding(**values)
    assert caught.value.status == 400


def test_a_form() -> None:
    body, query = parse_form(
        {"text": "a", "top_k": "3", "filter": '{"x": 1}', "instruction": "Find it."}, [], {"image": b"i"}
    )
    assert body.options(body.top_k) == SearchOptions(top_k=3, filter={"x": 1})
    assert query == SearchQuery(content=Query(text="a", image=b"i", instruction="Find it."))
    _, query = parse_form({"text": "", "without": ""}, ["0a", "", "0b"], {})
    assert query == SearchQuery(like=("0a", "0b"))
    _, query = parse_form({"text": "a", "without": "b"}, ["0a"], {})
    assert query == SearchQuery(content=Query(text="a"), like=("0a",), without=Query(text="b"))


@pytest.mark.parametrize(
    "fields,files,message",
    [
        ({}, {}, "give a text"),
        ({"without": "a"}, {}, "give a text"),
        ({"query": "a"}, {}, "query: unknown field"),
        ({"text": "a"}, {"file": b""}, "file: unknown field"),
        ({"text": "a", "filter": "{"}, {}, "not JSON"),
        ({"text": "a", "filter": "[]"}, {}, "filter"),
        ({"text": "a", "top_k": "many"}, {}, "top_k"),
    ],
)
def test_bad_forms(fields: dict[str, str], files: dict[str, bytes], message: str) -> None:
    with pytest.raises(ApiError, match=message):
        parse_form(fields, [], files)


def test_invalid_json_is_refused() -> None:
    for data in (b"", b"{", b"\xff", b"[" * 10**5, b'"\\ud800"'):
        with pytest.raises(ApiError, match="not JSON"):
            parse_json(data)


def test_bodies_with_too_many_parts_are_refused_early() -> None:
    with pytest.raises(ApiError, match="more than 1000000 parts"):
        parse_json(b"[" + b"1," * 10**6 + b"1]")
    with pytest.raises(ApiError, match=r"input\[0\]") as caught:
        embedding(input=[1] * 10**5)
    cause = caught.value.__cause__
    assert cause is not None
    assert cause.error_count() < 5  # type: ignore[attr-defined]


def test_errors_survive_pickling() -> None:
    """Ray pickles errors between its processes."""
    import pickle

    error = pickle.loads(pickle.dumps(ApiError(503, "busy", "model", "busy", 1.5)))
    assert (str(error), error.status, error.headers()) == ("busy", 503, {"Retry-After": "2"})
    assert error.body() == {
        "error": {"message": "busy", "type": "server_error", "param": "model", "code": "busy"}
    }
