"""Rendered videos, shared by the media tests."""

from collections.abc import Callable

import pytest

from tests.media.videos import Clip, render


@pytest.fixture(scope="session")
def make() -> Callable[..., bytes]:
    """Render a clip: make(frames=20, codec="libx265", ...) -> bytes. Repeated calls are cached."""
    cache: dict[str, bytes] = {}

    def rendered(**settings: object) -> bytes:
        clip = Clip(**settings)  # type: ignore[arg-type]
        key = repr(clip)
        if key not in cache:
            cache[key] = render(clip)
        return cache[key]

    return rendered
