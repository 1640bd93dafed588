"""The gateway: reads the texts and media of a request and calls the retriever of its model.

It fetches URLs, decodes media, and reads posters and metadata from the folder of the index, so that
the replicas that hold the models only embed and search. The HTTP routes are in
`gve_ray.serving.app`.
"""

import asyncio
import functools
import logging
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Concatenate, ParamSpec, TypeVar

from gve_ray.embedder import EmbedderSettings, Embeddings
from gve_ray.errors import shown
from gve_ray.logs import set_up_worker
from gve_ray.media import Limits, MediaError
from gve_ray.schema import Frames, Item
from gve_ray.search import ExclusiveIndexError, Library, Moment, Pictures
from gve_ray.serving.batcher import Caller
from gve_ray.serving.config import RequestLimits, ServeConfig
from gve_ray.serving.cutter import CutFile, Cutter
from gve_ray.serving.errors import ApiError
from gve_ray.serving.fetch import Fetcher, FetchError
from gve_ray.serving.files import check_file
from gve_ray.serving.frame_sequence import FrameSequence
from gve_ray.serving.live_library import LiveLibrary
from gve_ray.serving.metrics import Metrics
from gve_ray.serving.reader import MediaReader, http_status
from gve_ray.serving.requests import Query, SearchOptions, SearchQuery
from gve_ray.serving.rerank import Reranker, Reranking
from gve_ray.serving.retriever import ModelInfo, indexed_model

log = logging.getLogger(__name__)

RETRY_SECONDS = 1.0  # Retry-After when all replicas are busy
READY_SECONDS = 5.0  # within which a retriever must reply to be ready
READY_EVERY = 1.0  # seconds between checks of the retrievers
REPLY_SECONDS = 1.0  # of a request that are left for the reply when reranking ends
T = TypeVar("T")
P = ParamSpec("P")


@dataclass(frozen=True, kw_only=True)
class Entry:
    """A served model.

    dimensions: Matryoshka dimensions. has_index: whether it has an index to search in. library: the
    index, if this process can open it.
    """

    name: str
    dimensions: Sequence[int]
    has_index: bool
    library: LiveLibrary | None
    retriever: Any  # Ray Serve handle of a gve_ray.serving.retriever.Retriever


class Gateway:
    """A gateway replica.

    key_digest: result of `gve_ray.serving.guard.digest`; None admits only this machine. retrievers:
    handles in the order of config.models.
    """

    def __init__(self, config: ServeConfig, key_digest: str | None, *retrievers: Any) -> None:
        set_up_worker()
        self.config, self.key_digest = config, key_digest
        self.created = int(time.time())
        self.entries = {
            served.name: Entry(
                name=served.name,
                dimensions=served.dimensions,
                has_index=served.index is not None,
                library=_shared_library(served.index),
                retriever=retriever,
            )
            for served, retriever in zip(config.models, retrievers, strict=True)
        }
        limits = config.limits
        self._models: dict[str, ModelInfo] = {}  # as the retrievers last described them
        self._ready_lock, self._checked_at, self._is_ready = asyncio.Lock(), float("-inf"), False
        self._fetcher = Fetcher(
            config.url_hosts, max_bytes=limits.max_body_bytes, seconds=limits.fetch_seconds
        )
        self._reranker = None if config.rerank.url is None else Reranker(config.rerank)
        self._reader = MediaReader(config.gateway.readers, media_limits(limits))
        self._cutter = Cutter(
            media_limits(limits),
            max_seconds=limits.max_moment_seconds,
            max_bytes=limits.max_moments_bytes,
        )
        self.metrics = Metrics()

    def __del__(self) -> None:
        """Stop the decoding processes and threads; Ray Serve calls this when it stops a replica."""
        if hasattr(self, "_cutter"):
            self._reader.close()
            self._cutter.close()
            if self._reranker is not None:
                self._reranker.close()

    def entry(self, name: str | None, *, searched: bool = False) -> Entry:
        """Return the model of a request.

        name: from the request; None means the first model, or with `searched` the first that has an
        index. Raises ApiError: 404 for an unknown name, 400 if no model has an index.
        """
        if name is None:
            default = next(
                (entry for entry in self.entries.values() if entry.has_index or not searched), None
            )
            if default is None:
                raise ApiError(400, "no model here has an index to search in", "model", "no_index")
            return default
        if name not in self.entries:
            names = ", ".join(self.entries)
            raise ApiError(
                404, f"model {shown(name)}: not served here; use {names}", "model", "model_not_found"
            )
        return self.entries[name]

    async def describe(self, entry: Entry) -> ModelInfo:
        """Return what is served under a name. Raises ApiError.

        A retriever is asked only for a model without an index that has never replied before.
        """
        if entry.has_index:
            return await self._use_library(entry, indexed_model)
        return self._models.get(entry.name) or await self._ask_model(entry)

    async def _ask_model(self, entry: Entry) -> ModelInfo:
        self._models[entry.name] = await result_of(entry.retriever.describe.remote())
        return self._models[entry.name]

    async def ready(self) -> bool:
        """Return whether every retriever is ready; a busy one counts as ready.

        The retrievers are checked at most once in READY_EVERY seconds.
        """
        async with self._ready_lock:
            if time.monotonic() - self._checked_at > READY_EVERY:
                are_ready = await asyncio.gather(*map(self._is_retriever_ready, self.entries.values()))
                self._is_ready, self._checked_at = all(are_ready), time.monotonic()
        return self._is_ready

    async def _is_retriever_ready(self, entry: Entry) -> bool:
        try:
            async with asyncio.timeout(READY_SECONDS):
                await self._ask_model(entry)
        except ApiError as error:
            return error.code == "busy"
        except TimeoutError:  # a long queue, if the retriever has been ready before
            return self._is_ready
        return True

    async def embed(self, entry: Entry, queries: Sequence[Query], *, cut: bool, caller: Caller) -> Embeddings:
        """Return the embeddings of queries, in order. cut: truncate long texts. Raises ApiError."""
        embeddings: Embeddings = await self._with_items(
            entry,
            queries,
            lambda items, settings: entry.retriever.embed.remote(items, settings, cut=cut, caller=caller),
        )
        return embeddings

    async def search(
        self, entry: Entry, query: SearchQuery, options: SearchOptions, caller: Caller
    ) -> list[Moment]:
        """Return the segments that match a query best, as `Retriever.search` does. Raises ApiError."""
        hits: list[Moment] = await self._with_items(
            entry,
            [part for part in (query.content, query.without) if part is not None],
            lambda items, settings: entry.retriever.search.remote(
                None if query.content is None else items[0],
                query.like,
                None if query.without is None else items[-1],
                options,
                settings,
                caller=caller,
            ),
        )
        return hits

    def candidates(self, query: SearchQuery) -> int:
        """Return how many hits `rerank` needs; 0 if a query is not reranked, because it is not only text."""
        content = query.content
        is_text = content is not None and content.text is not None and not content.is_visual
        if self._reranker is None or not is_text or query.like or query.without is not None:
            return 0
        return self.config.rerank.candidates

    async def rerank(self, entry: Entry, query: Query, hits: Sequence[Moment], caller: Caller) -> Reranking:
        """Return the hits in the order of the reranker, which the config must name."""
        assert self._reranker is not None
        reranking = await self._reranker.rerank(
            query,
            hits,
            functools.partial(self.pictures, entry),
            seconds=caller.deadline - time.time() - REPLY_SECONDS,
        )
        self.metrics.reranked(len(reranking.scores), reranking.candidates)
        return reranking

    async def record(self, entry: Entry, segment: str) -> Mapping[str, Any]:
        """Return the metadata of a segment. Raises ApiError."""
        return await self._use_library(entry, Library.record, segment)

    async def pictures(self, entry: Entry, segment: str) -> Pictures:
        """Return the poster and the strip of a segment. Raises ApiError."""
        return await self._use_library(entry, Library.pictures, segment)

    async def moment_file(self, entry: Entry, segment: str) -> CutFile:
        """Return an mp4 of a segment. Raises ApiError, and FileNotFoundError if its video is gone."""
        record = await self.record(entry, segment)
        uri = record["uri"]
        name = await asyncio.to_thread(check_file, uri, record["size"])
        return await self._cutter.cut(
            uri, record["start"], record["end"], fingerprint=record["fingerprint"], name=name
        )

    async def _use_library(
        self, entry: Entry, work: Callable[Concatenate[Library, P], T], *args: P.args, **kwargs: P.kwargs
    ) -> T:
        """Run `work` on the library of a model, in the retriever only if this process cannot open it."""
        if entry.library is not None:
            return await entry.library.use(work, *args, **kwargs)
        result: T = await result_of(entry.retriever.use_library.remote(work, *args, **kwargs))
        return result

    async def _with_items(
        self,
        entry: Entry,
        queries: Sequence[Query],
        call: Callable[[Sequence[Item], EmbedderSettings | None], Any],
    ) -> Any:
        """Return the result of `call`, a method of the retriever, with the queries as items, whose
        media are read as the model needs them.
        """
        for query in queries:
            self._check_text(query)
        if not any(query.is_visual for query in queries):
            items = [Item(text=query.text, instruction=query.instruction) for query in queries]
            return await result_of(call(items, None))
        fetched = [await self._fetch(query) for query in queries]
        for is_retry in (False, True):
            # As the retriever describes itself, because the index may already be that of another model.
            model = None if is_retry else self._models.get(entry.name)
            settings = (model or await self._ask_model(entry)).settings
            items = [await self._item(query, settings) for query in fetched]
            try:
                return await result_of(call(items, settings))
            except ApiError as error:
                # The model has been replaced by one with other settings since this gateway read the
                # settings.
                if error.code != "stale_settings" or is_retry:
                    raise
        raise AssertionError("the second attempt returns or raises")

    def _check_text(self, query: Query) -> None:
        limit = self.config.limits.max_text
        for name, text in (("text", query.text), ("instruction", query.instruction)):
            if text is not None and len(text) > limit:
                raise ApiError(
                    400, f"{name}: {len(text)} characters; the limit is {limit}", name, "text_too_long"
                )

    async def _fetch(self, query: Query) -> Query:
        """Return the query with the contents of its URLs."""

        async def content(value: str | bytes | None, name: str) -> bytes | None:
            if not isinstance(value, str):
                return value
            try:
                return await self._fetcher.fetch(value)
            except FetchError as error:
                raise ApiError(error.status, str(error), name, error.reason) from error

        if isinstance(query.video, FrameSequence):
            return replace(query, image=await content(query.image, "image_url"))
        image, video = await asyncio.gather(
            content(query.image, "image_url"), content(query.video, "video_url")
        )
        return Query(text=query.text, image=image, video=video, instruction=query.instruction)

    async def _item(self, query: Query, settings: EmbedderSettings) -> Item:
        async def frames(data: str | bytes | FrameSequence | None, name: str) -> Frames | None:
            if data is None:
                return None
            try:
                if isinstance(data, FrameSequence):
                    return await self._reader.read_sequence(data, settings)
                assert isinstance(data, bytes)
                read = self._reader.read_image if name == "image" else self._reader.read_video
                return await read(data, settings)
            except MediaError as error:
                raise ApiError(
                    http_status(error.reason), f"{name}: {error}", name, str(error.reason)
                ) from error

        image, video = await asyncio.gather(frames(query.image, "image"), frames(query.video, "video"))
        return Item(text=query.text, image=image, video=video, instruction=query.instruction)


def _shared_library(index: str | None) -> LiveLibrary | None:
    """Open the index of a model for metadata and pictures; None if there is none.

    None too for an embedded Milvus: only one process can open it, and the retriever has.
    """
    try:
        return None if index is None else LiveLibrary(index, searched=False)
    except ExclusiveIndexError as error:
        log.warning("the retriever also serves posters and metadata: %s", error)
        return None


def media_limits(limits: RequestLimits) -> Limits:
    """Return the limits of a request as the limits for decoding one file."""
    return Limits(
        max_bytes=limits.max_body_bytes,
        max_duration=limits.max_duration,
        max_side_pixels=limits.max_side_pixels,
        max_frames=limits.max_frames,
        wall_clock_s=limits.decode_seconds,
        memory_bytes=limits.decode_memory,
    )


async def result_of(response: Any) -> Any:
    """Wait for a DeploymentResponse of Ray Serve and return its result.

    Raises ApiError: the one that the retriever returned; 503 if it is busy or unavailable; 500 if it
    failed.
    """
    from ray.exceptions import RayActorError, RayError
    from ray.serve.exceptions import BackPressureError, DeploymentUnavailableError

    try:
        result = await response
    except asyncio.CancelledError:
        response.cancel()  # otherwise the replica would continue to work on an abandoned request
        raise
    except BackPressureError:
        raise ApiError(
            503, "all replicas are busy and the queue is full; try again", None, "busy", RETRY_SECONDS
        ) from None
    except (DeploymentUnavailableError, RayActorError) as error:
        log.warning("a retriever is unavailable: %s", type(error).__name__)
        raise ApiError(
            503, "the model is unavailable at the moment; try again", None, "unavailable", RETRY_SECONDS
        ) from None
    except RayError as error:
        log.exception("a retriever failed")
        raise ApiError(500, "the model failed on this request; the log says why", None, "internal") from error
    if isinstance(result, ApiError):
        try:
            raise result
        finally:
            del result  # as in `gve_ray.media.reply.decode_reply`
    return result
