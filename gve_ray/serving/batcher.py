"""Fair dynamic batching by token budget: requests that arrive while the model is busy share its
next batches.

The batching of Ray Serve closes a batch after a fixed time, even if the model is still busy, so
under load it makes many small batches. Here there is no timer: a single request starts at once if
the model is free.
"""

import asyncio
import math
import time
from collections import Counter
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Protocol

import numpy as np

from gve_ray.embedder import Embeddings
from gve_ray.schema import Frames, Item
from gve_ray.serving.errors import ApiError

RETRY_SECONDS = 1.0  # Retry-After, at least, if too much work waits
_SHORT = 16  # a request is short if at least this many of its size fit into a batch
_CHARACTERS = 3  # per token, approximately; a smaller value makes smaller batches
_TEMPLATE = 24  # tokens that the chat template adds to an item
_PIXELS = 28 * 28  # per visual token in one frame; two frames share a token


@dataclass(eq=False, kw_only=True)
class _Request:
    """The items of one request.

    tokens: estimate for each item. taken: number of items that are in a batch or embedded already.
    parts: the embeddings so far, by the index of their first item.
    """

    items: Sequence[Item]
    tokens: Sequence[int]
    result: asyncio.Future[Embeddings] = field(repr=False)
    taken: int = 0
    parts: dict[int, Embeddings] = field(default_factory=dict)

    @property
    def waiting_tokens(self) -> int:
        return sum(self.tokens[self.taken :])


@dataclass(frozen=True, kw_only=True)
class _Part:
    """The items of one request in one batch: items[start:stop]."""

    request: _Request
    start: int
    stop: int

    @property
    def items(self) -> Sequence[Item]:
        return self.request.items[self.start : self.stop]

    @property
    def tokens(self) -> int:
        return sum(self.request.tokens[self.start : self.stop])


@dataclass(frozen=True, kw_only=True)
class Caller:
    """The sender of a request.

    client: its address. deadline: Unix time by which the request must be done.
    """

    client: str = ""
    deadline: float = math.inf


ANYONE = Caller()


class BatchObserver(Protocol):
    """Receives the measurements of a TokenBatcher."""

    def waiting(self, count: int) -> None:
        """Record how many requests have items that wait; called whenever that changes."""

    def batch(self, tokens: int, seconds: float) -> None:
        """Record the tokens and the duration of one call of the model."""


class TokenBatcher:
    """Embeds the items of requests with `run`, in calls of at most about `max_tokens` tokens.

    There is one call at a time, with one exception: if `run` is thread-safe, short requests do not
    wait for a batch with larger ones. A second thread embeds them in separate batches at the same time. A
    request is short if it has at most a sixteenth of `max_tokens`.

    A batch takes one item of each waiting request in turn (round-robin) until it is full, so a
    large request does not block later ones. Every second batch visits the requests in the order of
    the work that they have left, smallest first: a small request then waits for about two batches,
    even behind many large ones, and large ones still get the other batches.

    If `run` raises on a batch of several requests, each is run again alone, so that only the bad
    one fails.

    max_tokens: of a batch; a single item may exceed it. max_request_tokens, max_client_tokens:
    estimated tokens that one request may have, and that all waiting requests of one client may have.
    is_thread_safe: whether two threads may call `run` at the same time.
    """

    def __init__(
        self,
        run: Callable[[Sequence[Item]], Embeddings],
        *,
        max_tokens: int,
        max_request_tokens: int,
        max_client_tokens: int,
        is_thread_safe: bool = False,
        observer: BatchObserver | None = None,
    ) -> None:
        self._run, self._max_tokens, self._observer = run, max_tokens, observer
        self._max_request_tokens, self._max_client_tokens = max_request_tokens, max_client_tokens
        self._client_tokens: Counter[str] = Counter()  # of requests that are not finished
        self._waiting: list[_Request] = []  # those served least recently come first
        self._is_smallest_first = False
        self._rate: float | None = None  # tokens a second in full batches, as last measured
        self._threads = ThreadPoolExecutor(2 if is_thread_safe else 1, thread_name_prefix="gve-model")
        self._is_thread_safe = is_thread_safe
        self._worker: asyncio.Task[None] | None = None  # takes batches of all requests
        self._short_worker: asyncio.Task[None] | None = None  # takes batches of short requests
        self._runs_large = False  # whether the worker's batch contains a request that is not short

    async def embed(self, items: Sequence[Item], caller: Caller = ANYONE) -> Embeddings:
        """Embed the items of one request and return their embeddings in order.

        Raises what `run` raises, and ApiError: 413 if the request has more than
        `max_request_tokens`, 429 if the client would have more than `max_client_tokens`, 503 if the
        embeddings would not be ready by the deadline of the caller.

        If this is cancelled, items that still wait are dropped.
        """
        tokens = [estimated_tokens(item) for item in items]
        total = sum(tokens)
        client = caller.client
        self._check_work(total, client)
        self._check_time(total, caller.deadline - time.time())
        request = _Request(items=items, tokens=tokens, result=asyncio.get_running_loop().create_future())
        self._waiting.append(request)
        self._client_tokens[client] += total
        self._report_waiting()
        if self._worker is None or self._worker.done():
            self._worker = asyncio.create_task(self._work())
        self._serve_short_requests()
        try:
            return await request.result
        finally:
            request.result.cancel()
            self._client_tokens[client] -= total
            if not self._client_tokens[client]:
                del self._client_tokens[client]

    def _check_work(self, tokens: int, client: str) -> None:
        if tokens > self._max_request_tokens:
            raise ApiError(
                413,
                f"the request has about {tokens} tokens; the limit is {self._max_request_tokens}: send it in parts",
                "input",
                "too_many_tokens",
            )
        waiting = self._client_tokens[client]
        # A client that has nothing waiting is always admitted, so that no pair of limits refuses
        # a request for ever.
        if waiting and waiting + tokens > self._max_client_tokens:
            raise ApiError(
                429,
                f"your requests that wait have about {waiting} tokens and this one {tokens}; the limit is "
                f"{self._max_client_tokens} together: wait for their answers",
                code="too_many_tokens",
                retry_after=RETRY_SECONDS,
            )

    def _check_time(self, tokens: int, seconds: float) -> None:
        # Without other requests the model is free. The request is then admitted whatever the last
        # rate was, because only full batches measure a new one.
        if self._rate is None or not self._client_tokens:
            return
        waiting = [request.waiting_tokens for request in self._waiting]
        smaller = sum(other for other in waiting if other <= tokens)
        # Every second batch is for the smallest requests.
        needed = min(2 * (smaller + tokens), sum(waiting) + tokens) / self._rate
        if needed > seconds:
            raise ApiError(
                503,
                f"the model needs about {needed:.0f} s for the requests that wait and this one, which has "
                f"{max(seconds, 0):.0f} s left: try again, or send less",
                code="busy",
                retry_after=max(RETRY_SECONDS, sum(waiting) / self._rate),
            )

    async def _work(self) -> None:
        while True:
            waiting = self._live()
            if self._is_smallest_first:
                waiting.sort(key=lambda request: request.waiting_tokens)
            self._is_smallest_first = not self._is_smallest_first
            parts = self._next(waiting)
            if not parts:
                return
            self._runs_large = any(not self._is_short(part.request) for part in parts)
            self._serve_short_requests()
            try:
                await self._embed(parts)
            finally:
                self._runs_large = False

    def _serve_short_requests(self) -> None:
        """Start the worker of short requests if some wait for a batch with larger ones."""
        if not self._is_thread_safe or not self._runs_large:
            return
        if self._short_worker is None or self._short_worker.done():
            self._short_worker = asyncio.create_task(self._work_on_short_requests())

    async def _work_on_short_requests(self) -> None:
        while self._runs_large:
            parts = self._next([request for request in self._live() if self._is_short(request)])
            if not parts:
                return
            await self._embed(parts)

    def _is_short(self, request: _Request) -> bool:
        return _SHORT * sum(request.tokens) <= self._max_tokens

    def _live(self) -> list[_Request]:
        """Return the requests that wait, without those that failed or were cancelled."""
        return [request for request in self._waiting if not request.result.done()]

    def _next(self, rest: list[_Request]) -> list[_Part]:
        """Take the items of the next batch, from these requests in this order."""
        starts: dict[_Request, int] = {}  # the requests in this batch, and their first items in it
        room = self._max_tokens
        while rest:
            again = []
            for request in rest:
                tokens = request.tokens[request.taken]
                if starts and tokens > room:
                    continue
                starts.setdefault(request, request.taken)
                request.taken += 1
                room -= tokens
                if request.taken < len(request.items):
                    again.append(request)
            rest = again
        self._waiting = [request for request in self._live() if request not in starts]
        self._waiting += [request for request in starts if request.taken < len(request.items)]
        self._report_waiting()
        return [_Part(request=request, start=start, stop=request.taken) for request, start in starts.items()]

    def _report_waiting(self) -> None:
        if self._observer is not None:
            self._observer.waiting(len(self._waiting))

    async def _embed(self, parts: Sequence[_Part]) -> None:
        try:
            embeddings = await self._call(parts)
        except Exception as error:  # noqa: BLE001 (the callers get it; the next batch may succeed)
            if len(parts) == 1:
                _fail(parts[0].request, error)
            else:
                for part in parts:
                    await self._embed([part])
            return
        start = 0
        for part in parts:
            rows = slice(start, start + len(part.items))
            _add(part, Embeddings(**{name: array[rows] for name, array in vars(embeddings).items()}))
            start = rows.stop

    async def _call(self, parts: Sequence[_Part]) -> Embeddings:
        items, started = [item for part in parts for item in part.items], time.monotonic()
        try:
            return await asyncio.get_running_loop().run_in_executor(self._threads, self._run, items)
        finally:
            tokens, seconds = sum(part.tokens for part in parts), time.monotonic() - started
            if 2 * tokens >= self._max_tokens:  # the rate in a small batch is far lower
                self._rate = tokens / max(seconds, 1e-6)
            if self._observer is not None:
                self._observer.batch(tokens, seconds)


def _add(part: _Part, embeddings: Embeddings) -> None:
    """Add the embeddings of a part to its request; with the last part, the request has its result."""
    request = part.request
    request.parts[part.start] = embeddings
    parts = [request.parts[start] for start in sorted(request.parts)]
    is_complete = sum(len(embeddings.vectors) for embeddings in parts) == len(request.items)
    if is_complete and not request.result.done():
        request.result.set_result(parts[0] if len(parts) == 1 else Embeddings.joined(parts))


def _fail(request: _Request, error: Exception) -> None:
    if not request.result.done():
        request.result.set_exception(error)


def estimated_tokens(item: Item) -> int:
    """Estimate the number of tokens of an item without a tokenizer."""
    characters = len(item.text or "") + len(item.instruction or "")
    pixels = 0
    for media in (item.image, item.video):
        if isinstance(media, Frames):
            pixels += int(np.prod(media.pixels.shape[1:3])) * -(-len(media.pixels) // 2)
    return _TEMPLATE + characters // _CHARACTERS + pixels // _PIXELS
