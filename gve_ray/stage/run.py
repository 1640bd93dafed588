"""The driver of a stage: what is left to do, the actor pool that does it, the counts."""

import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from gve_ray.config import StageResources
from gve_ray.logs import marked, marks
from gve_ray.stage.ledger import make_ledger
from gve_ray.stage.sink import Sink, StageProgress
from gve_ray.stage.worker import StageActor, StageError, StageJob
from gve_ray.store import Store


@dataclass(frozen=True, kw_only=True)
class StageCounts:
    """What went in and came out of a stage, over all its runs: n_in = n_out + n_rejected.

    seconds: wall clock of this run only.
    """

    name: str
    n_in: int
    n_out: int
    n_rejected: int
    seconds: float

    def __post_init__(self) -> None:
        if self.n_in != self.n_out + self.n_rejected:
            raise StageError(
                f"stage {self.name}: {self.n_in} in, but {self.n_out} out + {self.n_rejected} rejected; "
                "its stores were changed by something else"
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
    on_progress: Callable[[StageProgress], None] | None = None,
    unit: str = "video",
    commit_seconds: float = 5.0,
) -> StageCounts:
    """Run every row of `pending` that is not yet in `out`, or in `rejects` under this stage's name.

    pending: one row a key, with small columns only (keys, URIs, texts); a worker reads heavy ones from a
    Store by key. worker: made once an actor as `worker(**worker_args)`, called with a list of row dicts,
    gives as many results in the same order, each a dict with `out`'s columns and the row's key, or a
    `Reject`. rejects: a store of `REJECT_SCHEMA`. commit_seconds: how often results become visible;
    `math.inf` commits once, at the end. One stage at a time may use these stores.

    Raises ValueError for a `pending` that is not unique, or resources no node has; StageError when the
    worker cannot start, breaks its contract, or fails on everything.
    """
    begun = time.monotonic()
    _check_pending(name, pending, out.key)
    out.create().clean()
    rejects.create().clean()
    keys = pending.column(out.key)
    done, rejected = _committed(name, out, rejects, keys)
    todo = pending.filter(pc.invert(pc.or_(done, rejected)))
    sink = Sink(
        name,
        out,
        rejects,
        total=pending.num_rows,
        done=_true(done),
        rejected=_true(rejected),
        commit_seconds=commit_seconds,
        on_progress=on_progress,
    )
    if todo.num_rows:
        check_resources(name, resources)
        _execute(name, todo, worker, worker_args, out, rejects, resources, unit, sink)
        out.compact()
        rejects.compact()
        done, rejected = _committed(name, out, rejects, keys)
    return StageCounts(
        name=name,
        n_in=pending.num_rows,
        n_out=_true(done),
        n_rejected=_true(rejected),
        seconds=time.monotonic() - begun,
    )


def _check_pending(name: str, pending: pa.Table, key: str) -> None:
    if key not in pending.column_names:
        raise ValueError(f"stage {name}: pending has columns {pending.column_names} but no key {key!r}")
    column = pending.column(key)
    if column.null_count or pc.count_distinct(column).as_py() != pending.num_rows:
        counts = pc.value_counts(column).to_pylist()
        twice = [one["values"] for one in counts if one["counts"] > 1][:3]
        raise ValueError(
            f"stage {name}: {key} has {column.null_count} nulls and repeats {twice}; one row a key is needed"
        )


def _committed(
    name: str, out: Store, rejects: Store, keys: pa.ChunkedArray
) -> tuple[pa.ChunkedArray, pa.ChunkedArray]:
    """Which of the keys are committed to `out`, and which to `rejects` by this stage: two columns of bool.

    In Arrow from end to end: as Python sets, 1.55 M keys take 0.2 GB each time they are looked at.
    """
    quoted = name.replace("'", "''")
    found = out.table([out.key]), rejects.table([rejects.key], f"stage = '{quoted}'")
    done, rejected = (pc.is_in(keys, value_set=one.column(0).combine_chunks()) for one in found)
    return done, rejected


def _true(column: pa.ChunkedArray) -> int:
    return int(pc.sum(column).as_py() or 0)


def check_resources(name: str, resources: StageResources) -> None:
    """Raise ValueError if no node of the cluster can hold one actor, instead of waiting for ever."""
    import ray

    need = {"CPU": resources.num_cpus, "GPU": resources.num_gpus, "memory": resources.memory}
    if resources.accelerator_type:
        need[f"accelerator_type:{resources.accelerator_type}"] = 0.001
    nodes = [node["Resources"] for node in ray.nodes() if node["Alive"]]
    if resources.wait_for_nodes or any(
        all(node.get(what, 0) >= amount for what, amount in need.items()) for node in nodes
    ):
        return
    most = {what: max((node.get(what, 0) for node in nodes), default=0) for what in need}
    lacking = [f"{amount:g} {what} (the most on one node is {most[what]:g})" for what, amount in need.items()
               if amount > most[what]]  # fmt: skip
    raise ValueError(
        f"stage {name}: an actor needs {', '.join(lacking) or need} and no node has it; lower the stage's "
        "resources, add a node, or set wait_for_nodes on an autoscaling cluster"
    )


def _execute(
    name: str,
    todo: pa.Table,
    worker: type,
    worker_args: Mapping[str, Any],
    out: Store,
    rejects: Store,
    resources: StageResources,
    unit: str,
    sink: "Sink",
) -> None:
    import ray
    from ray.data.exceptions import ExecutionTimeoutError

    ledger = make_ledger()
    job = StageJob(
        name=name,
        worker=worker,
        worker_args=worker_args,
        out=out,
        rejects=rejects,
        unit=unit,
        max_attempts=resources.max_attempts,
        max_errors_in_a_row=resources.max_errors_in_a_row,
        ledger=ledger,
        marks=marks(),
    )
    try:
        with marked(stage=name), sink:
            for batch in _records(job, todo, resources):
                for record in batch.to_pylist():
                    sink.add(record)
    except ray.exceptions.RayError as error:
        raise StageError(f"stage {name}: {_cause(error, ledger)}") from error
    except ExecutionTimeoutError as error:
        raise StageError(
            f"stage {name}: no batch was done for {resources.stall_seconds:g} s; look at the workers' logs, or "
            "raise the stage's stall_seconds if its batches or its start take longer"
        ) from error
    finally:
        ray.kill(ledger)


def _records(job: StageJob, todo: pa.Table, resources: StageResources) -> Iterator[pa.Table]:
    """Iterator over record tables (`RECORD_SCHEMA`), streaming, in any order."""
    import ray
    from ray.data import ActorPoolStrategy, DataContext

    size = resources.batch_size
    table = todo.combine_chunks()
    # A block is a batch is a Ray task: then a retry repeats one batch, and no batch spans two retries.
    blocks = [_compact_slice(table, start, size) for start in range(0, table.num_rows, size)]
    context = DataContext.get_current().copy()
    context.enable_progress_bars = False
    context.print_on_execution_start = False
    context.execution_no_progress_timeout_s = resources.stall_seconds
    with DataContext.current(context):
        dataset = ray.data.from_blocks(blocks).map_batches(
            StageActor,
            fn_constructor_kwargs={"job": job},
            batch_size=size,
            batch_format="pyarrow",
            zero_copy_batch=True,
            num_cpus=resources.num_cpus,
            num_gpus=resources.num_gpus or None,
            memory=resources.memory or None,
            accelerator_type=resources.accelerator_type,
            # Ray's default, restarts and retries without limit, is right here: the ledger bounds both.
            compute=ActorPoolStrategy(
                min_size=resources.actors,
                max_size=max(resources.actors, resources.max_actors),
                max_tasks_in_flight_per_actor=resources.concurrency + 1,
                max_concurrent_calls_per_actor=resources.concurrency,
                enable_true_multi_threading=resources.concurrency > 1,
            ),
        )
        yield from dataset.iter_batches(batch_size=None, batch_format="pyarrow", prefetch_batches=4)


def _compact_slice(table: pa.Table, start: int, size: int) -> pa.Table:
    """A slice with its own buffers: a pickled slice would carry the whole column."""
    return table.take(pa.array(range(start, min(start + size, table.num_rows)), type=pa.int64()))


def _cause(error: BaseException, ledger: Any) -> str:
    """The sentence a user needs: what the worker told the ledger, or the last line of Ray's error."""
    import ray

    try:
        failure = ray.get(ledger.failure.remote(), timeout=10)
    except ray.exceptions.RayError:
        failure = ""
    return failure or str(error).strip().splitlines()[-1]
