"""The deployment that speaks HTTP: guards, parses, fetches and decodes what clients send, and asks the retrievers."""

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

from gve_ray.embedder import EmbedderSettings, Embeddings
from gve_ray.media import Limits, MediaError
from gve_ray.schema import Frames, Item
from gve_ray.search import Filter, Hit, Pictures
from gve_ray.serving.bodies import Query
from gve_ray.serving.config import RequestLimits, ServeConfig
from gve_ray.serving.errors import ApiError
from gve_ray.serving.fetch import Fetcher, FetchError
from gve_ray.serving.metrics import Metrics
from gve_ray.serving.reader import MediaReader, http_status
from gve_ray.serving.retriever import ModelInfo

log = logging.getLogger(__name__)

RETRY_SECONDS = 1.0  # what a client is told to wait when all are busy
READY_SECONDS = 5.0  # for a retriever to say that it is there
READY_EVERY = 1.0  # seconds between looks
T = TypeVar("T")


@dataclass(frozen=True, kw_only=True)
class Entry:
    """One model as clients see it. takes_index: whether it can be searched with."""

    name: str
    dimensions: Sequence[int]
    takes_index: bool
    retriever: Any  # Ray Serve's handle on gve_ray.serving.retriever.Retriever


class Gateway:
    """One replica. key_digest: of `gve_ray.serving.guard.digest`, or None for this machine alone.
    retrievers: handles, in the order of config.models."""

    def __init__(self, config: ServeConfig, key_digest: str | None, *retrievers: Any) -> None:
        self.config, self.key_digest = config, key_digest
        self.created = int(time.time())
        self.entries = {
            one.name: Entry(
                name=one.name,
                dimensions=one.dimensions,
                takes_index=one.index is not None,
                retriever=retriever,
            )
            for one, retriever in zip(config.models, retrievers, strict=True)
        }
        limits = config.limits
        self._settings: dict[str, EmbedderSettings] = {}
        self._looking, self._looked, self._is_ready = asyncio.Lock(), float("-inf"), False
        self._fetcher = Fetcher(
            config.url_hosts, max_bytes=limits.max_body_bytes, seconds=limits.fetch_seconds
        )
        self._reader = MediaReader(config.gateway.readers, media_limits(limits))
        self.metrics = Metrics()

    def __del__(self) -> None:
        """Ray Serve calls it when a replica is to go."""
        if hasattr(self, "_reader"):
            self._reader.close()

    def entry(self, name: str | None, *, searched: bool = False) -> Entry:
        """The model of a request; without a name the first (that can be searched with). Raises ApiError: 404, 400."""
        if name is None:
            chosen = next((one for one in self.entries.values() if one.takes_index or not searched), None)
            if chosen is None:
                raise ApiError(400, "no model here has an index to search in", "model", "no_index")
            return chosen
        if name not in self.entries:
            known = ", ".join(self.entries)
            raise ApiError(404, f"model {name!r}: not served here; use {known}", "model", "model_not_found")
        return self.entries[name]

    async def describe(self, entry: Entry) -> ModelInfo:
        """What a retriever says of itself."""
        found: ModelInfo = await ask(entry.retriever.describe.remote())
        return found

    async def ready(self) -> bool:
        """Whether every retriever is there; one that is busy is. Query once in a while, however often clients ask."""
        async with self._looking:
            if time.monotonic() - self._looked > READY_EVERY:
                found = await asyncio.gather(*map(self._is_there, self.entries.values()))
                self._is_ready, self._looked = all(found), time.monotonic()
        return self._is_ready

    async def _is_there(self, entry: Entry) -> bool:
        try:
            async with asyncio.timeout(READY_SECONDS):
                await self.describe(entry)
        except ApiError as error:
            return error.code == "busy"
        except TimeoutError:  # in a long queue, which is where it is if it has been seen before
            return self._is_ready
        return True

    async def embed(self, entry: Entry, asked: Sequence[Query], *, cut: bool) -> Embeddings:
        """Vectors of what a client gave, in order. Raises ApiError."""

        async def call(items: Sequence[Item], settings: EmbedderSettings | None) -> Embeddings:
            return await ask(entry.retriever.embed.remote(items, settings, cut=cut))

        return await self._with_items(entry, asked, call)

    async def search(self, entry: Entry, asked: Query, top_k: int, filter: Filter | None) -> list[Hit]:
        """The best segments for what a client gave. Raises ApiError."""

        async def call(items: Sequence[Item], settings: EmbedderSettings | None) -> list[Hit]:
            return await ask(entry.retriever.search.remote(items[0], top_k, filter, settings))

        return await self._with_items(entry, [asked], call)

    async def similar(self, entry: Entry, segment: str, top_k: int, filter: Filter | None) -> list[Hit]:
        """The segments like one of the index. Raises ApiError."""
        found: list[Hit] = await ask(entry.retriever.similar.remote(segment, top_k, filter))
        return found

    async def record(self, entry: Entry, segment: str) -> Mapping[str, Any]:
        """A segment's metadata. Raises ApiError."""
        found: Mapping[str, Any] = await ask(entry.retriever.record.remote(segment))
        return found

    async def pictures(self, entry: Entry, segment: str) -> Pictures:
        """A segment's poster and strip. Raises ApiError."""
        found: Pictures = await ask(entry.retriever.pictures.remote(segment))
        return found

    async def _with_items(
        self,
        entry: Entry,
        asked: Sequence[Query],
        call: Callable[[Sequence[Item], EmbedderSettings | None], Awaitable[T]],
    ) -> T:
        """Call with what was asked as items, their media read as the model needs them."""
        for one in asked:
            self._check_text(one)
        if not any(one.is_visual for one in asked):
            return await call([Item(text=one.text, instruction=one.instruction) for one in asked], None)
        given = [await self._fetched(one) for one in asked]
        for fresh in (False, True):
            if fresh or entry.name not in self._settings:
                self._settings[entry.name] = (await self.describe(entry)).settings
            settings = self._settings[entry.name]
            items = [await self._item(one, settings) for one in given]
            try:
                return await call(items, settings)
            except ApiError as error:
                # The model has been replaced by one with other settings since this gateway asked for them.
                if error.code != "stale_settings" or fresh:
                    raise
        raise AssertionError("the second round returns or raises")

    def _check_text(self, asked: Query) -> None:
        most = self.config.limits.max_text
        for name, text in (("text", asked.text), ("instruction", asked.instruction)):
            if text is not None and len(text) > most:
                raise ApiError(
                    400, f"{name}: {len(text)} characters; the limit is {most}", name, "text_too_long"
                )

    async def _fetched(self, asked: Query) -> Query:
        """With the bytes in the place of URLs."""

        async def content(value: str | bytes | None, name: str) -> bytes | None:
            if not isinstance(value, str):
                return value
            try:
                return await self._fetcher.fetch(value)
            except FetchError as error:
                raise ApiError(error.status, str(error), name, error.reason) from error

        image, video = await asyncio.gather(
            content(asked.image, "image_url"), content(asked.video, "video_url")
        )
        return Query(text=asked.text, image=image, video=video, instruction=asked.instruction)

    async def _item(self, asked: Query, settings: EmbedderSettings) -> Item:
        async def frames(data: str | bytes | None, name: str) -> Frames | None:
            if data is None:
                return None
            assert isinstance(data, bytes)
            read = self._reader.read_image if name == "image" else self._reader.read_video
            try:
                return await read(data, settings)
            except MediaError as error:
                raise ApiError(
                    http_status(error.reason), f"{name}: {error}", name, str(error.reason)
                ) from error

        image, video = await asyncio.gather(frames(asked.image, "image"), frames(asked.video, "video"))
        return Item(text=asked.text, image=image, video=video, instruction=asked.instruction)


def media_limits(limits: RequestLimits) -> Limits:
    """A request's limits as those of one file."""
    return Limits(
        max_bytes=limits.max_body_bytes,
        max_duration=limits.max_duration,
        max_side_pixels=limits.max_side_pixels,
        max_frames=limits.max_frames,
        wall_clock_s=limits.decode_seconds,
        memory_bytes=limits.decode_memory,
    )


async def ask(response: Any) -> Any:
    """What Ray Serve's DeploymentResponse brings. Raises ApiError: the retriever's own, or 503 where that is busy."""
    from ray.exceptions import RayActorError, RayError
    from ray.serve.exceptions import BackPressureError, DeploymentUnavailableError

    try:
        return await response
    except asyncio.CancelledError:
        response.cancel()  # awaiting alone would leave it to work for nobody
        raise
    except ApiError as error:
        # Ray wraps it in a class of its own that holds a whole traceback.
        raise ApiError(error.status, error.message, error.param, error.code, error.retry_after) from None
    except BackPressureError:
        raise ApiError(
            503, "all replicas are busy and the queue is full; try again", None, "busy", RETRY_SECONDS
        ) from None
    except (DeploymentUnavailableError, RayActorError) as error:
        log.warning("a retriever is not there: %s", type(error).__name__)
        raise ApiError(
            503, "the model is not there at the moment; try again", None, "unavailable", RETRY_SECONDS
        ) from None
    except RayError as error:
        log.exception("a retriever failed")
        raise ApiError(500, "the model failed on this request; the log says why", None, "internal") from error
