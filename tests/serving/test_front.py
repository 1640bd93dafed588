"""The limits in the HTTP proxy: a uvicorn server whose connections and middleware are those of the proxy."""

import asyncio
import json
import os
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import replace
from typing import Any

import httpx
import pytest
import uvicorn
from starlette.requests import Request
from starlette.responses import JSONResponse

from gve_ray.serving import body_limits
from gve_ray.serving.config import ConnectionLimits, RequestLimits, ServeConfig, ServedModel
from gve_ray.serving.front import (
    ARRIVAL,
    HOOK,
    LIMITS,
    SEPARATE_LOOPS,
    Front,
    connection_class,
    install,
    middlewares,
)

FAST = ConnectionLimits(header_seconds=0.2)
SMALL = replace(RequestLimits(), max_body_bytes=1000, max_bodies_bytes=1500, receive_seconds=0.3)


class App:
    """Replies with the length of the body and the arrival, after `go` is set for paths that end with "wait"."""

    def __init__(self) -> None:
        self.go, self.bodies = asyncio.Event(), 0

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        request = Request(scope, receive)
        body = await request.body()
        self.bodies += 1
        if scope["path"].endswith("wait"):
            await self.go.wait()
        await JSONResponse({"size": len(body), "arrival": request.headers.get(ARRIVAL)})(scope, receive, send)


@contextmanager
def served(
    app: Any, limits: RequestLimits = SMALL, connections: ConnectionLimits = FAST
) -> Iterator[tuple[str, int]]:
    """Run a server during the block, and yield its address."""
    listening = socket.socket()
    listening.bind(("127.0.0.1", 0))
    listening.listen()  # connections wait for the server from now on
    server = uvicorn.Server(
        uvicorn.Config(
            Front(app, limits),
            http=connection_class(connections),
            ws="none",
            lifespan="off",
            log_config=None,
            timeout_keep_alive=1,
        )
    )
    thread = threading.Thread(target=lambda: asyncio.run(server.serve([listening])))
    thread.start()
    try:
        yield listening.getsockname()
    finally:
        server.should_exit = True
        thread.join()
        listening.close()


def replied(address: tuple[str, int], *parts: bytes) -> bytes:
    """Send bytes and return all that the server sends until it closes the connection."""
    with socket.create_connection(address, timeout=30) as connection:
        for part in parts:
            connection.sendall(part)
        answer = b""
        with suppress(ConnectionResetError):  # it closed without reading everything
            while data := connection.recv(65536):
                answer += data
        return answer


def until(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 30
    while not condition():
        assert time.monotonic() < deadline, "waited too long"
        time.sleep(0.005)


def test_connections_without_a_whole_request_are_closed() -> None:
    with served(App()) as address:
        assert replied(address) == b""
        assert replied(address, b"GET / HTTP/1.1\r\nHost: a\r\nX-Half:") == b""
        assert replied(address, b"GET / HTTP/1.1\r\nX-Long: " + b"a" * 200_000) == b""
        # A second request on the same connection, of which only the head arrives in part.
        answer = replied(address, b"GET / HTTP/1.1\r\nHost: a\r\n\r\n", b"GET / HT")
        assert answer.startswith(b"HTTP/1.1 200")


def test_the_number_of_connections_is_limited() -> None:
    with (
        served(App(), connections=ConnectionLimits(most=1)) as address,
        socket.create_connection(address) as first,
    ):
        request = b"GET / HTTP/1.1\r\nHost: a\r\n\r\n"
        first.sendall(request)
        assert first.recv(100).startswith(b"HTTP/1.1 200")
        assert replied(address, request) == b""


@pytest.mark.parametrize("method", ["GET", "POST", "PUT"])
def test_a_request_for_a_websocket_is_refused(method: str) -> None:
    head = f"{method} / HTTP/1.1\r\nHost: a\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n"
    head += "Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\nContent-Length: 5\r\n\r\n"
    with served(App()) as address:
        answer = replied(address, head.encode() + b"hello")
        assert answer.startswith(b"HTTP/1.1 400")
        assert b"without the header Upgrade" in answer


def test_other_upgrades_are_ignored_unless_their_body_would_be_lost() -> None:
    head = b" / HTTP/1.1\r\nHost: a\r\nConnection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\n"
    with served(App()) as address:
        assert replied(address, b"GET" + head + b"\r\n").startswith(b"HTTP/1.1 200")
        for body in (
            b"Content-Length: 5\r\n\r\nhello",
            b"Transfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\n\r\n",
        ):
            assert replied(address, b"POST" + head + body).startswith(b"HTTP/1.1 400")


def test_bodies_are_limited_before_a_gateway_sees_them() -> None:
    app = App()
    with served(app) as (host, port), httpx.Client(base_url=f"http://{host}:{port}", trust_env=False) as http:

        def refusal(content: Any) -> tuple[int, str]:
            answer = http.post("/v1/search", content=content)
            return answer.status_code, answer.json()["error"]["code"]

        assert refusal(bytes(1001)) == (413, "body_too_large")
        assert refusal(iter([bytes(600), bytes(600)])) == (413, "body_too_large")
        slow = b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 9\r\n\r\nhalf"
        assert replied((host, port), slow).startswith(b"HTTP/1.1 408")
        threads = [
            threading.Thread(target=http.post, args=("/v1/wait",), kwargs={"content": bytes(700)})
            for _ in range(2)
        ]
        before = app.bodies
        for thread in threads:
            thread.start()
        until(lambda: app.bodies == before + 2)
        assert refusal(bytes(200)) == (503, "bodies_too_large")
        app.go.set()
        for thread in threads:
            thread.join()
        assert http.post("/v1/search", content=bytes(1000)).json()["size"] == 1000


def test_the_memory_of_bodies_is_given_back(monkeypatch: pytest.MonkeyPatch) -> None:
    trimmed = threading.Event()
    monkeypatch.setattr(body_limits, "TRIM_BYTES", 1500)
    monkeypatch.setattr(body_limits, "TRIM_SECONDS", 0.0)
    monkeypatch.setattr(body_limits, "trim", trimmed.set)
    with (
        served(App()) as (host, port),
        httpx.Client(base_url=f"http://{host}:{port}", trust_env=False) as http,
    ):
        for expected in (False, True):
            assert http.post("/v1/search", content=bytes(800)).json()["size"] == 800
            assert trimmed.wait(30 if expected else 0.1) == expected


def test_a_request_that_no_replica_accepts_is_refused_after_its_time() -> None:
    app = App()
    limits = replace(SMALL, request_seconds=0.05)
    with served(app, limits) as (host, port):
        answer = httpx.post(f"http://{host}:{port}/v1/wait", trust_env=False)
        assert (answer.status_code, answer.headers["retry-after"]) == (503, "1")
        app.go.set()


def test_the_arrival_is_noted_and_cannot_be_forged() -> None:
    with served(App()) as (host, port):
        before = time.time()
        answer = httpx.get(f"http://{host}:{port}/", headers={ARRIVAL: "5"}, trust_env=False)
        assert before - 0.001 <= float(answer.json()["arrival"]) <= time.time()


def test_the_limits_reach_the_proxy_by_its_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    import uvicorn.protocols.http.auto as http
    import uvicorn.protocols.websockets.auto as websockets

    environment = {SEPARATE_LOOPS[0]: "1"}  # set by the user
    served_model = ServedModel(name="demo", index="/index")
    install(ServeConfig(models=[served_model], limits=SMALL, connections=FAST), environment)
    module, _, name = environment[HOOK].rpartition(".")
    assert (module, name) == (middlewares.__module__, middlewares.__name__)
    assert [environment[name] for name in SEPARATE_LOOPS] == ["1", "0"]
    assert json.loads(environment[LIMITS])["connections"]["header_seconds"] == FAST.header_seconds
    monkeypatch.setattr(http, "AutoHTTPProtocol", http.AutoHTTPProtocol)
    monkeypatch.setattr(websockets, "AutoWebSocketsProtocol", websockets.AutoWebSocketsProtocol)
    monkeypatch.setattr(os, "environ", {**os.environ, **environment})
    (middleware,) = middlewares()
    assert middleware.kwargs == {"limits": SMALL}
    config = uvicorn.Config(App())
    config.load()
    assert config.http_protocol_class.__name__ == "Connection"
    assert config.ws_protocol_class is None
