"""Dynamic batching by token budget: what waits while the model works goes into its next call together.

Ray Serve's own batching closes a batch by the clock, whether or not the model is free to take it; under load
that makes many small ones. Here nothing waits for the clock: a lone request starts at once.
"""

import asyncio
import time
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Protocol

import numpy as np

from gve_ray.embedder import Embeddings
from gve_ray.schema import Frames, Item

_CHARACTERS = 3  # a token, roughly; too few make batches small, too many make them large
_TEMPLATE = 24  # tokens around an item's words
_PIXELS = 28 * 28  # of a frame, a visual token; two frames share one


@dataclass(frozen=True, eq=False)
class _Group:
    """The items of one request, to be embedded in one call."""

    items: Sequence[Item]
    tokens: int
    found: asyncio.Future[Embeddings] = field(repr=False)


class Watch(Protocol):
    """Is told how many requests wait whenever that changes, and of each call: its tokens, its seconds."""

    def waiting(self, count: int) -> None: ...

    def batch(self, tokens: int, seconds: float) -> None: ...


class TokenBatcher:
    """Embeds requests' items by `run`, one call at a time, each of about `max_tokens` at most.

    A request of more is divided, so that others need not wait for all of it; one item never is. Where `run` raises
    on several requests together, each is tried alone, so that only the bad one fails.
    """

    def __init__(
        self, run: Callable[[Sequence[Item]], Embeddings], *, max_tokens: int, watch: Watch | None = None
    ) -> None:
        self._run, self._max_tokens, self._watch = run, max_tokens, watch
        self._waiting: deque[_Group] = deque()
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="gve-model")
        self._worker: asyncio.Task[None] | None = None

    async def embed(self, items: Sequence[Item]) -> Embeddings:
        """Of one request's items, in order. Raises what `run` raises. What waits when it is cancelled costs nothing."""
        groups = self._divided(items)
        self._waiting += groups
        self._tell_waiting()
        if self._worker is None or self._worker.done():
            self._worker = asyncio.create_task(self._work())
        try:
            found = [await group.found for group in groups]
        finally:
            for group in groups:
                group.found.cancel()
        return found[0] if len(found) == 1 else Embeddings.joined(found)

    def _divided(self, items: Sequence[Item]) -> list[_Group]:
        loop, groups, start, tokens = asyncio.get_running_loop(), [], 0, 0
        for i, one in enumerate(map(estimated_tokens, items)):
            if i > start and tokens + one > self._max_tokens:
                groups.append(_Group(items[start:i], tokens, loop.create_future()))
                start, tokens = i, 0
            tokens += one
        return [*groups, _Group(items[start:], tokens, loop.create_future())]

    async def _work(self) -> None:
        while groups := self._next():
            await self._embed(groups)

    def _next(self) -> list[_Group]:
        """The requests that go together now; those given up by their callers are dropped."""
        chosen: list[_Group] = []
        tokens = 0
        while self._waiting:
            group = self._waiting[0]
            if not group.found.cancelled():
                if chosen and tokens + group.tokens > self._max_tokens:
                    break
                chosen.append(group)
                tokens += group.tokens
            self._waiting.popleft()
        self._tell_waiting()
        return chosen

    def _tell_waiting(self) -> None:
        if self._watch is not None:
            self._watch.waiting(len(self._waiting))

    async def _embed(self, groups: Sequence[_Group]) -> None:
        try:
            found = await self._called(groups)
        except Exception as error:  # noqa: BLE001 (whoever asked is told; the next batch may do)
            if len(groups) == 1:
                _settle(groups[0], error)
            else:
                for group in groups:
                    await self._embed([group])
            return
        start = 0
        for group in groups:
            where = slice(start, start + len(group.items))
            _settle(group, Embeddings(**{name: part[where] for name, part in vars(found).items()}))
            start = where.stop

    async def _called(self, groups: Sequence[_Group]) -> Embeddings:
        items, begun = [item for group in groups for item in group.items], time.monotonic()
        try:
            return await asyncio.get_running_loop().run_in_executor(self._thread, self._run, items)
        finally:
            if self._watch is not None:
                self._watch.batch(sum(group.tokens for group in groups), time.monotonic() - begun)


def _settle(group: _Group, result: Embeddings | Exception) -> None:
    if group.found.done():
        return
    if isinstance(result, Exception):
        group.found.set_exception(result)
    else:
        group.found.set_result(result)


def estimated_tokens(item: Item) -> int:
    """About how long an item's sequence is, without a tokenizer."""
    words = len(item.text or "") + len(item.instruction or "")
    pixels = 0
    for media in (item.image, item.video):
        if isinstance(media, Frames):
            pixels += int(np.prod(media.pixels.shape[1:3])) * -(-len(media.pixels) // 2)
    return _TEMPLATE + words // _CHARACTERS + pixels // _PIXELS
