"""Do work once per node instead of once per rank, and share its result and its files with the node's ranks."""

import os
import pickle
import tempfile
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import TypeVar

from gve_ray.store.shared import make_scratch, remove_scratch
from gve_ray.training.gather import gather_objects, rank

Made = TypeVar("Made")


@contextmanager
def once_per_node(make: Callable[[Path], Made]) -> Iterator[Made]:
    """Call `make` on one rank of each node, with a new temporary folder; yield its result on all ranks.

    Every rank must enter the block, and all should leave it together, because the folder is deleted when
    the rank that made it leaves. No other process looks for the folder, so an incomplete or outdated one
    cannot be used; the folder of a killed process is deleted by the next process on the node that needs one.
    make: its result is pickled for the node's other ranks. An exception that it raises on any node is
    raised on every rank.
    """
    disk = _temporary_disk()
    maker = gather_objects(disk).index(disk)
    with ExitStack() as stack:
        outcome: Made | Exception | None = None
        if maker == rank():
            folder, lock = make_scratch()
            stack.callback(remove_scratch, folder, lock)
            try:
                outcome = make(folder)
            except Exception as error:  # noqa: BLE001 - raised below, on the waiting ranks too
                outcome = _picklable(error)
        outcomes = gather_objects(outcome)
        for failure in outcomes:
            if isinstance(failure, Exception):
                raise failure
        yield outcomes[maker]


def _temporary_disk() -> tuple[str, int, int]:
    """Identify the folder for temporary files: equal for two processes exactly if they share its files."""
    status = os.stat(tempfile.gettempdir())
    return Path("/proc/sys/kernel/random/boot_id").read_text(), status.st_dev, status.st_ino


def _picklable(error: Exception) -> Exception:
    """Return the error, or a RuntimeError with its message if it does not survive pickling."""
    try:
        pickle.loads(pickle.dumps(error))
    except Exception:  # noqa: BLE001 - a class may fail to pickle with any error
        return RuntimeError(f"{type(error).__name__}: {error}")
    return error
