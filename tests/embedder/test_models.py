"""Models behind the Protocol: identities that change when vectors would, and the same vectors by other ways."""

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
from gve_ray.embedder.models import cache_name, folder_digest, identify, open_model
from gve_ray.schema import Frames, Item

TINY = "package://demo/tiny_vl/model"
ADAPTER = "package://demo/tiny_vl/adapter"
SETTINGS = EmbedderSettings(frames=8, max_pixels=12544, min_pixels=3136)
CONFIG = ModelConfig(name="tiny", model=TINY)


def frames(n: int) -> Frames:
    """Noise. Short in time, since transformers' own time positions differ from the paper's beyond that."""
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


def test_the_digest_of_a_folder(tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    (tmp_path / "a" / "weights").write_text("one")
    before = folder_digest(tmp_path)
    (tmp_path / ".cache").write_text("not part of it")
    assert folder_digest(tmp_path) == before
    (tmp_path / "a" / "weights").write_text("two")
    assert folder_digest(tmp_path) != before


def test_whatever_changes_a_vector_changes_the_cache() -> None:
    facts = [
        identify(CONFIG, SETTINGS, on_gpu=False),
        identify(CONFIG, SETTINGS, on_gpu=True),
        identify(replace(CONFIG, adapter=ADAPTER), SETTINGS, on_gpu=False),
        identify(replace(CONFIG, engine="vllm"), SETTINGS, on_gpu=False),
        identify(CONFIG, replace(SETTINGS, frames=6), on_gpu=False),
    ]
    assert [one["dtype"] for one in facts[:2]] == ["float32", "bfloat16"]
    assert len({cache_name(one) for one in facts}) == len(facts)
    same = identify(replace(CONFIG, name="other", dtype="float32"), SETTINGS, on_gpu=True)
    assert cache_name(same) == cache_name(facts[0])


def test_a_folder_under_two_names_is_one_model() -> None:
    found = identify(replace(CONFIG, model=resolve_model(TINY)), SETTINGS, on_gpu=False)
    assert found == identify(CONFIG, SETTINGS, on_gpu=False)


def test_a_text_that_is_cut_is_told() -> None:
    config, settings = replace(CONFIG, rescale=True), replace(SETTINGS, max_tokens=40)
    model = open_model(config, settings, identify(config, settings, on_gpu=False))
    short, long = Item(text="short"), Item(text="word " * 60)
    found = model.embed([short, long, short])
    assert found.cut.tolist() == [False, True, False]
    assert found.tokens[1] == 40
    assert np.linalg.norm(found.vectors, axis=1) == pytest.approx(1, abs=1e-5)


def test_sentence_transformers_gives_our_vectors(tmp_path: Path) -> None:
    """An export opened by sentence-transformers, through the Protocol, against the torch engine."""
    from gve_ray.embedder import export_merged

    export_merged(resolve_model(TINY), resolve_model(ADAPTER), tmp_path / "merged")
    ours = replace(CONFIG, adapter=ADAPTER)
    theirs = ModelConfig(name="st", model=str(tmp_path / "merged"), engine="sentence-transformers")
    models = [open_model(one, SETTINGS, identify(one, SETTINGS, on_gpu=False)) for one in (ours, theirs)]
    assert [models[1].refuses(item) for item in ITEMS] == [""] * len(ITEMS)
    expected, found = (model.embed(ITEMS) for model in models)
    assert found.vectors.shape == expected.vectors.shape
    assert (found.vectors * expected.vectors).sum(axis=1) == pytest.approx(np.ones(len(ITEMS)), abs=1e-4)
    assert not found.cut.any()


class Endpoint(BaseHTTPRequestHandler):
    """Gives [1, number of inputs or frames, 0] and keeps what it was asked."""

    asked: ClassVar[list[dict[str, Any]]] = []

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        self.asked.append({**body, "key": self.headers["Authorization"], "path": self.path})
        if "bad" in str(body.get("input")):
            self.send_response(400)
            self.end_headers()
            self.wfile.write(b"too long")
            return
        if "input" in body:
            count, vector = len(body["input"]), [3.0, 4.0]
        else:
            count = 1
            vector = [0.0, float(len([1 for one in body["messages"][1]["content"] if one["type"] != "text"]))]
        data = [{"index": i, "embedding": vector} for i in reversed(range(count))]
        self.send_response(200)
        self.end_headers()
        self.wfile.write(json.dumps({"data": data}).encode())

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def endpoint() -> Iterator[str]:
    Endpoint.asked.clear()
    server = HTTPServer(("127.0.0.1", 0), Endpoint)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}/v1/"
    server.shutdown()


def test_an_endpoint(endpoint: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MY_KEY", "secret")
    config = ModelConfig(name="far", model="m", engine="openai", url=endpoint, key_variable="MY_KEY")
    facts = identify(config, SETTINGS, on_gpu=False)
    assert "secret" not in str(facts)
    vectors = open_model(config, SETTINGS, facts).embed(ITEMS).vectors
    assert vectors == pytest.approx(np.array([[0.6, 0.8], [0.6, 0.8], [0, 1], [0, 1], [0, 1]]))
    texts, *media = Endpoint.asked
    assert texts["input"] == [ITEMS[0].text, "Instruct: Find the video.\nQuery: the same"]
    assert (texts["key"], texts["path"], texts["model"]) == ("Bearer secret", "/v1/embeddings", "m")
    assert [len(one["messages"][1]["content"]) for one in media] == [8, 1, 9]
    assert media[2]["messages"][0]["content"] == "Find the video."


def test_an_endpoint_that_refuses_says_why(endpoint: str) -> None:
    config = ModelConfig(name="far", model="m", engine="openai", url=endpoint)
    with pytest.raises(OSError, match="HTTP 400: too long"):
        open_model(config, SETTINGS, {}).embed([Item(text="bad")])
