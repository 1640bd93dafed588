"""The deployment that embeds with a model and searches the index of that model.

Each replica holds both, so that a query vector is never searched in the index of another model,
even while replicas are being replaced.
"""

import asyncio
import logging
import time
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import asdict, dataclass
from typing import Any, TypeVar

import numpy as np

from gve_ray.config import resolve_model
from gve_ray.embedder import EmbedderSettings, Embeddings
from gve_ray.embedder.backends import NOT_FINITE, identify, open_model
from gve_ray.embedder.checkpoint import resolve_settings
from gve_ray.schema import Item
from gve_ray.search import (
    Filter,
    Hit,
    IndexFileError,
    Library,
    Pictures,
    SearchError,
    UnknownIdError,
    open_library,
    read_library,
)
from gve_ray.search.index import FieldType
from gve_ray.serving.batcher import TokenBatcher
from gve_ray.serving.config import ServedModel
from gve_ray.serving.errors import ApiError
from gve_ray.serving.metrics import ModelMetrics

log = logging.getLogger(__name__)

CHECK_SECONDS = 1.0  # between checks whether an indexing run has finished
T = TypeVar("T")


@dataclass(frozen=True, kw_only=True)
class ModelInfo:
    """What a retriever serves.

    dimension: length of its vectors. settings: how the gateway must read media for it. identity:
    identity of weights and settings, from `gve_ray.embedder.backends.identify`. segments: number of
    segments in the index; None without an index. fields: metadata fields of the index; empty
    without an index. strip_frames: frames in a preview strip.
    """

    dimension: int
    settings: EmbedderSettings
    identity: dict[str, Any]
    segments: int | None
    fields: dict[str, FieldType]
    strip_frames: int


class Retriever:
    """A replica that holds a model and, if the config names one, its index.

    The constructor raises what `identify` and `open_library` raise, and ValueError if the weights
    have changed since the index was made.
    """

    def __init__(self, served: ServedModel) -> None:
        self._served = served
        self._library: Library | None = None
        self._users: dict[int, int] = {}  # requests in progress per library, by id()
        self._opening = asyncio.Lock()
        self._checked_at = time.monotonic()
        on_gpu = served.replicas.num_gpus > 0
        if served.index is not None:
            self._library = open_library(served.index)
            facts = self._library.facts
            model, self._settings = facts.model_config, EmbedderSettings(**facts.settings)
            self._identity = dict(facts.identity)
            now = identify(model, self._settings, on_gpu=on_gpu)
            if now | {"dtype": None} != self._identity | {"dtype": None}:
                raise ValueError(
                    f"models.{served.name}: the weights of {model.model} have changed since {served.index} was "
                    "made; run gve index into another folder"
                )
        else:
            assert served.model is not None
            model = served.model
            self._settings = settings_of(served)
            self._identity = identify(model, self._settings, on_gpu=on_gpu)
        self._model = open_model(model, self._settings, self._identity)
        # The first call is slow (kernels, threads, memory), so it is made before any request
        # arrives.
        self._dimension = int(self._model.embed([Item(text="warm up")]).vectors.shape[1])
        if any(dimension > self._dimension for dimension in served.dimensions):
            raise ValueError(
                f"models.{served.name}.dimensions={served.dimensions}: its vectors have {self._dimension}"
            )
        self._batcher = TokenBatcher(
            self._model.embed, max_tokens=served.max_batch_tokens, observer=ModelMetrics()
        )

    def __del__(self) -> None:
        """Close the model, because vLLM runs subprocesses; Ray Serve calls this when it stops a
        replica.
        """
        if hasattr(self, "_model"):
            self._model.close()

    async def check_health(self) -> None:
        """Raise RuntimeError if the index now needs another model; Ray Serve then replaces the
        replica.
        """
        if self._library is None:
            return
        try:
            facts = await asyncio.to_thread(read_library, self._library.folder)
        except IndexFileError as error:  # deleted or unreachable; the open index stays in use
            log.warning("%s", error)
            return
        if dict(facts.identity) != self._identity:
            raise RuntimeError(f"{self._library.folder} was rebuilt with another model")

    async def describe(self) -> ModelInfo:
        """Return what this replica serves now."""
        if self._library is None:
            return self._model_info(None, None)
        return await self._use(lambda library: self._model_info(library, library.index.count()))

    def _model_info(self, library: Library | None, segments: int | None) -> ModelInfo:
        return ModelInfo(
            dimension=self._dimension,
            settings=self._settings,
            identity=self._identity,
            segments=segments,
            fields=dict(library.index.spec.fields) if library else {},
            strip_frames=library.facts.strip_frames if library else 0,
        )

    async def embed(
        self, items: Sequence[Item], settings: EmbedderSettings | None = None, *, cut: bool = False
    ) -> Embeddings:
        """Return the embeddings of items whose media are in memory.

        settings: the settings with which the media were read; None if there are no media. cut:
        whether texts above the limit of the model are truncated instead of refused. Raises
        ApiError: 400 for an item that the model cannot embed, 409 stale_settings if the media were
        read for other settings.
        """
        if settings is not None and settings != self._settings:
            raise ApiError(409, "the media were read for another model", code="stale_settings")
        for item in items:
            if why := self._model.refuses(item):
                raise ApiError(400, f"{self._served.name}: {why}", param="content")
        try:
            embeddings = await self._batcher.embed(items)
        except ValueError as error:
            raise ApiError(400, str(error), param="input") from error
        if not cut and embeddings.cut.any():
            at = int(np.flatnonzero(embeddings.cut)[0])
            raise ApiError(
                400,
                f"input[{at}]: the text is longer than the model's {self._settings.max_tokens} tokens; shorten it, "
                "or, for embeddings, set truncate_prompt_tokens to -1",
                param="input",
                code="context_length_exceeded",
            )
        if not np.isfinite(embeddings.vectors).all():
            raise ApiError(500, NOT_FINITE[1], code=NOT_FINITE[0])
        return embeddings

    async def search(
        self, item: Item, top_k: int, filter: Filter | None, settings: EmbedderSettings | None = None
    ) -> list[Hit]:
        """Return the segments that match a query best, best first. Raises ApiError."""
        vectors = (await self.embed([item], settings)).vectors
        return await self._use(lambda library: library.index.search(vectors, top_k, filter=filter)[0])

    async def similar(self, segment: str, top_k: int, filter: Filter | None) -> list[Hit]:
        """Return the segments most similar to a segment, without itself.

        Raises ApiError: 404 unknown_segment.
        """

        def find(library: Library) -> list[Hit]:
            vectors, _ = library.index.get([segment])
            (hits,) = library.index.search(vectors, top_k + 1, filter=filter)
            return [hit for hit in hits if hit.id != segment][:top_k]

        return await self._use(find)

    async def record(self, segment: str) -> dict[str, Any]:
        """Return the metadata of a segment. Raises ApiError: 404 unknown_segment."""
        return await self._use(lambda library: library.index.get([segment])[1][0])

    async def pictures(self, segment: str) -> Pictures:
        """Return the poster and the strip of a segment. Raises ApiError: 404 unknown_segment."""
        return await self._use(lambda library: library.pictures(segment))

    async def _use(self, work: Callable[[Library], T]) -> T:
        """Run `work` on the library in a thread and return its result.

        Raises ApiError for an error of the search.
        """
        for is_retry in (False, True):
            async with self._current(check=is_retry) as library:
                try:
                    return await asyncio.to_thread(work, library)
                except SearchError as error:
                    field = "filter" if str(error).startswith("filter") else None
                    raise ApiError(400, str(error), field, "invalid_search") from error
                except (UnknownIdError, KeyError) as error:
                    raise ApiError(404, f"unknown segment: {error}", "id", "unknown_segment") from error
                except Exception:
                    # An indexing run may have replaced the index and deleted the files that were
                    # being read.
                    if is_retry or await asyncio.to_thread(library.is_current):
                        raise
        raise AssertionError("the second attempt returns or raises")

    @asynccontextmanager
    async def _current(self, *, check: bool) -> AsyncIterator[Library]:
        """Yield the library of the last finished indexing run, which stays open during the block.

        check: whether to look for a new library even if the last check was less than CHECK_SECONDS
        ago.
        """
        if self._library is None:
            raise ApiError(
                400, f"{self._served.name}: has no index to search in", param="model", code="no_index"
            )
        await self._reopen(check)
        library = self._library
        self._users[id(library)] = self._users.get(id(library), 0) + 1
        try:
            yield library
        finally:
            self._users[id(library)] -= 1
            self._close_unused(library)

    async def _reopen(self, check: bool) -> None:
        """Reopen the index if an indexing run has finished; requests in progress keep their
        library.
        """
        if not check and (time.monotonic() - self._checked_at < CHECK_SECONDS or self._opening.locked()):
            return
        async with self._opening:
            self._checked_at, old = time.monotonic(), self._library
            assert old is not None
            try:
                if await asyncio.to_thread(old.is_current):
                    return
                new = await asyncio.to_thread(open_library, old.folder)
            except IndexFileError as error:
                log.warning("index not reopened: %s", error)
                return
            if dict(new.facts.identity) != self._identity:
                new.close()  # check_health makes Ray Serve replace this replica
                return
            self._library = new
            log.info("index reopened: generation %d", new.facts.generation)
            self._close_unused(old)

    def _close_unused(self, library: Library) -> None:
        if library is not self._library and not self._users.get(id(library)):
            self._users.pop(id(library), None)
            library.close()


def settings_of(served: ServedModel) -> EmbedderSettings:
    """Return the settings of a model without an index: from the config, else saved with the
    weights, else defaults.

    Raises ValueError if the config and the weights disagree.
    """
    model = served.model
    assert model is not None
    configured = served.sequence_settings
    if model.engine not in ("torch", "vllm"):
        return EmbedderSettings(**configured)
    adapter = resolve_model(model.adapter) if model.adapter else None
    saved = resolve_settings(resolve_model(model.model), adapter, None, revision=model.revision)
    settings = EmbedderSettings(**(asdict(saved) | configured))
    if not model.rescale and settings != saved:
        resolve_settings(resolve_model(model.model), adapter, settings, revision=model.revision)
    return settings
