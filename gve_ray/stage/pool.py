"""The actors of one stage, a Ray Data actor pool.

    pool = ActorPool(job, resources)
    for record in pool.run(table, order=0):    # rows of `RECORD_SCHEMA`, as batches finish
        ...
    pool.close()

The rows of one call are blocks of Ray Data, one a batch. If the pool `is_open`, several threads may
call `run` at the same time, each with its own rows, and all of them go through one execution: it reads
batches from a `BatchQueue`, which gives out those of the lowest `order` first. So the rows of
the next call follow without a pause, and the workers load only once.

Ray restarts an actor that dies, on another node if necessary, and calls it again for its batches, both
without limit: `InFlightRows` limits them.
"""

import asyncio
import heapq
import math
import queue
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from itertools import count
from typing import Any

import pyarrow as pa

from gve_ray.config import StageResources
from gve_ray.stage.in_flight import Failure
from gve_ray.stage.shared import SharedObject, on_this_node, share
from gve_ray.stage.worker import BATCH_SCHEMA, StageActor, StageError, StageJob, to_bytes

_POLL_SECONDS = 1.0
_NO_TRACKER = (
    "the process that tracks its rows has died; no row is lost, so start the job again, and see whether the driver's "
    "node has enough memory"
)
# DataContext.current sets a global variable, and several stages may start at the same time.
_creating = threading.Lock()


class ActorPool:
    """See the module. resources: without `auto`; raises ValueError if it has any.

    is_open: `run` may be called again before `close`.
    """

    def __init__(self, job: StageJob, resources: StageResources, *, is_open: bool = False) -> None:
        if resources.count is None or {"CPU", "GPU"} & resources.undecided:
            raise ValueError(
                f"stage {job.name}: {resources}: has auto; use numbers, or preflight.fit_to_cluster"
            )
        self._job, self._resources, self._is_open = job, resources, is_open
        self._lock = threading.Lock()  # of all below
        self._calls: dict[int, _Call] = {}  # those with batches that are not finished, by number
        self._numbers = count()
        self._queue: SharedObject | None = None  # a `BatchQueue`, of an open pool, while its actors live
        self._thread: threading.Thread | None = None
        self._error: StageError | None = None
        self._begun: dict[int, float] = {}
        self._last_event = time.monotonic()

    def run(self, table: pa.Table, *, order: int = 0) -> "Iterator[Mapping[str, Any]]":
        """Run all rows, and yield the record of each batch as it finishes, in any order.

        Raises StageError if the stage fails, or if no batch finishes for `stall_seconds`.
        """
        call = self._submit(table.combine_chunks(), order)
        for _ in range(call.batches):
            record = self._next(call)
            self._begun[order] = call.begun
            yield record

    def begun(self, order: int) -> float:
        """Return when an actor was given the first batch with this order, by the monotonic clock."""
        return self._begun.get(order, 0.0)

    def _submit(self, table: pa.Table, order: int) -> "_Call":
        size = self._resources.batch_size
        # Each batch is one block of Ray Data and one task, so that a retry repeats exactly one batch. `take`
        # copies: pickling a plain slice would include the whole column.
        starts = range(0, table.num_rows, size)
        batches = [table.take(pa.array(range(i, min(i + size, table.num_rows)), pa.int64())) for i in starts]
        with self._lock:
            if self._error is not None:
                raise self._error
            call = _Call(len(batches))
            number = next(self._numbers)
            self._calls[number] = call
            self._last_event = time.monotonic()
            rows = [to_bytes(batch) for batch in batches]
            if not self._is_open:
                assert self._thread is None, "close the pool before `run`, or open it for several calls"
                given = time.monotonic()
                self._start(
                    _blocks([message(number, i, i, given, part) for i, part in enumerate(rows)]), len(rows)
                )
                return call
            if self._queue is None:
                self._queue = share(BatchQueue)
                self._start(_reader(self._queue), len(rows))
            self._queue.ask("add", order, number, rows)
        return call

    def _next(self, call: "_Call") -> Mapping[str, Any]:
        stall = self._resources.stall_seconds
        while True:
            try:
                record = call.records.get(timeout=_POLL_SECONDS)
            except queue.Empty:
                if 0 < stall < time.monotonic() - self._last_event:
                    self.fail(
                        StageError(
                            f"stage {self._job.name}: no batch finished within {stall:g} s; see the workers' "
                            "logs, or raise the stage's stall_seconds if its batches or its start take longer"
                        )
                    )
                continue
            if isinstance(record, StageError):
                raise record
            return record

    def fail(self, error: StageError) -> None:
        """Make all calls of `run` raise this error, now and later, and end the actors."""
        with self._lock:
            self._error = self._error or error
            calls, self._calls = self._calls, {}
            batches = self._queue
        for call in calls.values():
            call.records.put(self._error)
        # The execution fails, and ends its actors.
        if batches is not None:
            batches.close()
        self._job.in_flight.close()

    def close(self) -> None:
        """End the actors, which have no batch any more. `run` starts new ones."""
        import ray

        with self._lock:
            batches, thread, self._queue, self._thread = self._queue, self._thread, None, None
        if batches is not None and self._error is None and ray.is_initialized():
            batches.ask("finish")
        if thread is not None and thread is not threading.current_thread():
            thread.join()
        if batches is not None:
            batches.close()

    def _start(self, source: Callable[[], Any], batches: int) -> None:
        """Start the execution. source: makes the data set of `BATCH_SCHEMA`. batches: that wait already."""
        dataset = self._dataset(source, batches)
        self._thread = threading.Thread(
            target=self._deliver, args=(dataset, self._queue), name=f"{self._job.name}-batches", daemon=True
        )
        self._thread.start()

    def _dataset(self, source: Callable[[], Any], batches: int) -> Any:
        from ray.data import ActorPoolStrategy, DataContext

        resources, demands = self._resources, self._resources.demands
        least = resources.count or 1
        most = max(least, resources.max_actors)
        with _creating:
            context = DataContext.get_current().copy()
            context.enable_progress_bars = False
            context.print_on_execution_start = False
            context.target_max_block_size = 1  # so that each batch is one block, and leaves at once
            context.execution_no_progress_timeout_s = -1  # there may be no batches for a long time
            context.issue_detectors_config.detectors = []  # they advise more memory than gve_ray.preflight has counted
            with DataContext.current(context):
                return source().map_batches(
                    StageActor,
                    fn_constructor_kwargs={"job": self._job},
                    batch_size=1,
                    batch_format="pyarrow",
                    zero_copy_batch=True,
                    num_cpus=demands.get("CPU", 0),
                    num_gpus=demands.get("GPU"),
                    memory=demands.get("memory"),
                    accelerator_type=resources.accelerator_type,
                    compute=ActorPoolStrategy(
                        # Each actor loads its worker, so none starts without work.
                        min_size=min(least, batches),
                        max_size=most if self._is_open else min(most, batches),
                        max_tasks_in_flight_per_actor=resources.concurrency + 1,
                        max_concurrent_calls_per_actor=resources.concurrency,
                        enable_true_multi_threading=resources.concurrency > 1,
                    ),
                )

    def _deliver(self, dataset: Any, batches: SharedObject | None) -> None:
        """Give each record to its call."""
        try:
            # Without prefetching: the last records would wait for the next ones.
            for table in dataset.iter_batches(batch_size=None, batch_format="pyarrow", prefetch_batches=0):
                self._last_event = time.monotonic()
                for record in table.to_pylist():
                    self._finished(record)
                    if batches is not None:
                        batches.send("done", record["position"])
        except Exception as error:  # noqa: BLE001 - raised by all calls of `run`
            self.fail(self._stage_error(error))

    def _finished(self, record: Mapping[str, Any]) -> None:
        with self._lock:
            call = self._calls.get(record["call"])
            if call is None or record["batch"] not in call.missing:
                return  # it was delivered before, or the stage has failed
            call.missing.remove(record["batch"])
            if not call.missing:
                del self._calls[record["call"]]
        call.begun = min(call.begun, record["given"])
        call.records.put(record)

    def _stage_error(self, error: BaseException) -> StageError:
        """Return the failure that ended the job as its worker told it, or the last line of Ray's error."""
        import ray

        try:
            failure: Failure = self._job.in_flight.ask("failure", timeout=10)
        except ray.exceptions.ActorDiedError:
            failure = Failure(reason=_NO_TRACKER)
        except ray.exceptions.RayError:
            failure = Failure()
        reason = failure.reason or (str(error).strip() or type(error).__name__).splitlines()[-1]
        stage_error = StageError(f"stage {self._job.name}: {reason}", failure.lines)
        stage_error.__cause__ = error
        return stage_error


class _Call:
    """The batches of one call of `run`. missing: those without a record. begun: when the first one was given out."""

    def __init__(self, batches: int) -> None:
        self.batches, self.missing = batches, set(range(batches))
        self.records: queue.SimpleQueue[Any] = queue.SimpleQueue()  # records, or a StageError
        self.begun = math.inf


class BatchQueue:
    """Gives out the waiting batches, those of the lowest order first.

    Ray may start the reader again, which then asks for all positions again: those without a record are
    the same batches, and those that are done hold nothing.
    """

    def __init__(self) -> None:
        self._waiting: list[tuple[int, int, int, bytes]] = []  # heap of (order, call, batch, rows)
        self._given: dict[int, dict[str, Any]] = {}  # rows of BATCH_SCHEMA that are not done, by position
        self._positions = 0
        self._is_closed = False
        self._changed = asyncio.Condition()

    async def add(self, order: int, call: int, batches: Sequence[bytes]) -> None:
        """Add the batches of a call, each as `to_bytes` makes it."""
        async with self._changed:
            for number, rows in enumerate(batches):
                heapq.heappush(self._waiting, (order, call, number, rows))
            self._changed.notify_all()

    async def finish(self) -> None:
        """End the reader when it has read all batches."""
        async with self._changed:
            self._is_closed = True
            self._changed.notify_all()

    async def done(self, position: int) -> None:
        """Forget a batch."""
        self._given.pop(position, None)

    async def at(self, position: int) -> dict[str, Any] | None:
        """Return a row of `BATCH_SCHEMA`; wait until there is one; None if the queue is closed."""
        async with self._changed:
            await self._changed.wait_for(
                lambda: position < self._positions or self._waiting or self._is_closed
            )
            if position >= self._positions:
                if not self._waiting:
                    return None
                _, call, number, rows = heapq.heappop(self._waiting)
                self._positions += 1
                self._given[position] = message(call, number, position, time.monotonic(), rows)
            return self._given.get(position, message(-1, -1, position, 0.0, None))


def message(call: int, batch: int, position: int, given: float, rows: bytes | None) -> dict[str, Any]:
    """Return a row of `BATCH_SCHEMA`."""
    return {"call": call, "batch": batch, "position": position, "given": given, "rows": rows}


def _blocks(messages: Sequence[Mapping[str, Any]]) -> Callable[[], Any]:
    """Return a function that makes a data set of rows of `BATCH_SCHEMA`, each of them a block."""
    # Ray reads its settings when it is imported, which is after `gve_ray.cli.connect` has made them.
    from ray.data import from_blocks

    return lambda: from_blocks([pa.Table.from_pylist([row], schema=BATCH_SCHEMA) for row in messages])


def _reader(batches: SharedObject) -> Callable[[], Any]:
    """Return a function that makes a data set which reads a `BatchQueue`, in one task until it is closed."""
    from ray.data import read_datasource
    from ray.data.block import BlockMetadata
    from ray.data.datasource import Datasource, ReadTask

    class Batches(Datasource):
        def estimate_inmemory_data_size(self) -> int | None:
            return None

        def get_read_tasks(self, parallelism: int, *_: Any, **__: Any) -> list[ReadTask]:
            unknown = BlockMetadata(num_rows=None, size_bytes=None, input_files=None, exec_stats=None)
            return [ReadTask(partial(_read, batches), unknown)]

    return lambda: read_datasource(
        Batches(), override_num_blocks=1, num_cpus=0, ray_remote_args=on_this_node()
    )


def _read(batches: SharedObject) -> Iterator[pa.Table]:
    for position in count():
        row = batches.ask("at", position)
        if row is None:
            return
        yield pa.Table.from_pylist([row], schema=BATCH_SCHEMA)
