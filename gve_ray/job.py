"""Run a job: set up its log, print its result or its error, and return its exit status.

sys.exit(run_job("train", lambda: train(config)))
"""

import logging
import os
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

from gve_ray.console import Console, print_result, quiet_output
from gve_ray.logs import extend_log_context, is_json, set_up_logging
from gve_ray.malloc import limit_arenas
from gve_ray.progress import Progress, is_displayed
from gve_ray.stage import StageError
from gve_ray.store import RunFolderError, StorageError, StoreError
from gve_ray.store.faults import is_storage_fault, storage_fault

log = logging.getLogger(__name__)

DONE, FAILED, WRONG, INTERRUPTED = 0, 1, 2, 130
VERBOSE = "--verbose"


class PreflightError(RuntimeError):
    """The job cannot run as configured; nothing has been written."""


class JobError(RuntimeError):
    """The job failed after it had begun; what it committed is kept.

    log_lines: the last lines of the log of the process that failed, if they are known.
    """

    def __init__(self, message: str, log_lines: Sequence[str] = ()) -> None:
        super().__init__(message)
        self.log_lines = log_lines


def run_job(name: str, work: Callable[[], object], *, verbose: bool = False) -> int:
    """Call `work`, print its result or the error that ended it, and return the exit status.

    name: of the job, for its log file. verbose: show the output of Ray and other libraries too,
    which otherwise goes to the log file only (`gve_ray.console`). As JSON the log is always
    complete. If `work` connects this process to Ray, it is disconnected at the end.

    0: done, 1: the job failed, 2: it could not start as configured, 130: it was interrupted.
    """
    logging.getLogger("faiss").setLevel(logging.WARNING)  # it logs every build of itself that it tries
    limit_arenas()
    with output_of(name, verbose=verbose) as console:
        try:
            return _run(work, console)
        except Exception:
            if console is not None:
                console.print(_last_lines(console))
            raise


def connect_to_ray(connect: Callable[[], object]) -> None:
    """Call `connect` with a live line. Raises JobError for whatever error Ray raises."""
    address = os.environ.get("RAY_ADDRESS", "local")
    progress = Progress("Ray", 1)
    status = "starting on this machine" if address == "local" else f"connecting to {address}"
    if not is_displayed():  # otherwise nothing would be printed for a minute or more on a busy machine
        log.info("Ray: %s", status)
    progress.wait_for(status)
    try:
        connect()
    except Exception as error:
        if is_storage_fault(error):
            raise JobError(str(storage_fault(error))) from error
        reason = (str(error).strip().splitlines() or [type(error).__name__])[0].rstrip(".")
        message = f"cannot connect to Ray at {address}: {reason}; check RAY_ADDRESS, RAY_AUTH_MODE and RAY_AUTH_TOKEN"
        if address == "local":
            message = f"cannot start or reach Ray on this machine: {reason}; make sure that it has free CPUs and memory"
        raise JobError(message) from error
    finally:
        progress.close()


@contextmanager
def output_of(name: str, *, verbose: bool = False) -> Iterator[Console | None]:
    """Yield the console of a quiet job, or None after setting up the log of one that shows everything.

    See `run_job` for the arguments. If the block connects a quiet job to Ray, it is disconnected at
    the end, while Ray's last output still goes to the log.
    """
    if verbose or is_json():
        set_up_logging()
        yield None
        return
    with quiet_output(name) as console:
        extend_log_context({})
        was_connected = _is_connected()
        try:
            yield console
        finally:
            if _is_connected() and not was_connected:
                sys.modules["ray"].shutdown()


def _run(work: Callable[[], object], console: Console | None) -> int:
    try:
        result = work()
    except (PreflightError, RunFolderError) as error:
        _print_error(f"error: {error}", console)
        return WRONG
    except (JobError, StageError, StoreError, StorageError) as error:
        if console is not None:
            console.print(_last_lines(console, getattr(error, "log_lines", ())))
        _print_error(f"error: {error}\nwhat was committed is kept: start the job again to continue", console)
        return FAILED
    except Exception as error:
        if (fault := storage_fault(error)) is None:
            raise
        if console is not None:
            console.print(_last_lines(console))
        _print_error(f"error: {fault}", console)
        return FAILED
    except KeyboardInterrupt:
        _print_error("interrupted; what was committed is kept: start the job again to continue", console)
        return INTERRUPTED
    print_result(str(result))
    return DONE


def _is_connected() -> bool:
    return "ray" in sys.modules and bool(sys.modules["ray"].is_initialized())


def _last_lines(console: Console, lines: Sequence[str] = ()) -> str:
    """Format the last lines of the failed process's log, or else of the whole log, and the log's path."""
    console.keep()
    shown = [f"  {line}" for line in lines or console.tail()]
    return "\n".join([*shown, f"log    {console.path}"])


def _print_error(message: str, console: Console | None) -> None:
    """Print a message in the format of the log: as a JSON record, or as plain text."""
    if console is not None:
        console.print(message)
    elif is_json():
        log.error("%s", message)
    else:
        print(message, file=sys.stderr)
