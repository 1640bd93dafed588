"""The library of the last finished index job, which changes to a new one while requests use it.

library = LiveLibrary(folder, searched=False)
pictures = await library.use(Library.pictures, segment)
"""

import asyncio
import logging
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Concatenate, ParamSpec, TypeVar

import numpy as np

from gve_ray.errors import shortened
from gve_ray.search import IndexFileError, Library, SearchError, UnknownIdError, open_library
from gve_ray.search.folder import PathOrUri
from gve_ray.serving.errors import ApiError

log = logging.getLogger(__name__)

CHECK_SECONDS = 1.0  # between checks whether an index job has finished
T = TypeVar("T")
P = ParamSpec("P")


class LiveLibrary:
    """A library that is opened again when an index job has finished.

    A request that has begun keeps the library with which it began. searched: whether vectors are
    searched in it, so that an index of another model is never opened in its place. Otherwise only
    metadata and pictures are read, for which the model does not matter, and the index is shared
    with the process that searches. Raises what `open_library` raises.
    """

    def __init__(self, folder: PathOrUri, *, searched: bool) -> None:
        self._folder, self._searched = folder, searched
        self._library = self._open()
        self.facts = self._library.facts
        self._users: dict[int, int] = {}  # requests in progress per library, by id()
        self._opening = asyncio.Lock()
        self._checked_at = time.monotonic()

    async def use(self, work: Callable[Concatenate[Library, P], T], *args: P.args, **kwargs: P.kwargs) -> T:
        """Run `work` on the library in a thread and return its result.

        If it fails, and an index job has replaced the library meanwhile, it is run again on the new
        one: the segment may be new, or the files that were being read may have been deleted. Raises
        ApiError for an error of the search and for an unknown segment.
        """
        for is_retry in (False, True):
            async with self._current(check=is_retry) as library:
                try:
                    return await asyncio.to_thread(work, library, *args, **kwargs)
                except Exception as error:
                    if is_retry or await asyncio.to_thread(library.is_current):
                        raise _api_error(error) from error
        raise AssertionError("the second attempt returns or raises")

    def _open(self) -> Library:
        library = open_library(self._folder, shared=not self._searched)
        if self._searched:
            # The first search reads the vectors and the background, so they are read before any request
            # arrives.
            _ = library.background
            library.index.search(np.zeros((1, library.index.spec.dimension), np.float32), 1)
        return library

    @asynccontextmanager
    async def _current(self, *, check: bool) -> AsyncIterator[Library]:
        """Yield the library of the last finished index job, which stays open during the block.

        check: whether to look for a new library even if the last check was less than CHECK_SECONDS
        ago.
        """
        await self._reopen(check)
        library = self._library
        self._users[id(library)] = self._users.get(id(library), 0) + 1
        try:
            yield library
        finally:
            self._users[id(library)] -= 1
            self._close_unused(library)

    async def _reopen(self, check: bool) -> None:
        """Open the library again if an index job has finished."""
        if not check and (time.monotonic() - self._checked_at < CHECK_SECONDS or self._opening.locked()):
            return
        async with self._opening:
            self._checked_at, old = time.monotonic(), self._library
            try:
                if await asyncio.to_thread(old.is_current):
                    return
                new = await asyncio.to_thread(self._open)
            except IndexFileError as error:
                log.warning("index not reopened: %s", error)
                return
            if self._searched and dict(new.facts.identity) != dict(self.facts.identity):
                new.close()  # the retriever's health check makes Ray Serve replace the replica
                return
            self._library = new
            log.info("index reopened: generation %d", new.facts.generation)
            self._close_unused(old)

    def _close_unused(self, library: Library) -> None:
        if library is not self._library and not self._users.get(id(library)):
            self._users.pop(id(library), None)
            library.close()


def _api_error(error: Exception) -> Exception:
    """Return the reply to a client for an error of its query, and any other error unchanged."""
    if isinstance(error, SearchError):
        field = next((name for name in ("filter", "by") if str(error).startswith(name)), None)
        return ApiError(400, str(error), field, "invalid_search")
    if isinstance(error, (UnknownIdError, KeyError)):
        return ApiError(404, f"unknown segment: {shortened(str(error))}", "id", "unknown_segment")
    return error
