"""Bad requests and killed processes: each gets a clear status, no wrong result, and the service
stays healthy.
"""

import io
import signal
import socket
import struct
import threading
import zlib
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any
from urllib.parse import urlsplit

import httpx
import numpy as np
import pytest
from PIL import Image

from tests.serving.conftest import Service, wait_until
from tests.serving.test_service import data_url

pytestmark = pytest.mark.timeout(600)


@pytest.fixture(scope="module")
def http(server: Service) -> Iterator[httpx.Client]:
    with httpx.Client(base_url=server.url, timeout=90, trust_env=False) as client:
        yield client


@pytest.fixture(autouse=True)
def healthy_after(http: httpx.Client) -> Iterator[None]:
    """After each test, check that the service still answers."""
    yield
    answer = http.post("/v1/search", json={"content": "a red ball", "top_k": 1})
    assert answer.status_code == 200, answer.text


def error_of(answer: httpx.Response) -> tuple[int, str, str]:
    """Return the status, the code and the message of an error reply."""
    error = answer.json()["error"]
    return answer.status_code, error["code"], error["message"]


def png(width: int, height: int) -> bytes:
    """Return a PNG whose header gives this size but which holds only one row."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return (
        b"\x89PNG\r\n\x1a\n"
        + chunk(b"IHDR", header)
        + chunk(b"IDAT", zlib.compress(b"\0" * 4000))
        + chunk(b"IEND", b"")
    )


@pytest.fixture(scope="module")
def video(server: Service) -> bytes:
    with open(server.heldout.videos[0], "rb") as file:
        return file.read()


def uploads(video: bytes) -> dict[str, tuple[str, bytes, int]]:
    """Return uploads by name: the field, its content and the expected status."""
    return {
        "zero-length video": ("video", b"", 400),
        "zero-length image": ("image", b"", 400),
        "truncated video": ("video", video[: len(video) // 2], 422),
        "head of a video": ("video", video[:40], 422),
        "text as a video": ("video", b"hello " * 100, 415),
        "text as an image": ("image", b"hello " * 100, 415),
        "video as an image": ("image", video, 415),
        "image bomb": ("image", png(60_000, 60_000), 413),
        "truncated image": ("image", jpeg()[:-400], 422),
    }


def jpeg() -> bytes:
    out = io.BytesIO()
    Image.fromarray(np.random.default_rng(0).integers(0, 255, (64, 64, 3), dtype=np.uint8)).save(out, "JPEG")
    return out.getvalue()


def test_uploads_that_cannot_be_used(http: httpx.Client, video: bytes) -> None:
    statuses = {}
    for name, (field, data, _) in uploads(video).items():
        form = http.post("/v1/search", files={field: ("a", data)})
        part = {"type": f"{field}_url", f"{field}_url": {"url": data_url("application/octet-stream", data)}}
        as_json = http.post("/v1/search", json={"content": [part]})
        assert form.status_code == as_json.status_code, (name, form.text, as_json.text)
        status, code, message = error_of(form)
        assert code
        assert message.startswith((field, "content"))
        statuses[name] = status
    assert statuses == {name: status for name, (_, _, status) in uploads(video).items()}


def test_bodies_that_are_too_large(http: httpx.Client) -> None:
    answer = http.post("/v1/search", files={"video": ("a", bytes(4_000_000))})
    assert error_of(answer)[:2] == (413, "body_too_large")

    def parts() -> Iterator[bytes]:  # without a Content-Length
        for _ in range(60):
            yield bytes(100_000)

    answer = http.post("/v1/embeddings", content=parts())
    assert error_of(answer)[:2] == (413, "body_too_large")
    answer = http.post("/v1/embeddings", json={"input": "word " * 30_000})
    assert error_of(answer)[:2] == (400, "text_too_long")


def test_a_slow_body(server: Service) -> None:
    """A body that arrives byte by byte is refused after receive_seconds."""
    address = urlsplit(server.url)
    with socket.create_connection((address.hostname, address.port), timeout=60) as connection:
        connection.sendall(b"POST /v1/search HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Type: application/json\r\n"
                    b"Content-Length: 1000\r\n\r\n{")  # fmt: skip
        connection.settimeout(0.5)
        answer = b""
        while not answer:
            try:
                answer = connection.recv(4096)
            except TimeoutError:
                connection.sendall(b" ")
    assert answer.startswith(b"HTTP/1.1 408")


@pytest.mark.parametrize(
    "sent,expected",
    [
        (b"", b""),
        pytest.param(b"POST /v1/search HTTP/1.1\r\nHost: 127.0.0.1\r\nX-Ha", b"", marks=pytest.mark.slow),
        (
            b"POST /v1/search HTTP/1.1\r\nHost: 127.0.0.1\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n"
            b"Content-Length: 2\r\n\r\n{}",
            b"HTTP/1.1 400",
        ),
    ],
    ids=["nothing", "half of the headers", "a WebSocket with a body"],
)
def test_connections_that_the_proxy_closes(server: Service, sent: bytes, expected: bytes) -> None:
    address = urlsplit(server.url)
    with socket.create_connection((address.hostname, address.port), timeout=60) as connection:
        connection.sendall(sent)
        assert connection.recv(12) == expected


@pytest.mark.parametrize(
    "body,status,expected",
    [
        (b"", 400, "not JSON"),
        (b"{", 400, "not JSON"),
        (b"[" * 100_000, 400, "not JSON"),
        (b"\xff\xfe", 400, "not JSON"),
        (b"[]", 400, "body: "),
        (b"{}", 400, "or give like"),
        (b'{"content": ""}', 400, "give a text, an image or a video"),
        (b'{"content": 5}', 400, "content"),
        (b'{"content": "a", "topk": 3}', 400, "topk"),
        (b'{"content": "a", "top_k": 0}', 400, "top_k"),
        (b'{"content": "a", "top_k": 100000}', 400, "the limit is 1000"),
        (b'{"content": "a", "model": "b"}', 404, "use demo"),
        (b'{"content": "a", "like": "b"}', 404, "unknown segment"),
        (b'{"content": "a", "filter": {"duration": {"near": 1}}}', 400, "near"),
        (b'{"content": [{"type": "audio_url"}]}', 400, "content[0]: parts of type 'audio_url'"),
        (b'{"content": [{"type": "image_url"}]}', 400, "content[0].image_url: Field required"),
        (b'{"content": [{"type": "text", "text": "a"}, {"type": "text", "text": "b"}]}', 400, "2 parts"),
        (b'{"content": [{"type": "image_url", "image_url": {"url": "data:image/png;base64,%%%"}}]}', 400, "base64"),
        (b'{"content": [{"type": "image_url", "image_url": {"url": "/etc/passwd"}}]}', 400, "http"),
        (b'{"content": [{"type": "image_url", "image_url": {"url": "file:///etc/passwd"}}]}', 400, "http"),
        (b'{"content": [{"type": "video_url", "video_url": {"url": "s3://bucket/a.mp4"}}]}', 400, "http"),
    ],
)  # fmt: skip
def test_malformed_searches(http: httpx.Client, body: bytes, status: int, expected: str) -> None:
    answer = http.post("/v1/search", content=body, headers={"Content-Type": "application/json"})
    answer_status, _, message = error_of(answer)
    assert answer_status == status
    assert expected in message


@pytest.mark.parametrize(
    "url",
    [
        "http://127.0.0.1:8265/",
        "http://localhost/",
        "http://169.254.169.254/latest/meta-data/",
        "http://10.0.0.1/a.png",
        "http://[::1]/a.png",
        "http://2130706433/a.png",
        "https://example.org/a.png",
    ],
)
def test_urls_of_hosts_that_are_not_allowed(http: httpx.Client, url: str) -> None:
    answer = http.post("/v1/search", json={"content": [{"type": "image_url", "image_url": {"url": url}}]})
    status, code, message = error_of(answer)
    assert (status, code) == (403, "host_not_allowed")
    assert "allow-list" in message


def test_a_text_of_ten_thousand_tokens(http: httpx.Client) -> None:
    text = "a " * 10_000
    answer = http.post("/v1/embeddings", json={"input": text})
    status, code, message = error_of(answer)
    assert (status, code) == (400, "context_length_exceeded")
    assert "8192 tokens" in message
    cut = http.post("/v1/embeddings", json={"input": text, "truncate_prompt_tokens": -1})
    assert cut.json()["usage"]["prompt_tokens"] == 8192


def test_a_bad_request_does_not_affect_its_batch(http: httpx.Client) -> None:
    """All are embedded in one batch; only a request whose instruction leaves no room for the text
    fails.
    """
    alone = http.post("/v1/embeddings", json={"input": "a red ball"}).json()["data"]

    def ask(i: int) -> httpx.Response:
        # One only: several would wait for so long on a busy machine that the service refuses them.
        bad = {"instruction": "word " * 9000} if i == 0 else {}
        return http.post("/v1/embeddings", json={"input": "a red ball", **bad})

    with ThreadPoolExecutor(8) as pool:
        answers = list(pool.map(ask, range(8)))
    assert [answer.status_code for answer in answers] == [400] + [200] * 7
    for answer in answers:
        if answer.status_code == 200:
            vector, expected = (np.array(rows[0]["embedding"]) for rows in (answer.json()["data"], alone))
            assert vector @ expected > 0.9999


def test_load_beyond_the_queue(server: Service) -> None:
    """While the model is stopped, at most 16 requests run and 16 wait in the queue; others are
    refused with 503. When it is resumed, none of those that waited gets an error.
    """
    outcomes: list[tuple[int, str | None]] = []

    def ask(_: int) -> None:
        body = {"content": "a red ball", "top_k": 1}
        answer = httpx.post(f"{server.url}/v1/search", json=body, timeout=120, trust_env=False)
        outcomes.append((answer.status_code, answer.headers.get("retry-after")))

    (retriever,) = server.replicas("retriever-demo")
    with ThreadPoolExecutor(64) as pool:
        retriever.suspend()
        try:
            requests = [pool.submit(ask, i) for i in range(64)]
            wait_until(lambda: len(outcomes) > 0)
        finally:
            retriever.resume()
        for request in requests:
            request.result()
    assert set(outcomes) == {(200, None), (503, "1")}, Counter(outcomes)
    assert Counter(outcomes)[200, None] >= 16


@pytest.mark.slow
def test_a_replica_killed_under_load(http: httpx.Client, server: Service) -> None:
    """Every reply is correct, a 503, or a 504 while the new replica loads; then it takes over."""
    body = {"content": server.heldout.queries["fine"][5].text, "top_k": 1}
    expected = http.post("/v1/search", json=body).json()["data"][0]["id"]
    stop, outcomes = threading.Event(), []

    def ask() -> None:
        with httpx.Client(base_url=server.url, timeout=90, trust_env=False) as client:
            while not stop.is_set():
                answer: Any = client.post("/v1/search", json=body)
                if answer.status_code == 200:
                    outcomes.append((200, answer.json()["data"][0]["id"]))
                else:
                    outcomes.append((answer.status_code, answer.headers.get("retry-after")))

    threads = [threading.Thread(target=ask) for _ in range(6)]
    for thread in threads:
        thread.start()
    wait_until(lambda: len(outcomes) > 20)
    (replica,) = server.replicas("retriever-demo")
    replica.send_signal(signal.SIGKILL)
    replica.wait()
    before = len(outcomes) + len(threads)  # the replies to requests that were sent before it was killed
    wait_until(lambda: (200, expected) in outcomes[before:])
    stop.set()
    for thread in threads:
        thread.join()
    assert set(outcomes) <= {(200, expected), (503, "1"), (504, None)}, Counter(outcomes)
    (after,) = server.replicas("retriever-demo")
    assert after.pid != replica.pid


def test_a_killed_decoder(http: httpx.Client, server: Service, video: bytes) -> None:
    """A request whose decoder is killed gets the error "crashed"; the next clip is read by a new
    decoder.
    """
    clip = data_url("video/mp4", video)
    body = {"content": [{"type": "video_url", "video_url": {"url": clip}}], "top_k": 1}
    expected = http.post("/v1/search", json=body).json()["data"][0]["id"]
    (gateway,) = server.replicas("gateway")
    readers = [
        process for process in gateway.children(recursive=True) if "gve_ray.media.child" in process.cmdline()
    ]
    assert readers
    for process in readers:
        process.send_signal(signal.SIGKILL)
    answers = [http.post("/v1/search", json=body) for _ in range(3)]
    outcomes = [
        answer.json()["data"][0]["id"] if answer.is_success else error_of(answer)[:2] for answer in answers
    ]
    assert set(outcomes) <= {expected, (500, "crashed")}
    assert outcomes[-1] == expected
