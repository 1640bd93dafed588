"""The deployment that embeds with a model and searches the index of that model.

Each replica holds both, so that a query vector is never searched in the index of another model,
even while replicas are being replaced.
"""

import asyncio
import functools
import logging
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Concatenate, ParamSpec, TypeVar

import numpy as np

from gve_ray.config import resolve_model
from gve_ray.embedder import EmbedderSettings, Embeddings
from gve_ray.embedder.backends import NOT_FINITE, identify, open_model, saved_settings
from gve_ray.embedder.checkpoint_files import resolve_settings
from gve_ray.logs import set_up_worker
from gve_ray.schema import Item
from gve_ray.search import (
    Hit,
    IndexFileError,
    Library,
    Moment,
    Ranking,
    composed,
    read_library,
    search_moments,
)
from gve_ray.search.index import FieldType
from gve_ray.search.indexing_progress import IndexingProgress, read_progress
from gve_ray.serving.batcher import ANYONE, Caller, TokenBatcher
from gve_ray.serving.config import ServedModel
from gve_ray.serving.errors import ApiError
from gve_ray.serving.live_library import LiveLibrary
from gve_ray.serving.metrics import ModelMetrics
from gve_ray.serving.query_cache import QueryCache
from gve_ray.serving.requests import SearchOptions

log = logging.getLogger(__name__)

T = TypeVar("T")
P = ParamSpec("P")


def _returns_refusals(method: Callable[P, Awaitable[T]]) -> Callable[P, Awaitable[T | ApiError]]:
    """Return the ApiErrors of a method instead of raising them.

    Ray Serve logs a traceback of every exception that leaves a replica, and a refusal is the fault
    of a client. `gve_ray.serving.gateway.result_of` raises the error again.
    """

    @functools.wraps(method)
    async def call(*args: P.args, **kwargs: P.kwargs) -> T | ApiError:
        try:
            return await method(*args, **kwargs)
        except ApiError as error:
            return error

    return call


@dataclass(frozen=True, kw_only=True)
class IndexInfo:
    """What an index contains.

    segments: their number. fields: metadata fields. strip_frames: frames in a preview strip. indexing: how far
    the job is that changes the index at the moment; None if there is none.
    """

    segments: int
    fields: dict[str, FieldType]
    strip_frames: int
    indexing: IndexingProgress | None


@dataclass(frozen=True, kw_only=True)
class ModelInfo:
    """What is served under one name.

    dimension: length of the vectors. settings: how media must be read for the model. index: None
    if there is no index.
    """

    dimension: int
    settings: EmbedderSettings
    index: IndexInfo | None = None


def indexed_model(library: Library) -> ModelInfo:
    """Return what is served by an index together with the model that embedded its segments."""
    spec, facts = library.index.spec, library.facts
    return ModelInfo(
        dimension=spec.dimension,
        settings=EmbedderSettings(**facts.settings),
        index=IndexInfo(
            segments=library.index.count(),
            fields=dict(spec.fields),
            strip_frames=facts.strip_frames,
            indexing=read_progress(library.folder),
        ),
    )


class Retriever:
    """A replica that holds a model and, if the config names one, its index.

    `embed`, `search` and `use_library` return an ApiError if they refuse the request.

    The constructor raises what `identify` and `open_library` raise, and ValueError if the weights
    have changed since the index was made.
    """

    def __init__(self, served: ServedModel) -> None:
        set_up_worker()
        self._served = served
        self._library: LiveLibrary | None = None
        on_gpu = "GPU" in served.replicas.demands
        if served.index is not None:
            self._library = LiveLibrary(served.index, searched=True)
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
        self._metrics = ModelMetrics()
        self._cache = QueryCache(served.cached_queries)
        self._batcher = TokenBatcher(
            self._model.embed,
            max_tokens=served.max_batch_tokens,
            max_request_tokens=served.max_request_tokens,
            max_client_tokens=served.max_client_tokens,
            is_thread_safe=self._model.is_thread_safe,
            observer=self._metrics,
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
        if self._served.index is None:
            return
        try:
            facts = await asyncio.to_thread(read_library, self._served.index)
        except IndexFileError as error:  # deleted or unreachable; the open index stays in use
            log.warning("%s", error)
            return
        if dict(facts.identity) != self._identity:
            raise RuntimeError(f"{self._served.index} was rebuilt with another model")

    async def describe(self) -> ModelInfo:
        """Return what this replica embeds with. Its index is described by `indexed_model`."""
        return ModelInfo(dimension=self._dimension, settings=self._settings)

    @_returns_refusals
    async def embed(
        self,
        items: Sequence[Item],
        settings: EmbedderSettings | None = None,
        *,
        cut: bool = False,
        caller: Caller = ANYONE,
    ) -> Embeddings:
        """Return the embeddings of items whose media are in memory.

        settings: the settings with which the media were read; None if there are no media. cut:
        whether texts above the limit of the model are truncated instead of refused. caller:
        the sender, whose waiting work is limited. Refused are an item that the model
        cannot embed (400), media that were read for other settings (409 stale_settings), and too
        much work (413, 429, 503).
        """
        return await self._embed(items, settings, cut=cut, caller=caller)

    async def _embed(
        self, items: Sequence[Item], settings: EmbedderSettings | None, *, cut: bool = False, caller: Caller
    ) -> Embeddings:
        """Do what `embed` does. Raises ApiError."""
        if settings is not None and settings != self._settings:
            raise ApiError(409, "the media were read for another model", code="stale_settings")
        for item in items:
            if why := self._model.refuses(item):
                raise ApiError(400, f"{self._served.name}: {why}", param="content")
        embeddings = self._cache.get(items)
        if self._cache.takes(items):
            self._metrics.looked_up(was_kept=embeddings is not None)
        if embeddings is None:
            embeddings = await self._run_model(items, caller)
            self._cache.put(items, embeddings)
        if not cut and embeddings.cut.any():
            at = int(np.flatnonzero(embeddings.cut)[0])
            raise ApiError(
                400,
                f"input[{at}]: the text is longer than the model's {self._settings.max_tokens} tokens; shorten it, "
                "or, for embeddings, set truncate_prompt_tokens to -1",
                param="input",
                code="context_length_exceeded",
            )
        return embeddings

    async def _run_model(self, items: Sequence[Item], caller: Caller) -> Embeddings:
        try:
            embeddings = await self._batcher.embed(items, caller)
        except ValueError as error:
            raise ApiError(400, str(error), param="input") from error
        if not np.isfinite(embeddings.vectors).all():
            raise ApiError(500, NOT_FINITE[1], code=NOT_FINITE[0])
        return embeddings

    @_returns_refusals
    async def search(
        self,
        content: Item | None,
        like: Sequence[str],
        without: Item | None,
        options: SearchOptions,
        settings: EmbedderSettings | None = None,
        *,
        caller: Caller = ANYONE,
    ) -> list[Moment]:
        """Return the segments that match a query best, as `search_moments` does.

        content, like, without: the parts of the query, see `SearchQuery`. Segments of `like` are not returned,
        and neither is what they overlap; an unknown one is refused (404 unknown_segment).
        """

        async def vector_of(item: Item | None) -> np.ndarray | None:
            return None if item is None else (await self._embed([item], settings, caller=caller)).vectors[0]

        vectors = await asyncio.gather(vector_of(content), vector_of(without))
        text = None if content is None else content.text
        return await self._use_library(_search, *vectors, like, text, options)

    @_returns_refusals
    async def use_library(self, work: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        """Run `work` on the library; see `LiveLibrary.use`. Without an index it is refused (400)."""
        return await self._use_library(work, *args, **kwargs)

    async def _use_library(
        self, work: Callable[Concatenate[Library, P], T], *args: P.args, **kwargs: P.kwargs
    ) -> T:
        """Do what `use_library` does. Raises ApiError."""
        if self._library is None:
            raise ApiError(400, f"{self._served.name}: has no index to search in", "model", "no_index")
        return await self._library.use(work, *args, **kwargs)


def _search(
    library: Library,
    content: np.ndarray | None,
    without: np.ndarray | None,
    like: Sequence[str],
    text: str | None,
    options: SearchOptions,
) -> list[Moment]:
    segments, metadata = library.index.get(like) if like else (None, [])
    return search_moments(
        library.index,
        composed(content=content, like=segments, without=without)[None],
        options.top_k,
        filter=options.filter,
        overlapping=options.overlapping,
        excluded=[Hit(id=id, score=1.0, metadata=row) for id, row in zip(like, metadata, strict=True)],
        by_video=options.by_video,
        background=library.background,
        is_composed=len(like) + (content is not None) + (without is not None) > 1,
        ranking=Ranking.of(library.words, text, options.by),
    )


def settings_of(served: ServedModel) -> EmbedderSettings:
    """Return the settings of a model without an index: from the config, else saved with the
    weights, else defaults.

    Raises ValueError if the config and the weights disagree.
    """
    model = served.model
    assert model is not None
    configured = served.sequence_settings
    saved = saved_settings(model)
    settings = EmbedderSettings(**(asdict(saved) | configured))
    if model.engine in ("torch", "vllm") and not model.rescale and settings != saved:
        adapter = resolve_model(model.adapter) if model.adapter else None
        resolve_settings(resolve_model(model.model), adapter, settings, revision=model.revision)
    return settings
