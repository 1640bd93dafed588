"""Call an OpenAI-compatible endpoint: HTTP with a key and retries, and pictures as parts of a message.

    endpoint = Endpoint("http://127.0.0.1:8000/v1")
    text = endpoint.post("chat/completions", body, lambda reply: reply["choices"][0]["message"]["content"])

The engine openai of embedders (`embedder.backends`), that of the captioner (`synthesis`), the reranker
(`serving`) and speech recognition (`indexing`) use it. The key is read from the environment, and is in no
log and no error message.
"""

import base64
import http.client
import json
import os
import random
import time
import urllib.error
import urllib.request
import uuid
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from email.message import Message
from email.utils import parsedate_to_datetime
from typing import Any, Literal, TypeVar
from urllib.parse import urlsplit

from gve_ray.media import encode_jpeg
from gve_ray.media.video_metadata import video_metadata
from gve_ray.schema import Frames

T = TypeVar("T")

ATTEMPTS = 8  # of a request; with the pauses between them, two minutes or more
LONGEST_PAUSE = 600.0  # seconds; an endpoint that asks for a longer one counts as unavailable
_FIRST_PAUSE, _LONGEST_OWN_PAUSE = 1.0, 60.0
_TIMEOUT_SECONDS = 300.0
_CHECK_SECONDS = 10.0
_MESSAGE_BYTES = 1000
# Answers after which the same request may succeed later.
_TRANSIENT = frozenset({408, 409, 425, 429})
# Answers that any other request would get as well.
_DENIED = frozenset({401, 402, 403, 404, 405})


class EndpointError(OSError):
    """An endpoint did not answer a request as it should.

    status: of its HTTP response; None if there was none, or none that could be read. pause: the seconds
    that it asks to wait; None if it does not say.
    """

    def __init__(self, message: str, status: int | None = None, pause: float | None = None) -> None:
        super().__init__(message)
        self.status, self.pause = status, pause

    @property
    def kind(self) -> Literal["refused", "denied", "unavailable"]:
        """`refused`: this request; `denied`: every request; `unavailable`: another try may succeed."""
        if self.status is None or self.status in _TRANSIENT or self.status >= 500:
            return "unavailable"
        return "denied" if self.status < 400 or self.status in _DENIED else "refused"


@dataclass(frozen=True)
class FormFile:
    """A file in a form: its name, media type and content."""

    name: str
    media_type: str
    data: bytes


@dataclass(frozen=True)
class _Body:
    media_type: str
    data: bytes


class _NoRedirects(urllib.request.HTTPRedirectHandler):
    """A redirected request would carry the key to another host, and become a GET."""

    def redirect_request(self, *_: Any, **__: Any) -> None:
        return None


@dataclass(frozen=True)
class Endpoint:
    """An OpenAI-compatible endpoint.

    url: ends in /v1, with or without a slash. key_variable: the environment variable with the key; without
    it, requests have none. timeout: seconds without a byte from the endpoint after which a request fails.
    """

    url: str
    key_variable: str = "OPENAI_API_KEY"
    timeout: float = _TIMEOUT_SECONDS

    @property
    def host(self) -> str:
        """Host and port, without credentials."""
        return urlsplit(self.url).netloc.rpartition("@")[2]

    def post(
        self,
        path: str,
        body: Mapping[str, Any],
        read: Callable[[Any], T],
        *,
        attempts: int = ATTEMPTS,
        before: Callable[[], object] = lambda: None,
        wait: Callable[[float], object] = time.sleep,
    ) -> T:
        """Send a request as JSON, and return what `read` makes of the response.

        A request without a usable response (HTTP 408, 409, 425, 429 and 5xx, a broken connection, no JSON,
        or a form from which `read` raises AttributeError, KeyError, IndexError, TypeError or ValueError) is sent
        again, up to `attempts` times, after the pause that the endpoint asks for, or else after one that doubles. path:
        relative to the URL. before: called before each attempt; what it raises ends the request. wait:
        called with the seconds of each pause. Raises EndpointError.
        """
        data = _Body("application/json", json.dumps(body).encode())
        return self._repeat(path, data, read, attempts, before, wait)

    def post_form(
        self,
        path: str,
        fields: Mapping[str, str],
        files: Mapping[str, "FormFile"],
        read: Callable[[Any], T],
        *,
        before: Callable[[], object] = lambda: None,
        wait: Callable[[float], object] = time.sleep,
    ) -> T:
        """Send a request as a multipart form, as `post` does. The response is JSON."""
        return self._repeat(path, _form(fields, files), read, ATTEMPTS, before, wait)

    def _repeat(
        self,
        path: str,
        body: "_Body",
        read: Callable[[Any], T],
        attempts: int,
        before: Callable[[], object],
        wait: Callable[[float], object],
    ) -> T:
        pause, attempt = _FIRST_PAUSE, 1
        while True:
            before()
            try:
                return self._try(path, body, read)
            except EndpointError as error:
                asked = error.pause
                if error.kind != "unavailable" or attempt == attempts or (asked or 0) > LONGEST_PAUSE:
                    raise
            # Not all at the same moment: the requests of many workers may have failed together.
            wait(pause * random.uniform(0.5, 1.0) if asked is None else asked)
            pause, attempt = min(2 * pause, _LONGEST_OWN_PAUSE), attempt + 1

    def check(self) -> None:
        """Raise EndpointError unless the endpoint answers, and takes the key if it asks for one."""
        try:
            self._send("models", None, min(self.timeout, _CHECK_SECONDS))
        except EndpointError as error:
            if error.status in (401, 403):
                problem = "refuses the key" if self._key() else "asks for a key, and none is set"
                raise EndpointError(f"{self.url}: {problem}", error.status) from error
            # Any other response shows that a server is there: not all list their models.
            if error.status is None or error.status in (502, 503, 504):
                raise

    def _try(self, path: str, body: "_Body", read: Callable[[Any], T]) -> T:
        raw = self._send(path, body, self.timeout)
        try:
            return read(json.loads(raw))
        except (AttributeError, KeyError, IndexError, TypeError, ValueError) as error:
            start = raw[:200].decode(errors="replace")
            problem = f"unexpected response ({type(error).__name__}: {error}): {start}"
            raise EndpointError(f"{self.url}/{path}: {self._without_key(problem)}") from error

    def _send(self, path: str, body: "_Body | None", timeout: float) -> bytes:
        """Return the response to a POST, or to a GET without a body."""
        url = f"{self.url.rstrip('/')}/{path}"
        headers = {} if body is None else {"Content-Type": body.media_type}
        if key := self._key():
            headers["Authorization"] = f"Bearer {key}"
        request = urllib.request.Request(url, data=None if body is None else body.data, headers=headers)
        try:
            with urllib.request.build_opener(_NoRedirects).open(request, timeout=timeout) as response:
                content: bytes = response.read()
                return content
        except urllib.error.HTTPError as error:
            message = f"{url}: HTTP {error.code}: {self._without_key(_text_of(error))}"
            raise EndpointError(message, error.code, _retry_after(error.headers)) from error
        except urllib.error.URLError as error:
            raise EndpointError(f"{url}: cannot connect ({error.reason})") from error
        except (OSError, http.client.HTTPException) as error:
            raise EndpointError(f"{url}: {type(error).__name__}: {error}") from error

    def _key(self) -> str:
        key = os.environ.get(self.key_variable, "").strip()
        if not (key.isascii() and key.isprintable()):  # the error of http.client would show it
            raise EndpointError(
                f"{self.key_variable}: is no key, it has characters that no header may have", 401
            )
        return key

    def _without_key(self, text: str) -> str:
        key = self._key()
        return text.replace(key, "***") if key else text


def _form(fields: Mapping[str, str], files: Mapping[str, FormFile]) -> _Body:
    """Return a form (multipart/form-data, RFC 7578). Names must have no quotes."""
    boundary = uuid.uuid4().hex
    parts = [(f'name="{name}"', "text/plain; charset=utf-8", text.encode()) for name, text in fields.items()]
    parts += [
        (f'name="{name}"; filename="{file.name}"', file.media_type, file.data) for name, file in files.items()
    ]
    lines: list[bytes] = []
    for disposition, media_type, data in parts:
        head = (
            f"--{boundary}\r\nContent-Disposition: form-data; {disposition}\r\nContent-Type: {media_type}\r\n"
        )
        lines += [head.encode(), data]
    return _Body(
        f"multipart/form-data; boundary={boundary}", b"\r\n".join([*lines, f"--{boundary}--\r\n".encode()])
    )


def _text_of(error: urllib.error.HTTPError) -> str:
    """Return the beginning of the body of an error response."""
    try:
        with error:
            return error.read(_MESSAGE_BYTES).decode(errors="replace").strip()
    except (OSError, http.client.HTTPException):
        return ""


def _retry_after(headers: Message) -> float | None:
    """Return the seconds of a Retry-After header, which has seconds or a date; None if it has neither."""
    value = str(headers.get("Retry-After", "")).strip()
    if value.isascii() and value.isdigit():
        return float(value)
    try:
        date = parsedate_to_datetime(value)
    except ValueError:
        return None
    return max(0.0, (date.replace(tzinfo=date.tzinfo or UTC) - datetime.now(UTC)).total_seconds())


# ---- Pictures


def image_part(jpeg: bytes) -> dict[str, Any]:
    """Return a JPEG as a part of a message."""
    return _part("image_url", f"data:image/jpeg;base64,{_base64(jpeg)}")


def video_part(jpegs: Sequence[bytes]) -> dict[str, Any]:
    """Return the frames of a video, as JPEG, as one part: `data:video/jpeg;base64,FRAME,FRAME,...`.

    That is the form of vLLM; the times of the frames are in `video_options`.
    """
    return _part("video_url", f"data:video/jpeg;base64,{','.join(map(_base64, jpegs))}")


def video_options(frames: Frames) -> dict[str, Any]:
    """Return the field of a request with numbers and rate of the frames in `video_part`.

    With it the endpoint neither decodes nor samples. It holds for all videos of a request.
    """
    metadata = video_metadata(frames)
    names = ("fps", "duration", "total_num_frames", "frames_indices", "do_sample_frames")
    return {"media_io_kwargs": {"video": {"num_frames": -1, **{name: metadata[name] for name in names}}}}


def jpegs_of(frames: Frames) -> list[bytes]:
    """Return each frame as JPEG."""
    return [encode_jpeg(pixels) for pixels in frames.pixels]


def _part(kind: str, url: str) -> dict[str, Any]:
    return {"type": kind, kind: {"url": url}}


def _base64(jpeg: bytes) -> str:
    return base64.b64encode(jpeg).decode()
