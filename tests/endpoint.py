"""An OpenAI-compatible `/v1/embeddings` endpoint on the loopback interface, with an embedder of the test's own."""

import base64
import io
import json
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import numpy as np
from PIL import Image

# (text, pictures of uint8 [H, W, 3]) -> vector
Embed = Callable[[str, list[np.ndarray]], Sequence[float]]


@contextmanager
def embeddings_endpoint(embed: Embed) -> Iterator[str]:
    """Serve an embedder, and yield the URL, which ends in /v1. Texts are `input`, media `messages` of images."""

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            inputs = [(text, []) for text in body["input"]] if "input" in body else [_parts(body["messages"])]
            vectors = [list(map(float, embed(text, pictures))) for text, pictures in inputs]
            data = [{"index": i, "embedding": vector} for i, vector in enumerate(vectors)]
            reply = json.dumps({"data": data}).encode()
            self.send_response(200)
            self.send_header("Content-Length", str(len(reply)))
            self.end_headers()
            self.wfile.write(reply)

        def log_message(self, *_: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield f"http://127.0.0.1:{server.server_port}/v1"
    finally:
        server.shutdown()


def _parts(messages: Sequence[dict[str, Any]]) -> tuple[str, list[np.ndarray]]:
    """Return the text and the pictures of the user's turn."""
    content = messages[-1]["content"]
    text = " ".join(part["text"] for part in content if part["type"] == "text")
    urls = [part["image_url"]["url"] for part in content if part["type"] == "image_url"]
    encoded = (base64.b64decode(url.split(",", 1)[1]) for url in urls)
    return text, [np.asarray(Image.open(io.BytesIO(jpeg)).convert("RGB")) for jpeg in encoded]
