"""The child side of `DecodeProcess`: `python -m gve_ray.media.child FD` (file descriptor of the pipe).

It receives the limits once, and then answers requests until the parent closes its end of the pipe.
"""

import os
import pickle
import resource
import signal
import sys
from contextlib import suppress
from multiprocessing.connection import Connection

from gve_ray.media.limits import Limits

# The kernel ends a hung child whose parent is gone this long after its time is up.
_ORPHAN_SECONDS = 30.0


def main(fd: int) -> None:
    """Answer requests until end of file."""
    os.dup2(2, 1)  # the standard output of the job is not for what a library prints here
    pipe = Connection(fd)
    limits: Limits = pickle.loads(pipe.recv_bytes())
    resource.setrlimit(resource.RLIMIT_DATA, (limits.memory_bytes, limits.memory_bytes))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    pipe.send_bytes(b"ready")
    with suppress(EOFError, ConnectionError):  # the parent has closed its end, or is gone
        while True:
            message = pipe.recv_bytes()
            signal.setitimer(signal.ITIMER_REAL, limits.wall_clock_s + _ORPHAN_SECONDS)
            reply = _answer(message, limits)
            signal.setitimer(signal.ITIMER_REAL, 0)
            pipe.send_bytes(reply)


def _answer(message: bytes, limits: Limits) -> bytes:
    """Return the pickle of (True, result of the requested function) or of (False, its exception)."""
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


if __name__ == "__main__":
    main(int(sys.argv[1]))
