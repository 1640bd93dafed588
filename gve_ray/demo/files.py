"""Write folders of rendered files in parallel, with progress, each file atomically."""

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
    """Return the rows as JSON lines."""
    return "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)


def write_text(path: Path, text: str) -> None:
    """Write a text file atomically."""
    write_atomically(*filesystem(str(path)), text.encode())


@contextmanager
def partial_folder(folder: Path) -> Iterator[None]:
    """Create `folder`/partial for unfinished files, and remove it when the block ends without an
    error.
    """
    (folder / "partial").mkdir(exist_ok=True)
    yield
    shutil.rmtree(folder / "partial")


def make_files(label: str, make: Callable[[T], object], todo: Sequence[T], *, workers: int) -> None:
    """Call `make` on each item of `todo`, and report the progress.

    label: name of the work. make: must be picklable. workers: number of processes; with
    1, this process does the work.
    """
    progress = Progress(label, len(todo), unit="files")
    if workers == 1:
        for done, item in enumerate(todo, 1):
            make(item)
            progress.reach(done)
    else:
        # A fork could deadlock, because the caller may run threads (Ray, torch), so processes are
        # spawned.
        progress.wait_for(f"starting {workers} processes")
        context = multiprocessing.get_context("spawn")
        with ProcessPoolExecutor(workers, mp_context=context) as pool:
            for done, _ in enumerate(pool.map(make, todo, chunksize=2), 1):
                progress.reach(done)
