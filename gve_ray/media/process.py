"""Decode in a child process that may crash, hang or run out of memory without harm to its parent.

FFmpeg is C and some files kill it. The child is started once, reused for every video, and replaced when
it dies or overruns. It is a plain subprocess (no fork of a process that holds threads, a GPU or Ray's
state), so it works inside Ray actors. Parent and child speak length-prefixed pickles over two pipes that
only they hold; a plan function travels by its import path.
"""

import os
import pickle
import queue
import selectors
import signal
import struct
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import TracebackType
from typing import Any

from gve_ray.media.budget import MAX_PIXELS, MIN_PIXELS
from gve_ray.media.decode import DEFAULT_LIMITS, Decoded, Plan, decode, read_image
from gve_ray.media.limits import Limits, MediaError, Reason
from gve_ray.media.source import Source
from gve_ray.schema import Frames

_START_SECONDS = 120.0  # imports on a loaded machine; not counted against any video
_GRACE_SECONDS = 2.0  # the child checks its own clock between frames and reports more than a kill could
LENGTH = struct.Struct("<Q")


class DecodeProcess:
    """A child process that decodes. Use as a context manager, or call `close()`.

    Not for sharing between threads: one call at a time.
    """

    def __init__(self, limits: Limits = DEFAULT_LIMITS) -> None:
        self.limits = limits
        self._child: subprocess.Popen[bytes] | None = None
        self._requests = self._replies = -1  # file descriptors of the pipes' own ends

    def decode(
        self,
        source: Source,
        plan: Plan,
        *,
        max_pixels: int = MAX_PIXELS,
        min_pixels: int = MIN_PIXELS,
        strict: bool = True,
        scenes: float | None = None,
    ) -> Decoded:
        """`gve_ray.media.decode` under this process's limits, in the child.

        A callable plan must be importable there: a module-level function, not a lambda and not one
        defined in `__main__`. Raises what `decode` raises, plus MediaError "timeout", "crashed" and
        "out_of_memory".
        """
        _check_importable(plan)
        decoded: Decoded = self._call(
            decode, source, plan, max_pixels=max_pixels, min_pixels=min_pixels, strict=strict, scenes=scenes
        )
        return decoded

    def read_image(
        self, source: Source, *, max_pixels: int = MAX_PIXELS, min_pixels: int = MIN_PIXELS
    ) -> Frames:
        """`gve_ray.media.read_image` in the child, under the same limits. Raises what that raises, plus
        MediaError "timeout", "crashed" and "out_of_memory"."""
        frames: Frames = self._call(read_image, source, max_pixels=max_pixels, min_pixels=min_pixels)
        return frames

    def _call(self, function: Callable[..., Any], source: Source, *arguments: Any, **settings: Any) -> Any:
        """What `function(source, *arguments, limits=..., **settings)` returns or raises in the child."""
        request = pickle.dumps((function, source, arguments, settings))
        if self._child is None or self._child.poll() is not None:
            self._start()
        try:
            # Sending counts too: a child that hangs before it has read everything must not hang us.
            deadline = time.monotonic() + self.limits.wall_clock_s + _GRACE_SECONDS
            self._send(request, deadline)
            reply = self._receive(deadline)
        except TimeoutError:
            self.close()
            raise MediaError(
                Reason.TIMEOUT, f"killed after {self.limits.wall_clock_s:g} s on {_name(source)}"
            ) from None
        except (EOFError, BrokenPipeError):
            how = self._cause_of_death()
            self.close()
            raise MediaError(Reason.CRASHED, f"the decoder died ({how}) on {_name(source)}") from None
        except BaseException:
            self.close()  # an interrupt leaves a half-read reply behind
            raise
        ok, value = pickle.loads(reply)
        if ok:
            return value
        if isinstance(value, MediaError) and value.reason == Reason.OUT_OF_MEMORY:
            self.close()  # its heap is fragmented; the next video gets a fresh one
        raise value

    def close(self) -> None:
        """Kill the child, if any. The object can be used again: the next decode starts a new one."""
        child, self._child = self._child, None
        if child is not None:
            child.kill()
            child.wait()
            os.close(self._requests)
            os.close(self._replies)

    def __enter__(self) -> "DecodeProcess":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def __del__(self) -> None:
        self.close()

    def _start(self) -> None:
        self.close()
        child_in, self._requests = os.pipe()
        self._replies, child_out = os.pipe()
        os.set_blocking(self._requests, False)
        try:
            # Ray and pytest extend sys.path at run time; the child must find the same modules.
            env = os.environ | {
                "PYTHONPATH": os.pathsep.join(p for p in sys.path if p),
                "OMP_NUM_THREADS": "1",
            }
            self._child = subprocess.Popen(
                [sys.executable, "-m", "gve_ray.media.child", str(child_in), str(child_out)],
                stdin=subprocess.DEVNULL,
                pass_fds=(child_in, child_out),
                env=env,
                start_new_session=True,  # Ctrl-C is the parent's to handle
            )
        except BaseException:
            os.close(self._requests)
            os.close(self._replies)
            raise
        finally:
            os.close(child_in)
            os.close(child_out)
        deadline = time.monotonic() + _START_SECONDS
        try:
            self._send(pickle.dumps(self.limits), deadline)
            self._receive(deadline)
        except (TimeoutError, EOFError, BrokenPipeError) as error:
            how = self._cause_of_death()
            self.close()
            raise RuntimeError(
                f"the decoding process did not start ({how}); see its messages above"
            ) from error

    def _send(self, message: bytes, deadline: float) -> None:
        view = memoryview(LENGTH.pack(len(message)) + message)
        while view:
            _wait(self._requests, selectors.EVENT_WRITE, deadline)
            view = view[os.write(self._requests, view[: 1 << 16]) :]

    def _receive(self, deadline: float) -> bytes:
        (length,) = LENGTH.unpack(self._read(LENGTH.size, deadline))
        return self._read(length, deadline)

    def _read(self, n: int, deadline: float) -> bytes:
        parts = bytearray()
        while len(parts) < n:
            _wait(self._replies, selectors.EVENT_READ, deadline)
            part = os.read(self._replies, min(n - len(parts), 1 << 20))
            if not part:
                raise EOFError
            parts += part
        return bytes(parts)

    def _cause_of_death(self) -> str:
        assert self._child is not None
        try:
            code = self._child.wait(timeout=_GRACE_SECONDS)
        except subprocess.TimeoutExpired:
            return "pipe closed"
        return signal.Signals(-code).name if code < 0 else f"exit status {code}"


class DecodePool:
    """Decoding processes that threads take turns with. Each is started when it is first used.

    with pool.lend() as process: process.decode(...)
    """

    def __init__(self, limits: Limits, processes: int) -> None:
        self._all = [DecodeProcess(limits) for _ in range(processes)]
        self._idle: queue.LifoQueue[DecodeProcess] = queue.LifoQueue()  # one that has been started goes first
        for process in self._all:
            self._idle.put(process)

    @contextmanager
    def lend(self) -> Iterator[DecodeProcess]:
        """Take a process that no other thread uses; wait until one is free."""
        process = self._idle.get()
        try:
            yield process
        finally:
            self._idle.put(process)

    def close(self) -> None:
        """End the processes. None may be lent at the time."""
        for process in self._all:
            process.close()


def _wait(fd: int, event: int, deadline: float) -> None:
    with selectors.DefaultSelector() as selector:
        selector.register(fd, event)
        if not selector.select(max(0.0, deadline - time.monotonic())):
            raise TimeoutError


def _check_importable(plan: Any) -> None:
    function = getattr(plan, "func", plan)  # functools.partial carries its function here
    if callable(function) and getattr(function, "__module__", None) == "__main__":
        raise ValueError(f"plan {function!r} is defined in __main__; move it into an importable module")


def _name(source: Source) -> str:
    return f"{len(source)} bytes" if isinstance(source, bytes) else str(source)
