"""The deployment behind the gateway: a model, and the index that its vectors are searched in.

Both are in one replica, so that a vector is never searched in an index that another model made, however
replicas are replaced.
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

CHECK_SECONDS = 1.0  # between looks at whether an indexing run has finished
T = TypeVar("T")
_SETTINGS = ("frames", "max_pixels", "min_pixels", "max_tokens")


@dataclass(frozen=True, kw_only=True)
class ModelInfo:
    """What a retriever is. settings: how the gateway has to read media for it. identity: of weights and settings,
    as `gve_ray.embedder.backends.identify`. segments: in the index; None without one, and fields are empty.
    strip_frames: pictures in a strip."""

    dimension: int
    settings: EmbedderSettings
    identity: dict[str, Any]
    segments: int | None
    fields: dict[str, FieldType]
    strip_frames: int


class Retriever:
    """One replica. Raises on start what `identify` and `open_library` raise, and ValueError for weights that
    are no longer those of the index."""

    def __init__(self, served: ServedModel) -> None:
        self._served = served
        self._library: Library | None = None
        self._users: dict[int, int] = {}  # requests that use a library, by its id()
        self._opening = asyncio.Lock()
        self._looked = time.monotonic()
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
        # The first call is slow (kernels, threads, memory): it is ours, not a client's.
        self._dimension = int(self._model.embed([Item(text="warm up")]).vectors.shape[1])
        if any(one > self._dimension for one in served.dimensions):
            raise ValueError(
                f"models.{served.name}.dimensions={served.dimensions}: its vectors have {self._dimension}"
            )
        self._batcher = TokenBatcher(
            self._model.embed, max_tokens=served.max_batch_tokens, observer=ModelMetrics()
        )

    def __del__(self) -> None:
        """Ray Serve calls it when a replica is to go: vLLM has processes of its own."""
        if hasattr(self, "_model"):
            self._model.close()

    async def check_health(self) -> None:
        """Serve replaces the replica when this raises: the index has come to need another model."""
        if self._library is None:
            return
        try:
            facts = await asyncio.to_thread(read_library, self._library.folder)
        except IndexFileError as error:  # gone or out of reach; what is open goes on
            log.warning("%s", error)
            return
        if dict(facts.identity) != self._identity:
            raise RuntimeError(f"{self._library.folder} was made anew with another model")

    async def describe(self) -> ModelInfo:
        """What it serves, now."""
        if self._library is None:
            return self._described(None, None)
        return await self._use(lambda library: self._described(library, library.index.count()))

    def _described(self, library: Library | None, segments: int | None) -> ModelInfo:
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
        """Vectors of items whose media are in memory. settings: by which these were read. cut: texts above the
        model's limit are cut, not refused.

        Raises ApiError: 409 stale_settings, when the media were read for another model.
        """
        if settings is not None and settings != self._settings:
            raise ApiError(409, "the media were read for another model", code="stale_settings")
        for item in items:
            if why := self._model.refuses(item):
                raise ApiError(400, f"{self._served.name}: {why}", param="content")
        try:
            found = await self._batcher.embed(items)
        except ValueError as error:
            raise ApiError(400, str(error), param="input") from error
        if not cut and found.cut.any():
            at = int(np.flatnonzero(found.cut)[0])
            raise ApiError(
                400,
                f"input[{at}]: the text is longer than the model's {self._settings.max_tokens} tokens; shorten it, "
                "or, for embeddings, set truncate_prompt_tokens to -1",
                param="input",
                code="context_length_exceeded",
            )
        if not np.isfinite(found.vectors).all():
            raise ApiError(500, NOT_FINITE[1], code=NOT_FINITE[0])
        return found

    async def search(
        self, item: Item, top_k: int, filter: Filter | None, settings: EmbedderSettings | None = None
    ) -> list[Hit]:
        """The best segments for a query, best first. Raises ApiError."""
        vectors = (await self.embed([item], settings)).vectors
        return await self._use(lambda library: library.index.search(vectors, top_k, filter=filter)[0])

    async def similar(self, segment: str, top_k: int, filter: Filter | None) -> list[Hit]:
        """The segments that are like one of the index, without itself. Raises ApiError: 404 unknown_segment."""

        def find(library: Library) -> list[Hit]:
            vectors, _ = library.index.get([segment])
            (hits,) = library.index.search(vectors, top_k + 1, filter=filter)
            return [hit for hit in hits if hit.id != segment][:top_k]

        return await self._use(find)

    async def record(self, segment: str) -> dict[str, Any]:
        """A segment's metadata. Raises ApiError: 404 unknown_segment."""
        return await self._use(lambda library: library.index.get([segment])[1][0])

    async def pictures(self, segment: str) -> Pictures:
        """A segment's poster and strip. Raises ApiError: 404 unknown_segment."""
        return await self._use(lambda library: library.pictures(segment))

    async def _use(self, work: Callable[[Library], T]) -> T:
        """What `work` makes of the library, in a thread; the library's refusals as ApiError."""
        for again in (False, True):
            async with self._current(look=again) as library:
                try:
                    return await asyncio.to_thread(work, library)
                except SearchError as error:
                    field = "filter" if str(error).startswith("filter") else None
                    raise ApiError(400, str(error), field, "invalid_search") from error
                except (UnknownIdError, KeyError) as error:
                    raise ApiError(404, f"no such segment: {error}", "id", "unknown_segment") from error
                except Exception:
                    # An indexing run may delete the files of an index that it has replaced while we read them.
                    if again or await asyncio.to_thread(library.is_current):
                        raise
        raise AssertionError("the second round returns or raises")

    @asynccontextmanager
    async def _current(self, *, look: bool) -> AsyncIterator[Library]:
        """The library as the last finished indexing run left it, open until the block is left. look: whether there
        is a new one, though that has been asked a moment ago."""
        if self._library is None:
            raise ApiError(
                400, f"{self._served.name}: has no index to search in", param="model", code="no_index"
            )
        await self._renew(look)
        library = self._library
        self._users[id(library)] = self._users.get(id(library), 0) + 1
        try:
            yield library
        finally:
            self._users[id(library)] -= 1
            self._close_unused(library)

    async def _renew(self, look: bool) -> None:
        """Open the index anew if an indexing run has finished; requests under way keep the one they have."""
        if not look and (time.monotonic() - self._looked < CHECK_SECONDS or self._opening.locked()):
            return
        async with self._opening:
            self._looked, old = time.monotonic(), self._library
            assert old is not None
            try:
                if await asyncio.to_thread(old.is_current):
                    return
                new = await asyncio.to_thread(open_library, old.folder)
            except IndexFileError as error:
                log.warning("index not opened anew: %s", error)
                return
            if dict(new.facts.identity) != self._identity:
                new.close()  # check_health has this replica replaced
                return
            self._library = new
            log.info("index opened anew: generation %d", new.facts.generation)
            self._close_unused(old)

    def _close_unused(self, library: Library) -> None:
        if library is not self._library and not self._users.get(id(library)):
            self._users.pop(id(library), None)
            library.close()


def settings_of(served: ServedModel) -> EmbedderSettings:
    """Of a model without an index: what the config says, else what was saved with the weights, else the defaults.

    Raises ValueError where config and weights disagree.
    """
    model = served.model
    assert model is not None
    own = {name: value for name in _SETTINGS if (value := getattr(served, name)) is not None}
    if model.engine not in ("torch", "vllm"):
        return EmbedderSettings(**own)
    adapter = resolve_model(model.adapter) if model.adapter else None
    saved = resolve_settings(resolve_model(model.model), adapter, None, revision=model.revision)
    wanted = EmbedderSettings(**(asdict(saved) | own))
    if not model.rescale and wanted != saved:
        resolve_settings(resolve_model(model.model), adapter, wanted, revision=model.revision)
    return wanted
