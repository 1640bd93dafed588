"""Drive a stage: find the rows that are still to do, run them on an actor pool, count the results."""

import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from gve_ray.config import StageResources
from gve_ray.logs import extra_log_context, log_context
from gve_ray.stage.committer import Committer
from gve_ray.stage.in_flight import Activity, Failure, start_in_flight_actor
from gve_ray.stage.worker import StageActor, StageError, StageJob
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


@dataclass(frozen=True, kw_only=True)
class StageCounts:
    """The row counts of a stage over all its runs: n_in = n_out + n_rejected.

    seconds: wall-clock time of this run only. pace: of this run; None if nothing was left to do.
    """

    name: str
    n_in: int
    n_out: int
    n_rejected: int
    seconds: float
    pace: StagePace | None = None

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

    pending: one row per key, with small columns only (keys, URIs, texts); a worker reads large data
    from a `Store` by key. worker: a class that each actor instantiates once as
    `worker(**worker_args)`. It is called with a list of row dicts and returns one result per row in
    the same order: a dict with the columns of `out`, including the row's key, or a `Reject`.
    rejects: a store of `REJECT_SCHEMA`. unit: what a row stands for, as written to `rejects`.
    commit_seconds: how often results become visible; `math.inf` commits once, at the end. Only one
    stage at a time may use these stores.

    Ray waits for resources that no node has: check before that the actors fit
    (`gve_ray.preflight`). Raises ValueError if the keys of `pending` are not unique; StageError if
    the worker cannot start, breaks its contract, or fails on every row, or if no batch finishes.
    """
    started = time.monotonic()
    _check_pending(name, pending, out.key)
    out.create().clean()
    rejects.create().clean()
    keys = pending.column(out.key)
    done, rejected = _committed(name, out, rejects, keys)
    todo = pending.filter(pc.invert(pc.or_(done, rejected)))
    pace = None
    if todo.num_rows:
        job = StageJob(
            name=name,
            worker=worker,
            worker_args=worker_args,
            out=out,
            rejects=rejects,
            unit=unit,
            max_attempts=resources.max_attempts,
            max_errors_in_a_row=resources.max_errors_in_a_row,
            in_flight=start_in_flight_actor(),
            log_context=log_context(),
        )
        committer = Committer(
            name,
            out,
            rejects,
            total=pending.num_rows,
            done=_count_true(done),
            rejected=_count_true(rejected),
            commit_seconds=commit_seconds,
            activity=partial(_activity, job.in_flight),
        )
        _execute(job, todo, resources, committer)
        first_rows, arrived = committer.first
        pace = StagePace.of(
            rows=todo.num_rows,
            seconds=time.monotonic() - started,
            first_rows=first_rows,
            first_seconds=arrived - started,
        )
        out.compact()
        rejects.compact()
        done, rejected = _committed(name, out, rejects, keys)
    return StageCounts(
        name=name,
        n_in=pending.num_rows,
        n_out=_count_true(done),
        n_rejected=_count_true(rejected),
        seconds=time.monotonic() - started,
        pace=pace,
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


def _committed(
    name: str, out: Store, rejects: Store, keys: pa.ChunkedArray
) -> tuple[pa.ChunkedArray, pa.ChunkedArray]:
    """Return which keys are committed to `out`, and which this stage has rejected, as bools.

    The keys stay in Arrow: as a Python set, 1.55 million keys would take 0.2 GB for each lookup.
    """
    quoted = name.replace("'", "''")
    tables = out.table([out.key]), rejects.table([rejects.key], f"stage = '{quoted}'")
    done, rejected = (pc.is_in(keys, value_set=table.column(0).combine_chunks()) for table in tables)
    return done, rejected


def _count_true(column: pa.ChunkedArray) -> int:
    return int(pc.sum(column).as_py() or 0)


def _execute(job: StageJob, todo: pa.Table, resources: StageResources, committer: Committer) -> None:
    import ray
    from ray.data.exceptions import ExecutionTimeoutError

    try:
        with extra_log_context(stage=job.name), committer:
            for batch in _records(job, todo, resources):
                for record in batch.to_pylist():
                    committer.add(record)
    except ray.exceptions.RayError as error:
        failure = _failure(error, job.in_flight)
        raise StageError(f"stage {job.name}: {failure.reason}", failure.lines) from error
    except ExecutionTimeoutError as error:
        raise StageError(
            f"stage {job.name}: no batch finished within {resources.stall_seconds:g} s; see the workers' logs, "
            "or raise the stage's stall_seconds if its batches or its start take longer"
        ) from error
    finally:
        ray.kill(job.in_flight)


def _records(job: StageJob, todo: pa.Table, resources: StageResources) -> Iterator[pa.Table]:
    """Run the rows and yield tables of records (`RECORD_SCHEMA`) as they finish, in any order."""
    import ray
    from ray.data import ActorPoolStrategy, DataContext

    size, count, demands = resources.batch_size, resources.count, resources.demands
    if count is None or {"CPU", "GPU"} & resources.undecided:
        raise ValueError(f"stage {job.name}: {resources}: has auto; use numbers, or preflight.fit_to_cluster")
    table = todo.combine_chunks()
    # Each block is one batch and one Ray task, so that a retry repeats exactly one batch. `take`
    # copies: pickling a plain slice would include the whole column.
    starts = range(0, table.num_rows, size)
    blocks = [table.take(pa.array(range(i, min(i + size, table.num_rows)), pa.int64())) for i in starts]
    context = DataContext.get_current().copy()
    context.enable_progress_bars = False
    context.print_on_execution_start = False
    context.execution_no_progress_timeout_s = resources.stall_seconds
    context.issue_detectors_config.detectors = []  # they advise more memory than gve_ray.preflight has counted
    with DataContext.current(context):
        dataset = ray.data.from_blocks(blocks).map_batches(
            StageActor,
            fn_constructor_kwargs={"job": job},
            batch_size=size,
            batch_format="pyarrow",
            zero_copy_batch=True,
            num_cpus=demands.get("CPU", 0),
            num_gpus=demands.get("GPU"),
            memory=demands.get("memory"),
            accelerator_type=resources.accelerator_type,
            # Ray's default, unlimited restarts and retries, is right here: `InFlightRows` limits
            # both.
            compute=ActorPoolStrategy(
                min_size=min(count, len(blocks)),  # each actor loads its worker, so none starts without work
                max_size=min(max(count, resources.max_actors), len(blocks)),
                max_tasks_in_flight_per_actor=resources.concurrency + 1,
                max_concurrent_calls_per_actor=resources.concurrency,
                enable_true_multi_threading=resources.concurrency > 1,
            ),
        )
        yield from dataset.iter_batches(batch_size=None, batch_format="pyarrow", prefetch_batches=4)


def _failure(error: BaseException, in_flight: Any) -> Failure:
    """Return the failure that ended the job as its worker told it, or the last line of Ray's error."""
    import ray

    try:
        failure: Failure = ray.get(in_flight.failure.remote(), timeout=10)
    except ray.exceptions.RayError:
        failure = Failure()
    return failure if failure.reason else Failure(reason=str(error).strip().splitlines()[-1])


def _activity(in_flight: Any) -> Activity:
    """Return what the workers do now; nothing if the tracker does not answer, as when its process restarts."""
    import ray

    try:
        activity: Activity = ray.get(in_flight.activity.remote(), timeout=10)
    except ray.exceptions.RayError:
        return Activity()
    return activity
