"""Keep the terminal quiet: what libraries and workers print goes to a log file.

    with quiet_output("index") as console:
        ...                                 # prints, warnings and Ray's output go to console.path
        console.print("14 videos indexed")  # reaches the user

The file descriptors 1 and 2 of the process are replaced, because much of the output comes from C++
code, and from Ray, which prints the output of all workers in the driver. The user sees the INFO
records of `gve_ray` in this process, its warnings in the workers, and the few warnings of Ray that
call for action. On a terminal, a live line shows the steps in progress (`gve_ray.progress`).

The log file begins in a temporary folder. `log_to` moves it to the folder of the run; without that,
it is deleted at the end, unless `Console.keep` is called. A file that
grows beyond 256 MB is renamed to `*.log.1` and replaces the previous one of that name.
"""

import io
import logging
import os
import re
import shutil
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import IO, Any

from gve_ray.logs import COLOR, WORKER_FORMAT, last_lines, text_handler
from gve_ray.progress import NAME as PROGRESS
from gve_ray.progress import ProgressState, shown_by

MAX_BYTES = 256 * 2**20
_POLL_SECONDS = 1.0
# Ray prefixes the lines of a worker with "(Name pid=1, ip=10.0.0.1)".
_WORKER_WARNING = re.compile(r"pid=\d+(?:, ip=[^)]*)?\) (?:[\d:]+ )?(?:WARNING|ERROR) gve_ray[\w.]*: (.*)")
_CLUSTER_WARNING = re.compile(
    r"\((?:raylet|autoscaler)[^)]*\) (.*(?:memory pressure|is over \d+% full|cannot be scheduled|"
    r"No available node types|[Nn]o space left on device).*)"
)

_active: "Console | None" = None


@contextmanager
def quiet_output(name: str) -> Iterator["Console"]:
    """Send all output to a log file during the block, except what a user needs; see the module.

    name: of the job, for the log file. Within another such block, this one changes nothing.
    """
    global _active
    if _active is not None:
        yield _active
        return
    _active = console = Console(name)
    try:
        with shown_by(console) if console.is_terminal else nullcontext():
            yield console
    finally:
        _active = None
        console.close()


def print_result(text: str) -> None:
    """Print to the stdout of the user."""
    if _active is None:
        print(text, flush=True)
    else:
        _active.print(text, result=True)


@contextmanager
def show_only(logger: str, *, seconds: float) -> Iterator[None]:
    """Show fewer lines of a quiet job during the block; the log file has all of them.

    Shown are warnings, the records of `logger` and of those below it, and a line of progress if
    nothing was shown for so many seconds.
    """
    if _active is None:
        yield
        return
    with _active.only(logger, seconds):
        yield


def lines_printed() -> int:
    """Return how many lines a quiet job has printed so far, without the live line."""
    return _active.lines if _active is not None else 0


def is_quiet() -> bool:
    """Return whether the output of this process goes to a log file."""
    return _active is not None


def log_to(path: str | None) -> None:
    """Continue the log of a quiet job in a local file, to which its content so far moves; name the file.

    path: None keeps the temporary file, for a run whose folder is not on a disk.
    """
    if _active is not None:
        if path is not None:
            _active.log_to(Path(path))
        _active.keep()
        _active.print(f"log  {_active.path}")


class Console:
    """The user's view of a job whose other output goes to a log file. Thread-safe.

    path: the log file. lines: number of printed lines.
    """

    def __init__(self, name: str) -> None:
        self._lock = threading.RLock()
        self._before = sys.stdout, sys.stderr
        for stream in self._before:
            stream.flush()
        self._fds = os.dup(1), os.dup(2)
        self._out = _stream(self._fds[0], 1, sys.stdout)
        self._err = _stream(self._fds[1], 2, sys.stderr)
        self.is_terminal = self._err.isatty() and os.environ.get("TERM") != "dumb"
        self.lines = 0
        self._live: Any = None  # rich's Progress
        self._tasks: dict[str, Any] = {}
        self._scratch = Path(tempfile.mkdtemp(prefix="gve-"))
        self.path = self._scratch / f"{name}.log"
        self._is_kept = False
        # All lines belong in the log file. Ray reads this when it is imported.
        os.environ.setdefault("RAY_DEDUP_LOGS", "0")
        self._divert()
        sys.stdout = sys.stderr = io.TextIOWrapper(
            io.BufferedWriter(_LogFile(2, "w", closefd=False)), errors="backslashreplace", line_buffering=True
        )
        self._handler = _ConsoleHandler(self)
        self._file_handler = text_handler(WORKER_FORMAT)
        self._level = logging.getLogger().level
        logging.getLogger().setLevel(logging.INFO)
        logging.getLogger("gve_ray").addHandler(self._handler)
        logging.getLogger().addHandler(self._file_handler)
        self._watched, self._warned = 0, set[str]()
        self._stop = threading.Event()
        self._watcher = threading.Thread(target=self._watch, name="gve-console", daemon=True)
        self._watcher.start()

    # ---- Output

    def print(self, message: str, *, result: bool = False) -> None:
        """Show a message to the user.

        result: print it to stdout instead of stderr, after the warnings that the log file has so far.
        """
        with self._lock:
            if result:
                self._read()
            live = self._live
            if live is not None:
                live.stop()  # erases the live line
            stream = self._out if result else self._err
            print(message, file=stream, flush=True)
            self.lines += message.count("\n") + 1
            if live is not None:
                live.start()

    def show(self, state: ProgressState) -> None:
        """Show a step as a live line."""
        with self._lock:
            is_first = self._live is None
            if is_first:
                self._live = _live_line(self._err)
            if state.label not in self._tasks:
                self._tasks[state.label] = self._live.add_task(state.label, text="")
            self._live.update(
                self._tasks[state.label],
                # Without a total, the bar pulses.
                total=None if state.status and not state.done else state.total,
                completed=state.done,
                text=str(state).removeprefix(f"{state.label}: "),
            )
            if is_first:
                self._live.start()

    def hide(self, label: str) -> None:
        """Remove the live line of a step."""
        with self._lock:
            if (task := self._tasks.pop(label, None)) is not None:
                self._live.remove_task(task)
            if self._live is not None and not self._tasks:
                self._live.stop()
                self._live = None

    def tail(self) -> list[str]:
        """Return the last lines of the log file."""
        sys.stderr.flush()
        return last_lines(self.path)

    @contextmanager
    def only(self, logger: str, seconds: float) -> Iterator[None]:
        """See `show_only`."""
        shown = time.monotonic()

        def is_shown(record: logging.LogRecord) -> bool:
            nonlocal shown
            is_own = f"{record.name}.".startswith(f"{logger}.") or record.levelno >= logging.WARNING
            is_due = record.name == PROGRESS and time.monotonic() - shown >= seconds
            if is_own or is_due:
                shown = time.monotonic()
            return is_own or is_due

        self._handler.addFilter(is_shown)
        try:
            yield
        finally:
            self._handler.removeFilter(is_shown)

    # ---- The log file

    def log_to(self, path: Path) -> None:
        """Continue the log in another file; what the temporary file has so far moves there."""
        with self._lock:
            path.parent.mkdir(parents=True, exist_ok=True)
            before, self.path = self.path, path
            is_temporary = before.parent == self._scratch
            with before.open("rb") as old:
                if is_temporary:
                    with path.open("ab") as new:
                        shutil.copyfileobj(old, new)
                self._divert()
                if is_temporary:
                    with path.open("ab") as new:  # what was written meanwhile
                        shutil.copyfileobj(old, new)
                    before.unlink()
            if not is_temporary:
                self._watched = 0

    def keep(self) -> None:
        """Keep the log file, wherever it is, when the console closes."""
        self._is_kept = True

    def close(self) -> None:
        """Restore the output of the process."""
        self._stop.set()
        self._watcher.join()
        with self._lock:
            for label in list(self._tasks):
                self.hide(label)
            logging.getLogger("gve_ray").removeHandler(self._handler)
            logging.getLogger().removeHandler(self._file_handler)
            sys.stdout.flush()
            sys.stdout, sys.stderr = self._before
            for number, fd in enumerate(self._fds, 1):
                os.dup2(fd, number)
                os.close(fd)
            logging.getLogger().setLevel(self._level)
            if not self._is_kept or self.path.parent != self._scratch:
                shutil.rmtree(self._scratch, ignore_errors=True)

    def _divert(self) -> None:
        """Make the descriptors 1 and 2 append to the log file."""
        fd = os.open(self.path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
        os.dup2(fd, 1)
        os.dup2(fd, 2)
        os.close(fd)

    # ---- Warnings

    def _watch(self) -> None:
        while not self._stop.wait(_POLL_SECONDS):
            self._read()
        self._read()

    def _read(self) -> None:
        """Show the warnings in what was added to the log file, each only once."""
        with self._lock:
            if not self.path.exists():
                return
            with self.path.open("rb") as file:
                file.seek(self._watched)
                new = file.read()
            new = new[: new.rfind(b"\n") + 1]
            self._watched += len(new)
            for line in COLOR.sub("", new.decode(errors="replace")).splitlines():
                match = _WORKER_WARNING.search(line) or _CLUSTER_WARNING.search(line)
                if match is None:
                    continue
                kind = re.sub(r"\d+", "#", match[1])
                if kind not in self._warned:
                    self._warned.add(kind)
                    self.print(f"warning: {match[1]}")
            if self._watched > MAX_BYTES:
                self.path.replace(self.path.with_suffix(".log.1"))
                self._divert()
                self._watched = 0


class _LogFile(io.FileIO):
    """The log file. What cannot be written there, because its disk is full, is lost."""

    def write(self, data: Any) -> int:
        try:
            return super().write(data)
        except OSError:
            return memoryview(data).nbytes


class _ConsoleHandler(logging.Handler):
    """Shows log records to the user, except those of steps that the live line shows."""

    def __init__(self, console: Console) -> None:
        super().__init__(logging.INFO)
        self._console = console
        self.setFormatter(text_handler().formatter)

    def emit(self, record: logging.LogRecord) -> None:
        if not getattr(record, "is_displayed", False):
            try:
                self._console.print(self.format(record))
            except Exception:  # noqa: BLE001 - as all handlers of logging do
                self.handleError(record)


def _stream(fd: int, number: int, stream: IO[str]) -> IO[str]:
    """Return a stream to what `stream` writes to now, where `fd` is a copy of descriptor `number`."""
    try:
        is_original = stream.fileno() == number
    except (OSError, ValueError, AttributeError, io.UnsupportedOperation):
        is_original = False
    return open(fd, "w", buffering=1, errors="backslashreplace", closefd=False) if is_original else stream


def _live_line(stream: IO[str]) -> Any:
    """Return rich's progress display on a terminal; it disappears when it stops."""
    from rich.console import Console as RichConsole
    from rich.progress import BarColumn, Progress, TextColumn
    from rich.table import Column

    # rich would measure descriptors 1 and 2, which are the log. Some terminals say 0: it decides then.
    columns = os.get_terminal_size(stream.fileno()).columns or None
    return Progress(
        TextColumn("{task.description}", markup=False, table_column=Column(no_wrap=True, min_width=12)),
        BarColumn(bar_width=24, table_column=Column(min_width=24)),
        TextColumn(
            "{task.fields[text]}",
            markup=False,
            table_column=Column(no_wrap=True, overflow="ellipsis", ratio=1),  # only this one shrinks
        ),
        expand=True,
        console=RichConsole(file=stream, force_terminal=True, width=columns),
        transient=True,
        redirect_stdout=False,
        redirect_stderr=False,
        refresh_per_second=4,
    )
