"""The child side of `DecodeProcess`: `python -m gve_ray.media.child FD` (file descriptor of the pipe).

It receives the limits once, and then answers requests until the parent closes its end of the pipe.
Requests are pickles, since they come from the parent; replies have a form that cannot execute code.
"""

import os
import pickle
import resource
import signal
import sys
from contextlib import suppress
from multiprocessing.connection import Connection

from gve_ray.media.limits import Limits
from gve_ray.media.reply import encode_error, encode_result
from gve_ray.media.sandbox import leave_network

# The kernel ends a hung child whose parent is gone this long after its time is up.
_ORPHAN_SECONDS = 30.0


def main(fd: int) -> None:
    """Answer requests until end of file."""
    os.dup2(2, 1)  # the standard output of the job is not for what a library prints here
    pipe = Connection(fd)
    limits: Limits
    limits, reads_uris = pickle.loads(pipe.recv_bytes())
    if not reads_uris:
        leave_network()
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
    """Return the reply with the result of the requested function, or with its exception."""
    try:
        function, source, arguments, settings = pickle.loads(message)
        return encode_result(function(source, *arguments, limits=limits, **settings))
    except Exception as error:  # noqa: BLE001 (the parent raises it)
        return encode_error(error)


if __name__ == "__main__":
    main(int(sys.argv[1]))
