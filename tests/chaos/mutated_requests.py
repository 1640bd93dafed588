"""Send mutated requests to a running service, and count the replies.

    python -m tests.chaos.service python -m tests.chaos.mutated_requests {url} [--requests 10000] [--seed 0]

Each request starts as a valid one of an operation of the service, with a JSON body, a form or a path, and is changed
in one to three places: values of the JSON, bytes of the body, headers, the path, or bytes of the whole request.

Prints a JSON object: the replies by status; those that must not occur (5xx other than 503 with Retry-After, and no
reply within the time of a request and 5 s); and whether the same searches give the same hits before and after. The
exit status is 1 if there is a violation.
"""

import argparse
import base64
import copy
import io
import json
import random
import socket
import sys
import threading
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from typing import Any
from urllib.parse import urlsplit

import httpx
import numpy as np
from PIL import Image

CLIENTS = 16
HANG_SECONDS = 60.0 + 5.0  # limits.request_seconds of the service, and 5 s
HOSTILE: Sequence[Any] = (
    *(None, True, -1, 0, 2**31, 2**63, -(2**63) - 1, 10**400, 1e308, -0.0, float("nan"), float("inf")),
    *(
        "",
        "\0",
        "\ud800",
        "../" * 40,
        "a" * 200_000,
        "\u202e\ufeff",
        "%00",
        "' OR 1=1 --",
        "<|im_end|>",
        "🎈" * 5000,
    ),
    *([], {}, [[]] * 3000, {"": {}}, ["a"] * 3000, {"type": "text"}, {"url": "file:///etc/passwd"}),
    *("data:image/png;base64,", "data:video/mp4;base64,AAAA", "http://127.0.0.1:1/a.png", "data:,a"),
)
HEADERS: Sequence[tuple[str, str]] = (
    *(
        ("Content-Type", value)
        for value in ("", "text/plain", "multipart/form-data", "application/json; charset=x")
    ),
    *(("Content-Encoding", "gzip"), ("Expect", "100-continue"), ("Transfer-Encoding", "chunked")),
    *(("Content-Length", value) for value in ("-1", "0", "7", "99999999999999", "1, 2", "x")),
    *(("Accept", value) for value in ("text/csv", "text/plain", "*/*;q=", "," * 9000, "application/json")),
    *(
        ("Range", value)
        for value in ("bytes=-1", "bytes=9-1", "bytes=0-0,5-9", "bytes=a-b", "bytes=" + "9" * 400)
    ),
    *(("Host", value) for value in ("", "localhost", "example.org", "[::1", "a" * 70_000)),
    *(("Origin", "null"), ("Connection", "Upgrade"), ("Upgrade", "websocket"), ("X-Gve-Arrival", "-inf")),
    *(
        ("If-Range", "x"),
        ("If-None-Match", "*"),
        ("Cookie", "gve_session=\xff"),
        ("Authorization", "Bearer \xe9"),
    ),
)
METHODS = ("GET", "HEAD", "POST", "PUT", "DELETE", "OPTIONS", "TRACE", "FOO", "")


@dataclass(frozen=True, kw_only=True)
class Message:
    """A request before it is sent. body: of POST. value: of JSON, from which the body is made unless it is None."""

    method: str
    path: str
    headers: tuple[tuple[str, str], ...] = ()
    body: bytes = b""
    value: Any = None

    def data(self) -> bytes:
        """Return the bytes to send."""
        body = self.body if self.value is None else json.dumps(self.value).encode()
        names = {name.lower() for name, _ in self.headers}
        lines = [f"{self.method} {self.path} HTTP/1.1"]
        lines += [] if "host" in names else ["Host: 127.0.0.1"]
        lines += [] if "connection" in names else ["Connection: close"]
        lines += [] if "content-length" in names or not body else [f"Content-Length: {len(body)}"]
        lines += [f"{name}: {value}" for name, value in self.headers]
        return "\r\n".join([*lines, "", ""]).encode("latin-1", "replace") + body


@dataclass
class Findings:
    """What the replies were. Lists and counters are only added to, so threads may share it."""

    replies: Counter[str] = field(default_factory=Counter)
    violations: list[dict[str, str]] = field(default_factory=list)
    slowest: float = 0.0


def valid_messages(url: str) -> list[Message]:
    """Return a valid request of each kind."""
    with httpx.Client(base_url=url, timeout=60, trust_env=False) as client:
        hit = client.post("/v1/search", json={"content": "a red ball"}).json()["data"][0]
        known, clip = hit["id"], client.get(hit["links"]["video"]).content
    picture = io.BytesIO()
    Image.fromarray(np.random.default_rng(0).integers(0, 255, (64, 64, 3), dtype=np.uint8)).save(
        picture, "PNG"
    )
    image_url = f"data:image/png;base64,{base64.b64encode(picture.getvalue()).decode()}"
    video_url = f"data:video/mp4;base64,{base64.b64encode(clip).decode()}"
    image = {"type": "image_url", "image_url": {"url": image_url}}
    video = {"type": "video_url", "video_url": {"url": video_url}}
    searches = [
        {"content": "a red ball", "top_k": 5, "filter": {"duration": {"gte": 0.5}, "segment": [0, 1]}},
        {
            "content": [image, {"type": "text", "text": "a red ball"}],
            "without": "a blue ball",
            "min_confidence": 0.5,
        },
        {"content": [video], "overlapping": True, "group_by": "video", "by": "pictures"},
        {"like": [known], "content": "a ball", "instruction": "Find it.", "model": "demo", "rerank": False},
    ]
    embeds = [
        {"input": ["a red ball", "two cats"], "encoding_format": "base64", "truncate_prompt_tokens": -1},
        {"messages": [{"role": "system", "content": "Find it."}, {"role": "user", "content": [image]}]},
        {"messages": [{"role": "user", "content": [video]}, {"role": "assistant", "content": ""}]},
    ]
    form = {"text": "a ball", "top_k": "3", "filter": "{}", "like": known, "without": "a cat", "by": "both"}
    files = {"image": ("a.png", picture.getvalue(), "image/png"), "video": ("a.mp4", clip, "video/mp4")}
    forms = []
    for uploads in ({}, files):
        parts: list[Any] = [(name, (None, text)) for name, text in form.items()] + list(uploads.items())
        request = httpx.Request("POST", url, files=parts)
        forms.append((request.headers["content-type"], request.read()))
    at = f"demo/{known}"
    return [
        *(_json("/v1/search", value) for value in searches),
        *(_json("/v1/embeddings", value) for value in embeds),
        *(
            Message(method="POST", path="/v1/search", headers=(("Content-Type", kind),), body=body)
            for kind, body in forms
        ),
        *(
            Message(method="GET", path=path, headers=(("Range", "bytes=0-99"),))
            for path in (
                f"/media/{at}",
                f"/moments/{at}.mp4",
                f"/previews/{at}/poster.jpg",
                f"/v1/moments/{at}",
            )
        ),
        *(Message(method="GET", path=path) for path in ("/v1/models", "/", "/page/page.js", "/openapi.json")),
    ]


def _json(path: str, value: Any) -> Message:
    return Message(method="POST", path=path, headers=(("Content-Type", "application/json"),), value=value)


def mutated(message: Message, rng: random.Random) -> bytes:
    """Return the bytes of a request that was changed in one to three places."""
    for _ in range(rng.randint(1, 3)):
        change = rng.choice(
            [_change_value, _change_value, _change_value, _change_body, _change_headers, _change_path]
        )
        message = change(message, rng)
    data = message.data()
    return _change_bytes(data, rng) if rng.random() < 0.1 else data


def _change_value(message: Message, rng: random.Random) -> Message:
    """Change the JSON of a body: replace, remove, rename or repeat one value."""
    if message.value is None:
        return _change_body(message, rng)
    value = copy.deepcopy(message.value)
    holder, key = rng.choice(list(_places(value)) or [([value], 0)])
    action = rng.random()
    if action < 0.6:
        holder[key] = copy.deepcopy(rng.choice(HOSTILE))
    elif action < 0.75:
        del holder[key]
    elif isinstance(holder, dict):
        holder[rng.choice(["model", "content", "like", "input", "x" * 999, "url", "text"])] = holder[key]
    else:
        holder.append(copy.deepcopy(holder[key]))
    return replace(message, value=value)


def _places(value: Any) -> Iterator[tuple[Any, Any]]:
    """Yield each place in a JSON value, as its holder and the key or number there."""
    keys = list(value) if isinstance(value, dict) else range(len(value)) if isinstance(value, list) else ()
    for key in keys:
        yield value, key
        yield from _places(value[key])


def _change_body(message: Message, rng: random.Random) -> Message:
    body = message.body if message.value is None else json.dumps(message.value).encode()
    return replace(message, body=_change_bytes(body, rng), value=None)


def _change_headers(message: Message, rng: random.Random) -> Message:
    name, value = rng.choice(HEADERS)
    others = tuple(header for header in message.headers if header[0] != name or rng.random() < 0.2)
    return replace(message, headers=(*others, (name, value)))


def _change_path(message: Message, rng: random.Random) -> Message:
    if rng.random() < 0.3:
        return replace(message, method=rng.choice(METHODS))
    parts = message.path.split("/")
    strange = ("", "..", "%2e%2e", "%00", "%ff", "a" * 5000, "demo", "0", "?top_k=1", "%2F", "*", "\x7f", "é")
    parts[rng.randrange(len(parts))] = rng.choice(strange)
    return replace(message, path="/".join(parts))


def _change_bytes(data: bytes, rng: random.Random) -> bytes:
    """Replace, insert, remove or repeat some bytes."""
    start = rng.randrange(len(data) + 1)
    end = min(len(data), start + rng.choice((0, 1, 8, 500)))
    new = rng.choice(
        (b"", rng.randbytes(1), rng.randbytes(30), data[start:end] * 2, b"\r\n\r\n", b"{" * 3000)
    )
    return data[:start] + new + data[end:]


def send(address: tuple[str, int], data: bytes) -> tuple[str, bytes]:
    """Send bytes and return what happened, the status or how the connection ended, and the start of the reply."""
    reply, deadline = b"", time.monotonic() + HANG_SECONDS
    try:
        with socket.create_connection(address, timeout=HANG_SECONDS) as connection:
            with suppress(OSError):  # it may reply before it has read everything
                connection.sendall(data)
            while b"\r\n\r\n" not in reply:
                connection.settimeout(max(0.1, deadline - time.monotonic()))
                if not (part := connection.recv(65536)):
                    break
                reply += part
                if reply.startswith(b"HTTP/1.1 100 "):  # to Expect: 100-continue; the reply itself follows
                    reply = reply.partition(b"\r\n\r\n")[2]
    except TimeoutError:
        return "hang", reply
    except OSError:
        if not reply:
            return "closed", reply
    words = reply.split(b" ", 2)
    return (words[1].decode("latin-1") if len(words) > 1 else "closed"), reply


def is_violation(outcome: str, reply: bytes) -> bool:
    if outcome == "503":
        return b"\r\nretry-after:" not in reply.lower()
    return outcome == "hang" or outcome.startswith("5")


def attack(
    url: str, messages: Sequence[Message], numbers: Iterator[int], seed: int, findings: Findings
) -> None:
    address = (urlsplit(url).hostname or "", urlsplit(url).port or 80)
    for number in numbers:
        rng = random.Random(f"{seed} {number}")
        data, begun = mutated(rng.choice(messages), rng), time.monotonic()
        outcome, reply = send(address, data)
        findings.slowest = max(findings.slowest, time.monotonic() - begun)
        findings.replies[outcome] += 1
        if is_violation(outcome, reply):
            shown = {
                "number": str(number),
                "outcome": outcome,
                "reply": repr(reply[:600]),
                "request": repr(data[:800]),
            }
            findings.violations.append(shown)
            print(json.dumps(shown), file=sys.stderr, flush=True)


def searches(url: str) -> list[Any]:
    """Return the hits of some searches."""
    texts = ("a red ball", "two cats", "something moves to the left")
    bodies = [{"content": text, "top_k": 20} for text in texts]
    return [
        httpx.post(f"{url}/v1/search", json=body, timeout=60, trust_env=False).json()["data"]
        for body in bodies
    ]


class _Numbers:
    """The numbers of the requests, shared by threads."""

    def __init__(self, count: int) -> None:
        self._numbers, self._lock = iter(range(count)), threading.Lock()

    def __iter__(self) -> Iterator[int]:
        return self

    def __next__(self) -> int:
        with self._lock:
            return next(self._numbers)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("url")
    parser.add_argument("--requests", type=int, default=10_000)
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    before, messages, findings = searches(args.url), valid_messages(args.url), Findings()
    numbers, begun = iter(_Numbers(args.requests)), time.monotonic()
    threads = [
        threading.Thread(target=attack, args=(args.url, messages, numbers, args.seed, findings))
        for _ in range(CLIENTS)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    is_same = searches(args.url) == before
    result = {
        "requests": args.requests,
        "seconds": round(time.monotonic() - begun, 1),
        "replies": dict(sorted(findings.replies.items())),
        "slowest_s": round(findings.slowest, 1),
        "violations": len(findings.violations),
        "same_hits_afterwards": is_same,
    }
    print(json.dumps(result, indent=1))
    return 0 if is_same and not findings.violations else 1


if __name__ == "__main__":
    sys.exit(main())
