"""How far an index job is, in a small file in the folder of the index, for its readers.

    with ProgressFile(folder) as file, file.step("check"):       # the job
        run_stage(...)
    read_progress(folder)                                        # a reader: IndexingProgress, or None

The job writes the file every few seconds, with the time, and deletes it at the end. If the job is killed, the
file stays, but readers ignore it when it is no longer new. So the clocks of both machines must agree roughly;
otherwise no progress is shown.
"""

import json
import logging
import threading
import time
from bisect import bisect_right
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from itertools import accumulate
from types import TracebackType
from typing import Literal, get_args

from pyarrow import fs

from gve_ray.progress import ProgressState, heard_by
from gve_ray.search.folder import PathOrUri
from gve_ray.store.runfolder import filesystem, write_atomically

log = logging.getLogger(__name__)

FILE = "progress.json"
_WRITE_SECONDS = 2.0
_NEW_SECONDS = 15.0
Step = Literal["check", "embed"]
STEPS: tuple[Step, ...] = get_args(Step)


@dataclass(frozen=True, kw_only=True)
class IndexingProgress:
    """step: whether files are checked or embedded. done, total: new and changed files of this run."""

    step: Step
    done: int
    total: int


class ProgressFile:
    """A context manager that keeps the file of a job up to date during the block. folder: of the index."""

    def __init__(self, folder: PathOrUri) -> None:
        self._files, self._path = filesystem(f"{str(folder).rstrip('/')}/{FILE}")
        self._progress: IndexingProgress | None = None
        self._changed, self._stop = threading.Event(), threading.Event()
        self._thread = threading.Thread(target=self._write, name="progress-file", daemon=True)

    def __enter__(self) -> "ProgressFile":
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, _: TracebackType | None
    ) -> None:
        self._stop.set()
        self._changed.set()
        self._thread.join()

    @contextmanager
    def step(self, name: Step, sizes: Sequence[int] | None = None) -> Iterator[None]:
        """Take the progress of the stage that runs in the block.

        sizes: number of rows of each file that the stage has still to do; None if each row is a file. As
        batches finish nearly in order, a file counts when the rows of it and of those before it are done.
        """
        ends = None if sizes is None else list(accumulate(sizes))

        def hear(state: ProgressState) -> None:
            done, total = state.done - state.first, state.total - state.first
            if ends is not None:
                done, total = bisect_right(ends, done), len(ends)
            if total > 0:
                self._progress = IndexingProgress(step=name, done=done, total=total)
                self._changed.set()

        with heard_by(hear):
            yield

    def _write(self) -> None:
        """Write the file when there is progress, and then every few seconds; delete it at the end."""
        self._changed.wait()
        try:
            while not self._stop.is_set():
                content = {**asdict(self._progress), "time": time.time()} if self._progress else {}
                write_atomically(self._files, self._path, json.dumps(content).encode())
                self._stop.wait(_WRITE_SECONDS)
            if self._files.get_file_info(self._path).type == fs.FileType.File:  # also that of a killed job
                self._files.delete_file(self._path)
        except OSError as error:  # the job does not need the file
            log.warning("%s: the progress of the job cannot be written: %s", self._path, error)


def read_progress(folder: PathOrUri) -> IndexingProgress | None:
    """Return how far the job that works on this folder is; None if none does."""
    files, path = filesystem(f"{str(folder).rstrip('/')}/{FILE}")
    try:
        with files.open_input_stream(path) as stream:
            content = json.loads(stream.read())
        step, done, total = content["step"], int(content["done"]), int(content["total"])
        is_new = abs(time.time() - float(content["time"])) < _NEW_SECONDS
    except (OSError, ValueError, KeyError, TypeError):
        return None
    return IndexingProgress(step=step, done=done, total=total) if is_new and step in STEPS else None
