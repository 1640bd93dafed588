"""The guard: keys, host names, sizes and time limits.

It is plain ASGI, so the tests need no server.
"""

import asyncio
import json
import time
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import replace
from typing import Any

import pytest
from ray.exceptions import TaskCancelledError
from starlette.requests import ClientDisconnect, Request
from starlette.responses import PlainTextResponse

from gve_ray.serving import guard
from gve_ray.serving.config import RequestLimits
from gve_ray.serving.errors import ApiError
from gve_ray.serving.front import ARRIVAL
from gve_ray.serving.guard import COOKIE, Guard, digest, session_of
from tests.disk import SmallDisk

KEY = "0123456789abcdef-a-key"
LIMITS = replace(RequestLimits(), max_body_bytes=100)
SHORT_BODY = replace(LIMITS, receive_seconds=0.05)
SHORT = replace(LIMITS, request_seconds=0.05)


async def echo(scope: Any, receive: Any, send: Any) -> None:
    """Reply with the length of the body; paths that end with "slow" exceed the limit of SHORT."""
    request = Request(scope, receive)
    if scope["path"].endswith("slow"):
        await asyncio.sleep(4 * SHORT.request_seconds)
    await PlainTextResponse(str(len(await request.body())))(scope, receive, send)


class Observed:
    def __init__(self) -> None:
        self.calls: list[tuple[str, int]] = []

    def __call__(self, path: str, status: int, seconds: float) -> None:
        self.calls.append((path, status))


def call(
    path: str = "/v1/search",
    *,
    key: str | None = None,
    headers: dict[str, str] | None = None,
    body: Sequence[bytes] = (b"",),
    is_endless: bool = False,
    client: str = "127.0.0.1",
    app: Any = echo,
    limits: RequestLimits = LIMITS,
) -> tuple[int, Any, dict[str, str]]:
    """Return status, JSON or text, and headers.

    body: parts. is_endless: they are followed by empty parts, one at a time, without an end.
    """
    observed, parts, sent = Observed(), list(body), []
    raw = {"host": "localhost:8000", **(headers or {})}
    scope = {
        "type": "http", "method": "POST", "path": path, "query_string": b"", "client": (client, 5),
        "headers": [(name.encode(), value.encode()) for name, value in raw.items()],
    }  # fmt: skip

    async def receive() -> dict[str, Any]:
        if parts:
            return {"type": "http.request", "body": parts.pop(0), "more_body": bool(parts) or is_endless}
        await asyncio.sleep(0.001 if is_endless else 60)
        return {"type": "http.request", "body": b"", "more_body": True}

    async def send(message: dict[str, Any]) -> None:
        sent.append(message)

    guard = Guard(app, key_digest=digest(key) if key else None, limits=limits, observe=observed)
    run: Callable[[], Awaitable[None]] = lambda: guard(scope, receive, send)  # noqa: E731
    asyncio.run(run())  # type: ignore[arg-type]
    status = sent[0]["status"]
    assert observed.calls == [(path, status)]
    content = b"".join(message.get("body", b"") for message in sent)
    reply_headers = {name.decode(): value.decode() for name, value in sent[0]["headers"]}
    return status, json.loads(content) if content[:1] == b"{" else content.decode(), reply_headers


def test_the_key() -> None:
    assert call(key=KEY, headers={"authorization": f"Bearer {KEY}"})[0] == 200
    assert call(key=KEY, headers={"authorization": f"bearer  {KEY} "})[0] == 200
    for headers in (
        {},
        {"authorization": "Bearer wrong"},
        {"authorization": KEY},
        {"authorization": "Basic x"},
    ):
        status, body, reply_headers = call(key=KEY, headers=headers)
        assert (status, body["error"]["code"]) == (401, "invalid_api_key")
        assert reply_headers["www-authenticate"] == "Bearer"
        assert KEY not in str(body)
    assert call("/media/demo/x", key=KEY)[0] == 401
    assert call("/metrics", key=KEY)[0] == 401
    for path in ("/", "/healthz", "/readyz", "/page/page.js"):
        assert call(path, key=KEY)[0] == 200


def test_the_session_cookie() -> None:
    session = session_of(digest(KEY))
    assert KEY not in session
    assert call(key=KEY, headers={"cookie": f"a=b; {COOKIE}={session}"})[0] == 200
    assert call(key=KEY, headers={"cookie": f'strange={{"b":1}}; {COOKIE}={session}'})[0] == 200
    for bad in (f"{COOKIE}=x", f"{COOKIE}=ü", session, "", f"{COOKIE}={session_of(digest('other key'))}"):
        assert call(key=KEY, headers={"cookie": bad})[0] == 401


def test_with_a_key_every_host_name_and_client_is_admitted() -> None:
    headers = {"host": "gve.example.org", "authorization": f"Bearer {KEY}"}
    assert call(key=KEY, headers=headers, client="203.0.113.9")[0] == 200


@pytest.mark.parametrize("host", ["localhost", "localhost:8000", "127.0.0.1:8000", "[::1]:8000"])
def test_without_a_key_this_machine_is_admitted(host: str) -> None:
    assert call(headers={"host": host})[0] == 200


@pytest.mark.parametrize(
    "host,client",
    [("evil.example", "127.0.0.1"), ("", "127.0.0.1"), ("localhost.evil.example", "127.0.0.1"),
     ("localhost", "203.0.113.9"), ("localhost", "10.0.0.2")],
)  # fmt: skip
def test_without_a_key_others_are_refused(host: str, client: str) -> None:
    status, body, _ = call(headers={"host": host}, client=client)
    assert (status, body["error"]["code"]) == (403, "no_key")


def test_without_a_key_cross_site_requests_are_refused() -> None:
    for site, status in (("none", 200), ("same-origin", 200), ("cross-site", 403), ("same-site", 403)):
        assert call(headers={"sec-fetch-site": site})[0] == status
        assert (
            call("/", headers={"sec-fetch-site": site})[0] == 200
        )  # a link from another site to the page works


@pytest.mark.parametrize(
    "origin,status",
    [("http://localhost:8000", 200), ("http://LOCALHOST:8000", 200), ("https://localhost:8000", 200),
     ("http://localhost:3000", 403), ("http://localhost", 403), ("http://127.0.0.1:8000", 403),
     ("https://evil.example", 403), ("http://localhost:8000.evil.example", 403), ("null", 403), ("", 403),
     ("file://", 403), ("ftp://localhost:8000", 403)],
)  # fmt: skip
def test_without_a_key_the_origin_must_be_that_of_the_service(origin: str, status: int) -> None:
    """Also without Sec-Fetch-Site, and although that header says same-origin."""
    for more in ({}, {"sec-fetch-site": "same-origin"}, {"sec-fetch-site": "none"}):
        assert call(headers={"origin": origin, **more})[0] == status
    assert call("/", headers={"origin": origin})[0] == 200
    headers = {"origin": origin, "authorization": f"Bearer {KEY}"}
    assert call(key=KEY, headers=headers)[0] == 200


def test_an_unexpected_error_is_reported_without_its_details() -> None:
    async def broken(scope: Any, receive: Any, send: Any) -> None:
        raise PermissionError("/secret/path")

    status, body, _ = call(app=broken)
    assert (status, body["error"]["code"]) == (500, "internal")
    assert "secret" not in str(body)


def test_an_upload_when_the_disk_for_temporary_files_is_full(
    small_disk: SmallDisk, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """Parts of forms above 1 MB are kept in temporary files."""

    async def count(scope: Any, receive: Any, send: Any) -> None:
        async with Request(scope, receive).form() as form:
            size = form["video"].size  # type: ignore[union-attr]
        await PlainTextResponse(str(size))(scope, receive, send)

    head = b'--x\r\nContent-Disposition: form-data; name="video"; filename="a"\r\n\r\n'
    request: dict[str, Any] = {
        "headers": {"content-type": "multipart/form-data; boundary=x"},
        "body": [head, bytes(2_000_000), b"\r\n--x--\r\n"],
        "limits": replace(LIMITS, max_body_bytes=3_000_000),
        "app": count,
    }
    monkeypatch.setattr("tempfile.tempdir", str(small_disk.folder))
    small_disk.fill()
    status, body, headers = call(**request)
    assert (status, body["error"]["code"], headers["retry-after"]) == (503, "storage", "1")
    assert str(small_disk.folder) not in str(body)
    assert f"{small_disk.folder}: its disk is full" in caplog.text
    small_disk.empty()
    assert call(**request)[:2] == (200, "2000000")


def test_limits_of_bodies() -> None:
    assert call(body=[b"x" * 60, b"y" * 40])[:2] == (200, "100")
    assert call(body=[b"x" * 60, b"y" * 41])[:2][1]["error"]["code"] == "body_too_large"
    assert call(headers={"content-length": "101"})[0] == 413
    assert call(headers={"content-length": "-1"})[0] == 413
    status, body, _ = call(is_endless=True, limits=SHORT_BODY)  # each part is in time, but not the whole body
    assert (status, body["error"]["code"]) == (408, "slow_body")


def test_requests_have_a_time_limit_but_videos_have_none() -> None:
    status, body, _ = call("/v1/slow", limits=SHORT)
    assert (status, body["error"]["code"]) == (504, "timeout")
    assert call("/media/slow", limits=SHORT, body=[b""])[0] == 200


def test_the_time_limit_counts_from_the_arrival_at_the_proxy() -> None:
    def arrived(seconds_ago: float) -> dict[str, str]:
        return {ARRIVAL: str(time.time() - seconds_ago)}

    status, body, headers = call("/v1/search", headers=arrived(61))
    assert (status, body["error"]["code"], headers["retry-after"]) == (503, "busy", "1")
    assert call("/v1/search", headers=arrived(10))[0] == 200
    # The app takes 0.2 s, and the request has 0.1 s of its 60 s left.
    status, body, _ = call("/v1/slow", headers=arrived(59.9))
    assert (status, body["error"]["code"]) == (504, "timeout")
    assert call("/media/x", headers=arrived(1000))[0] == 200
    for value in ("x", "", "inf", "nan", "-inf", str(time.time() + 1000)):
        assert call("/v1/search", headers={ARRIVAL: value})[0] == (503 if value == "-inf" else 200)


def test_the_bodies_of_all_requests_share_a_budget() -> None:
    """Of three bodies of 60 bytes at the same time, a budget of 150 admits two; then it is free again."""

    async def scenario() -> list[int]:
        replies: list[int] = []
        limits = replace(LIMITS, max_bodies_bytes=150)
        all_read, read = asyncio.Event(), 0

        async def app(scope: Any, receive: Any, send: Any) -> None:
            nonlocal read
            await Request(scope, receive).body()
            read += 1
            await all_read.wait()
            await PlainTextResponse("done")(scope, receive, send)

        guard = Guard(app, key_digest=None, limits=limits, observe=Observed())

        async def request() -> None:
            scope = {
                "type": "http", "method": "POST", "path": "/v1/search", "query_string": b"",
                "client": ("127.0.0.1", 5), "headers": [(b"host", b"localhost")],
            }  # fmt: skip

            async def receive() -> dict[str, Any]:
                return {"type": "http.request", "body": bytes(60), "more_body": False}

            async def send(message: dict[str, Any]) -> None:
                if message["type"] == "http.response.start":
                    replies.append(message["status"])
                    if message["status"] == 503:
                        assert (b"retry-after", b"1") in message["headers"]

            await guard(scope, receive, send)  # type: ignore[arg-type]

        waiting = [asyncio.create_task(request()) for _ in range(3)]
        while read < 2 or not replies:
            await asyncio.sleep(0)
        all_read.set()
        await asyncio.gather(*waiting)
        await asyncio.gather(request(), request())
        return replies

    assert asyncio.run(scenario()) == [503, 200, 200, 200, 200]


@pytest.mark.parametrize("error", [TimeoutError(), RuntimeError("broken"), ApiError(400, "bad")])
def test_a_started_reply_is_not_restarted(error: Exception) -> None:
    async def half(scope: Any, receive: Any, send: Any) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": b"half", "more_body": True})
        raise error

    assert call("/v1/search", app=half)[:2] == (200, "half")


def test_websockets_are_closed() -> None:
    sent: list[Any] = []

    async def send(message: Any) -> None:
        sent.append(message)

    guard = Guard(echo, key_digest=None, limits=LIMITS, observe=Observed())
    asyncio.run(guard({"type": "websocket", "path": "/"}, None, send))  # type: ignore[arg-type]
    assert sent == [{"type": "websocket.close", "code": 1008}]


@pytest.mark.parametrize("error", [ClientDisconnect(), TaskCancelledError()], ids=["starlette", "Ray Serve"])
def test_a_client_that_leaves_is_no_failure(error: Exception, caplog: pytest.LogCaptureFixture) -> None:
    async def receive() -> Any:
        raise error

    async def send(message: Any) -> None:
        raise AssertionError(message)

    observed = Observed()
    scope = {
        "type": "http", "method": "POST", "path": "/v1/search", "query_string": b"",
        "client": ("127.0.0.1", 5), "headers": [(b"host", b"localhost")],
    }  # fmt: skip
    with caplog.at_level("INFO"):
        asyncio.run(Guard(echo, key_digest=None, limits=LIMITS, observe=observed)(scope, receive, send))
    assert [record.levelname for record in caplog.records if record.name == guard.__name__] == ["INFO"]
    assert observed.calls == [("/v1/search", 499)]
