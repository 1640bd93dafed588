"""What strangers send, and what dies: a clear status each, no wrong answer, and a healthy service after it."""

import io
import signal
import socket
import struct
import threading
import time
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

from tests.serving.conftest import Service
from tests.serving.test_service import data_url

pytestmark = pytest.mark.timeout(600)


@pytest.fixture(scope="module")
def http(server: Service) -> Iterator[httpx.Client]:
    with httpx.Client(base_url=server.url, timeout=90, trust_env=False) as client:
        yield client


@pytest.fixture(autouse=True)
def healthy_after(http: httpx.Client) -> Iterator[None]:
    """Whatever a test has done, the next request is answered."""
    yield
    answer = http.post("/v1/search", json={"content": "a red ball", "top_k": 1})
    assert answer.status_code == 200, answer.text


def error_of(answer: httpx.Response) -> tuple[int, str, str]:
    """Status, machine word and sentence of a refusal."""
    error = answer.json()["error"]
    return answer.status_code, error["code"], error["message"]


def png(width: int, height: int) -> bytes:
    """A picture that says it is that large, of one row of bytes."""

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
    """By name: the field, what is in it, and the status it has to get."""
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
    found = {}
    for name, (field, data, _) in uploads(video).items():
        form = http.post("/v1/search", files={field: ("a", data)})
        part = {"type": f"{field}_url", f"{field}_url": {"url": data_url("application/octet-stream", data)}}
        as_json = http.post("/v1/search", json={"content": [part]})
        assert form.status_code == as_json.status_code, (name, form.text, as_json.text)
        status, code, message = error_of(form)
        assert code
        assert message.startswith((field, "content"))
        found[name] = status
    assert found == {name: status for name, (_, _, status) in uploads(video).items()}


def test_bodies_that_are_too_large(http: httpx.Client) -> None:
    answer = http.post("/v1/search", files={"video": ("a", bytes(4_000_000))})
    assert error_of(answer)[:2] == (413, "body_too_large")

    def parts() -> Iterator[bytes]:  # of no stated length
        for _ in range(60):
            yield bytes(100_000)

    answer = http.post("/v1/embeddings", content=parts())
    assert error_of(answer)[:2] == (413, "body_too_large")
    answer = http.post("/v1/embeddings", json={"input": "word " * 30_000})
    assert error_of(answer)[:2] == (400, "text_too_long")


def test_a_slow_body(server: Service) -> None:
    """A byte now and then: given up after receive_seconds, whatever the client goes on doing."""
    address = urlsplit(server.url)
    begun = time.monotonic()
    with socket.create_connection((address.hostname, address.port), timeout=60) as one:
        one.sendall(b"POST /v1/search HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Type: application/json\r\n"
                    b"Content-Length: 1000\r\n\r\n{")  # fmt: skip
        one.settimeout(0.5)
        answer = b""
        while b"\r\n\r\n" not in answer and time.monotonic() - begun < 30:
            try:
                answer += one.recv(4096)
            except TimeoutError:
                one.sendall(b" ")
    assert answer.startswith(b"HTTP/1.1 408")
    assert time.monotonic() - begun < 15


@pytest.mark.parametrize(
    "body,status,said",
    [
        (b"", 400, "not JSON"),
        (b"{", 400, "not JSON"),
        (b"[" * 100_000, 400, "not JSON"),
        (b"\xff\xfe", 400, "not JSON"),
        (b"[]", 400, "body: "),
        (b"{}", 400, "give either content or like"),
        (b'{"content": ""}', 400, "give a text, an image or a video"),
        (b'{"content": 5}', 400, "content"),
        (b'{"content": "a", "topk": 3}', 400, "topk"),
        (b'{"content": "a", "top_k": 0}', 400, "top_k"),
        (b'{"content": "a", "top_k": 100000}', 400, "the limit is 1000"),
        (b'{"content": "a", "model": "b"}', 404, "use demo"),
        (b'{"content": "a", "like": "b"}', 400, "either content or like"),
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
def test_malformed_searches(http: httpx.Client, body: bytes, status: int, said: str) -> None:
    answer = http.post("/v1/search", content=body, headers={"Content-Type": "application/json"})
    found, _, message = error_of(answer)
    assert found == status
    assert said in message


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
def test_urls_of_hosts_that_nobody_allowed(http: httpx.Client, url: str) -> None:
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


def test_one_bad_request_leaves_its_neighbours_alone(http: httpx.Client) -> None:
    """They are embedded together, and an instruction that leaves no room for the text fails alone."""
    alone = http.post("/v1/embeddings", json={"input": "a red ball"}).json()["data"]

    def ask(i: int) -> httpx.Response:
        bad = {"instruction": "word " * 9000} if i % 4 == 0 else {}
        return http.post("/v1/embeddings", json={"input": "a red ball", **bad})

    with ThreadPoolExecutor(8) as pool:
        answers = list(pool.map(ask, range(24)))
    assert [one.status_code for one in answers] == [400 if i % 4 == 0 else 200 for i in range(24)]
    for one in answers:
        if one.status_code == 200:
            found, expected = (np.array(a[0]["embedding"]) for a in (one.json()["data"], alone))
            assert found @ expected > 0.9999


def test_load_beyond_the_queue(http: httpx.Client, server: Service) -> None:
    """16 at a time and 16 in the queue: of 150 slow requests some are refused with 503, none gets anything else."""
    content = [{"type": "video_url", "video_url": {"url": data_url("video/mp4", _clip(server))}}]

    def ask(_: int) -> tuple[int, str | None]:
        answer = httpx.post(
            f"{server.url}/v1/search", json={"content": content}, timeout=120, trust_env=False
        )
        return answer.status_code, answer.headers.get("retry-after")

    with ThreadPoolExecutor(150) as pool:
        found = Counter(pool.map(ask, range(150)))
    assert set(found) == {(200, None), (503, "1")}, found
    assert found[200, None] >= 32


def _clip(server: Service) -> bytes:
    with open(server.heldout.videos[1], "rb") as file:
        return file.read()


def test_a_replica_killed_under_load(http: httpx.Client, server: Service) -> None:
    """The answers that come are right, the others say so, and a new replica takes over."""
    body = {"content": server.heldout.queries["fine"][5].text, "top_k": 1}
    expected = http.post("/v1/search", json=body).json()["data"][0]["id"]
    stop, found = threading.Event(), []

    def ask() -> None:
        with httpx.Client(base_url=server.url, timeout=90, trust_env=False) as client:
            while not stop.is_set():
                answer: Any = client.post("/v1/search", json=body)
                if answer.status_code == 200:
                    found.append((200, answer.json()["data"][0]["id"]))
                else:
                    found.append((answer.status_code, answer.headers.get("retry-after")))

    threads = [threading.Thread(target=ask) for _ in range(6)]
    for thread in threads:
        thread.start()
    time.sleep(1)
    (replica,) = server.replicas("retriever-demo")
    replica.send_signal(signal.SIGKILL)
    before = len(found)
    deadline = time.monotonic() + 120
    while time.monotonic() < deadline:
        if any(status == 200 for status, _ in found[before + 20 :]) and server.replicas("retriever-demo"):
            break
        time.sleep(0.2)
    time.sleep(1)
    stop.set()
    for thread in threads:
        thread.join()
    assert set(found) <= {(200, expected), (503, "1")}, Counter(found)
    assert found[-1] == (200, expected)
    (after,) = server.replicas("retriever-demo")
    assert after.pid != replica.pid


def test_the_decoder_killed(http: httpx.Client, server: Service, video: bytes) -> None:
    """Whoever meets it dying is told that it crashed; the next clip is read by a new one."""
    clip = data_url("video/mp4", video)
    body = {"content": [{"type": "video_url", "video_url": {"url": clip}}], "top_k": 1}
    expected = http.post("/v1/search", json=body).json()["data"][0]["id"]
    (gateway,) = server.replicas("gateway")
    readers = [one for one in gateway.children(recursive=True) if "gve_ray.media.child" in one.cmdline()]
    assert readers
    for one in readers:
        one.send_signal(signal.SIGKILL)
    answers = [http.post("/v1/search", json=body) for _ in range(3)]
    found = [one.json()["data"][0]["id"] if one.is_success else error_of(one)[:2] for one in answers]
    assert set(found) <= {expected, (500, "crashed")}
    assert found[-1] == expected
