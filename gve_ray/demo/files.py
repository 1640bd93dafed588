"""Folders of rendered files: made in parallel with progress, each file whole or not at all."""

import json
import multiprocessing
import shutil
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar

from gve_ray.progress import Progress
from gve_ray.store.runfolder import filesystem, write_atomically

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
    progress = Progress(what, len(todo), unit="files")
    if workers == 1:
        for done, one in enumerate(todo, 1):
            make(one)
            progress.reach(done)
    else:
        # Spawned: the caller may have threads (Ray, torch) that a fork would freeze.
        context = multiprocessing.get_context("spawn")
        with ProcessPoolExecutor(workers, mp_context=context) as pool:
            for done, _ in enumerate(pool.map(make, todo, chunksize=2), 1):
                progress.reach(done)
