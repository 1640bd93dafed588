"""Keep an index up to date while the files of its input change.

    watch(config, update_of, record=run.record)      # until Ctrl-C or SIGTERM

The input is listed every few seconds, which works on all kinds of storage. When a file has come, changed or gone,
the index is updated as `gve index` would do it. A file that is still being written waits (`Intake`).
"""

import logging
import signal
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from typing import TYPE_CHECKING, Any, Protocol

from gve_ray.console import print_result
from gve_ray.indexing.catalog import read_catalog
from gve_ray.indexing.config import IndexConfig, PollingConfig
from gve_ray.indexing.files import Look, indexed_files, look_at
from gve_ray.inputs.table import kind_of
from gve_ray.job import JobError, PreflightError
from gve_ray.media.digest import media_stamp
from gve_ray.media.source import file_facts
from gve_ray.search.index import FieldType
from gve_ray.stage import StageError
from gve_ray.store import StoreError

if TYPE_CHECKING:
    from gve_ray.indexing.run import IndexResult

log = logging.getLogger(__name__)

_LOOK_SHARE = 0.2  # of the time that looks may take
_AGAIN_SECONDS = 600.0  # until files that were rejected for a passing reason are tried again
_MOST_FAILURES = 5  # updates in a row
_LOOKING = ("gve_ray.inputs.listing", "gve_ray.inputs.manifest", "gve_ray.indexing.files", __name__)

File = Mapping[str, Any]  # a row of `Look.files`


class NoSegmentsError(JobError):
    """There is no index yet, and no file from which one could be made."""


class Update(Protocol):
    """Makes the index contain exactly these files, at each call; see gve_ray.indexing.run."""

    def __call__(self, files: Sequence[File], *, again: bool) -> "IndexResult":
        """Update the index. again: whether to try files again that failed for a reason that may have passed."""

    def has_transient_rejects(self) -> bool:
        """Return whether there are such files."""

    def close(self) -> None:
        """End the actors."""


def watch(
    config: IndexConfig,
    update_of: Callable[[Mapping[str, FieldType]], Update],
    *,
    record: Callable[..., object],
    next_look: Callable[[], None],
) -> str:
    """Update the index whenever the input changes, and return the final message after Ctrl-C or SIGTERM.

    update_of: returns what updates an index with these fields of the user's columns. record: adds values to
    run.json. next_look: of `only_news`. An update that fails is repeated; if that does not help, or the first
    one fails, its error is raised: StageError, StoreError, JobError or OSError.
    """
    # After `connect`, because Ray installs a handler of SIGTERM that ends the program at once.
    before = signal.signal(signal.SIGTERM, signal.default_int_handler)
    watching = _Watching(config, update_of, record)
    try:
        while True:
            next_look()
            _pause(watching.step())
    except KeyboardInterrupt:
        log.info("index: stopping")
        return f"stopped  after {watching.updates} updates"
    finally:
        watching.close()
        signal.signal(signal.SIGTERM, before)


def _pause(seconds: float) -> None:
    time.sleep(seconds)


class _Watching:
    """The state of `watch` between two looks. updates: how many there were."""

    def __init__(
        self,
        config: IndexConfig,
        update_of: Callable[[Mapping[str, FieldType]], Update],
        record: Callable[..., object],
    ) -> None:
        self._config, self._update_of, self._record = config, update_of, record
        self._intake = Intake(config, indexed_files(read_catalog(config.output)))
        self._update: Update | None = None
        self._fields: Mapping[str, FieldType] = {}  # of `_update`
        self._indexed: Sequence[File] | None = None  # by the last update
        self._tried_again = 0.0
        self._failures = self.updates = 0

    def step(self) -> float:
        """Look at the input, update the index if it has changed, and return the seconds until the next look."""
        started = time.monotonic()
        try:
            look = self._intake.look()
        except (PreflightError, OSError) as error:
            log.warning("%s; the index stays as it is", error)
            look = None
        pause = max(self._config.polling.seconds, (time.monotonic() - started) * (1 / _LOOK_SHARE - 1))
        if look is None:
            return pause
        files = self._intake.wanted(look, time.monotonic())
        again = time.monotonic() - self._tried_again > _AGAIN_SECONDS
        if files and (files != self._indexed or (again and self._has_transient_rejects())):
            pause *= 2 ** self._try_to_index(files, look.fields, again=again)
        return pause

    def close(self) -> None:
        """End the actors."""
        if self._update is not None:
            self._update.close()
            self._update = None

    def _has_transient_rejects(self) -> bool:
        return self._update is not None and self._update.has_transient_rejects()

    def _try_to_index(self, files: Sequence[File], fields: Mapping[str, FieldType], *, again: bool) -> int:
        """Update the index; return how often in a row this has failed."""
        try:
            self._index(files, fields, again=again)
        except NoSegmentsError as error:
            log.warning("%s; waiting for other files", error)
            self._indexed = files
        except (JobError, StageError, StoreError, OSError) as error:
            self.close()  # its actors may be broken
            self._failures += 1
            if not self.updates or self._failures == _MOST_FAILURES:
                raise
            log.warning("the update failed and will be repeated: %s", error)
        else:
            self._failures = 0
        return self._failures

    def _index(self, files: Sequence[File], fields: Mapping[str, FieldType], *, again: bool) -> None:
        started = time.monotonic()
        if self._update is None or fields != self._fields:
            self.close()
            self._update, self._fields = self._update_of(fields), fields
            again = True
        if again:
            self._tried_again = started
        result = self._update(files, again=again)
        self._record(result=asdict(result))
        if not self.updates:
            print_result(f"{result}\nwatching  {self._config.input}; stop with Ctrl-C or SIGTERM")
        else:
            log.info("index: %s in %.1f s", _news(result), time.monotonic() - started)
        self.updates += 1
        self._indexed = files
        self._intake.indexed(files)


class Intake:
    """Decides which files an update indexes.

    A new or changed file waits until it has stayed the same for `settle_seconds`; until then, a changed one
    counts as it was. A file stays in the index if it is not certain that it is gone: if it cannot be looked at,
    or if more than `most_removed` of all files are gone at once.

    indexed: the files of the last update (rows of `Look.files`).
    """

    def __init__(self, config: IndexConfig, indexed: Sequence[File]) -> None:
        self._config = config
        self._seen: dict[str, tuple[str, float]] = {}  # the state of each file, and since when it has it
        self._source: tuple[str, float] = ("", 0.0)  # the same of a manifest
        self.indexed(indexed)

    def indexed(self, files: Sequence[File]) -> None:
        """Take note of the files that are in the index now."""
        self._indexed = {str(file["video_id"]): file for file in files}

    def look(self) -> Look | None:
        """Return what `look_at` does; None while a manifest is being written."""
        stamp, now = _stamp_of_file(self._config.input), time.monotonic()
        if stamp and stamp != self._source[0]:
            self._source = (stamp, now)
        if stamp and now - self._source[1] < self._polling.settle_seconds:
            return None
        return look_at(self._config)

    def wanted(self, look: Look, now: float) -> list[File]:
        """Return the files that the index should have, sorted by id. now: of the monotonic clock."""
        seen: dict[str, tuple[str, float]] = {}
        wanted: list[File] = []
        for file in look.files:
            key, state = file["video_id"], _state(file)
            old, before = self._indexed.get(key), self._seen.get(key)
            seen[key] = before if before is not None and before[0] == state else (state, now)
            if old is not None and _state(old) == state:
                wanted.append(file)  # its caption may have changed
            elif old is not None and key in look.unknown:
                wanted.append(old)
            elif now - seen[key][1] >= self._polling.settle_seconds:
                wanted.append(file)
            elif old is not None:
                wanted.append(old)
        self._seen = seen
        return sorted([*wanted, *self._kept(seen)], key=lambda file: str(file["video_id"]))

    def _kept(self, listed: Mapping[str, object]) -> list[File]:
        """Return the files in the index that are no longer listed and must not leave it."""
        missing = [file for key, file in self._indexed.items() if key not in listed]
        if len(missing) > self._polling.most_removed * len(self._indexed):
            log.warning(
                "input=%r: %d of %d videos are gone at once, first %s; they stay in the index. If they are to leave "
                "it, stop this job, and run gve index once without --watch",
                self._config.input,
                len(missing),
                len(self._indexed),
                missing[0]["uri"],
            )
            return missing
        kept = [file for file in missing if not _is_certain(file["uri"])]
        if kept:
            log.warning(
                "input=%r: %d videos cannot be looked at, first %s; they stay in the index",
                self._config.input,
                len(kept),
                kept[0]["uri"],
            )
        return kept

    @property
    def _polling(self) -> PollingConfig:
        return self._config.polling


def _state(file: File) -> str:
    """Return what changes with a file and with its subtitle files."""
    return str(file["words"] or file["version"])


def _stamp_of_file(source: str) -> str:
    """Return the stamp of an input that is one file, such as a manifest; "" for others."""
    try:
        return media_stamp(source) if kind_of(source).name == "File" else ""
    except (OSError, ValueError, ImportError):
        return ""


def _is_certain(uri: str) -> bool:
    """Return whether the storage says clearly that a file exists, or that it does not."""
    try:
        file_facts(uri)
    except (FileNotFoundError, NotADirectoryError):
        return True
    except (OSError, ValueError, ImportError):
        return False
    return True


def _news(result: "IndexResult") -> str:
    changes = [
        f"{result.videos[state]} {state}"
        for state in ("added", "changed", "removed", "rejected")
        if result.videos[state]
    ]
    return f"{', '.join(changes) or 'no changes'}; {result.videos['in']} videos, {result.segments['out']} segments"


class _News(logging.Filter):
    """Lets a warning pass unless it was there during the look before, too."""

    def __init__(self) -> None:
        super().__init__()
        self._before: set[str] = set()
        self._now: set[str] = set()

    def next_look(self) -> None:
        """Begin with the messages of the next look."""
        self._before, self._now = self._now, set()

    def filter(self, record: logging.LogRecord) -> bool:
        if record.levelno < logging.WARNING:
            return True
        self._now.add(record.getMessage())
        return record.getMessage() not in self._before


@contextmanager
def only_news() -> Iterator[Callable[[], None]]:
    """Log warnings about the input only when they are new; yields a function to call before each look but the first."""
    news = _News()
    loggers = [logging.getLogger(name) for name in _LOOKING]
    for logger in loggers:
        logger.addFilter(news)
    try:
        yield news.next_look
    finally:
        for logger in loggers:
            logger.removeFilter(news)
