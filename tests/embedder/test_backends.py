"""Tests the backends: identities that change whenever vectors would, and vectors that agree."""

import json
import threading
from collections.abc import Iterator
from dataclasses import replace
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pytest

from gve_ray.config import ModelConfig, resolve_model
from gve_ray.embedder import EmbedderSettings
from gve_ray.embedder.backends import cache_name, identify, open_model
from gve_ray.schema import Frames, Item

TINY = "package://demo/tiny_vl/model"
ADAPTER = "package://demo/tiny_vl/adapter"
SETTINGS = EmbedderSettings(frames=8, max_pixels=12544, min_pixels=3136)
CONFIG = ModelConfig(name="tiny", model=TINY)


def frames(n: int) -> Frames:
    """Return random pixels; few, because for long videos transformers' positions differ."""
    return Frames(
        pixels=np.random.default_rng(n).integers(0, 256, (n, 112, 112, 3), dtype=np.uint8),
        timestamps=np.arange(n) / 8.0,
        indices=np.arange(n),
        fps=8.0 if n > 1 else 0.0,
        duration=n / 8.0 if n > 1 else 0.0,
        total_frames=n,
    )


ITEMS = [
    Item(text="a red circle moves to the right"),
    Item(text="the same", instruction="Find the video."),
    Item(video=frames(8)),
    Item(image=frames(1)),
    Item(text="but faster", video=frames(8), instruction="Find the video."),
]


def test_everything_that_changes_a_vector_changes_the_cache_name() -> None:
    identities = [
        identify(replace(CONFIG, dtype="float32"), SETTINGS, on_gpu=False),
        identify(CONFIG, SETTINGS, on_gpu=True),
        identify(replace(CONFIG, adapter=ADAPTER), SETTINGS, on_gpu=True),
        identify(replace(CONFIG, engine="vllm"), SETTINGS, on_gpu=True),
        identify(CONFIG, replace(SETTINGS, frames=6), on_gpu=True),
    ]
    assert [identity["dtype"] for identity in identities[:2]] == ["float32", "bfloat16"]
    assert len({cache_name(identity) for identity in identities}) == len(identities)
    same = identify(replace(CONFIG, name="other", dtype="float32"), SETTINGS, on_gpu=True)
    assert cache_name(same) == cache_name(identities[0])


def test_two_names_of_the_same_folder_have_the_same_identity() -> None:
    by_path = identify(replace(CONFIG, model=resolve_model(TINY)), SETTINGS, on_gpu=False)
    assert by_path == identify(CONFIG, SETTINGS, on_gpu=False)


def test_a_cut_text_is_reported() -> None:
    config, settings = replace(CONFIG, rescale=True), replace(SETTINGS, max_tokens=40)
    model = open_model(config, settings, identify(config, settings, on_gpu=False))
    short, long = Item(text="short"), Item(text="word " * 60)
    embeddings = model.embed([short, long, short])
    assert embeddings.cut.tolist() == [False, True, False]
    assert embeddings.tokens[1] == 40
    assert np.linalg.norm(embeddings.vectors, axis=1) == pytest.approx(1, abs=1e-5)


def test_sentence_transformers_computes_the_same_vectors(tmp_path: Path) -> None:
    """Compares an export that sentence-transformers has opened with the torch engine."""
    from gve_ray.embedder import export_merged

    export_merged(resolve_model(TINY), resolve_model(ADAPTER), tmp_path / "merged")
    ours = replace(CONFIG, adapter=ADAPTER)
    theirs = ModelConfig(name="st", model=str(tmp_path / "merged"), engine="sentence-transformers")
    models = [
        open_model(config, SETTINGS, identify(config, SETTINGS, on_gpu=False)) for config in (ours, theirs)
    ]
    assert [models[1].refuses(item) for item in ITEMS] == [""] * len(ITEMS)
    expected, actual = (model.embed(ITEMS) for model in models)
    assert actual.vectors.shape == expected.vectors.shape
    assert (actual.vectors * expected.vectors).sum(axis=1) == pytest.approx(np.ones(len(ITEMS)), abs=1e-4)
    assert not actual.cut.any()


class Endpoint(BaseHTTPRequestHandler):
    """Returns [3, 4] for each text and [0, number of frames] for messages; keeps all requests."""

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
            media = [part for part in body["messages"][1]["content"] if part["type"] != "text"]
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
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}/v1/"
    server.shutdown()


def test_an_endpoint_embeds_texts_and_media(endpoint: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MY_KEY", "secret")
    config = ModelConfig(name="far", model="m", engine="openai", url=endpoint, key_variable="MY_KEY")
    identity = identify(config, SETTINGS, on_gpu=False)
    assert "secret" not in str(identity)
    vectors = open_model(config, SETTINGS, identity).embed(ITEMS).vectors
    assert vectors == pytest.approx(np.array([[0.6, 0.8], [0.6, 0.8], [0, 1], [0, 1], [0, 1]]))
    texts, *media = Endpoint.requests
    assert texts["input"] == [ITEMS[0].text, "Instruct: Find the video.\nQuery: the same"]
    assert (texts["key"], texts["path"], texts["model"]) == ("Bearer secret", "/v1/embeddings", "m")
    assert [len(request["messages"][1]["content"]) for request in media] == [8, 1, 9]
    assert media[2]["messages"][0]["content"] == "Find the video."


def test_the_error_of_a_refused_request_contains_the_endpoints_message(endpoint: str) -> None:
    config = ModelConfig(name="far", model="m", engine="openai", url=endpoint)
    with pytest.raises(OSError, match="HTTP 400: too long"):
        open_model(config, SETTINGS, {}).embed([Item(text="bad")])
