"""The client: what it refuses before it asks the service."""

import pytest

from gve_ray.serving.client import Client


def test_a_filter_and_an_option_about_the_same_field() -> None:
    client = Client("http://127.0.0.1:9")
    with pytest.raises(ValueError, match="after: the filter has a condition on start, too"):
        client.search("a ball", filter={"start": {"lt": 60}}, after=10.0)
    with pytest.raises(ValueError, match="only: the filter has a condition on uri, too"):
        client.search("a ball", filter={"uri": "/a.mp4"}, only=["/b.mp4"])
