"""Run a job: set up its log, print its result or its error, and return its exit status.

sys.exit(run_job(lambda: train(config)))
"""

import logging
import sys
from collections.abc import Callable

from gve_ray.logs import is_json, set_up_logging
from gve_ray.stage import StageError
from gve_ray.store import RunFolderError, StoreError

log = logging.getLogger(__name__)

DONE, FAILED, WRONG, INTERRUPTED = 0, 1, 2, 130


class PreflightError(RuntimeError):
    """The job cannot run as configured; nothing has been written."""


class JobError(RuntimeError):
    """The job failed after it had begun; what it committed is kept."""


def run_job(work: Callable[[], object]) -> int:
    """Call `work`, print its result or the error that ended it, and return the exit status.

    0: done, 1: the job failed, 2: it could not start as configured, 130: it was interrupted.
    """
    set_up_logging()
    logging.getLogger("faiss").setLevel(logging.WARNING)  # it logs every build of itself that it tries
    try:
        result = work()
    except (PreflightError, RunFolderError) as error:
        _print_error(f"error: {error}")
        return WRONG
    except (JobError, StageError, StoreError) as error:
        _print_error(f"error: {error}\nwhat was committed is kept: start the job again to continue")
        return FAILED
    except KeyboardInterrupt:
        _print_error("interrupted; what was committed is kept: start the job again to continue")
        return INTERRUPTED
    print(result)
    return DONE


def _print_error(message: str) -> None:
    """Print a message in the format of the log: as a JSON record, or as plain text."""
    if is_json():
        log.error("%s", message)
    else:
        print(message, file=sys.stderr)
