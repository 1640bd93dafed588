"""Plans that the decoding child imports: valid ones, and ones that crash it or hang."""

import os
import signal
import socket
import time

import numpy as np

from gve_ray.media import FrameRequest, VideoInfo


def halves(info: VideoInfo) -> list[FrameRequest]:
    """Two frames from each half, planned from the probed duration."""
    middle = info.duration / 2
    return [FrameRequest(k=2, end=middle), FrameRequest(k=2, start=middle)]


def segfault(info: VideoInfo) -> list[FrameRequest]:
    os.kill(os.getpid(), signal.SIGSEGV)
    raise AssertionError("still alive")


def be_killed(info: VideoInfo) -> list[FrameRequest]:
    os.kill(os.getpid(), signal.SIGKILL)
    raise AssertionError("still alive")


def hang(info: VideoInfo) -> list[FrameRequest]:
    time.sleep(600)
    raise AssertionError("never killed")


def leave(info: VideoInfo) -> list[FrameRequest]:
    os._exit(3)


def eat_memory(info: VideoInfo) -> list[FrameRequest]:
    kept = [np.ones(1 << 27, dtype=np.uint8) for _ in range(100)]  # 128 MiB each, touched
    raise AssertionError(f"{len(kept)} blocks fitted")


def refuse(info: VideoInfo) -> list[FrameRequest]:
    raise LookupError("no such shot")


def print_noise(info: VideoInfo) -> list[FrameRequest]:
    print("a library that talks on stdout")
    return [FrameRequest(k=2)]


def tell_environment(info: VideoInfo) -> list[FrameRequest]:
    raise LookupError(" ".join(os.environ))


def connect_to(port: int, info: VideoInfo) -> list[FrameRequest]:
    with socket.create_connection(("127.0.0.1", port), timeout=5):
        raise LookupError("connected")
