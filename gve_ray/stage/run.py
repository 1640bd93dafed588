"""Drive a stage: find the rows that are still to do, run them on a pool of actors, count the results."""

import threading
import time
from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import partial
from types import TracebackType
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from gve_ray.config import StageResources
from gve_ray.logs import extra_log_context, log_context
from gve_ray.stage.committer import Committer
from gve_ray.stage.in_flight import Activity, InFlightRows
from gve_ray.stage.metrics import StageMetrics
from gve_ray.stage.pool import ActorPool
from gve_ray.stage.shared import SharedObject, share
from gve_ray.stage.tokens import TokenCounts
from gve_ray.stage.worker import StageError, StageJob
from gve_ray.store import Store


@dataclass(frozen=True, kw_only=True)
class StagePace:
    """How fast a run of a stage was, on all its actors together.

    rows: done in this run. start_seconds: until the actors began; None if that is unknown, because there
    was one batch only. row_seconds: time per row after that, or, if it is unknown, with it.
    """

    rows: int
    start_seconds: float | None
    row_seconds: float

    @classmethod
    def of(cls, *, rows: int, seconds: float, first_rows: int, first_seconds: float) -> "StagePace":
        """Compute the pace from the whole run, and from its first batch to arrive."""
        rest = rows - first_rows
        if rest <= 0:
            return cls(rows=rows, start_seconds=None, row_seconds=seconds / rows)
        row_seconds = (seconds - first_seconds) / rest
        start = max(0.0, first_seconds - first_rows * row_seconds)
        return cls(rows=rows, start_seconds=start, row_seconds=row_seconds)

    def with_part(self, other: "StagePace") -> "StagePace":
        """Return the pace of two parts of a run together; this one was the first."""
        rows = self.rows + other.rows
        seconds = self.rows * self.row_seconds + other.rows * other.row_seconds
        return replace(self, rows=rows, row_seconds=seconds / rows)


@dataclass(frozen=True, kw_only=True)
class StageCounts:
    """The row counts of a stage over all its runs: n_in = n_out + n_rejected.

    seconds: wall-clock time of this run only. pace: of this run; None if nothing was left to do. tokens: of the
    stage's workers in this run until now, in all parts; None if they report none.
    """

    name: str
    n_in: int
    n_out: int
    n_rejected: int
    seconds: float
    pace: StagePace | None = None
    tokens: TokenCounts | None = None

    def __post_init__(self) -> None:
        if self.n_in != self.n_out + self.n_rejected:
            raise StageError(
                f"stage {self.name}: {self.n_in} in, but {self.n_out} out + {self.n_rejected} rejected; "
                "another program has changed its stores"
            )


def run_stage(
    name: str,
    *,
    pending: pa.Table,
    worker: type,
    worker_args: Mapping[str, Any],
    out: Store,
    rejects: Store,
    resources: StageResources,
    unit: str = "video",
    commit_seconds: float = 5.0,
) -> StageCounts:
    """Run every row of `pending` that is neither in `out` nor rejected by this stage yet.

    The arguments and errors are those of `StageRunner` and of its `run`.
    """
    with StageRunner(
        name,
        worker=worker,
        worker_args=worker_args,
        out=out,
        rejects=rejects,
        resources=resources,
        unit=unit,
        commit_seconds=commit_seconds,
    ) as runner:
        return runner.run(pending)


class StageRunner:
    """A context manager that runs the rows of a stage, in one part or in many, on the same actors.

    worker: a class that each actor instantiates once as `worker(**worker_args)`. It is called with a
    list of row dicts and returns one result per row in the same order: a dict with the columns of
    `out`, including the row's key, a `Reject`, or `Undone`. rejects: a store of `REJECT_SCHEMA`. unit: what a
    row stands for, as written to `rejects`. commit_seconds: how often results become visible;
    `math.inf` commits a part once, at its end. is_open: `run` may be called several times before
    `stop`, with the rows of several parts. keeps_actors: the runner may be entered again and again, also
    after others have deleted rows from its stores; its actors live until `stop`, or until an error.
    Only one runner at a time may write to `out`; several may write to `rejects` if they are of one job and
    share the `Store` object.

    Entering opens the stores, and deletes what killed runs have left there, so no worker may write
    to them yet. Leaving ends the actors, unless the runner keeps them, and merges small fragments, so no
    worker may read from them any more.

    Ray waits for resources that no node has: check before that the actors fit
    (`gve_ray.preflight`).
    """

    def __init__(
        self,
        name: str,
        *,
        worker: type,
        worker_args: Mapping[str, Any],
        out: Store,
        rejects: Store,
        resources: StageResources,
        unit: str = "video",
        commit_seconds: float = 5.0,
        is_open: bool = False,
        keeps_actors: bool = False,
    ) -> None:
        self._name, self._worker, self._worker_args, self._unit = name, worker, worker_args, unit
        self._out, self._rejects, self._resources = out, rejects, resources
        self._commit_seconds, self._is_open = commit_seconds, is_open or keeps_actors
        self._keeps_actors = keeps_actors
        self._pool: ActorPool | None = None
        self._job: StageJob | None = None
        self._metrics: StageMetrics | None = None
        self._lock = threading.Lock()  # of the three above
        self._error: StageError | None = None
        self._new_rows = 0
        self._tokens = TokenCounts()  # of actors that have ended

    def __enter__(self) -> "StageRunner":
        self._out.create().clean()
        self._rejects.create().clean()
        self._committed = _committed(self._name, self._out, self._rejects)
        self._new_rows = 0
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, _: TracebackType | None
    ) -> None:
        if kind is not None:
            self.fail(StageError(f"stage {self._name}: stopped"))
        if kind is not None or not self._keeps_actors:
            self.stop()
        if kind is None and self._new_rows:
            self._check_stores()
            self._out.compact()
            self._rejects.compact()

    def run(self, pending: pa.Table, *, part: int = 0, label: str = "") -> StageCounts:
        """Run every row of `pending` that is neither in `out` nor rejected by this stage yet.

        pending: one row per key, with small columns only (keys, URIs, texts); a worker reads large data
        from a `Store` by key. part: its number; several threads may run parts at the same time, and the
        actors take the rows of the lowest part first. No key may be in two parts. label: of the progress;
        by default the stage's name.

        Raises ValueError if the keys of `pending` are not unique; StageError if the worker cannot start,
        breaks its contract, or fails on every row, if no batch finishes, or if rows are `Undone`.
        """
        started = time.monotonic()
        _check_pending(self._name, pending, self._out.key)
        keys = pending.column(self._out.key)
        done, rejected = (pc.is_in(keys, value_set=committed) for committed in self._committed)
        n_done, n_rejected = _count_true(done), _count_true(rejected)
        todo = pending.filter(pc.invert(pc.or_(done, rejected)))
        pace, tokens = None, TokenCounts()
        if todo.num_rows:
            job, pool = self._started()
            first_keys = todo.column(self._out.key).to_pylist()[:: self._resources.batch_size]
            with extra_log_context(stage=self._name):
                committer = Committer(
                    self._name,
                    self._out,
                    self._rejects,
                    total=pending.num_rows,
                    done=n_done,
                    rejected=n_rejected,
                    commit_seconds=self._commit_seconds,
                    activity=partial(_activity, job.in_flight),
                    batches=frozenset(first_keys),
                    metrics=self._metrics,
                    part=part,
                    label=label,
                )
                with committer:
                    for record in pool.run(todo, order=part):
                        committer.add(record)
            if committer.undone:
                raise StageError(
                    f"stage {self._name}: {len(committer.undone):,} rows are not done: {committer.undone[0]}"
                )
            first_rows, arrived = committer.first
            # The first part waits for the start of the actors, the others for the parts before them.
            begun = max(started, pool.begun(part)) if self._new_rows else started
            pace = StagePace.of(
                rows=todo.num_rows,
                seconds=time.monotonic() - begun,
                first_rows=first_rows,
                first_seconds=arrived - begun,
            )
            n_done, n_rejected = committer.done - committer.rejected, committer.rejected
            now = _activity(job.in_flight).tokens
            with self._lock:
                self._new_rows += todo.num_rows
                tokens = self._tokens + now
        return StageCounts(
            name=self._name,
            n_in=pending.num_rows,
            n_out=n_done,
            n_rejected=n_rejected,
            seconds=time.monotonic() - started,
            pace=pace,
            tokens=tokens if tokens.workers else None,
        )

    def _started(self) -> tuple[StageJob, ActorPool]:
        """Return the job and its pool of actors; start them if this has not been done."""
        with self._lock:
            if self._error is not None:
                raise self._error
            if self._job is None or self._pool is None:
                self._metrics = self._metrics or StageMetrics(self._name)
                self._job = StageJob(
                    name=self._name,
                    worker=self._worker,
                    worker_args=self._worker_args,
                    out=self._out,
                    rejects=self._rejects,
                    unit=self._unit,
                    max_attempts=self._resources.max_attempts,
                    max_errors_in_a_row=self._resources.max_errors_in_a_row,
                    in_flight=share(InFlightRows),
                    log_context=log_context(),
                )
                self._pool = ActorPool(self._job, self._resources, is_open=self._is_open)
            return self._job, self._pool

    def stop(self) -> None:
        """End the actors, between two parts; the next part starts new ones."""
        with self._lock:
            job, pool, self._job, self._pool = self._job, self._pool, None, None
        if job is not None and pool is not None:
            pool.close()
            self._tokens += _activity(job.in_flight).tokens
            job.in_flight.close()

    def fail(self, error: StageError) -> None:
        """End the actors at once, and let every `run` raise this error, now and later. Callable from any thread."""
        with self._lock:
            self._error = error
            pool = self._pool
        if pool is not None:
            pool.fail(error)

    def _check_stores(self) -> None:
        """Raise StageError unless the stores have exactly the rows of earlier runs and of this one."""
        before = sum(len(keys) for keys in self._committed)
        now = sum(len(keys) for keys in _committed(self._name, self._out, self._rejects))
        if now != before + self._new_rows:
            raise StageError(
                f"stage {self._name}: {before} rows were committed before this run and {self._new_rows} by it, "
                f"but there are {now}; another program has changed its stores"
            )


def _check_pending(name: str, pending: pa.Table, key: str) -> None:
    if key not in pending.column_names:
        raise ValueError(f"stage {name}: pending has columns {pending.column_names} but no key {key!r}")
    column = pending.column(key)
    if column.null_count or pc.count_distinct(column).as_py() != pending.num_rows:
        counts = pc.value_counts(column).to_pylist()
        repeated = [row["values"] for row in counts if row["counts"] > 1][:3]
        raise ValueError(
            f"stage {name}: {key} has {column.null_count} nulls and repeats {repeated}; give one row per key"
        )


def _committed(name: str, out: Store, rejects: Store) -> tuple[pa.Array, pa.Array]:
    """Return the keys that are committed to `out`, and those that this stage has rejected.

    They stay in Arrow: as a Python set, 1.55 million keys would take 0.2 GB.
    """
    quoted = name.replace("'", "''")
    tables = out.table([out.key]), rejects.table([rejects.key], f"stage = '{quoted}'")
    done, rejected = (table.column(0).combine_chunks() for table in tables)
    return done, rejected


def _count_true(column: pa.ChunkedArray) -> int:
    return int(pc.sum(column).as_py() or 0)


def _activity(in_flight: SharedObject) -> Activity:
    """Return what the workers do now; nothing if the tracker does not answer."""
    import ray

    if not ray.is_initialized():
        return Activity()
    try:
        activity: Activity = in_flight.ask("activity", timeout=10)
    except ray.exceptions.RayError:
        return Activity()
    return activity
