"""The child side of `DecodeProcess`: `python -m gve_ray.media.child REQUESTS REPLIES` (file descriptors).

Reads limits once, then one request after another until the parent closes its end.
"""

import os
import pickle
import resource
import signal
import sys
from typing import BinaryIO

from gve_ray.media.limits import Limits
from gve_ray.media.process import LENGTH

# A hung child whose parent is gone must not stay: the kernel ends it this long after its time is up.
_ORPHAN_SECONDS = 30.0


def main(requests_fd: int, replies_fd: int) -> None:
    """Serve until end of file."""
    os.dup2(2, 1)  # a library that prints must not write between our messages
    with open(requests_fd, "rb") as requests, open(replies_fd, "wb") as replies:
        limits: Limits = pickle.loads(_read(requests))
        resource.setrlimit(resource.RLIMIT_DATA, (limits.memory_bytes, limits.memory_bytes))
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
        _write(replies, b"ready")
        while message := _read(requests):
            signal.setitimer(signal.ITIMER_REAL, limits.wall_clock_s + _ORPHAN_SECONDS)
            reply = _answer(message, limits)
            signal.setitimer(signal.ITIMER_REAL, 0)
            _write(replies, reply)


def _answer(message: bytes, limits: Limits) -> bytes:
    """Pickle of (True, what the function asked for returns) or (False, exception)."""
    try:
        function, source, arguments, settings = pickle.loads(message)
        return pickle.dumps((True, function(source, *arguments, limits=limits, **settings)), protocol=5)
    except Exception as error:  # noqa: BLE001 (the parent raises it)
        return _pickled_error(error)


def _pickled_error(error: Exception) -> bytes:
    try:
        pickle.loads(data := pickle.dumps((False, error)))
    except (pickle.PickleError, TypeError, AttributeError):  # an exception class that cannot be pickled
        return pickle.dumps((False, RuntimeError(f"{type(error).__name__}: {error}")))
    return data


def _read(stream: BinaryIO) -> bytes:
    header = stream.read(LENGTH.size)
    return stream.read(LENGTH.unpack(header)[0]) if len(header) == LENGTH.size else b""


def _write(stream: BinaryIO, message: bytes) -> None:
    stream.write(LENGTH.pack(len(message)) + message)
    stream.flush()


if __name__ == "__main__":
    main(int(sys.argv[1]), int(sys.argv[2]))
