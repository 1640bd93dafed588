"""Record the memory and the commits of a running job, by rows done.

    with Watch() as watch:
        synthesize(...)
    watch.memory(); watch.commits()

A thread samples twice per second. Memory means the private memory of a process, without shared
pages (the object store, mapped files). Rows done are read from the log lines of the stages.
"""

import logging
import re
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import psutil

from gve_ray.progress import ProgressState

_SECONDS = 0.5
_LOOK_FOR_PROCESSES = 10  # samples


@dataclass(frozen=True)
class Sample:
    """Bytes of the driver, of the largest worker, and of Ray's shared memory that was ever touched.

    rows: done in `phase` by this run; phase: the stage, or the last one that said something.
    """

    seconds: float
    phase: str
    rows: int
    driver: int
    worker: int
    shared: int


class Watch(logging.Handler):
    """Context manager that reads the logs of gve_ray while it is open."""

    def __init__(self) -> None:
        super().__init__(level=logging.DEBUG)
        self.samples: list[Sample] = []
        self.committed: dict[str, list[tuple[int, float]]] = {}  # (fragments, seconds) by store
        self._phase, self._rows = "start", 0
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._look, daemon=True)
        self._workers: list[psutil.Process] = []
        self._store: psutil.Process | None = None

    def __enter__(self) -> "Watch":
        self._log = logging.getLogger("gve_ray")
        self._level = self._log.level
        self._log.setLevel(logging.DEBUG)
        self._log.addHandler(self)
        self._begun = time.monotonic()
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join()
        self._log.removeHandler(self)
        self._log.setLevel(self._level)

    @property
    def seconds(self) -> float:
        return time.monotonic() - self._begun

    def emit(self, record: logging.LogRecord) -> None:
        """Handle a log record: progress of a stage, start of a filter, or a commit."""
        args = record.args if isinstance(record.args, tuple) else ()
        if len(args) == 1 and isinstance(args[0], ProgressState):
            self._phase, self._rows = args[0].label.partition(", part ")[0], args[0].done
        elif record.name == "gve_ray.store.dataset" and record.levelno == logging.DEBUG:
            uri, fragments, seconds = args
            assert isinstance(fragments, int)
            assert isinstance(seconds, float)
            # The name of a work store ends with a fingerprint.
            name = re.sub("-[0-9a-f]{16}", "", Path(str(uri)).stem)
            self.committed.setdefault(name, []).append((fragments, seconds))
        elif (name := str(record.msg).partition(":")[0]).isidentifier() and name != self._phase:
            self._phase, self._rows = name, 0

    def _look(self) -> None:
        me = psutil.Process()
        while not self._stop.wait(_SECONDS):
            if len(self.samples) % _LOOK_FOR_PROCESSES == 0:
                self._find(me)
            sizes = [_private(worker) for worker in self._workers]
            shared = 0 if self._store is None else self._store.memory_info().shared
            self.samples.append(
                Sample(self.seconds, self._phase, self._rows, _private(me), max(sizes, default=0), shared)
            )

    def _find(self, me: psutil.Process) -> None:
        workers = []
        for process in me.children(recursive=True):
            try:
                line = process.cmdline()
            except psutil.Error:
                continue
            if line and line[0].startswith("ray::"):
                workers.append(process)
            elif line and line[0].endswith("raylet"):
                self._store = process
        self._workers = workers

    def memory(self) -> dict[str, Any]:
        """Return MB of the driver and the largest worker at 10, 50 and 100 % of each phase, and
        bytes per row.
        """
        phases = list(dict.fromkeys(sample.phase for sample in self.samples))
        by_phase = {
            name: _of_phase([sample for sample in self.samples if sample.phase == name]) for name in phases
        }
        peak = {
            name: max(getattr(sample, name) for sample in self.samples)
            for name in ("driver", "worker", "shared")
        }
        where = {
            name: next(sample.phase for sample in self.samples if getattr(sample, name) == peak[name])
            for name in peak
        }
        return {
            "peak_mb": {name: _mb(size) for name, size in peak.items()},
            "peak_in": where,
            "by_phase": by_phase,
        }

    def driver_by_fifths(self) -> list[float]:
        """Return the median MB of the driver in each fifth of the time, so that short peaks do not count."""
        parts = np.array_split([sample.driver for sample in self.samples], 5)
        return [_mb(int(np.median(part))) for part in parts if len(part)]

    def commits(self) -> dict[str, Any]:
        """Return for each store the commits, the fragments, and the seconds of the first, last and
        longest commits.
        """
        return {
            name: {
                "commits": len(commits),
                "fragments": sum(fragments for fragments, _ in commits),
                "first_s": _seconds(commits[:3]),
                "last_s": _seconds(commits[-3:]),
                "longest_s": round(max(seconds for _, seconds in commits), 3),
            }
            for name, commits in self.committed.items()
        }

    def plot(self, path: Path, title: str) -> None:
        """Plot memory by rows through all stages."""
        from gve_ray.report import new_figure, png

        at, before, last = [], 0, ("", 0)
        marks: dict[str, float] = {}
        for sample in self.samples:
            if sample.phase != last[0]:
                before, last = before + last[1], (sample.phase, 0)
            last = (sample.phase, max(last[1], sample.rows))
            at.append((before + last[1]) / 1e6)
            marks.setdefault(sample.phase, at[-1])
        figure = new_figure(9, 3.6)
        axes = figure.add_subplot()
        for name, colour in (("driver", "#2f6f8f"), ("worker", "#d98032")):
            sizes = [getattr(sample, name) / 1e9 for sample in self.samples]
            axes.plot(at, sizes, color=colour, label={"driver": "driver", "worker": "largest worker"}[name])
        for i, (name, x) in enumerate(marks.items()):
            axes.axvline(x, color="#bbbbbb", linewidth=0.6)
            axes.annotate(name, (x, 0.98 - 0.055 * (i % 6)), xycoords=("data", "axes fraction"), fontsize=7)
        axes.set_xlabel("million rows through the stages")
        axes.set_ylabel("GB")
        axes.set_ylim(0)
        axes.set_title(title, fontsize=9)
        axes.legend(frameon=False, fontsize=8, loc="center left")
        axes.spines[["top", "right"]].set_visible(False)
        path.write_bytes(png(figure))


@contextmanager
def first_pairs(folder: Path) -> Iterator[dict[str, float]]:
    """Look for the first file of pairs while the block runs; its time is `at` in the dictionary."""
    seen, stop = dict[str, float](), threading.Event()

    def look() -> None:
        while not stop.wait(0.2):
            if any(folder.glob("task=*/part-*.parquet")):
                seen["at"] = time.time()
                return

    thread = threading.Thread(target=look, daemon=True)
    thread.start()
    try:
        yield seen
    finally:
        stop.set()
        thread.join()
        seen.setdefault("at", time.time())


def _private(process: psutil.Process) -> int:
    try:
        memory = process.memory_info()
    except psutil.Error:  # the process has ended
        return 0
    return int(memory.rss - memory.shared)


def _of_phase(samples: Sequence[Sample]) -> dict[str, Any]:
    most = max(sample.rows for sample in samples)
    summary: dict[str, Any] = {
        "seconds": round(samples[-1].seconds - samples[0].seconds, 1),
        "peak_driver_mb": _mb(max(sample.driver for sample in samples)),
        "peak_worker_mb": _mb(max(sample.worker for sample in samples)),
    }
    if not most:
        return summary
    rows = np.array([sample.rows for sample in samples])
    late = rows >= 0.1 * most
    for name in ("driver", "worker"):
        sizes = np.array([getattr(sample, name) for sample in samples])
        summary[f"{name}_mb"] = {
            f"{share:.0%}": _mb(int(sizes[int(np.argmax(rows >= share * most))])) for share in (0.1, 0.5, 1.0)
        }
        if len(set(rows[late])) > 2:
            summary[f"{name}_bytes_a_row"] = round(float(np.polyfit(rows[late], sizes[late], 1)[0]), 1)
    return {"rows": most, **summary}


def _seconds(commits: Sequence[tuple[int, float]]) -> list[float]:
    return [round(seconds, 3) for _, seconds in commits]


def _mb(size: int) -> float:
    return round(size / 1e6, 1)
