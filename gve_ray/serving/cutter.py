"""Cut moments out of indexed videos, as mp4 files, and keep the last ones on disk.

    cutter = Cutter(limits)
    moment = await cutter.cut(uri, 60.0, 70.0, fingerprint=..., name="film")

A player or a download asks for a large file in parts (`gve_ray.serving.files`), so the file stays for
the next request. Each cut is made in a decoding process, since the video is foreign.
"""

import asyncio
import hashlib
import json
import os
import shutil
from collections import OrderedDict
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory, gettempdir

import psutil

from gve_ray.media import DecodeProcess, Limits, MediaError
from gve_ray.media.source import local_path
from gve_ray.media.video.cut import Cut
from gve_ray.serving.errors import ApiError
from gve_ray.serving.reader import http_status

_PREFIX = "gve-moments-"  # of folders, followed by the number of their process


@dataclass(frozen=True, kw_only=True)
class CutFile:
    """An mp4 of a moment on disk. tag: identifies its content."""

    path: Path
    size: int
    tag: str
    cut: Cut


class Cutter:
    """Cuts moments of at most max_seconds.

    max_bytes: of all files that are kept; the one that was not used for longest is deleted first. It is
    also the most that one file may have.
    """

    def __init__(self, limits: Limits, *, max_seconds: float, max_bytes: int) -> None:
        self._max_seconds, self._max_bytes = max_seconds, max_bytes
        _delete_abandoned()
        self._folder = TemporaryDirectory(prefix=f"{_PREFIX}{os.getpid()}-")
        # Only what reads URIs has a network and the credentials of storages.
        self._processes = {is_uri: DecodeProcess(limits, reads_uris=is_uri) for is_uri in (False, True)}
        self._threads = {is_uri: ThreadPoolExecutor(1, "gve-cut") for is_uri in self._processes}
        self._files: OrderedDict[str, asyncio.Task[CutFile]] = OrderedDict()  # last used last

    async def cut(self, uri: str, start: float, end: float, *, fingerprint: str, name: str) -> CutFile:
        """Return the moment [start, end] of a video. fingerprint: of its content. name: of its file.

        Raises ApiError. If the task is cancelled, the file is finished for the next request.
        """
        if end - start > self._max_seconds:
            raise ApiError(
                413,
                f"this moment is {end - start:.1f} s long; the limit is {self._max_seconds:g} s: "
                "download the whole file",
                code="moment_too_long",
            )
        tag = hashlib.sha256(json.dumps([fingerprint, start, end]).encode()).hexdigest()[:32]
        task = self._files.get(tag)
        if task is None:
            path = Path(self._folder.name) / tag / f"{Path(name).stem} {_clock(start)}-{_clock(end)}.mp4"
            task = self._files[tag] = asyncio.create_task(self._make(uri, start, end, tag, path))
            task.add_done_callback(lambda done: self._tidy(tag, done))
        self._files.move_to_end(tag)
        return await asyncio.shield(task)

    def close(self) -> None:
        """Stop the processes after what they are cutting, and delete the files."""
        for is_uri, process in self._processes.items():
            self._threads[is_uri].shutdown(wait=True, cancel_futures=True)
            process.close()
        self._folder.cleanup()

    async def _make(self, uri: str, start: float, end: float, tag: str, path: Path) -> CutFile:
        is_uri = local_path(uri) is None

        def work() -> CutFile:
            path.parent.mkdir()
            made = self._processes[is_uri].cut(uri, path, start, end, most=self._max_bytes)
            return CutFile(path=path, size=path.stat().st_size, tag=tag, cut=made)

        try:
            return await asyncio.get_running_loop().run_in_executor(self._threads[is_uri], work)
        except MediaError as error:
            detail = error.detail.replace(uri, path.name)  # a URI may contain keys
            raise ApiError(
                http_status(error.reason), f"no moment can be cut out: {detail}", code=str(error.reason)
            ) from error

    def _tidy(self, tag: str, done: "asyncio.Task[CutFile]") -> None:
        """Forget a cut that failed; after one that did not, delete old files until all of them fit."""
        if done.cancelled() or done.exception() is not None:
            self._delete(tag)
            return
        sizes = {tag: task.result().size for tag, task in self._files.items() if task.done()}
        for old in list(sizes):
            if old != tag and sum(sizes.values()) > self._max_bytes:
                del sizes[old]
                self._delete(old)

    def _delete(self, tag: str) -> None:
        del self._files[tag]
        shutil.rmtree(Path(self._folder.name, tag), ignore_errors=True)


def _delete_abandoned() -> None:
    """Delete the folders of processes on this machine that were killed before they could do so."""
    for folder in Path(gettempdir()).glob(f"{_PREFIX}*"):
        owner = folder.name.removeprefix(_PREFIX).partition("-")[0]
        if owner.isdecimal() and not psutil.pid_exists(int(owner)):
            shutil.rmtree(folder, ignore_errors=True)


def _clock(seconds: float) -> str:
    """Return a time for a file name: h.mm.ss."""
    whole = round(seconds)
    return f"{whole // 3600}.{whole // 60 % 60:02d}.{whole % 60:02d}"
