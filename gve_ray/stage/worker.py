"""The Ray actor that wraps a stage's worker.

It turns each failure of a row into a `Reject`, and every other failure into an error that ends the
job.
"""

import json
import logging
import os
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import pyarrow as pa

from gve_ray.logs import LogContext, extend_log_context, last_lines, set_up_worker, worker_log
from gve_ray.stage.in_flight import History
from gve_ray.stage.memory import ran_out_of_memory, this_process
from gve_ray.stage.metrics import WorkerMetrics
from gve_ray.stage.reporter import counted, send_status_with
from gve_ray.stage.shared import SharedObject
from gve_ray.stage.tokens import TokenCounts, send_tokens_with
from gve_ray.store import Store
from gve_ray.store.faults import is_storage_fault

log = logging.getLogger(__name__)

_MAX_FAILED_STARTS = 3
_MAX_OTHER_DEATHS = 16  # of workers with one batch in flight, beyond those that quarantine explains
_NO_MEMORY = "its node had no memory left"
_MORE_MEMORY = (
    "use nodes with more memory, fewer actors in the stage's resources, or end other programs there"
)

REJECT_SCHEMA = pa.schema(
    [
        ("video_id", pa.string()),
        ("stage", pa.string()),
        ("unit", pa.string()),  # what the row stands for: video, caption, query
        ("reason", pa.string()),
        ("detail", pa.string()),
        ("scores", pa.string()),  # JSON object
        ("attempts", pa.int32()),
    ]
)


class StageError(RuntimeError):
    """The stage fails: its worker cannot start, breaks its contract, or fails on every row.

    log_lines: the last lines of the log of the worker that failed, if they are known.
    """

    def __init__(self, message: str, log_lines: Sequence[str] = ()) -> None:
        super().__init__(message)
        self.log_lines = log_lines


class BrokenWorker(Exception):  # noqa: N818 - the name describes the state, not an error type
    """Raised by a worker whose process cannot continue (a dead engine); a new process replaces it."""


@dataclass(frozen=True)
class Reject:
    """Why a row has no output. `scores` are the numbers that the decision is based on."""

    reason: str
    detail: str = ""
    scores: Mapping[str, Any] = field(default_factory=dict)
    attempts: int = 1

    def row(self, key: str, *, stage: str, unit: str) -> dict[str, Any]:
        """Return this reject as a row of rejects.lance (`REJECT_SCHEMA`)."""
        return {
            "video_id": key,
            "stage": stage,
            "unit": unit,
            "reason": self.reason,
            "detail": self.detail,
            "scores": json.dumps(dict(self.scores), sort_keys=True),
            "attempts": self.attempts,
        }


@dataclass(frozen=True)
class Undone:
    """A row that its worker leaves to a later run, for a reason that has nothing to do with the row.

    The stage goes on, commits the rows that have a result, and then fails with the reason.
    """

    reason: str


Result = dict[str, Any] | Reject | Undone


@dataclass(frozen=True, kw_only=True)
class StageJob:
    """Everything an actor needs to know about its stage."""

    name: str
    worker: type
    worker_args: Mapping[str, Any]
    out: Store
    rejects: Store
    unit: str
    max_attempts: int
    max_errors_in_a_row: int
    in_flight: SharedObject  # an `InFlightRows`
    log_context: LogContext = field(default_factory=dict)  # for log records of the workers


# One batch of rows on its way to an actor. call, batch: say which rows it has. position: in the order in which
# batches are given out. given: when that was, by the monotonic clock of the driver's node. rows: from
# `to_bytes`; null if the batch is done already.
BATCH_SCHEMA = pa.schema(
    [
        ("call", pa.int64()),
        ("batch", pa.int64()),
        ("position", pa.int64()),
        ("given", pa.float64()),
        ("rows", pa.binary()),
    ]
)


def to_bytes(rows: pa.Table) -> bytes:
    """Return rows as an Arrow stream."""
    sink = pa.BufferOutputStream()
    with pa.ipc.new_stream(sink, rows.schema) as stream:
        stream.write_table(rows)
    return sink.getvalue().to_pybytes()


class StageActor:
    """The callable for Ray Data: takes a row of `BATCH_SCHEMA`, returns it as a row of `RECORD_SCHEMA`."""

    def __init__(self, job: StageJob) -> None:
        import ray

        set_up_worker()
        extend_log_context({**job.log_context, "stage": job.name})
        send_status_with(partial(job.in_flight.send, "status"))
        self._job = job
        self._metrics = WorkerMetrics(job.name)
        self._tokens = send_tokens_with(self._send_tokens)
        self._lock = _IsolationLock()
        self._actor = ray.get_runtime_context().get_actor_id()
        failed, before = self._job.in_flight.ask("starting", self._actor, this_process())
        # Whether the process that this one replaces was ended because its node had no memory left.
        self._lacked_memory = before is not None and ran_out_of_memory(before)
        try:
            if failed >= _MAX_FAILED_STARTS:
                reason = f"{_NO_MEMORY}; {_MORE_MEMORY}" if self._lacked_memory else "see its log"
                raise StageError(
                    f"its process died {failed} times in a row while starting: {reason}",
                    last_lines(before.log) if before else (),
                )
            self._worker = job.worker(**job.worker_args)
        except Exception as error:
            self._fail(f"its worker cannot start: {_sentence(error)}", error)
            raise
        self._job.in_flight.ask("started", self._actor)
        if self._lacked_memory:
            self._reduce_rows()

    def _send_tokens(self, total: TokenCounts, new: TokenCounts) -> None:
        # A restarted actor keeps its id, so its process is named, too.
        self._job.in_flight.send("tokens", f"{self._actor}/{os.getpid()}", total)
        self._metrics.tokens(new)

    def _fail(self, reason: str, error: Exception) -> None:
        """Tell the driver why this worker ends the job.

        Ray's error reaches the driver without the causes of the exception, so they are logged here,
        at a level that `gve_ray.console` does not show as a warning.
        """
        log.critical("%s: %s", self._job.name, reason, exc_info=error)
        self._job.in_flight.ask("fail", reason, getattr(error, "log_lines", ()) or last_lines(worker_log()))

    def __call__(self, message: pa.Table) -> pa.Table:
        (row,) = message.to_pylist()
        rows = row.pop("rows")
        try:
            record = {} if rows is None else self._batch(pa.ipc.open_stream(rows).read_all())
            return pa.Table.from_pylist([{**record, **row}], schema=RECORD_SCHEMA)
        except Exception as error:
            self._fail(_sentence(error), error)
            raise

    def _batch(self, batch: pa.Table) -> dict[str, Any]:
        started = time.monotonic()
        rows = batch.to_pylist()
        keys = [row[self._job.out.key] for row in rows]
        with self._lock.shared():
            earlier, history, at_once = self._job.in_flight.ask("begin", self._actor, keys)
            if earlier:
                self._metrics.retry()
            self._check_deaths(earlier, keys)
            if not history:
                outcomes: list[_Outcome] = []
                while len(outcomes) < len(rows):
                    outcomes += self._run(rows, len(outcomes), at_once)
                records = [self._record(rows, outcomes)]
        if history:
            with self._lock.alone():
                records = self._isolated(rows, history)
        errors = sum(record["errors"] for record in records)
        self._tokens.flush()
        consecutive = self._job.in_flight.ask("end", keys, errors)
        if consecutive >= self._job.max_errors_in_a_row:
            raise StageError(
                f"{consecutive} rows in a row raised an exception, the last: {records[-1]['error']}"
            )
        self._metrics.batch(time.monotonic() - started)
        return _merge(keys, records)

    def _reduce_rows(self) -> None:
        """Let batches have fewer rows at once, because the process before this one ran out of memory with some."""
        rows = self._job.in_flight.ask("ran_out_of_memory", self._actor)
        if rows is None:
            return
        had, allowed = rows
        rows_text = f"{had} rows" if had > 1 else "one row"
        then = (
            f"trying them one by one, and later batches with {allowed} at once" if had > 1 else "trying again"
        )
        log.warning(
            "%s: a worker with %s in work ended, because %s; %s", self._job.name, rows_text, _NO_MEMORY, then
        )

    def _check_deaths(self, earlier: int, keys: Sequence[str]) -> None:
        """Raise StageError if workers died too often with this batch in flight.

        Quarantine limits the deaths caused by single rows. This limits all others, for example
        those while results are written.
        """
        if earlier > (self._job.max_attempts + 1) * len(keys) + _MAX_OTHER_DEATHS:
            raise StageError(
                f"workers died {earlier} times on the batch that begins with {keys[0]!r}, more than its "
                "rows can explain; see the logs of the dead workers (out of memory? a full disk?)"
            )

    def _isolated(self, rows: Sequence[dict[str, Any]], history: History) -> list[dict[str, Any]]:
        """Process the rows one at a time, after a worker died with this batch in flight."""
        records: list[dict[str, Any]] = []
        for i, row in enumerate(rows):
            self._finished(rows, i)
            key = row[self._job.out.key]
            deaths, saved = history.get(key, (0, None))
            if saved is None:
                if deaths >= self._job.max_attempts:
                    outcome: _Outcome = (self._given_up(key, deaths), False)
                else:
                    self._job.in_flight.ask("begin_isolated", key)
                    (outcome,) = self._run(rows, i, 1)
                saved = self._record([row], [outcome])
                self._job.in_flight.ask("save", key, saved)
            records.append(saved)
        return records

    def _given_up(self, key: str, deaths: int) -> Reject | Undone:
        """Return the result of a row whose worker died too often while it had only this row."""
        detail = f"its worker died {deaths} times with no other row in flight"
        if self._lacked_memory:  # which says more about the node than about the row
            return Undone(f"{key!r}: {detail}, because {_NO_MEMORY}; {_MORE_MEMORY}")
        return Reject("quarantined", detail, attempts=deaths)

    def _run(self, batch: Sequence[dict[str, Any]], start: int, count: int) -> "list[_Outcome]":
        """Return the outcomes of some rows of a batch, which begin at `start`."""
        rows = batch[start : start + count]
        try:
            with counted(lambda done: self._finished(batch, start + done)):
                return [(result, False) for result in self._call(rows)]
        except StageError:
            raise
        except Exception as error:  # noqa: BLE001 - any other exception counts against the rows
            log.warning("%s: batch of %d raised %r; trying row by row", self._job.name, len(rows), error)
        outcomes: list[_Outcome] = []
        for row in rows:
            self._finished(batch, start + len(outcomes))
            outcomes.append(self._try(row))
        return outcomes

    def _finished(self, batch: Sequence[Mapping[str, Any]], rows: int) -> None:
        """Tell the driver, for its progress, how many rows of a batch are finished; do not wait for it."""
        self._job.in_flight.send("finished", batch[0][self._job.out.key], rows)

    def _try(self, row: dict[str, Any]) -> "_Outcome":
        for _ in range(self._job.max_attempts):
            try:
                return self._call([row])[0], False
            except StageError:
                raise
            except Exception as error:  # noqa: BLE001 - becomes this row's reject
                detail, is_fault = repr(error), is_storage_fault(error)
        if is_fault:  # which says nothing about the row
            raise StageError(detail)
        return Reject("error", detail, attempts=self._job.max_attempts), True

    def _call(self, rows: Sequence[dict[str, Any]]) -> list[Result]:
        job = self._job
        try:
            results = self._worker([dict(row) for row in rows])
        except BrokenWorker as error:
            log.error("%s: worker is broken (%s); replacing its process", job.name, error)
            logging.shutdown()
            # Exit rather than raise: Ray restarts an actor that dies, and its rows are then
            # isolated.
            os._exit(1)
        if len(results) != len(rows):
            raise StageError(
                f"{job.worker.__name__} returned {len(results)} results for {len(rows)} rows; return one per "
                "row"
            )
        for row, result in zip(rows, results, strict=True):
            check_result(job.worker.__name__, job.out, row, result)
        return list(results)

    def _record(self, rows: Sequence[dict[str, Any]], outcomes: "Sequence[_Outcome]") -> dict[str, Any]:
        """Write one fragment of outputs and one of rejects; return their metadata."""
        job = self._job
        good, bad, undone = [], [], []
        for row, (result, _) in zip(rows, outcomes, strict=True):
            if isinstance(result, Undone):
                undone.append(result.reason)
            elif isinstance(result, Reject):
                bad.append(result.row(row[job.out.key], stage=job.name, unit=job.unit))
            else:
                good.append(result)
        errors = [result for result, failed in outcomes if failed]
        return {
            "out": self._write(job.out, good),
            "rejects": self._write(job.rejects, bad),
            "reasons": [row["reason"] for row in bad],
            "undone": undone,
            "errors": len(errors),
            "error": errors[-1].detail if errors and isinstance(errors[-1], Reject) else "",
        }

    def _write(self, store: Store, rows: list[dict[str, Any]]) -> list[str]:
        return [store.write(to_table(self._job.worker.__name__, store, rows))] if rows else []


def check_result(name: str, out: Store, row: Mapping[str, Any], result: Any) -> None:
    """Raise StageError if the result of worker `name` for a row is not what `run_stage` asks for."""
    if isinstance(result, Reject | Undone):
        return
    if not isinstance(result, dict):
        raise StageError(
            f"{name} returned a {type(result).__name__} for row {row[out.key]!r}; return a dict or a Reject"
        )
    if result.get(out.key) != row[out.key]:
        key = result.get(out.key)
        raise StageError(f"{name} returned {out.key}={key!r} for row {row[out.key]!r}; keep the row's key")
    unknown = sorted(set(result) - set(out.schema.names))
    if unknown:
        raise StageError(
            f"{name} returned columns {unknown}, which {out.uri} does not have; its columns are "
            f"{out.schema.names}"
        )


def to_table(name: str, store: Store, rows: list[dict[str, Any]]) -> pa.Table:
    """Convert rows of worker `name` to a table of the store. Raises StageError for a wrong type."""
    try:
        return pa.Table.from_pylist(rows, schema=store.schema)
    except (pa.ArrowInvalid, pa.ArrowTypeError, pa.ArrowNotImplementedError) as error:
        raise StageError(f"{name}: a value does not fit its column in {store.uri}: {error}") from error


def _sentence(error: BaseException) -> str:
    text = " ".join(str(error).split())
    return text if isinstance(error, StageError) else f"{type(error).__name__}: {text}"


_Outcome = tuple[Result, bool]  # the result, and whether the row raised

RECORD_SCHEMA = pa.schema(
    [
        ("keys", pa.list_(pa.string())),
        ("out", pa.list_(pa.string())),
        ("rejects", pa.list_(pa.string())),
        ("reasons", pa.list_(pa.string())),  # one per rejected row
        ("undone", pa.list_(pa.string())),  # a reason per row without a result
        ("errors", pa.int64()),
        *(field for field in BATCH_SCHEMA if field.name != "rows"),
    ]
)


def _merge(keys: Sequence[str], records: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    return {
        "keys": list(keys),
        "out": [text for record in records for text in record["out"]],
        "rejects": [text for record in records for text in record["rejects"]],
        "reasons": [reason for record in records for reason in record["reasons"]],
        "undone": [reason for record in records for reason in record["undone"]],
        "errors": sum(record["errors"] for record in records),
    }


class _IsolationLock:
    """Lets many batches run at once, or one isolated batch while nothing else runs in the process.

    Without it, an actor with several concurrent calls could blame a row for a death that another
    row's call caused.
    """

    def __init__(self) -> None:
        self._changed = threading.Condition()
        self._running = 0
        self._isolating = False
        self._waiting = 0

    @contextmanager
    def shared(self) -> Iterator[None]:
        """Hold the lock for a batch that may run along with others; wait for isolated batches."""
        with self._changed:
            self._changed.wait_for(lambda: not self._isolating and not self._waiting)
            self._running += 1
        try:
            yield
        finally:
            with self._changed:
                self._running -= 1
                self._changed.notify_all()

    @contextmanager
    def alone(self) -> Iterator[None]:
        """Hold the lock for a batch that must run alone in this process."""
        with self._changed:
            self._waiting += 1
            self._changed.wait_for(lambda: not self._isolating and not self._running)
            self._waiting -= 1
            self._isolating = True
        try:
            yield
        finally:
            with self._changed:
                self._isolating = False
                self._changed.notify_all()
