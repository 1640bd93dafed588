"""The limits of request bodies, and the reply to a request that exceeds one, as plain ASGI.

The proxy (`gve_ray.serving.front`) and the gateway (`gve_ray.serving.guard`) use both.
"""

import asyncio

from starlette.datastructures import Headers
from starlette.responses import JSONResponse
from starlette.types import Message, Receive, Scope, Send

from gve_ray.malloc import trim
from gve_ray.serving.config import RequestLimits
from gve_ray.serving.errors import ApiError

RETRY_SECONDS = 1.0  # Retry-After while the bodies of other requests take all the memory
# After so many bytes of bodies, and so much later, their memory is given back to the system: malloc keeps most of it,
# 350 MB after 12 bodies of 60 MB (docs/LOG.md).
TRIM_BYTES = 64 << 20
TRIM_SECONDS = 1.0


class ByteBudget:
    """Counts the bytes of the bodies of all requests in this process, up to `limit`."""

    def __init__(self, limit: int) -> None:
        self.limit, self.in_use = limit, 0
        self._freed = 0  # bytes since the last `trim`
        self._trimming: asyncio.TimerHandle | None = None

    def take(self, count: int) -> None:
        """Count bytes that have arrived. Raises ApiError(503), and counts none, above the limit."""
        if self.in_use + count > self.limit:
            raise ApiError(
                503,
                f"the bodies of the requests in progress have {self.in_use} bytes; the limit is {self.limit} "
                "together: try again",
                code="bodies_too_large",
                retry_after=RETRY_SECONDS,
            )
        self.in_use += count

    def give_back(self, count: int) -> None:
        """Count bytes no more, because their request is finished."""
        self.in_use -= count
        self._freed += count
        if self._freed >= TRIM_BYTES and self._trimming is None:
            self._trimming = asyncio.get_running_loop().call_later(TRIM_SECONDS, self._trim)

    def _trim(self) -> None:
        self._freed, self._trimming = 0, None
        asyncio.get_running_loop().run_in_executor(None, trim)


class LimitedBody:
    """Receives the body of a request within the limits of size and time.

    The constructor and calls raise ApiError: 413, 408 or 503. `close` gives the bytes back to the
    budget and must be called when the request is finished.
    """

    def __init__(self, receive: Receive, scope: Scope, limits: RequestLimits, budget: ByteBudget) -> None:
        self._receive, self._limits, self._budget = receive, limits, budget
        self._size = 0
        self._deadline = asyncio.get_running_loop().time() + limits.receive_seconds
        self._is_complete = False
        length = Headers(scope=scope).get("content-length", "0")
        if not length.isdecimal() or int(length) > limits.max_body_bytes:
            raise self._too_large()

    async def __call__(self) -> Message:
        if self._is_complete:  # the next message is the disconnect, for which there is no time limit
            return await self._receive()
        try:
            async with asyncio.timeout_at(self._deadline):
                message = await self._receive()
        except TimeoutError:
            raise ApiError(
                408,
                f"the body did not arrive within {self._limits.receive_seconds:g} s; send less",
                code="slow_body",
            ) from None
        count = len(message.get("body", b""))
        if self._size + count > self._limits.max_body_bytes:
            raise self._too_large()
        self._budget.take(count)
        self._size += count
        self._is_complete = message["type"] != "http.request" or not message.get("more_body")
        return message

    def close(self) -> None:
        """Give the bytes of the body back to the budget."""
        self._budget.give_back(self._size)
        self._size = 0

    def _too_large(self) -> ApiError:
        return ApiError(
            413, f"the body is above {self._limits.max_body_bytes} bytes; send less", code="body_too_large"
        )


class Reply:
    """Sends the reply. status: its HTTP status; 499 (client disconnected) until the reply starts."""

    def __init__(self, scope: Scope, receive: Receive, send: Send) -> None:
        self._scope, self._receive, self._send = scope, receive, send
        self.status = 499
        self.is_started = self._is_refused = False

    async def send(self, message: Message) -> None:
        """Send a message of the application; it is dropped after a refusal."""
        if not self._is_refused:
            await self._pass_on(message)

    async def refuse(self, error: ApiError) -> None:
        """Send an error, unless a reply has started; that reply then ends unfinished."""
        if not self.is_started:
            self._is_refused = True
            headers = {"connection": "close", **error.headers()}
            response = JSONResponse(error.body(), error.status, headers)
            await response(self._scope, self._receive, self._pass_on)

    async def _pass_on(self, message: Message) -> None:
        if message["type"] == "http.response.start":
            self.is_started, self.status = True, message["status"]
        await self._send(message)
