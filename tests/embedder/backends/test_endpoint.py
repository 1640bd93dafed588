"""Tests the engine openai against an HTTP server, and its form of videos against vLLM's own reader."""

import json
import threading
from collections.abc import Iterator
from dataclasses import replace
from http.server import BaseHTTPRequestHandler, HTTPServer
from typing import Any, ClassVar

import numpy as np
import pytest

from gve_ray.config import ModelConfig
from gve_ray.embedder import EmbedderSettings
from gve_ray.embedder.backends import cache_name, identify, open_model
from gve_ray.embedder.backends.endpoint import chat_request
from gve_ray.schema import Item

SETTINGS = EmbedderSettings(frames=8, max_pixels=12544, min_pixels=3136)


@pytest.fixture(scope="module", name="items")
def media_items(frames_like) -> list[Item]:
    video, image = frames_like(8, 112, 112, seconds=3, fps=30), frames_like(1, 112, 112)
    return [
        Item(text="a red circle moves to the right"),
        Item(text="the same", instruction="Find the video."),
        Item(video=video),
        Item(image=image),
        Item(text="but faster", video=video, instruction="Find the video."),
    ]


class Endpoint(BaseHTTPRequestHandler):
    """Returns [3, 4] for each text and [0, number of media] for messages; keeps all requests."""

    requests: ClassVar[list[dict[str, Any]]] = []

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        self.requests.append({**body, "key": self.headers["Authorization"], "path": self.path})
        if "bad" in str(body.get("input")):
            self.send_response(400)
            self.end_headers()
            self.wfile.write(b"too long")
            return
        if "input" in body:
            count, vector = len(body["input"]), [3.0, 4.0]
        else:
            count = 1
            media = [part for part in body["messages"][-1]["content"] if part["type"] != "text"]
            vector = [0.0, float(len(media))]
        data = [{"index": i, "embedding": vector} for i in reversed(range(count))]
        self.send_response(200)
        self.end_headers()
        self.wfile.write(json.dumps({"data": data}).encode())

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def endpoint() -> Iterator[str]:
    Endpoint.requests.clear()
    server = HTTPServer(("127.0.0.1", 0), Endpoint)
    threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}/v1/"
    server.shutdown()


@pytest.mark.parametrize("video_as,parts", [("video", [1, 1, 2]), ("images", [8, 1, 9])])
def test_an_endpoint_embeds_texts_and_media(
    video_as: str, parts: list[int], endpoint: str, items, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MY_KEY", "secret")
    config = ModelConfig(
        name="far", model="m", engine="openai", url=endpoint, key_variable="MY_KEY", video_as=video_as
    )
    identity = identify(config, SETTINGS, on_gpu=False)
    assert "secret" not in str(identity)
    vectors = open_model(config, SETTINGS, identity).embed(items).vectors
    assert vectors == pytest.approx(np.array([[0.6, 0.8], [0.6, 0.8], [0, 1], [0, 1], [0, 1]]))
    texts, *media = Endpoint.requests
    assert texts["input"] == [items[0].text, "Instruct: Find the video.\nQuery: the same"]
    assert (texts["key"], texts["path"], texts["model"]) == ("Bearer secret", "/v1/embeddings", "m")
    assert [len(request["messages"][-1]["content"]) for request in media] == parts
    # Without an instruction the endpoint's own template decides about the system turn.
    assert [request["messages"][0]["role"] for request in media] == ["user", "user", "system"]
    assert media[2]["messages"][0]["content"] == "Find the video."


def test_a_model_keeps_the_first_dimensions_of_its_vectors(endpoint: str, items) -> None:
    config = ModelConfig(name="far", model="m", engine="openai", url=endpoint, dimension=1)
    model = open_model(config, SETTINGS, identify(config, SETTINGS, on_gpu=False))
    # [0.6, 0.8] becomes [1]; [0, 1] has nothing in its first dimension.
    assert model.embed(items).vectors.tolist() == [[1.0], [1.0], [0.0], [0.0], [0.0]]
    full = replace(config, dimension=None)
    names = {cache_name(identify(one, SETTINGS, on_gpu=False)) for one in (config, full)}
    assert len(names) == 2
    assert "dimension" not in identify(full, SETTINGS, on_gpu=False)
    too_many = replace(config, dimension=3)
    with pytest.raises(ValueError, match="dimension=3: the vectors of this model have 2"):
        open_model(too_many, SETTINGS, {}).embed(items[:1])
    with pytest.raises(ValueError, match=r"models\.far\.dimension=0: use a number that is at least 1"):
        replace(config, dimension=0)


def test_the_form_of_a_video_changes_the_cache_name() -> None:
    names = {
        cache_name(
            identify(
                ModelConfig(name="far", model="m", engine="openai", url="http://a/v1", video_as=form),
                SETTINGS,
                on_gpu=False,
            )
        )
        for form in ("video", "images")
    }
    assert len(names) == 2


def test_vllm_reads_the_frames_and_their_times_as_we_have_them(frames_like) -> None:
    """vLLM's own reader of media gets 40 frames of a longer video: more than its default of 32."""
    from vllm.multimodal.media.connector import MediaConnector

    video = frames_like(40, 112, 140, seconds=4, fps=30, start=60)
    request = chat_request(Item(video=video), None, "video")
    (part,) = request["messages"][-1]["content"]
    connector = MediaConnector(media_io_kwargs=request["media_io_kwargs"])
    frames, metadata = connector.fetch_video(part["video_url"]["url"])
    assert frames.shape == video.pixels.shape
    # JPEG changes pixels a little; another frame would have other blocks of colour.
    assert np.abs(frames.astype(int) - video.pixels).mean() < 6
    assert metadata["frames_indices"] == (video.indices - video.indices[0]).tolist()
    assert (metadata["fps"], metadata["total_num_frames"]) == (30.0, 120)
    assert metadata["do_sample_frames"] is False


def test_the_error_of_a_refused_request_contains_the_endpoints_message(endpoint: str) -> None:
    config = ModelConfig(name="far", model="m", engine="openai", url=endpoint)
    with pytest.raises(OSError, match="HTTP 400: too long"):
        open_model(config, SETTINGS, {}).embed([Item(text="bad")])
