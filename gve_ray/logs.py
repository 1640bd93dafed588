"""Set up logging in text or JSON, and attach the job, run and stage to every log record.

Every record carries the job's name and the run's id (as in run.json). Records of stage workers also
carry the stage, and records of training processes their rank. The log is text by default. If
RAY_LOGGING_CONFIG_ENCODING=JSON is set, which is Ray's own switch, this process and Ray's workers
write one JSON object per line to stderr. Set RAY_DEDUP_LOGS=0 as well: otherwise Ray merges similar
lines of several workers into one line that is not valid JSON.
"""

import logging
import os
import re
import secrets
import threading
import time
from collections import deque
from collections.abc import Iterator, Mapping
from contextlib import contextmanager

SWITCH = "RAY_LOGGING_CONFIG_ENCODING"
# `gve_ray.console` recognizes warnings of workers by this format.
WORKER_FORMAT = "%(asctime)s %(levelname)s %(name)s: %(message)s"
COLOR = re.compile(r"\x1b\[[\d;]*m")  # Ray colors the names of workers even in files
LogContext = Mapping[str, str | int]

_context: LogContext = {}  # of the process: all its threads work for one run
_extra = threading.local()  # its `fields` are those of this thread, which may work for one of several stages


def new_run() -> str:
    """Return a new run id: the time in UTC and four random hex digits, so that ids sort by time."""
    return f"{time.strftime('%Y%m%d-%H%M%S', time.gmtime())}-{secrets.token_hex(2)}"


def log_context() -> dict[str, str | int]:
    """Return the fields that log records of this thread carry now, to be passed on to workers."""
    return {**_context, **_extra_fields()}


def metric_tags() -> dict[str, str]:
    """Return the job and the run as metric tags; the values are empty outside a run."""
    context = log_context()
    return {"gve_job": str(context.get("job", "")), "run": str(context.get("run", ""))}


@contextmanager
def extra_log_context(**fields: str | int) -> Iterator[None]:
    """Add fields to the log records of this thread until the block ends."""
    extend_log_context({})  # installs the factory
    before = _extra_fields()
    _extra.fields = {**before, **fields}
    try:
        yield
    finally:
        _extra.fields = before


def _extra_fields() -> LogContext:
    fields: LogContext = getattr(_extra, "fields", {})
    return fields


def extend_log_context(fields: LogContext) -> None:
    """Add fields to all log records of this process from now on."""
    global _context
    _context = {**_context, **fields}
    if not isinstance(logging.getLogRecordFactory(), _ContextRecordFactory):
        logging.setLogRecordFactory(_ContextRecordFactory())


class _ContextRecordFactory:
    """Create log records as the previous factory does, and add the log context to each.

    A logging filter would not do: Ray and its libraries replace handlers at any time.
    """

    def __init__(self) -> None:
        self._make = logging.getLogRecordFactory()

    def __call__(self, *args: object, **options: object) -> logging.LogRecord:
        record = self._make(*args, **options)
        # Ray's JSON formatter writes every non-standard field of a record, but not the logger's
        # name.
        record.__dict__.update(log_context(), logger=record.name)
        return record


def is_json() -> bool:
    """Return whether the log is written as JSON."""
    return os.environ.get(SWITCH) == "JSON"


def set_up_logging() -> None:
    """Set up the driver's log on stderr."""
    handler = text_handler()
    if os.environ.get(SWITCH):
        handler = _json_handler() if is_json() else handler
        # `ray.init` installs its own handler; without this filter each line would appear twice.
        handler.addFilter(lambda _: not _ray_is_initialized())
    logging.basicConfig(level=logging.INFO, handlers=[handler])
    extend_log_context({})


def set_up_rank(as_json: bool) -> None:
    """Set up the log of one training process on stderr, as JSON or as text.

    Ray Train gives its workers handlers that print only the message; these are replaced.
    """
    handler = _json_handler() if as_json else text_handler(WORKER_FORMAT)
    for logger in (logging.getLogger(), logging.getLogger("ray.train")):
        for old in logger.handlers[:]:
            if isinstance(old, logging.StreamHandler) and not isinstance(old, logging.FileHandler):
                logger.removeHandler(old)
        logger.addHandler(handler)


def set_up_worker() -> None:
    """Set up the log of a Ray worker that is no training process, on stderr. Calling it again is harmless.

    As JSON, Ray has done that already.
    """
    logger = logging.getLogger("gve_ray")
    if not is_json() and not logger.handlers:
        logger.addHandler(text_handler(WORKER_FORMAT))


def worker_log() -> str:
    """Return the file to which Ray sends the stderr of this worker; empty if it is no file."""
    try:
        path = os.readlink("/proc/self/fd/2")
    except OSError:  # not on Linux
        return ""
    return path if os.path.isfile(path) else ""


def last_lines(path: str | os.PathLike[str], lines: int = 20) -> list[str]:
    """Return the last lines of a log file, without colors; an empty list if the file is not on this node."""
    try:
        with open(path, errors="replace") as file:
            return [COLOR.sub("", line.rstrip()) for line in deque(file, lines)]
    except OSError:
        return []


def text_handler(format: str = "%(asctime)s %(message)s") -> logging.Handler:
    """Return a handler that writes lines of text to stderr."""
    handler = logging.StreamHandler()
    handler.setFormatter(logging.Formatter(format, datefmt="%H:%M:%S"))
    return handler


def _json_handler() -> logging.Handler:
    from ray._common.filters import CoreContextFilter
    from ray._common.formatters import JSONFormatter

    handler = logging.StreamHandler()
    handler.setFormatter(JSONFormatter())
    handler.addFilter(CoreContextFilter())
    return handler


def _ray_is_initialized() -> bool:
    import ray

    return bool(ray.is_initialized())
