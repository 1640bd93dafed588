"""OpenAI-compatible endpoints on the loopback interface, whose answers, good or bad, are the test's own."""

import base64
import io
import json
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from email.parser import BytesParser
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import numpy as np
from PIL import Image

# (text, pictures of uint8 [H, W, 3]) -> vector
Embed = Callable[[str, list[np.ndarray]], Sequence[float]]


@dataclass(frozen=True)
class Reply:
    """One HTTP response. status: 0: close the connection without one. cut: send so many bytes of the body."""

    status: int = 200
    body: bytes = b""
    headers: Mapping[str, str] = field(default_factory=dict)
    cut: int | None = None


@dataclass
class Endpoint:
    """A running endpoint. url: ends in /v1. requests: all bodies so far, each with `path` and `key`."""

    url: str
    requests: list[dict[str, Any]] = field(default_factory=list)


# (number of the request from 0, its body) -> response
Answer = Callable[[int, dict[str, Any]], Reply]


@contextmanager
def http_endpoint(answer: Answer, *, models: Reply = Reply(body=b'{"data": []}')) -> Iterator[Endpoint]:
    """Serve the answers to POST requests. models: the response to each GET request."""
    lock = threading.Lock()

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self._send(models)

        def do_POST(self) -> None:
            data = self.rfile.read(int(self.headers["Content-Length"]))
            kind = self.headers["Content-Type"]
            body = _form(kind, data) if kind.startswith("multipart/form-data") else json.loads(data)
            with lock:
                number = len(endpoint.requests)
                endpoint.requests.append({**body, "path": self.path, "key": self.headers["Authorization"]})
            self._send(answer(number, body))

        def _send(self, reply: Reply) -> None:
            if not reply.status:
                return
            self.send_response(reply.status)
            for name, value in {"Content-Length": str(len(reply.body)), **reply.headers}.items():
                self.send_header(name, value)
            self.end_headers()
            self.wfile.write(reply.body[: reply.cut])

        def log_message(self, *_: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    endpoint = Endpoint(f"http://127.0.0.1:{server.server_port}/v1")
    threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
    try:
        yield endpoint
    finally:
        server.shutdown()
        server.server_close()


def completion(
    text: str | None, *, finish: str = "stop", usage: tuple[int, int] | None = (100, 10), **message: Any
) -> Reply:
    """Return the response with the answer of a chat. usage: tokens of the prompt and of the answer."""
    reply: dict[str, Any] = {
        "choices": [{"message": {"role": "assistant", "content": text, **message}, "finish_reason": finish}]
    }
    if usage is not None:
        reply["usage"] = {"prompt_tokens": usage[0], "completion_tokens": usage[1]}
    return Reply(body=json.dumps(reply).encode())


def _form(kind: str, data: bytes) -> dict[str, Any]:
    """Return the fields of a form as texts, and its files as bytes."""
    form = BytesParser().parsebytes(f"Content-Type: {kind}\r\n\r\n".encode() + data)
    fields: dict[str, Any] = {}
    for part in form.get_payload():
        name = part.get_param("name", header="content-disposition")
        content = part.get_payload(decode=True)
        fields[name] = content if part.get_filename() else content.decode()
    return fields


@contextmanager
def embeddings_endpoint(embed: Embed) -> Iterator[str]:
    """Serve an embedder, and yield the URL, which ends in /v1. Texts are `input`, media `messages` of images."""

    def answer(number: int, body: dict[str, Any]) -> Reply:
        inputs = [(text, []) for text in body["input"]] if "input" in body else [_parts(body["messages"])]
        vectors = [list(map(float, embed(text, pictures))) for text, pictures in inputs]
        data = [{"index": i, "embedding": vector} for i, vector in enumerate(vectors)]
        return Reply(body=json.dumps({"data": data}).encode())

    with http_endpoint(answer) as endpoint:
        yield endpoint.url


def _parts(messages: Sequence[dict[str, Any]]) -> tuple[str, list[np.ndarray]]:
    """Return the text and the pictures of the user's turn."""
    content = messages[-1]["content"]
    text = " ".join(part["text"] for part in content if part["type"] == "text")
    urls = [part["image_url"]["url"] for part in content if part["type"] == "image_url"]
    encoded = (base64.b64decode(url.split(",", 1)[1]) for url in urls)
    return text, [np.asarray(Image.open(io.BytesIO(jpeg)).convert("RGB")) for jpeg in encoded]
