"""Gateway: abandoned calls are cancelled, errors of Ray Serve become ApiErrors, media limits fit
photos.
"""

import asyncio
import gc
import pickle
import weakref
from typing import Any

import pytest

from gve_ray.config import ModelConfig
from gve_ray.media import MediaError, read_image
from gve_ray.search import IndexSpec, SearchError
from gve_ray.search.filters import parse
from gve_ray.serving.config import RequestLimits, ServedModel
from gve_ray.serving.errors import ApiError
from gve_ray.serving.gateway import media_limits, result_of
from gve_ray.serving.requests import EmbeddingRequest, SearchOptions, SearchRequest, validate
from gve_ray.serving.retriever import Retriever
from tests.media.pictures import large_jpeg


class Response:
    """A DeploymentResponse like that of Ray Serve: cancelling the await does not cancel the call."""

    def __init__(self, error: BaseException | None = None, result: Any = None) -> None:
        self.error, self.result, self.cancelled = error, result, False

    def __await__(self) -> Any:
        if self.error is not None:
            raise self.error
        if self.result is not None:
            return asyncio.sleep(0, self.result).__await__()
        return asyncio.sleep(60).__await__()

    def cancel(self) -> None:
        self.cancelled = True


def test_a_cancelled_request_cancels_the_call() -> None:
    async def scenario() -> Response:
        response = Response()
        request = asyncio.ensure_future(result_of(response))
        await asyncio.sleep(0)  # the request runs until it waits for the response
        request.cancel()
        with pytest.raises(asyncio.CancelledError):
            await request
        return response

    assert asyncio.run(scenario()).cancelled


def test_errors_of_ray_serve_become_api_errors() -> None:
    from ray.exceptions import ActorUnavailableError, ObjectLostError, RayActorError
    from ray.serve.exceptions import BackPressureError

    expected = {
        (503, "busy", 1.0): BackPressureError(num_queued_requests=5, max_queued_requests=5),
        (503, "unavailable", 1.0): RayActorError(),
        (500, "internal", None): ObjectLostError("a", None, ""),
    }
    for reply, error in {**expected, (503, "unavailable", 1.0): ActorUnavailableError("away", None)}.items():
        with pytest.raises(ApiError) as caught:
            asyncio.run(result_of(Response(error)))
        assert (caught.value.status, caught.value.code, caught.value.retry_after) == reply


def test_a_refusal_of_the_retriever_is_a_value_that_the_gateway_raises() -> None:
    """An exception would cross Ray Serve with a traceback in the log of the replica."""
    retriever = object.__new__(Retriever)
    retriever._library = None
    retriever._served = ServedModel(name="demo", model=ModelConfig(name="m", model="m"))
    refusal = asyncio.run(retriever.search(None, ["a"], None, SearchOptions(top_k=1)))
    assert isinstance(refusal, ApiError)
    assert (refusal.status, refusal.code) == (400, "no_index")
    with pytest.raises(ApiError, match="no index") as caught:
        asyncio.run(result_of(Response(result=pickle.loads(pickle.dumps(refusal)))))
    assert (caught.value.status, caught.value.code) == (400, "no_index")


def test_a_refusal_is_freed_without_the_garbage_collector() -> None:
    """Its traceback refers to frames with the media of a request."""

    class Refusing(Response):
        def __await__(self) -> Any:
            return asyncio.sleep(0, ApiError(400, "no", code="no")).__await__()

    async def scenario() -> "weakref.ref[ApiError]":
        try:
            await result_of(Refusing())
        except ApiError as error:
            return weakref.ref(error)
        raise AssertionError("not raised")

    gc.disable()
    try:
        assert asyncio.run(scenario())() is None
    finally:
        gc.enable()


def test_errors_do_not_repeat_the_whole_input() -> None:
    long = "x" * 5_000_000
    spec = IndexSpec(dimension=2, fields={"year": "int"})
    for filter in (
        {"year": long},
        {long: 1},
        {"year": {long: 1}},
        {"year": {"gte": [[long] * 50] * 50}},
        long,
    ):
        with pytest.raises(SearchError, match="filter") as search_error:
            parse(filter, spec)  # type: ignore[arg-type]
        assert len(str(search_error.value)) < 400
    for kind, body in (
        (SearchRequest, {long: 1}),
        (SearchRequest, {"content": [{"type": long}]}),
        (EmbeddingRequest, {"messages": [{"role": long}]}),
        (EmbeddingRequest, {"input": [[1] * 1000]}),
        (SearchRequest, {"content": "a", "filter": {"a": 1}, "top_k": long}),
    ):
        with pytest.raises(ApiError) as caught:
            validate(kind, body)
        assert len(str(caught.value.body())) < 600
    assert len(str(ApiError(400, long, long).body())) < 2000


def test_default_limits_accept_photos_of_200_megapixels_and_refuse_larger_files() -> None:
    limits = media_limits(RequestLimits())
    assert read_image(large_jpeg(16_320, 12_240)[0], limits=limits).pixels.shape == (1, 336, 448, 3)
    with pytest.raises(MediaError, match="the limit is") as caught:
        read_image(large_jpeg(65_000, 30_000)[0], limits=limits)
    assert caught.value.reason == "too_many_pixels"
