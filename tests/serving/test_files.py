"""Files of the index over HTTP, served by a real server to the requests that players send."""

import contextlib
import http.client
import itertools
import os
import re
import threading
import time
from collections.abc import Iterator
from urllib.parse import unquote

import fsspec
import pytest
import uvicorn
from starlette.applications import Starlette
from starlette.datastructures import Headers
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from gve_ray.serving.errors import ApiError
from gve_ray.serving.files import PART, WHOLE, file_response, media_type
from tests.media.videos import Clip, render

DATA = b"\0\0\0\x18ftypmp42" + os.urandom(2_999_989)
TAG = "f00d"
COUNTER = itertools.count()


@pytest.fixture(scope="module")
def media_server() -> Iterator[tuple[int, dict[str, tuple[str, int]]]]:
    """Yield the port and the served files: name -> URI and size when it was indexed."""
    served: dict[str, tuple[str, int]] = {}

    def media(request: Request) -> Response:
        uri, size = served[request.path_params["name"]]
        return file_response(
            uri,
            size=size,
            etag=TAG,
            method=request.method,
            headers=request.headers,
        )

    app = Starlette(routes=[Route("/{name:path}", media, methods=["GET", "HEAD"])])
    running = uvicorn.Server(uvicorn.Config(app, port=0, log_level="error"))
    thread = threading.Thread(target=running.run, daemon=True)
    thread.start()
    while not running.started:
        time.sleep(0.01)
    yield running.servers[0].sockets[0].getsockname()[1], served
    running.should_exit = True
    thread.join()


@pytest.fixture(params=["local", "file", "remote"])
def name(request, media_server, tmp_path) -> str:
    """Return the name of a served file: a local path, a file:// URI or a remote URI."""
    name = f"{request.param}{next(COUNTER)}"
    path = tmp_path / "a clip #1?.mp4"
    path.write_bytes(DATA)
    fsspec.filesystem("memory").pipe(f"/{name}.mp4", DATA)
    uris = {"local": str(path), "file": path.as_uri(), "remote": f"memory://{name}.mp4"}
    media_server[1][name] = (uris[request.param], len(DATA))
    return name


@pytest.fixture
def ask(media_server):
    def send(name: str, method: str = "GET", **headers: str) -> tuple[int, dict[str, str], bytes]:
        connection = http.client.HTTPConnection("127.0.0.1", media_server[0], timeout=30)
        with contextlib.closing(connection):
            sent_headers = {key.replace("_", "-"): value for key, value in headers.items()}
            connection.request(method, f"/{name}", headers=sent_headers)
            reply = connection.getresponse()
            reply_headers = {key.lower(): value for key, value in reply.getheaders()}
            return reply.status, reply_headers, reply.read()

    return send


def test_the_whole_file(ask, name):
    status, headers, body = ask(name)
    assert (status, body == DATA) == (200, True)
    assert headers["content-type"] == "video/mp4"
    assert headers["content-length"] == str(len(DATA))
    assert headers["accept-ranges"] == "bytes"
    assert headers["etag"] == '"f00d"'
    assert headers["cache-control"] == "private"
    assert headers["content-disposition"].startswith("inline; filename*=UTF-8''")
    assert headers["x-content-type-options"] == "nosniff"
    assert "content-range" not in headers


@pytest.mark.parametrize(
    "requested,first,last",
    [
        ("bytes=0-", 0, 3_000_000),
        ("bytes=0-0", 0, 0),
        ("bytes=1000-1999", 1000, 1999),
        ("bytes=1048576-2097152", 1048576, 2097152),
        ("bytes=3000000-", 3_000_000, 3_000_000),
        ("bytes=2999999-9999999", 2_999_999, 3_000_000),
        ("bytes=-5", 2_999_996, 3_000_000),
        ("bytes=-9999999", 0, 3_000_000),
        ("Bytes = 7-8", 7, 8),
    ],
)
def test_a_range(ask, name, requested, first, last):
    for method in ("GET", "HEAD"):
        status, headers, body = ask(name, method, Range=requested)
        assert status == 206
        assert headers["content-range"] == f"bytes {first}-{last}/3000001"
        assert headers["content-length"] == str(last - first + 1)
        assert headers["etag"] == '"f00d"'
        assert body == (DATA[first : last + 1] if method == "GET" else b"")


@pytest.mark.parametrize("requested", ["bytes=3000001-", "bytes=9999999-99999999", "bytes=-0"])
def test_a_range_beyond_the_end(ask, name, requested):
    status, headers, body = ask(name, Range=requested)
    assert (status, body) == (416, b"")
    assert headers["content-range"] == "bytes */3000001"


@pytest.mark.parametrize(
    "requested",
    [
        "bytes=5-2",
        "bytes=-",
        "bytes=a-b",
        "lines=1-2",
        "bytes",
        "bytes=" + "9" * 5000 + "-",
        "bytes=0-9,20-29",
    ],
)
def test_an_invalid_range_is_ignored(ask, name, requested):
    """RFC 9110 section 14.2 allows a server to ignore it."""
    status, _, body = ask(name, Range=requested)
    assert (status, body) == (200, DATA)


def test_replies_are_never_larger_than_a_part(tmp_path):
    path, size = tmp_path / "film.mp4", WHOLE + 1
    with path.open("wb") as file:
        file.truncate(size)
    assert refusal(str(path), size) == (
        400, "range_needed", f"film.mp4: {size} bytes: ask for parts of it, by the header Range: bytes=FIRST-LAST",
    )  # fmt: skip
    for requested, first, last in (
        ("bytes=0-", 0, PART - 1),
        (f"bytes=5-{size}", 5, PART + 4),
        ("bytes=-10", size - 10, size - 1),
    ):
        reply = file_response(str(path), size=size, etag=TAG, headers=Headers({"range": requested}))
        assert reply.headers["content-range"] == f"bytes {first}-{last}/{size}"
        assert len(reply.body) == last - first + 1
    head = file_response(str(path), size=size, etag=TAG, method="HEAD", headers=Headers({}))
    assert (head.headers["content-length"], head.body) == (str(size), b"")


@pytest.mark.parametrize(
    "tag,status", [('"f00d"', 206), ('"beef"', 200), ('W/"f00d"', 200), ("yesterday", 200)]
)
def test_a_range_needs_the_same_file(ask, name, tag, status):
    reply_status, _, body = ask(name, Range="bytes=1-2", If_Range=tag)
    assert (reply_status, body) == (status, DATA[1:3] if status == 206 else DATA)


def test_head_sends_no_body(ask, name):
    status, headers, body = ask(name, "HEAD")
    assert (status, headers["content-length"], body) == (200, "3000001", b"")


def respond(uri: str, size: int = 4) -> Response:
    return file_response(uri, size=size, etag=TAG, headers=Headers({}))


def refusal(uri: str, size: int = 4) -> tuple[int, str | None, str]:
    with pytest.raises(ApiError) as caught:
        respond(uri, size)
    return caught.value.status, caught.value.code, caught.value.message


def test_a_changed_or_missing_file(tmp_path):
    path = tmp_path / "a.mp4"
    fsspec.filesystem("memory").pipe("/changed.mp4", b"12345")
    path.write_bytes(b"12345")
    for uri in (str(path), path.as_uri(), "memory://changed.mp4"):
        name = uri.rpartition("/")[2]
        message = f"{name}: 5 bytes, 4 when it was indexed; run gve index again"
        assert refusal(uri) == (410, "gone", message)
        assert respond(uri, 5).status_code == 200
    path.unlink()
    for uri in (str(path), path.as_uri(), "memory://never.mp4"):
        with pytest.raises(FileNotFoundError):
            respond(uri)


def test_a_folder_of_frames_has_no_file(tmp_path):
    status, code, message = refusal(str(tmp_path))
    assert (status, code) == (404, "no_file")
    assert "a folder of frames has no file" in message


CLIPS = {
    "video/mp4": Clip(),
    "video/quicktime": Clip(container="mov"),
    "video/3gpp": Clip(container="3gp"),
    "video/matroska": Clip(container="matroska"),
    "video/webm": Clip(container="webm", codec="libvpx"),
    "video/ogg": Clip(container="ogg", codec="libvpx"),
    "video/vnd.avi": Clip(container="avi"),
    "video/mp2t": Clip(container="mpegts"),
    "video/mpeg": Clip(container="mpeg", codec="mpeg2video", fps=25),
    "video/x-flv": Clip(container="flv"),
    "video/x-ms-asf": Clip(container="asf", codec="wmv2"),
    "image/gif": Clip(container="gif", codec="gif", pix_fmt="rgb8"),
    "image/webp": Clip(container="webp", codec="libwebp_anim", pix_fmt="bgra"),
    "image/png": Clip(container="apng", codec="apng", pix_fmt="rgb24"),
}


@pytest.mark.parametrize("kind", CLIPS)
def test_a_file_has_the_type_of_its_content(tmp_path, kind):
    """The file name is ignored."""
    data = render(CLIPS[kind])
    assert media_type(data) == kind
    (tmp_path / "clip.html").write_bytes(data)
    fsspec.filesystem("memory").pipe(f"/{kind}", data)
    for uri in (str(tmp_path / "clip.html"), f"memory://{kind}"):
        assert respond(uri, len(data)).headers["content-type"] == kind


@pytest.mark.parametrize(
    "data,kind",
    [
        (b"\0\0\0\x08wide\0\0\0\0mdat", "video/quicktime"),  # QuickTime without ftyp
        (b"\0\0\0\x18styp", "video/mp4"),  # a fragment
        (bytes(4) + (b"G" + bytes(187) + bytes(4)) * 3, "video/mp2t"),  # .m2ts
        (b"\0\0\x01\xb3", "video/mpeg"),
        (b"GIF8", "application/octet-stream"),
        (b"<html><script>", "application/octet-stream"),
        (b"<svg xmlns=", "application/octet-stream"),
        (b"", "application/octet-stream"),
    ],
)
def test_media_type(data, kind):
    assert media_type(data) == kind


@pytest.mark.parametrize("name", ["a clip #1?.mp4", "Bär 🐻.mkv", 'a"b;c\\d.mp4', "two\nlines.mp4"])
def test_a_file_keeps_its_name(tmp_path, name):
    """RFC 6266, section 4.3, and RFC 8187."""
    (tmp_path / name).write_bytes(b"film")
    disposition = respond(str(tmp_path / name)).headers["content-disposition"]
    assert unquote(disposition.removeprefix("inline; filename*=UTF-8''")) == name
    assert re.fullmatch(r"inline; filename\*=UTF-8''[\w.~%-]+", disposition, re.ASCII)
