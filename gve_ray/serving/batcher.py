"""Dynamic batching by token budget: requests that arrive while the model is busy form its next
batch.

The batching of Ray Serve closes a batch after a fixed time, even if the model is still busy, so
under load it makes many small batches. Here there is no timer: a single request starts at once if
the model is free.
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

_CHARACTERS = 3  # per token, approximately; a smaller value makes smaller batches
_TEMPLATE = 24  # tokens that the chat template adds to an item
_PIXELS = 28 * 28  # per visual token in one frame; two frames share a token


@dataclass(frozen=True, eq=False)
class _Group:
    """Items of one request that are embedded in one call of the model."""

    items: Sequence[Item]
    tokens: int
    result: asyncio.Future[Embeddings] = field(repr=False)


class BatchObserver(Protocol):
    """Receives the measurements of a TokenBatcher."""

    def waiting(self, count: int) -> None:
        """Record how many groups of items are waiting; called whenever that changes."""

    def batch(self, tokens: int, seconds: float) -> None:
        """Record the tokens and the duration of one call of the model."""


class TokenBatcher:
    """Embeds the items of requests with `run`, in one call at a time of at most about `max_tokens`
    tokens.

    A larger request is split, so that other requests need not wait for all of it; a single item is
    never split. If `run` raises on a batch of several requests, each is run again alone, so that
    only the bad one fails.
    """

    def __init__(
        self,
        run: Callable[[Sequence[Item]], Embeddings],
        *,
        max_tokens: int,
        observer: BatchObserver | None = None,
    ) -> None:
        self._run, self._max_tokens, self._observer = run, max_tokens, observer
        self._waiting: deque[_Group] = deque()
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="gve-model")
        self._worker: asyncio.Task[None] | None = None

    async def embed(self, items: Sequence[Item]) -> Embeddings:
        """Embed the items of one request and return their embeddings in order.

        Raises what `run` raises.

        If this is cancelled, items that still wait are dropped.
        """
        groups = self._split(items)
        self._waiting += groups
        self._report_waiting()
        if self._worker is None or self._worker.done():
            self._worker = asyncio.create_task(self._work())
        try:
            results = [await group.result for group in groups]
        finally:
            for group in groups:
                group.result.cancel()
        return results[0] if len(results) == 1 else Embeddings.joined(results)

    def _split(self, items: Sequence[Item]) -> list[_Group]:
        loop, groups, start, tokens = asyncio.get_running_loop(), [], 0, 0
        for i, item_tokens in enumerate(map(estimated_tokens, items)):
            if i > start and tokens + item_tokens > self._max_tokens:
                groups.append(_Group(items[start:i], tokens, loop.create_future()))
                start, tokens = i, 0
            tokens += item_tokens
        return [*groups, _Group(items[start:], tokens, loop.create_future())]

    async def _work(self) -> None:
        while groups := self._next():
            await self._embed(groups)

    def _next(self) -> list[_Group]:
        """Return the groups of the next batch; cancelled groups are dropped."""
        chosen: list[_Group] = []
        tokens = 0
        while self._waiting:
            group = self._waiting[0]
            if not group.result.cancelled():
                if chosen and tokens + group.tokens > self._max_tokens:
                    break
                chosen.append(group)
                tokens += group.tokens
            self._waiting.popleft()
        self._report_waiting()
        return chosen

    def _report_waiting(self) -> None:
        if self._observer is not None:
            self._observer.waiting(len(self._waiting))

    async def _embed(self, groups: Sequence[_Group]) -> None:
        try:
            embeddings = await self._call(groups)
        except Exception as error:  # noqa: BLE001 (the callers get it; the next batch may succeed)
            if len(groups) == 1:
                _settle(groups[0], error)
            else:
                for group in groups:
                    await self._embed([group])
            return
        start = 0
        for group in groups:
            rows = slice(start, start + len(group.items))
            _settle(group, Embeddings(**{name: array[rows] for name, array in vars(embeddings).items()}))
            start = rows.stop

    async def _call(self, groups: Sequence[_Group]) -> Embeddings:
        items, started = [item for group in groups for item in group.items], time.monotonic()
        try:
            return await asyncio.get_running_loop().run_in_executor(self._thread, self._run, items)
        finally:
            if self._observer is not None:
                self._observer.batch(sum(group.tokens for group in groups), time.monotonic() - started)


def _settle(group: _Group, result: Embeddings | Exception) -> None:
    if group.result.done():
        return
    if isinstance(result, Exception):
        group.result.set_exception(result)
    else:
        group.result.set_result(result)


def estimated_tokens(item: Item) -> int:
    """Estimate the number of tokens of an item without a tokenizer."""
    characters = len(item.text or "") + len(item.instruction or "")
    pixels = 0
    for media in (item.image, item.video):
        if isinstance(media, Frames):
            pixels += int(np.prod(media.pixels.shape[1:3])) * -(-len(media.pixels) // 2)
    return _TEMPLATE + characters // _CHARACTERS + pixels // _PIXELS
