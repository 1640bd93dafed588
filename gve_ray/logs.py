"""What every record of the log says of where it comes from, and the two forms of the log.

Records carry job and run, the name that run.json has for this start of the job; those of workers carry stage
or rank, too. People get text. With RAY_LOGGING_CONFIG_ENCODING=JSON, which is Ray's own switch, this process
and Ray's workers write an object a line on stderr; RAY_DEDUP_LOGS=0 beside it, or Ray writes lines of several
workers that are alike as one that is no JSON.
"""

import logging
import os
import secrets
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager

SWITCH = "RAY_LOGGING_CONFIG_ENCODING"
Marks = Mapping[str, str | int]

_marks: Marks = {}  # of the process: its threads write for the same run


def new_run() -> str:
    """A name for one start of a job: when it was (UTC), and four letters against chance. Sorts by time."""
    return f"{time.strftime('%Y%m%d-%H%M%S', time.gmtime())}-{secrets.token_hex(2)}"


def marks() -> dict[str, str | int]:
    """What records carry now: whoever starts a worker hands it on."""
    return dict(_marks)


def origin() -> dict[str, str]:
    """Job and run as tags of metrics; empty outside a run."""
    return {"gve_job": str(_marks.get("job", "")), "run": str(_marks.get("run", ""))}


@contextmanager
def marked(**more: str | int) -> Iterator[None]:
    """All records of this process carry these, too, while the block lasts."""
    global _marks
    before = _marks
    mark(more)
    try:
        yield
    finally:
        _marks = before


def mark(more: Marks) -> None:
    """All records of this process carry these, too, from now on."""
    global _marks
    _marks = {**_marks, **more}
    if not isinstance(logging.getLogRecordFactory(), _Marking):
        logging.setLogRecordFactory(_Marking())


class _Marking:
    """Makes records as they were made before, and marks them. Not a filter: Ray and its libraries replace
    handlers as they like."""

    def __init__(self) -> None:
        self._make = logging.getLogRecordFactory()

    def __call__(self, *args: object, **options: object) -> logging.LogRecord:
        record = self._make(*args, **options)
        # Ray's JSON has whatever a record holds beyond the standard, and leaves its logger's name out.
        record.__dict__.update(_marks, logger=record.name)
        return record


def is_json() -> bool:
    """Whether the log is for programs."""
    return os.environ.get(SWITCH) == "JSON"


def set_up_logging() -> None:
    """The driver's log, on stderr."""
    handler = _text_handler()
    if os.environ.get(SWITCH):
        handler = _json_handler() if is_json() else handler
        handler.addFilter(lambda _: not _is_ray_there())  # `ray.init` brings a handler of its own
    logging.basicConfig(level=logging.INFO, handlers=[handler])
    mark({})


def set_up_rank(as_json: bool) -> None:
    """The log of a rank, on stderr. Ray Train has put handlers for text in the place of those of the switch."""
    if not as_json:
        logging.basicConfig(level=logging.INFO, handlers=[_text_handler()])
        return
    handler = _json_handler()
    for logger in (logging.getLogger(), logging.getLogger("ray.train")):
        for old in logger.handlers[:]:
            if isinstance(old, logging.StreamHandler) and not isinstance(old, logging.FileHandler):
                logger.removeHandler(old)
        logger.addHandler(handler)


def _text_handler() -> logging.Handler:
    handler = logging.StreamHandler()
    handler.setFormatter(logging.Formatter("%(asctime)s %(message)s", datefmt="%H:%M:%S"))
    return handler


def _json_handler() -> logging.Handler:
    from ray._common.filters import CoreContextFilter
    from ray._common.formatters import JSONFormatter

    handler = logging.StreamHandler()
    handler.setFormatter(JSONFormatter())
    handler.addFilter(CoreContextFilter())
    return handler


def _is_ray_there() -> bool:
    import ray

    return bool(ray.is_initialized())
