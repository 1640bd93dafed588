"""Gateway: abandoned calls are cancelled, errors of Ray Serve become ApiErrors, media limits fit
photos.
"""

import asyncio
from typing import Any

import pytest

from gve_ray.media import MediaError, read_image
from gve_ray.serving.config import RequestLimits
from gve_ray.serving.errors import ApiError
from gve_ray.serving.gateway import media_limits, result_of
from tests.media.pictures import large_jpeg


class Response:
    """A DeploymentResponse like that of Ray Serve: cancelling the await does not cancel the call."""

    def __init__(self, error: BaseException | None = None) -> None:
        self.error, self.cancelled = error, False

    def __await__(self) -> Any:
        if self.error is not None:
            raise self.error
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
        (404, "gone", None): ApiError(404, "no", None, "gone"),
    }
    for reply, error in {**expected, (503, "unavailable", 1.0): ActorUnavailableError("away", None)}.items():
        with pytest.raises(ApiError) as caught:
            asyncio.run(result_of(Response(error)))
        assert (caught.value.status, caught.value.code, caught.value.retry_after) == reply


def test_default_limits_accept_photos_of_200_megapixels_and_refuse_larger_files() -> None:
    limits = media_limits(RequestLimits())
    assert read_image(large_jpeg(16_320, 12_240)[0], limits=limits).pixels.shape == (1, 336, 448, 3)
    with pytest.raises(MediaError, match="the limit is") as caught:
        read_image(large_jpeg(65_000, 30_000)[0], limits=limits)
    assert caught.value.reason == "too_many_pixels"
