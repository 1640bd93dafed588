"""Run moto's S3-compatible HTTP server on this machine. It keeps all data in memory.

with S3Server() as server:
    server.make_bucket("runs")
    os.environ.update(server.environment)       # also for Ray's processes, which inherit it
    server.fail("503")                          # from now on, each request fails; None ends this
"""

import os
import socket
import subprocess
import sys
import threading
import time
import urllib.request
from collections.abc import Callable, Iterable
from types import TracebackType
from typing import Any

_SECONDS = 60.0  # to start
_FAULT_PATH = "/-/fault/"
_ERRORS = {
    "500": (
        "500 Internal Server Error",
        "InternalError",
        "We encountered an internal error. Please try again.",
    ),
    "503": ("503 Service Unavailable", "SlowDown", "Please reduce your request rate."),
    "expired": ("403 Forbidden", "ExpiredToken", "The provided token has expired."),
}
FAULTS = (*_ERRORS, "slow", "truncated")
_SLOW_SECONDS = 2.0


class S3Server:
    """Context manager for the server, which listens on the loopback interface. environment: variables for clients."""

    def __init__(self) -> None:
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self.port: int = free.getsockname()[1]
        self.url = f"http://127.0.0.1:{self.port}"
        self.environment = {
            "AWS_ENDPOINT_URL": self.url,
            "AWS_ACCESS_KEY_ID": "test",
            "AWS_SECRET_ACCESS_KEY": "test",
            "AWS_REGION": "us-east-1",
            "AWS_EC2_METADATA_DISABLED": "true",
        }

    def __enter__(self) -> "S3Server":
        command = [sys.executable, __file__, str(self.port)]
        self._process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
        )
        deadline = time.monotonic() + _SECONDS
        while True:
            try:
                socket.create_connection(("127.0.0.1", self.port), timeout=1).close()
                return self
            except OSError:
                if self._process.poll() is not None or time.monotonic() > deadline:
                    self.__exit__(None, None, None)
                    raise RuntimeError("moto's server did not start; try python -m moto.server") from None
                time.sleep(0.05)

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, _: TracebackType | None
    ) -> None:
        self._process.kill()
        self._process.communicate()

    def make_bucket(self, name: str) -> str:
        """Create an empty bucket and return its URI."""
        urllib.request.urlopen(urllib.request.Request(f"{self.url}/{name}", method="PUT"), timeout=30).close()
        return f"s3://{name}"

    def fail(self, fault: str | None) -> int:
        """Let all later requests fail; return the number of requests that have failed until now.

        fault: one of `FAULTS`, or None for no more faults. slow: an answer takes 2 s more. truncated: half of the bytes
        of an answer are sent.
        """
        with urllib.request.urlopen(f"{self.url}{_FAULT_PATH}{fault or ''}", timeout=30) as answer:
            return int(answer.read())


class _Failing:
    """A WSGI application that answers as another one does, or fails."""

    def __init__(self, application: Callable[..., Iterable[bytes]]) -> None:
        self._application = application
        self._fault, self._failed = "", 0

    def __call__(self, environ: dict[str, Any], start_response: Callable[..., Any]) -> Iterable[bytes]:
        path: str = environ["PATH_INFO"]
        if path.startswith(_FAULT_PATH):
            self._fault = path.removeprefix(_FAULT_PATH)
            start_response("200 OK", [])
            return [str(self._failed).encode()]
        self._failed += bool(self._fault)
        if self._fault in _ERRORS:
            status, code, message = _ERRORS[self._fault]
            text = f"<?xml version='1.0'?><Error><Code>{code}</Code><Message>{message}</Message></Error>"
            start_response(status, [("Content-Type", "application/xml"), ("Content-Length", str(len(text)))])
            return [text.encode()]
        if self._fault == "slow":
            time.sleep(_SLOW_SECONDS)
        is_cut = self._fault == "truncated"
        data = b"".join(self._application(environ, start_response))
        return [data[: len(data) // 2] if is_cut else data]


def _serve(port: int) -> None:
    from moto.server import DomainDispatcherApplication, MotoRequestHandler, create_backend_app
    from werkzeug.serving import run_simple

    def exit_with_parent() -> None:
        sys.stdin.read()  # it closes when the parent ends, also if that is killed
        os._exit(0)

    threading.Thread(target=exit_with_parent, daemon=True).start()
    application = _Failing(DomainDispatcherApplication(create_backend_app))
    run_simple("127.0.0.1", port, application, threaded=True, request_handler=MotoRequestHandler)


if __name__ == "__main__":
    _serve(int(sys.argv[1]))
