"""An OpenAI-compatible `/v1/chat/completions` endpoint on the loopback interface that may misbehave."""

import json
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any


@dataclass
class Reply:
    """One HTTP response. cut: close the connection after so many bytes of the body; None: send all."""

    status: int = 200
    body: bytes = b""
    headers: Mapping[str, str] = field(default_factory=dict)
    cut: int | None = None


@dataclass
class ChatEndpoint:
    """A running endpoint. requests: all bodies so far, each with `path` and `key`."""

    url: str
    requests: list[dict[str, Any]] = field(default_factory=list)


def completion(
    text: str | None, *, finish: str = "stop", usage: tuple[int, int] | None = (100, 10), **message: Any
) -> Reply:
    """The response with an answer. usage: tokens of the prompt and of the answer."""
    reply: dict[str, Any] = {
        "choices": [{"message": {"role": "assistant", "content": text, **message}, "finish_reason": finish}]
    }
    if usage is not None:
        reply["usage"] = {"prompt_tokens": usage[0], "completion_tokens": usage[1]}
    return Reply(body=json.dumps(reply).encode())


@contextmanager
def chat_endpoint(
    answer: Callable[[int, dict[str, Any]], Reply], *, models: Reply | None = None
) -> Iterator[ChatEndpoint]:
    """Serve `answer(number of the request from 0, its body)`. models: the response to GET /v1/models."""
    lock = threading.Lock()

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self._send(models or Reply(body=b'{"data": []}'))

        def do_POST(self) -> None:
            body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            with lock:
                number = len(endpoint.requests)
                endpoint.requests.append({**body, "path": self.path, "key": self.headers["Authorization"]})
            self._send(answer(number, body))

        def _send(self, reply: Reply) -> None:
            if reply.status == 0:  # no response at all
                return
            self.send_response(reply.status)
            for name, value in {"Content-Length": str(len(reply.body)), **reply.headers}.items():
                self.send_header(name, value)
            self.end_headers()
            self.wfile.write(reply.body[: reply.cut])

        def log_message(self, *_: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    endpoint = ChatEndpoint(f"http://127.0.0.1:{server.server_port}/v1")
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield endpoint
    finally:
        server.shutdown()
        server.server_close()
