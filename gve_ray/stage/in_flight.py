"""Track which rows are in flight, so that a row that kills its worker is identified and given up.

The tracker also collects what the driver shows of the workers: their status and their finished rows.

The tracker is an object that the driver shares with the workers (shared.py). It outlives them: a worker that
replaces a dead one learns from it which rows were in flight at the death.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from gve_ray.stage.memory import WorkerProcess
from gve_ray.stage.tokens import TokenCounts

# By key: how often the row's worker died while it processed only this row, and the row's saved
# result, if any.
History = dict[str, tuple[int, dict[str, Any] | None]]


@dataclass(frozen=True, kw_only=True)
class Activity:
    """What the workers of a stage do now.

    workers: number of workers that are ready. status: what the last one that reported it does
    before its first batch. finished: finished rows of each batch in work, by the batch's first key.
    tokens: of all workers until now.
    """

    workers: int = 0
    status: str = ""
    finished: Mapping[str, int] = field(default_factory=dict)
    tokens: TokenCounts = field(default_factory=TokenCounts)


@dataclass(frozen=True, kw_only=True)
class Failure:
    """Why a worker ends the job. lines: the last lines of its log."""

    reason: str = ""
    lines: Sequence[str] = ()


class InFlightRows:
    """Tracks rows in flight, deaths of workers with a single row, and results of such rows."""

    def __init__(self) -> None:
        self._unfinished_starts: dict[str, int] = {}
        self._processes: dict[str, WorkerProcess] = {}
        self._ready: set[str] = set()
        self._status = ""
        self._finished: dict[str, int] = {}
        self._tokens: dict[str, TokenCounts] = {}
        self._failure = Failure()
        self._in_flight: set[str] = set()
        self._batch_starts: dict[str, int] = {}
        # The actor of each batch in work, and how many rows it processes at once, by the batch's first key.
        self._rows_at_once: dict[str, tuple[str, int]] = {}
        self._most_rows: int | None = None
        self._isolated_tries: dict[str, int] = {}
        self._saved: dict[str, dict[str, Any]] = {}
        self._consecutive_errors = 0

    def starting(self, actor: str, process: WorkerProcess) -> tuple[int, WorkerProcess | None]:
        """Record that an actor starts, and its process.

        Returns how many of its last starts did not finish, and its previous process.
        """
        failed = self._unfinished_starts.get(actor, 0)
        self._unfinished_starts[actor] = failed + 1
        before = self._processes.get(actor)
        self._processes[actor] = process
        return failed, before

    def started(self, actor: str) -> None:
        """Record that an actor has finished starting."""
        self._unfinished_starts[actor] = 0
        self._ready.add(actor)

    def status(self, status: str) -> None:
        """Record what a worker does before its first batch."""
        self._status = status

    def finished(self, first_key: str, rows: int) -> None:
        """Record how many rows of a batch in work are finished."""
        if first_key in self._batch_starts:  # the sender does not wait, so the batch may have ended before
            self._finished[first_key] = rows

    def tokens(self, process: str, counts: TokenCounts) -> None:
        """Record all tokens of one process of a worker until now."""
        self._tokens[process] = counts

    def activity(self) -> Activity:
        """Return what the workers do now."""
        return Activity(
            workers=len(self._ready),
            status=self._status,
            finished=dict(self._finished),
            tokens=sum(self._tokens.values(), TokenCounts()),
        )

    def fail(self, reason: str, lines: Sequence[str] = ()) -> None:
        """Record why a worker ends the job, and the last lines of its log; only the first call counts."""
        if not self._failure.reason:
            self._failure = Failure(reason=reason, lines=tuple(lines))

    def failure(self) -> Failure:
        """Return the first failure given to `fail`; its reason is empty if there was none."""
        return self._failure

    def begin(self, actor: str, keys: Sequence[str]) -> tuple[int, History, int]:
        """Mark the rows of a batch as in flight in an actor.

        Returns how often this batch was begun before, the history of those of its rows that were
        already in flight, and how many of its rows to process at once: one, if there is a history.
        """
        earlier = self._batch_starts.get(keys[0], 0)
        self._batch_starts[keys[0]] = earlier + 1
        history = {
            key: (self._isolated_tries.get(key, 0), self._saved.get(key))
            for key in keys
            if key in self._in_flight
        }
        self._in_flight.update(keys)
        at_once = 1 if history else min(len(keys), self._most_rows or len(keys))
        self._rows_at_once[keys[0]] = (actor, at_once)
        return earlier, history, at_once

    def ran_out_of_memory(self, actor: str) -> tuple[int, int] | None:
        """Let later batches have fewer rows at once, because the process of an actor ran out of memory.

        Returns how many rows it had at once, and how many are allowed from now on; None if it had no batch.
        """
        batches = {key: rows for key, (whose, rows) in self._rows_at_once.items() if whose == actor}
        if not batches:
            return None
        had = max(batches.values())
        self._most_rows = min(max(1, had // 2), self._most_rows or had)
        for key in batches:  # their rows are now tried one by one
            del self._rows_at_once[key]
        return had, self._most_rows

    def begin_isolated(self, key: str) -> None:
        """Count a try in which the worker processes only this row."""
        self._isolated_tries[key] = self._isolated_tries.get(key, 0) + 1

    def save(self, key: str, record: dict[str, Any]) -> None:
        """Keep the result of an isolated row, in case a later row of its batch kills the worker."""
        self._saved[key] = record

    def end(self, keys: Sequence[str], errors: int) -> int:
        """Forget the rows of a batch that has been written.

        errors: how many of the rows raised. Returns the number of consecutive rows that raised,
        over all workers.
        """
        self._consecutive_errors = self._consecutive_errors + errors if errors == len(keys) else 0
        self._batch_starts.pop(keys[0], None)
        self._rows_at_once.pop(keys[0], None)
        self._finished.pop(keys[0], None)
        for key in keys:
            self._in_flight.discard(key)
            self._isolated_tries.pop(key, None)
            self._saved.pop(key, None)
        return self._consecutive_errors
