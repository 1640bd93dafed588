"""Folders of rendered files: made in parallel with progress, each file whole or not at all."""

import json
import logging
import multiprocessing
import shutil
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar

from gve_ray.store.runfolder import filesystem, write_atomically

log = logging.getLogger(__name__)

_PROGRESS_SECONDS = 5.0

T = TypeVar("T")


def json_lines(rows: Iterable[Mapping[str, Any]]) -> str:
    """One line of JSON a row."""
    return "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)


def write_text(path: Path, text: str) -> None:
    """Write a file that readers see whole or not at all."""
    write_atomically(*filesystem(str(path)), text.encode())


@contextmanager
def partial_folder(folder: Path) -> Iterator[None]:
    """`folder`/partial, where files are made before they get their names; gone when all of them have."""
    (folder / "partial").mkdir(exist_ok=True)
    yield
    shutil.rmtree(folder / "partial")


def make_files(what: str, make: Callable[[T], object], todo: Sequence[T], *, workers: int) -> None:
    """Call `make`, which can be pickled, on each of `todo`, with a line of progress every few seconds.

    what: names the lines. workers: processes (1: this one).
    """
    start = last = time.monotonic()

    def progress(done: int) -> None:
        nonlocal last
        now = time.monotonic()
        if now - last > _PROGRESS_SECONDS or done == len(todo):
            rate = done / (now - start)
            left = (len(todo) - done) / rate
            log.info("%s: %d/%d files, %.1f files/s, %.0f s left", what, done, len(todo), rate, left)
            last = now

    if workers == 1:
        for done, one in enumerate(todo, 1):
            make(one)
            progress(done)
    else:
        # Spawned: the caller may have threads (Ray, torch) that a fork would freeze.
        context = multiprocessing.get_context("spawn")
        with ProcessPoolExecutor(workers, mp_context=context) as pool:
            for done, _ in enumerate(pool.map(make, todo, chunksize=2), 1):
                progress(done)
