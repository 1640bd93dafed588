"""ASGI middleware that checks the API key and limits the size and the duration of every request.

As plain ASGI it sees the body as it arrives and can refuse a request before anything is parsed.
"""

import asyncio
import hashlib
import hmac
import logging
import time
from collections.abc import Callable

from starlette.datastructures import Headers
from starlette.requests import ClientDisconnect, cookie_parser
from starlette.types import ASGIApp, Receive, Scope, Send

from gve_ray.serving.body_limits import RETRY_SECONDS, ByteBudget, LimitedBody, Reply
from gve_ray.serving.config import RequestLimits, is_loopback
from gve_ray.serving.errors import ApiError
from gve_ray.serving.front import ARRIVAL, STREAMED, seconds_since_arrival
from gve_ray.store.faults import is_storage_fault, storage_fault

log = logging.getLogger(__name__)

COOKIE = "gve_session"
# These need no key, because they reveal nothing about models and indexes.
PUBLIC = ("/", "/healthz", "/readyz", "/favicon.ico")
PUBLIC_FOLDER = "/page/"
DEADLINE = "gve_ray.deadline"  # key of the ASGI scope: Unix time by which the request must be done

Observe = Callable[[str, int, float], None]  # path, status, seconds


def digest(key: str) -> str:
    """Return the SHA-256 of a key in hex. Only this digest reaches the tables and logs of Ray."""
    return hashlib.sha256(key.encode()).hexdigest()


def _has_left(error: Exception) -> bool:
    """Return whether the client has disconnected; Ray Serve then cancels the task that reads its request."""
    from ray.exceptions import TaskCancelledError

    return isinstance(error, ClientDisconnect | TaskCancelledError)


def _failure(error: Exception) -> ApiError:
    """Return the reply to a request that has caused an unexpected error; the log has the details."""
    if is_storage_fault(error):
        log.error("%s", storage_fault(error))
        return ApiError(
            503,
            "a disk of the service is full, or a storage does not answer; its log says which",
            code="storage",
            retry_after=RETRY_SECONDS,
        )
    return ApiError(500, "the service failed on this request; its log says why", code="internal")


def session_of(key_digest: str) -> str:
    """Return the value of the session cookie, which proves knowledge of the key without containing
    it.
    """
    return hmac.new(bytes.fromhex(key_digest), b"gve_ray page", hashlib.sha256).hexdigest()


class Guard:
    """The middleware.

    key_digest: digest of the API key; None admits only requests from this machine to a loopback
    name. limits: of one request. observe: called with path, status and seconds after each request.
    """

    def __init__(
        self, app: ASGIApp, *, key_digest: str | None, limits: RequestLimits, observe: Observe
    ) -> None:
        self._app, self._key_digest, self._limits, self._observe = app, key_digest, limits, observe
        self._budget = ByteBudget(limits.max_bodies_bytes)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan":
            await self._app(scope, receive, send)
            return
        if scope["type"] != "http":
            await send({"type": "websocket.close", "code": 1008})
            return
        started, reply = time.monotonic(), Reply(scope, receive, send)
        body: LimitedBody | None = None
        try:
            self._admit(scope)
            seconds = None if scope["path"].startswith(STREAMED) else self._seconds_left(scope)
            body = LimitedBody(receive, scope, self._limits, self._budget)
            async with asyncio.timeout(seconds):
                await self._app(scope, body, reply.send)
        except TimeoutError:
            await reply.refuse(
                ApiError(504, f"not done in {self._limits.request_seconds:g} s; ask for less", code="timeout")
            )
        except ApiError as error:  # from this class or the body; the application handles its own errors
            await reply.refuse(error)
        except Exception as error:
            if _has_left(error):
                log.info("a client disconnected before its request was read")
            else:
                log.exception("a request failed")
                await reply.refuse(_failure(error))
        finally:
            if body is not None:
                body.close()
            self._observe(scope["path"], reply.status, time.monotonic() - started)

    def _seconds_left(self, scope: Scope) -> float:
        """Return the time that the request has left, and note its deadline in the scope.

        The time counts from the arrival at the proxy. Raises ApiError(503) if it is over.
        """
        limit = self._limits.request_seconds
        left = limit - seconds_since_arrival(Headers(scope=scope).get(ARRIVAL))
        if left <= 0:
            raise ApiError(
                503,
                f"no replica was free within {limit:g} s; try again",
                code="busy",
                retry_after=RETRY_SECONDS,
            )
        scope[DEADLINE] = time.time() + left
        return left

    def _admit(self, scope: Scope) -> None:
        headers, path = Headers(scope=scope), scope["path"]
        is_public = path in PUBLIC or path.startswith(PUBLIC_FOLDER)
        if self._key_digest is None:
            # A website must not reach this service through the browser of a visitor, neither by a
            # host name that resolves to this machine (DNS rebinding) nor by a cross-site request.
            client = scope.get("client")
            is_local = is_loopback(_host(headers.get("host", ""))) and not (
                client and not is_loopback(client[0])
            )
            if not is_local or (_is_cross_site(headers) and not is_public):
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
        cookie = cookie_parser(headers.get("cookie", "")).get(COOKIE, "")
        return hmac.compare_digest(cookie.encode(), session_of(self._key_digest).encode())


def _is_cross_site(headers: Headers) -> bool:
    """Return whether a page of another origin sent the request, by either header with which browsers
    say so; other clients send neither.
    """
    site, origin = headers.get("sec-fetch-site", "none"), headers.get("origin")
    scheme, _, address = (origin or "").lower().partition("://")
    # "null" is the origin of a sandboxed frame or of a file.
    is_own = origin is None or (scheme in ("http", "https") and address == headers.get("host", "").lower())
    return site not in ("none", "same-origin") or not is_own


def _host(value: str) -> str:
    """Return the name in a Host header without the port."""
    if value.startswith("["):
        return value.partition("]")[0] + "]"
    return value.partition(":")[0]
