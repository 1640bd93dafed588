"""The FastAPI application: HTTP routes that call `gve_ray.serving.gateway.Gateway`."""

import asyncio
import base64
import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict

import numpy as np
from fastapi import FastAPI, Request
from fastapi.responses import JSONResponse, PlainTextResponse, Response
from starlette.datastructures import UploadFile
from starlette.exceptions import HTTPException

from gve_ray import __version__
from gve_ray.errors import shortened
from gve_ray.schema import truncated
from gve_ray.search import Moment
from gve_ray.serving.batcher import Caller
from gve_ray.serving.errors import ApiError
from gve_ray.serving.files import MEDIA_TYPES, file_response
from gve_ray.serving.gateway import Entry, Gateway
from gve_ray.serving.guard import COOKIE, DEADLINE, Guard, session_of
from gve_ray.serving.hits import FORMS, confident
from gve_ray.serving.metrics import agents, collect
from gve_ray.serving.openapi import Api, Operation, Schema, document, json_of
from gve_ray.serving.requests import (
    FORM_FIELDS,
    MAX_LIKE,
    EmbeddingRequest,
    M,
    SearchQuery,
    SearchRequest,
    parse_form,
    parse_json,
    validate,
)
from gve_ray.serving.rerank import Reranking
from gve_ray.serving.retriever import ModelInfo
from gve_ray.serving.search_page import TYPES, load_page, suffix
from gve_ray.serving.search_reply import moment_reply, search_reply

_FORM_FILES = 2
_JPEG_HEADERS = {
    "Cache-Control": "private, max-age=3600",
    "X-Content-Type-Options": "nosniff",
    "Cross-Origin-Resource-Policy": "same-origin",
}


class HttpGateway(Gateway):
    """A gateway that Ray Serve deploys with its HTTP application."""

    def __serve_build_asgi_app__(self) -> FastAPI:
        """Return the application of this replica; Ray Serve calls this when the replica starts."""
        return build_app(self)


def build_app(gateway: Gateway) -> FastAPI:
    """Return the application of one gateway replica."""
    app = FastAPI(
        title="gve_ray",
        version=__version__,
        openapi_url=None,  # `_Routes.openapi` describes the service
        exception_handlers={ApiError: _refused, HTTPException: _http_refused},
    )
    _Routes(gateway).add_to(app)
    app.add_middleware(
        Guard,
        key_digest=gateway.key_digest,
        limits=gateway.config.limits,
        observe=gateway.metrics.observe,
    )
    return app


class _Routes:
    def __init__(self, gateway: Gateway) -> None:
        self._gateway = gateway
        self._page = load_page()

    def add_to(self, app: FastAPI) -> None:
        """Add every route."""
        for operation in self._operations:
            app.add_api_route(operation.path, operation.endpoint, methods=list(operation.methods))
        for path, endpoint in (
            ("/openapi.json", self.openapi),
            ("/", self.page),
            ("/page/{name}", self.page),
        ):
            app.add_api_route(path, endpoint, methods=["GET"])

    @property
    def _operations(self) -> list[Operation]:
        text = {"text/plain": {"schema": {"type": "string"}}}
        video: dict[str, Schema] = {kind: {} for kind in MEDIA_TYPES}
        both = ("GET", "HEAD")
        return [
            Operation(
                path="/v1/embeddings", endpoint=self.embeddings, tag="api", methods=("POST",), body="EmbeddingRequest",
                success={200: json_of("Embeddings")}, errors=(403, 404, 409, 415, 422, 429, 502),
            ),
            Operation(
                path="/v1/search", endpoint=self.search, tag="api", methods=("POST",), body="SearchRequest",
                success={200: {**json_of("Hits"), **{kind: {} for kind in FORMS}}},
                errors=(403, 404, 409, 415, 422, 429, 502),
            ),
            Operation(
                path="/v1/moments/{model}/{segment}", endpoint=self.moment, tag="api",
                success={200: json_of("Moment")}, errors=(404,),
            ),
            Operation(path="/v1/models", endpoint=self.models, tag="api", success={200: json_of("Models")}),
            Operation(
                path="/v1/session", endpoint=self.session, tag="page", methods=("POST",), success={204: {}}
            ),
            Operation(
                path="/media/{model}/{segment}", endpoint=self.media, tag="api", methods=both,
                success={200: video, 206: video}, errors=(404, 410, 416),
            ),
            Operation(
                path="/moments/{model}/{segment}.mp4", endpoint=self.moment_file, tag="api", methods=both,
                success={200: {"video/mp4": {}}, 206: {"video/mp4": {}}},
                errors=(404, 410, 413, 415, 416, 422),
            ),
            Operation(
                path="/previews/{model}/{segment}/{picture}.jpg", endpoint=self.preview, tag="api",
                success={200: {"image/jpeg": {}}}, errors=(404,),
            ),
            Operation(
                path="/healthz", endpoint=self.healthz, tag="operation", methods=both, success={200: text},
                is_public=True,
            ),
            Operation(
                path="/readyz", endpoint=self.readyz, tag="operation", methods=both, success={200: text},
                is_public=True,
            ),
            Operation(path="/metrics", endpoint=self.metrics, tag="operation", success={200: text}),
        ]  # fmt: skip

    async def openapi(self) -> Response:
        """Describe the interface of this service."""
        gateway = self._gateway
        described = await self._described()
        api = Api(
            models=list(gateway.entries),
            searched=[entry.name for entry in gateway.entries.values() if entry.has_index],
            dimensions=sorted({size for entry in gateway.entries.values() for size in entry.dimensions}),
            indexes=[info.index.fields for _, info in described if info.index is not None],
            limits=gateway.config.limits,
            has_key=gateway.key_digest is not None,
        )
        return JSONResponse(document(api, self._operations))

    async def embeddings(self, request: Request) -> Response:
        """Embed texts (OpenAI format), or chat messages with images and clips (vLLM format)."""
        body = await asyncio.to_thread(_read, EmbeddingRequest, await request.body())
        limit = self._gateway.config.limits.max_inputs
        if isinstance(body.input, list) and len(body.input) > limit:
            raise ApiError(400, f"input: {len(body.input)} texts; the limit is {limit} a request", "input")
        entry, queries = self._gateway.entry(body.model), body.queries()
        if body.dimensions is not None and body.dimensions not in entry.dimensions:
            allowed = ", ".join(map(str, entry.dimensions)) or "none; leave it out"
            raise ApiError(
                400,
                f"dimensions={body.dimensions}: {entry.name} was trained for these: {allowed}",
                "dimensions",
            )
        embeddings = await self._gateway.embed(
            entry, queries, cut=body.truncate_prompt_tokens is not None, caller=_caller(request)
        )
        vectors = embeddings.vectors
        if body.dimensions is not None:
            vectors = truncated(vectors, body.dimensions)
        is_base64 = body.encoding_format == "base64"
        tokens = int(embeddings.tokens.sum())
        return JSONResponse(
            {
                "object": "list",
                "data": [
                    {
                        "object": "embedding",
                        "index": i,
                        "embedding": _base64(vector) if is_base64 else vector.tolist(),
                    }
                    for i, vector in enumerate(vectors)
                ],
                "model": entry.name,
                "usage": {"prompt_tokens": tokens, "total_tokens": tokens},
            }
        )

    async def search(self, request: Request) -> Response:
        """Return the moments of the indexed videos that match a query, best first.

        As `Accept` says, they are JSON, a table, or an edit decision list. The last two leave weak hits out.
        """
        body, query = await _search_body(request)
        entry = self._gateway.entry(body.model, searched=True)
        limit = self._gateway.config.limits.max_top_k
        if body.top_k > limit:
            raise ApiError(400, f"top_k={body.top_k}: the limit is {limit}", "top_k")
        reranking: Reranking | None = None
        candidates = self._gateway.candidates(query) if body.rerank else 0
        options = body.options(max(body.top_k, candidates))
        hits: Sequence[Moment] = await self._gateway.search(entry, query, options, _caller(request))
        if candidates:
            assert query.content is not None
            reranking = await self._gateway.rerank(entry, query.content, hits, _caller(request))
            hits = reranking.hits[: body.top_k]
        reply = search_reply(entry.name, hits, body, reranking)
        accepted = [part.partition(";")[0].strip() for part in request.headers.get("accept", "").split(",")]
        if kind := next(filter(FORMS.get, accepted), None):
            return Response(FORMS[kind](confident(reply["data"])) + "\n", media_type=kind)
        return JSONResponse(reply)

    async def moment(self, model: str, segment: str) -> Response:
        """Return what is known of a segment."""
        entry = self._gateway.entry(model)
        record = await self._gateway.record(entry, segment)
        return JSONResponse(moment_reply(entry.name, segment, record))

    async def models(self) -> Response:
        """List the served models.

        A model whose index cannot be read, or that has no index and has not replied yet, is left out.
        """
        data = [
            {
                "id": entry.name,
                "object": "model",
                "created": self._gateway.created,
                "owned_by": "gve_ray",
                "dimension": info.dimension,
                "dimensions": list(entry.dimensions),
                "max_model_len": info.settings.max_tokens,
                "index": None if info.index is None else asdict(info.index),
            }
            for entry, info in await self._described()
        ]
        return JSONResponse({"object": "list", "data": data})

    async def _described(self) -> list[tuple[Entry, ModelInfo]]:
        """Return the models that can be described at the moment."""
        entries = list(self._gateway.entries.values())
        results = await asyncio.gather(
            *(self._gateway.describe(entry) for entry in entries), return_exceptions=True
        )
        return [
            (entry, info) for entry, info in zip(entries, results, strict=True) if isinstance(info, ModelInfo)
        ]

    async def session(self, request: Request) -> Response:
        """Give the browser a session cookie, because its requests for images and videos cannot send
        the key.
        """
        response = Response(status_code=204)
        if self._gateway.key_digest is not None:
            response.set_cookie(
                COOKIE,
                session_of(self._gateway.key_digest),
                httponly=True,
                samesite="strict",
                secure=request.url.scheme == "https",
            )
        return response

    async def media(self, request: Request, model: str, segment: str) -> Response:
        """Return the video of a segment; a large one only in parts, by Range."""
        record = await self._gateway.record(self._gateway.entry(model), segment)
        with _gone(segment):
            return await asyncio.to_thread(
                file_response,
                record["uri"],
                size=record["size"],
                etag=record["fingerprint"],
                method=request.method,
                headers=request.headers,
            )

    async def moment_file(self, request: Request, model: str, segment: str) -> Response:
        """Return a segment as a separate mp4 file, with its sound; a large one only in parts, by Range.

        Pictures and sound are copied. The headers `X-Moment-Start` and `X-Moment-End` say in seconds
        which part of the video it is: it begins with the picture that is on screen at the start of the
        segment. Sound that an mp4 cannot hold is left out, as `X-Moment-Sound` says.
        """
        with _gone(segment):
            made = await self._gateway.moment_file(self._gateway.entry(model), segment)
            response = await asyncio.to_thread(
                file_response,
                str(made.path),
                size=made.size,
                etag=made.tag,
                method=request.method,
                headers=request.headers,
            )
        response.headers["X-Moment-Start"] = f"{made.cut.start:.3f}"
        response.headers["X-Moment-End"] = f"{made.cut.end:.3f}"
        response.headers["X-Moment-Sound"] = made.cut.sound
        return response

    async def preview(self, model: str, segment: str, picture: str) -> Response:
        """Return poster.jpg of a segment, or strip.jpg: frames of the segment next to each other."""
        if picture not in ("poster", "strip"):
            raise ApiError(404, f"{shortened(picture)}.jpg: unknown picture; use poster.jpg or strip.jpg")
        pictures = await self._gateway.pictures(self._gateway.entry(model), segment)
        data = pictures.poster if picture == "poster" else pictures.strip
        return Response(data, media_type="image/jpeg", headers=_JPEG_HEADERS)

    async def healthz(self) -> Response:
        """Report that this gateway is alive."""
        return PlainTextResponse("ok\n")

    async def readyz(self) -> Response:
        """Report whether every model is ready."""
        if await self._gateway.ready():
            return PlainTextResponse("ready\n")
        raise ApiError(503, "a model is not ready yet; try again", code="not_ready", retry_after=2.0)

    async def metrics(self) -> Response:
        """Return Prometheus metrics of all nodes."""
        urls = await asyncio.to_thread(agents)
        return PlainTextResponse(await collect(urls), media_type="text/plain; version=0.0.4")

    async def page(self, name: str = "index.html") -> Response:
        """Return a file of the search page."""
        if name not in self._page.files:
            raise ApiError(404, f"{shortened(name)}: not a file of the page")
        return Response(self._page.files[name], media_type=TYPES[suffix(name)], headers=self._page.headers)


async def _search_body(request: Request) -> tuple[SearchRequest, SearchQuery]:
    kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if kind == "multipart/form-data":
        most = len(FORM_FIELDS) - 1 + MAX_LIKE
        async with request.form(max_files=_FORM_FILES, max_fields=most) as form:
            items = form.multi_items()
            like = [value for name, value in items if name == "like" and isinstance(value, str)]
            fields = {name: value for name, value in items if name != "like" and isinstance(value, str)}
            uploads = {name: value for name, value in items if isinstance(value, UploadFile)}
            if len(like) + len(fields) + len(uploads) < len(items):
                raise ApiError(
                    400, "a field occurs twice; give each field, except like, once", code="invalid_body"
                )
            files = {name: await upload.read() for name, upload in uploads.items()}
            return parse_form(fields, like, files)
    body = await asyncio.to_thread(_read, SearchRequest, await request.body())
    return body, body.query()


@contextmanager
def _gone(segment: str) -> Iterator[None]:
    """Say what to do if the file of a segment does not exist any more."""
    try:
        yield
    except FileNotFoundError as error:
        raise ApiError(
            410, f"{segment}: its file was deleted after it was indexed; run gve index", code="gone"
        ) from error


def _caller(request: Request) -> Caller:
    """Return the sender of a request. All clients behind one reverse proxy have the same address."""
    client = request.client.host if request.client else ""
    return Caller(client=client, deadline=request.scope.get(DEADLINE, math.inf))


def _read(kind: type[M], data: bytes) -> M:
    """Parse and validate a body. A large body takes long, so call this in a thread."""
    return validate(kind, parse_json(data))


def _base64(vector: np.ndarray) -> str:
    """Encode a vector as base64 of little-endian float32, which OpenAI clients decode."""
    return base64.b64encode(vector.astype("<f4").tobytes()).decode()


async def _refused(request: Request, error: Exception) -> Response:
    assert isinstance(error, ApiError)
    return JSONResponse(error.body(), status_code=error.status, headers=error.headers())


async def _http_refused(request: Request, error: Exception) -> Response:
    """Return the errors of FastAPI, such as an unknown path or a damaged form, in the format of
    ApiError.
    """
    assert isinstance(error, HTTPException)
    api_error = ApiError(error.status_code, str(error.detail), code="http")
    return JSONResponse(api_error.body(), status_code=error.status_code, headers=error.headers)
