"""The client of endpoints against a server that misbehaves. No test waits for a pause: `wait` records them."""

import json
import threading

import pytest

from gve_ray.endpoint import ATTEMPTS, LONGEST_PAUSE, Endpoint, EndpointError
from tests.endpoint import Reply, completion, http_endpoint

GOOD = completion("yes")


def text_of(reply):
    return reply["choices"][0]["message"]["content"]


def ask(url, **options):
    """Return the answer and the pauses before it."""
    pauses = []
    text = Endpoint(url, timeout=options.pop("timeout", 5.0)).post(
        "chat/completions", {"a": 1}, text_of, wait=pauses.append, **options
    )
    return text, pauses


@pytest.mark.parametrize(
    "bad",
    [
        Reply(429, b"slow down", {"Retry-After": "0"}),
        Reply(500, b"oops"),
        Reply(503, b"starting"),
        Reply(body=GOOD.body, cut=20),
        Reply(body=GOOD.body[:20]),
        Reply(status=0),
        Reply(body=b'{"object": "list"}'),
        Reply(body=b'["a", "list"]'),
        Reply(body=b'{"choices": []}'),
        Reply(body=b'{"choices": ["text"]}'),
        Reply(body=b"<html>proxy</html>"),
    ],
    ids=["429", "500", "503", "cut", "half", "closed", "shape", "list", "empty", "texts", "html"],
)
def test_a_request_without_a_usable_response_is_sent_again(bad):
    with http_endpoint(lambda number, body: bad if number < 2 else GOOD) as endpoint:
        text, pauses = ask(endpoint.url)
    assert text == "yes"
    assert len(endpoint.requests) == 3
    assert len(pauses) == 2


def test_the_pause_is_the_one_that_the_endpoint_asks_for_or_doubles():
    replies = [
        Reply(429, headers={"Retry-After": "17"}),
        Reply(503, headers={"Retry-After": "Mon, 01 Jan 2001 00:00:00 GMT"}),
        Reply(503, headers={"Retry-After": "soon"}),
        Reply(500),
        GOOD,
    ]
    with http_endpoint(lambda number, body: replies[number]) as endpoint:
        _, pauses = ask(endpoint.url)
    assert pauses[:2] == [17.0, 0.0]
    assert 2.0 <= pauses[2] <= 4.0
    assert 4.0 <= pauses[3] <= 8.0


def test_attempts_are_bounded_and_the_error_says_what_came_last():
    with (
        http_endpoint(lambda number, body: Reply(502, b"bad gateway")) as endpoint,
        pytest.raises(EndpointError, match="HTTP 502: bad gateway") as caught,
    ):
        ask(endpoint.url)
    assert len(endpoint.requests) == ATTEMPTS
    assert (caught.value.kind, caught.value.status) == ("unavailable", 502)


def test_an_endpoint_that_asks_for_hours_is_not_waited_for():
    pause = str(int(LONGEST_PAUSE) + 1)
    with (
        http_endpoint(lambda number, body: Reply(429, headers={"Retry-After": pause})) as endpoint,
        pytest.raises(EndpointError, match="HTTP 429"),
    ):
        ask(endpoint.url)
    assert len(endpoint.requests) == 1


@pytest.mark.parametrize(
    "status,kind", [(400, "refused"), (413, "refused"), (422, "refused"), (401, "denied"), (404, "denied")]
)
def test_a_refused_request_is_not_sent_again(status, kind):
    with (
        http_endpoint(lambda number, body: Reply(status, b"no")) as endpoint,
        pytest.raises(EndpointError, match=f"HTTP {status}: no") as caught,
    ):
        ask(endpoint.url)
    assert len(endpoint.requests) == 1
    assert caught.value.kind == kind


def test_a_slow_endpoint_counts_as_none():
    # The server answers only after the client has given up, so no time has to be right.
    gave_up = threading.Event()

    def answer(number, body):
        if number == 0:
            gave_up.wait(60)
        return GOOD

    with http_endpoint(answer) as endpoint:
        pauses = []

        def wait(seconds):
            pauses.append(seconds)
            gave_up.set()

        text = Endpoint(endpoint.url, timeout=0.5).post("chat/completions", {}, text_of, wait=wait)
    assert (text, len(pauses)) == ("yes", 1)


def test_a_redirect_is_not_followed_with_the_key(monkeypatch):
    monkeypatch.setenv("OPENAI_API_KEY", "secret")
    with http_endpoint(lambda number, body: GOOD) as other:
        move = Reply(302, headers={"Location": f"{other.url}/chat/completions"})
        with (
            http_endpoint(lambda number, body: move) as endpoint,
            pytest.raises(EndpointError, match="HTTP 302") as caught,
        ):
            ask(endpoint.url)
    assert caught.value.kind == "denied"
    assert other.requests == []


def test_the_key_is_sent_and_shown_nowhere(monkeypatch):
    monkeypatch.setenv("MY_KEY", " secret-key\n")

    def echo(number, body):
        return Reply(401, b"wrong key: secret-key")

    with (
        http_endpoint(echo) as endpoint,
        pytest.raises(EndpointError) as caught,
    ):
        Endpoint(endpoint.url, "MY_KEY").post("chat/completions", {}, text_of)
    assert endpoint.requests[0]["key"] == "Bearer secret-key"
    assert "secret" not in str(caught.value)
    monkeypatch.setenv("MY_KEY", "two\nsecrets")
    with pytest.raises(EndpointError, match="MY_KEY") as caught:
        Endpoint(endpoint.url, "MY_KEY").post("chat/completions", {}, text_of)
    assert "secrets" not in str(caught.value)


def test_what_is_called_before_each_attempt_may_end_the_request():
    class EndedError(Exception):
        pass

    def before():
        if endpoint.requests:
            raise EndedError

    with (
        http_endpoint(lambda number, body: Reply(500)) as endpoint,
        pytest.raises(EndedError),
    ):
        ask(endpoint.url, before=before)
    assert len(endpoint.requests) == 1


def test_the_check_needs_an_answer_and_the_key_only_if_it_is_asked_for(monkeypatch):
    monkeypatch.delenv("OPENAI_API_KEY", raising=False)
    for models in (Reply(body=json.dumps({"data": []}).encode()), Reply(404), Reply(501)):
        with http_endpoint(lambda number, body: GOOD, models=models) as endpoint:
            Endpoint(endpoint.url).check()
    with pytest.raises(EndpointError, match="cannot connect"):
        Endpoint(endpoint.url).check()
    with http_endpoint(lambda number, body: GOOD, models=Reply(401)) as endpoint:
        with pytest.raises(EndpointError, match="asks for a key, and none is set"):
            Endpoint(endpoint.url).check()
        monkeypatch.setenv("OPENAI_API_KEY", "wrong")
        with pytest.raises(EndpointError, match="refuses the key"):
            Endpoint(endpoint.url).check()
    with (
        http_endpoint(lambda number, body: GOOD, models=Reply(503)) as endpoint,
        pytest.raises(EndpointError, match="HTTP 503"),
    ):
        Endpoint(endpoint.url).check()
