"""Decode in a child process that may crash, hang or run out of memory without harm to its parent.

FFmpeg is written in C, and some files crash it. The child is started once, reused for every video,
and replaced when it dies or exceeds its time. It is a plain subprocess (not a fork of a process
that holds threads, a GPU or Ray's state), so it works inside Ray actors. Parent and child talk over
a pipe that only they hold. Requests are pickles, in which a plan function is its import path; replies
are JSON and arrays (`reply`), so that a file that takes over the decoder cannot take over its
parent. `sandbox` says what the child can reach.
"""

import os
import pickle
import queue
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from multiprocessing import Pipe
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

from gve_ray.media.budget import MAX_PIXELS, MIN_PIXELS
from gve_ray.media.decode import DEFAULT_LIMITS, Decoded, Plan, decode, read_image
from gve_ray.media.limits import Limits, MediaError, Reason
from gve_ray.media.reply import MalformedReplyError, decode_reply
from gve_ray.media.sandbox import environment
from gve_ray.media.sound import Sound, read_sound
from gve_ray.media.source import Source
from gve_ray.media.subtitles import Cue, read_subtitle_tracks
from gve_ray.media.video.cut import Cut, cut
from gve_ray.schema import Frames

_START_SECONDS = 120.0  # for imports on a loaded machine; not counted against any video
_GRACE_SECONDS = 2.0  # the child checks its own clock between frames and reports more than a kill could


class DecodeProcess:
    """A child process that decodes. Use as a context manager, or call `close()`.

    It must not be shared between threads: only one call at a time is allowed. reads_uris: whether
    sources may be URIs; otherwise the child has neither credentials of storages nor, where the
    system allows that, a network.
    """

    def __init__(self, limits: Limits = DEFAULT_LIMITS, *, reads_uris: bool = True) -> None:
        self.limits, self._reads_uris = limits, reads_uris
        self._child: subprocess.Popen[bytes] | None = None
        self._pipe: Connection | None = None

    def decode(
        self,
        source: Source,
        plan: Plan,
        *,
        max_pixels: int = MAX_PIXELS,
        min_pixels: int = MIN_PIXELS,
        strict: bool = True,
        sampled: bool = False,
        scenes: float | None = None,
        keep_open: bool = False,
    ) -> Decoded:
        """Call `gve_ray.media.decode` in the child, under this object's limits.

        A callable plan must be importable in the child: a module-level function, not a lambda and
        not one defined in `__main__`. Raises what `decode` raises, plus MediaError "timeout",
        "crashed" and "out_of_memory".
        """
        _check_importable(plan)
        decoded: Decoded = self._call(
            decode,
            source,
            plan,
            max_pixels=max_pixels,
            min_pixels=min_pixels,
            strict=strict,
            sampled=sampled,
            scenes=scenes,
            keep_open=keep_open,
        )
        return decoded

    def read_image(
        self, source: Source, *, max_pixels: int = MAX_PIXELS, min_pixels: int = MIN_PIXELS
    ) -> Frames:
        """Call `gve_ray.media.read_image` in the child, under this object's limits.

        Raises what that raises, plus MediaError "timeout", "crashed" and "out_of_memory".
        """
        frames: Frames = self._call(read_image, source, max_pixels=max_pixels, min_pixels=min_pixels)
        return frames

    def read_subtitles(self, source: Source) -> list[Cue]:
        """Call `gve_ray.media.subtitles.read_subtitle_tracks` in the child; return the cues by time.

        Raises what that raises, plus MediaError "timeout", "crashed" and "out_of_memory".
        """
        return [Cue(start, end, text) for start, end, text in self._call(read_subtitle_tracks, source)]

    def cut(self, source: Source, target: Path, start: float, end: float, *, most: int) -> Cut:
        """Call `gve_ray.media.video.cut.cut` in the child, which writes the file `target`.

        Raises what that raises, plus MediaError "timeout", "crashed" and "out_of_memory".
        """
        result: Cut = self._call(cut, source, str(target), start, end, most)
        return result

    def read_sound(self, source: Source, *, start: float | None = None, seconds: float) -> Sound:
        """Call `gve_ray.media.sound.read_sound` in the child, under this object's limits.

        Raises what that raises, plus MediaError "timeout", "crashed" and "out_of_memory".
        """
        sound: Sound = self._call(read_sound, source, start=start, seconds=seconds)
        return sound

    def _call(self, function: Callable[..., Any], source: Source, *arguments: Any, **settings: Any) -> Any:
        """Call `function(source, *arguments, limits=..., **settings)` in the child; return or raise the same."""
        request = pickle.dumps((function, source, arguments, settings))
        name = f"{len(source)} bytes" if isinstance(source, bytes) else str(source)
        reply = self._reply(request, name)
        try:
            return decode_reply(reply)
        except MediaError as error:
            if error.reason == Reason.OUT_OF_MEMORY:
                self.close()  # its heap is fragmented; the next video gets a new process
            raise
        except MalformedReplyError as error:
            self.close()
            raise MediaError(
                Reason.CRASHED, f"the decoder sent a malformed reply ({error}) on {name}"
            ) from None

    def _reply(self, request: bytes, name: str, *, is_retry: bool = False) -> bytes:
        """Send a request to the child, which is started if necessary, and return the reply. Raises MediaError."""
        if self._child is None or self._child.poll() is not None:
            self._start()
        try:
            return self._exchange(request, self.limits.wall_clock_s + _GRACE_SECONDS)
        except TimeoutError:
            raise MediaError(
                Reason.TIMEOUT, f"killed after {self.limits.wall_clock_s:g} s on {name}"
            ) from None
        except EOFError as error:
            # No file causes this signal. The kernel may have sent it because the machine had no memory left.
            if str(error) == "SIGKILL" and not is_retry:
                return self._reply(request, name, is_retry=True)
            raise MediaError(Reason.CRASHED, f"the decoder died ({error}) on {name}") from None

    def close(self) -> None:
        """Kill the child, if there is one. The next call starts another."""
        child, self._child = self._child, None
        if child is not None:
            child.kill()
            child.wait()
        if self._pipe is not None:
            self._pipe.close()

    def __enter__(self) -> "DecodeProcess":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def __del__(self) -> None:
        self.close()

    def _start(self) -> None:
        self.close()
        self._pipe, child_end = Pipe()
        # Ray and pytest extend sys.path at run time; the child must find the same modules.
        env = environment(reads_uris=self._reads_uris) | {
            "PYTHONPATH": os.pathsep.join(p for p in sys.path if p),
            "OMP_NUM_THREADS": "1",
        }
        with child_end:
            self._child = subprocess.Popen(
                [sys.executable, "-m", "gve_ray.media.child", str(child_end.fileno())],
                stdin=subprocess.DEVNULL,
                pass_fds=(child_end.fileno(),),
                env=env,
                start_new_session=True,  # the parent handles Ctrl-C
            )
        try:
            self._exchange(pickle.dumps((self.limits, self._reads_uris)), _START_SECONDS)
        except (TimeoutError, EOFError) as error:
            raise RuntimeError(
                f"the decoding process did not start ({error}); see its messages above"
            ) from error

    def _exchange(self, message: bytes, seconds: float) -> bytes:
        """Send a message to the child and return the reply.

        Raises TimeoutError after so many seconds, and EOFError with the cause if the child dies. If
        there is no reply, the child is closed.
        """
        child, pipe = self._child, self._pipe
        assert child is not None
        assert pipe is not None
        expired = threading.Event()

        def expire() -> None:
            expired.set()
            child.kill()  # ends a `send_bytes` or `recv_bytes` that waits for the child

        timer = threading.Timer(seconds, expire)
        timer.daemon = True
        timer.start()
        reply = None
        try:
            pipe.send_bytes(message)
            reply = pipe.recv_bytes()
        except (EOFError, OSError):
            cause = _cause_of_death(child)
            raise (TimeoutError("no reply in time") if expired.is_set() else EOFError(cause)) from None
        finally:
            timer.cancel()
            timer.join()
            if reply is None or expired.is_set():
                self.close()  # an interrupt may leave half a reply in the pipe
        return reply


def _cause_of_death(child: "subprocess.Popen[bytes]") -> str:
    try:
        code = child.wait(timeout=_GRACE_SECONDS)
    except subprocess.TimeoutExpired:
        return "pipe closed"
    return signal.Signals(-code).name if code < 0 else f"exit status {code}"


class DecodePool:
    """Decoding processes that threads share. Each is started when it is first used.

    The process that was used last is lent first, so only as many are started as are needed at once.

    with pool.lend() as process: process.decode(...)
    """

    def __init__(self, limits: Limits, processes: int, *, reads_uris: bool = True) -> None:
        self._all = [DecodeProcess(limits, reads_uris=reads_uris) for _ in range(processes)]
        self._idle: queue.LifoQueue[DecodeProcess] = queue.LifoQueue()  # last in, first out
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


def _check_importable(plan: Any) -> None:
    function = getattr(plan, "func", plan)  # functools.partial carries its function here
    if callable(function) and getattr(function, "__module__", None) == "__main__":
        raise ValueError(f"plan {function!r} is defined in __main__; move it into an importable module")
