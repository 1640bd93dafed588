"""The limits that hold in the HTTP proxy of Ray Serve, before a gateway replica sees a request.

    install(config)     # in the driver, before Ray starts: the proxies that Ray Serve starts call `middlewares`

Ray Serve has no options for these. It reads the whole body of every request into memory, lets
requests wait for a replica without a time limit, and never closes a connection that has not sent a
whole request.
"""

import asyncio
import json
import os
import time
from collections.abc import MutableMapping
from dataclasses import asdict
from typing import Any

from starlette.datastructures import Headers
from starlette.middleware import Middleware
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from gve_ray.serving.body_limits import ByteBudget, LimitedBody, Reply
from gve_ray.serving.config import ConnectionLimits, RequestLimits, ServeConfig
from gve_ray.serving.errors import ApiError

HOOK = "RAY_SERVE_HTTP_PROXY_CALLBACK_IMPORT_PATH"  # Ray's own variable
# Ray's own variables, too. By default, a request passes between three event loops of a replica, which takes a
# fifth of the processor time outside the model; our code never blocks its loop.
SEPARATE_LOOPS = ("RAY_SERVE_RUN_USER_CODE_IN_SEPARATE_THREAD", "RAY_SERVE_RUN_ROUTER_IN_SEPARATE_LOOP")
LIMITS = "GVE_SERVE_LIMITS"
ARRIVAL = "x-gve-arrival"  # header: Unix time at which a request arrived, in seconds
STREAMED = "/media/"  # without a time limit: a video takes as long as the client takes to watch it
RETRY_SECONDS = 1.0  # Retry-After of a request that no replica accepted in time
_GRACE_SECONDS = 1.0  # a gateway that has the request replies itself, with a better message
_MAX_HEAD = 64 * 1024  # bytes of the request line and the headers


def install(config: ServeConfig, environment: MutableMapping[str, str] = os.environ) -> None:
    """Make the proxies of a Ray that starts with this environment apply the limits of the config.

    Its replicas have one event loop each. What the user has set stays in place.
    """
    environment.setdefault(HOOK, "gve_ray.serving.front.middlewares")
    for name in SEPARATE_LOOPS:
        environment.setdefault(name, "0")
    limits = {"limits": asdict(config.limits), "connections": asdict(config.connections)}
    environment[LIMITS] = json.dumps(limits)


def middlewares() -> list[Middleware]:
    """Limit the connections of this process, and return the middleware for its requests.

    Ray Serve calls this in each proxy before that listens. The limits are those of `install`, or
    the defaults of the config.
    """
    import uvicorn.protocols.http.auto as http
    import uvicorn.protocols.websockets.auto as websockets

    given = json.loads(os.environ.get(LIMITS, "{}"))
    # Ray Serve starts uvicorn without options for these, so the classes that it chooses are replaced.
    http.AutoHTTPProtocol = connection_class(ConnectionLimits(**given.get("connections", {})))
    websockets.AutoWebSocketsProtocol = None
    return [Middleware(Front, limits=RequestLimits(**given.get("limits", {})))]


def seconds_since_arrival(value: str | None) -> float:
    """Return the seconds since a request arrived; 0 without a valid header `ARRIVAL`."""
    try:
        return max(0.0, time.time() - float(value or "nan"))
    except ValueError:
        return 0.0


class Front:
    """ASGI middleware: notes when a request arrives, and limits its body and the time until the reply."""

    def __init__(self, app: ASGIApp, limits: RequestLimits) -> None:
        self._app, self._limits = app, limits
        self._budget = ByteBudget(limits.max_bodies_bytes)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        name = ARRIVAL.encode()
        headers = [header for header in scope["headers"] if header[0] != name]
        scope = {**scope, "headers": [*headers, (name, f"{time.time():.3f}".encode())]}
        reply = Reply(scope, receive, send)
        try:
            _check_upgrade(scope)
            body = LimitedBody(receive, scope, self._limits, self._budget)
        except ApiError as error:
            await reply.refuse(error)
            return
        try:
            await self._answer(scope, body, reply)
        finally:
            body.close()

    async def _answer(self, scope: Scope, body: LimitedBody, reply: Reply) -> None:
        async def receive() -> Message:
            try:
                return await body()
            except ApiError as error:
                await reply.refuse(error)
                return {"type": "http.disconnect"}  # Ray Serve then cancels the request

        async def send(message: Message) -> None:
            if not timer.expired():
                timer.reschedule(None)  # the reply has started
            await reply.send(message)

        seconds = (
            None if scope["path"].startswith(STREAMED) else self._limits.request_seconds + _GRACE_SECONDS
        )
        try:
            async with asyncio.timeout(seconds) as timer:
                await self._app(scope, receive, send)
        except TimeoutError:
            await reply.refuse(
                ApiError(
                    503,
                    f"no replica was free within {self._limits.request_seconds:g} s; try again",
                    code="busy",
                    retry_after=RETRY_SECONDS,
                )
            )


def _check_upgrade(scope: Scope) -> None:
    """Raise ApiError(400) for a WebSocket, and for another upgrade whose body the parser skipped."""
    headers = Headers(scope=scope)
    if "upgrade" not in headers.get("connection", "").lower():
        return
    has_body = headers.get("content-length", "0") != "0" or "transfer-encoding" in headers
    if has_body or headers.get("upgrade", "").lower() == "websocket":
        raise ApiError(
            400,
            "this service speaks HTTP/1.1 only; send the request without the header Upgrade",
            code="upgrade",
        )


def connection_class(limits: ConnectionLimits) -> type[asyncio.Protocol]:
    """Return uvicorn's class of HTTP connections with these limits.

    A connection above `limits.most` is closed at once, and others when the line and the headers of
    a request have not arrived in time or are too long. The connection of a request with an Upgrade
    header is closed after the reply.
    """
    from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

    class Connection(HttpToolsProtocol):
        def __init__(self, *args: Any, **kwargs: Any) -> None:
            super().__init__(*args, **kwargs)
            self._head_bytes = 0
            self._head_timer: asyncio.TimerHandle | None = None

        def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
            super().connection_made(transport)
            if len(self.connections) > limits.most:
                transport.close()
            else:
                self._wait_for_head()

        def data_received(self, data: bytes) -> None:
            super().data_received(data)
            if self.cycle is not None and not self.cycle.response_complete:
                self._stop_waiting()
                return
            self._head_bytes += len(data)
            if self._head_bytes > _MAX_HEAD:
                self.transport.close()
            elif self._head_timer is None:
                self._wait_for_head()

        def connection_lost(self, exc: Exception | None) -> None:
            self._stop_waiting()
            super().connection_lost(exc)

        def _unsupported_upgrade_warning(self) -> None:
            # The parser reads nothing after such a request.
            self.cycle.keep_alive = False

        def _wait_for_head(self) -> None:
            self._head_timer = self.loop.call_later(limits.header_seconds, self.transport.close)

        def _stop_waiting(self) -> None:
            self._head_bytes = 0
            if self._head_timer is not None:
                self._head_timer.cancel()
                self._head_timer = None

    return Connection
