"""What stands before every request: who may ask, how large and how slow a body may be, how long all may take.

Plain ASGI, so that it sees bytes as they come and answers before anything is parsed.
"""

import asyncio
import hashlib
import hmac
import json
import logging
import time
from collections.abc import Callable
from typing import Any

from starlette.datastructures import Headers
from starlette.requests import ClientDisconnect, cookie_parser
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from gve_ray.serving.config import RequestLimits, is_loopback
from gve_ray.serving.errors import ApiError

log = logging.getLogger(__name__)

COOKIE = "gve_session"
# These tell nothing of models and indexes.
PUBLIC = ("/", "/healthz", "/readyz", "/favicon.ico")
PUBLIC_FOLDER = "/page/"
STREAMED = "/media/"  # a film takes as long as it takes to watch

Observe = Callable[[str, int, float], None]  # path, status, seconds


def digest(key: str) -> str:
    """What the service keeps of a key: sha256, hex. The key itself stays out of Ray's tables and logs."""
    return hashlib.sha256(key.encode()).hexdigest()


def session_of(key_digest: str) -> str:
    """The cookie's value: proves the key without holding it."""
    return hmac.new(bytes.fromhex(key_digest), b"gve_ray page", hashlib.sha256).hexdigest()


class Guard:
    """ASGI middleware. key_digest: None lets in this machine alone, by its loopback names."""

    def __init__(
        self, app: ASGIApp, *, key_digest: str | None, limits: RequestLimits, observe: Observe
    ) -> None:
        self._app, self._key_digest, self._limits, self._observe = app, key_digest, limits, observe

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan":
            await self._app(scope, receive, send)
            return
        if scope["type"] != "http":
            await send({"type": "websocket.close", "code": 1008})
            return
        begun, answer = time.monotonic(), _Answer(send)
        try:
            self._admit(scope)
            seconds = None if scope["path"].startswith(STREAMED) else self._limits.request_seconds
            async with asyncio.timeout(seconds):
                await self._app(scope, _Body(receive, scope, self._limits), answer.send)
        except TimeoutError:
            await answer.refuse(
                ApiError(504, f"not done in {self._limits.request_seconds:g} s; ask for less", code="timeout")
            )
        except ApiError as error:  # from here or from the body; the application's own are answered within
            await answer.refuse(error)
        except ClientDisconnect:
            log.info("a client left before its request was read")
        except Exception:
            log.exception("a request failed")
            await answer.refuse(
                ApiError(500, "the service failed on this request; its log says why", code="internal")
            )
        finally:
            self._observe(scope["path"], answer.status, time.monotonic() - begun)

    def _admit(self, scope: Scope) -> None:
        headers, path = Headers(scope=scope), scope["path"]
        is_public = path in PUBLIC or path.startswith(PUBLIC_FOLDER)
        if self._key_digest is None:
            # A page of another site must not reach this service through its reader's browser, neither under a name
            # that it has made to point here nor under ours.
            client = scope.get("client")
            here = is_loopback(_host(headers.get("host", ""))) and not (client and not is_loopback(client[0]))
            elsewhere = headers.get("sec-fetch-site", "none") not in ("none", "same-origin")
            if not here or (elsewhere and not is_public):
                raise ApiError(
                    403,
                    "without an API key only this machine is answered, as localhost or 127.0.0.1",
                    code="no_key",
                )
        elif not (is_public or self._has_key(headers) or self._has_session(headers)):
            raise ApiError(401, "send the API key: Authorization: Bearer KEY", code="invalid_api_key")

    def _has_key(self, headers: Headers) -> bool:
        assert self._key_digest is not None
        scheme, _, key = headers.get("authorization", "").partition(" ")
        return scheme.lower() == "bearer" and hmac.compare_digest(digest(key.strip()), self._key_digest)

    def _has_session(self, headers: Headers) -> bool:
        assert self._key_digest is not None
        found = cookie_parser(headers.get("cookie", "")).get(COOKIE, "")
        return hmac.compare_digest(found.encode(), session_of(self._key_digest).encode())


class _Body:
    """The request's body, within its limits of size and time. Raises ApiError: 413, 408."""

    def __init__(self, receive: Receive, scope: Scope, limits: RequestLimits) -> None:
        self._receive, self._limits = receive, limits
        self._left = limits.max_body_bytes
        self._until = time.monotonic() + limits.receive_seconds
        self._whole = False
        length = Headers(scope=scope).get("content-length", "0")
        if not length.isdecimal() or int(length) > self._left:
            raise self._too_large()

    async def __call__(self) -> Message:
        if self._whole:  # what comes now is the end of the connection, whenever that is
            return await self._receive()
        try:
            async with asyncio.timeout_at(
                asyncio.get_running_loop().time() + max(0.0, self._until - time.monotonic())
            ):
                message = await self._receive()
        except TimeoutError:
            raise ApiError(
                408,
                f"the body was not there in {self._limits.receive_seconds:g} s; send less",
                code="slow_body",
            ) from None
        self._left -= len(message.get("body", b""))
        if self._left < 0:
            raise self._too_large()
        self._whole = message["type"] != "http.request" or not message.get("more_body")
        return message

    def _too_large(self) -> ApiError:
        return ApiError(
            413, f"the body is above {self._limits.max_body_bytes} bytes; send less", code="body_too_large"
        )


class _Answer:
    """What is sent back. status: 499 until an answer has begun, for a client that has gone."""

    def __init__(self, send: Send) -> None:
        self._send = send
        self.status = 499
        self._begun = False

    async def send(self, message: Message) -> None:
        if message["type"] == "http.response.start":
            self._begun, self.status = True, message["status"]
        await self._send(message)

    async def refuse(self, error: ApiError) -> None:
        """Answer with an error, unless an answer has begun: that one then ends where it is."""
        if self._begun:
            return
        body = json.dumps(error.body()).encode()
        headers: dict[str, Any] = {"content-type": "application/json", "content-length": str(len(body))}
        headers |= {"connection": "close"} | {name.lower(): text for name, text in error.headers().items()}
        raw = [(name.encode(), text.encode()) for name, text in headers.items()]
        await self.send({"type": "http.response.start", "status": error.status, "headers": raw})
        await self.send({"type": "http.response.body", "body": body})


def _host(value: str) -> str:
    """The name in a Host header, without its port."""
    if value.startswith("["):
        return value.partition("]")[0] + "]"
    return value.partition(":")[0]
