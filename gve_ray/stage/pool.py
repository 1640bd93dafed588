"""The actors of one stage, and the queue of batches that they work on.

    pool = ActorPool(job, resources)
    for record in pool.run(table, order=0):    # rows of `RECORD_SCHEMA`, as batches finish
        ...
    pool.close()

Several threads may call `run` at the same time, each with its own rows: the actors take the batches
of the lowest `order` first, so the rows of the next call follow without a pause. Actors start when
there are batches for them, and stay alive until the pool is closed or stopped.

Ray restarts an actor that dies, on another node if necessary, and calls it again for its batches,
both without limit: `InFlightRows` limits them.
"""

import queue
import threading
import time
from collections.abc import Iterator, Mapping
from concurrent.futures import Future
from functools import partial
from typing import Any

import pyarrow as pa

from gve_ray.config import StageResources
from gve_ray.stage.in_flight import Failure
from gve_ray.stage.worker import StageActor, StageError, StageJob

_POLL_SECONDS = 1.0


class ActorPool:
    """See the module. resources: without `auto`. Raises ValueError if it has any."""

    def __init__(self, job: StageJob, resources: StageResources) -> None:
        if resources.count is None or {"CPU", "GPU"} & resources.undecided:
            raise ValueError(
                f"stage {job.name}: {resources}: has auto; use numbers, or preflight.fit_to_cluster"
            )
        self._job, self._resources, self._count = job, resources, resources.count
        self._actors: list[_Actor] = []
        self._calls: list[_Call] = []  # in the order in which their batches are given to actors
        self._lock = threading.Lock()  # of the three above
        self._events: queue.SimpleQueue[Any] = queue.SimpleQueue()  # callables, and None at the end
        self._error: StageError | None = None
        self._begun: dict[int, float] = {}
        self._last_event = time.monotonic()
        self._thread: threading.Thread | None = None

    def run(self, table: pa.Table, *, order: int = 0) -> "Iterator[Mapping[str, Any]]":
        """Run all rows, and yield the record of each batch as it finishes, in any order.

        Raises StageError if the stage fails, or if no batch finishes for `stall_seconds`.
        """
        call = _Call(table.combine_chunks(), self._resources.batch_size, order)
        self._submit(call)
        for _ in range(call.batches):
            record = call.records.get()
            if isinstance(record, StageError):
                raise record
            yield record

    def _submit(self, call: "_Call") -> None:
        with self._lock:
            if self._error is not None:
                raise self._error
            if self._thread is None:
                self._last_event = time.monotonic()
                name = f"{self._job.name}-batches"
                self._thread = threading.Thread(target=self._loop, name=name, daemon=True)
                self._thread.start()
            self._calls.append(call)
            self._calls.sort(key=lambda other: other.order)
        self._events.put(lambda: None)  # wakes up the thread

    def begun(self, order: int) -> float:
        """Return when an actor got the first batch of the calls with this order, by the monotonic clock."""
        return self._begun.get(order, 0.0)

    def fail(self, error: StageError) -> None:
        """Make all calls of `run` raise this error, now and later, and kill the actors."""
        with self._lock:
            self._error = self._error or error
            calls, self._calls = self._calls, []
        for call in calls:
            call.records.put(self._error)
        self._end(kill=True)

    def close(self) -> None:
        """End the actors, which have no batch any more. `run` starts new ones."""
        self._end(kill=False)

    def _end(self, *, kill: bool) -> None:
        thread, self._thread = self._thread, None
        if thread is not None and thread is not threading.current_thread():
            self._events.put(None)
            thread.join()
        with self._lock:
            actors, self._actors = self._actors, []
        _end_actors(actors, kill=kill)

    # ---- In the thread that gives batches to actors

    def _loop(self) -> None:
        while True:
            try:
                event = self._events.get(timeout=_POLL_SECONDS)
            except queue.Empty:
                self._check_stall()
                continue
            if event is None:
                return
            self._last_event = time.monotonic()
            try:
                event()
                if self._error is not None:
                    return
                self._give_batches()
            except Exception as error:  # noqa: BLE001 - raised by all calls of `run`
                self.fail(self._stage_error(error))
                return

    def _give_batches(self) -> None:
        self._start_actors()
        while (call := self._next_call()) and (actor := self._next_actor()):
            self._begun.setdefault(call.order, time.monotonic())
            future = actor.handle.run.remote(call.next_batch()).future()
            actor.load += 1
            future.add_done_callback(partial(self._put, self._finished, actor, call))

    def _put(self, event: Any, *details: Any) -> None:
        self._events.put(partial(event, *details))

    def _next_call(self) -> "_Call | None":
        with self._lock:
            return next((call for call in self._calls if call.waiting), None)

    def _next_actor(self) -> "_Actor | None":
        """Return the actor with the fewest batches; one batch waits at each actor so that it never pauses."""
        ready = [actor for actor in self._actors if actor.is_ready]
        actor = min(ready, key=lambda actor: actor.load, default=None)
        return actor if actor is not None and actor.load <= self._resources.concurrency else None

    def _start_actors(self) -> None:
        """Start actors for the waiting batches; each of them loads its worker, so none starts without work."""
        with self._lock:
            waiting = sum(call.waiting for call in self._calls)
        work = waiting + sum(actor.load for actor in self._actors)
        most = min(self._count, work)
        if len(self._actors) >= self._count and waiting and all(actor.is_ready for actor in self._actors):
            # One at a time: an autoscaler adds a node for an actor that has no place.
            most = min(len(self._actors) + 1, max(self._count, self._resources.max_actors))
        while len(self._actors) < most:
            actor = _Actor(self._job, self._resources)
            with self._lock:
                self._actors.append(actor)
            actor.handle.ready.remote().future().add_done_callback(partial(self._put, self._is_ready, actor))

    def _is_ready(self, actor: "_Actor", future: "Future[Any]") -> None:
        if actor not in self._actors:  # it was ended before it had started
            return
        if error := future.exception():
            self.fail(self._stage_error(error))
        actor.is_ready = True

    def _finished(self, actor: "_Actor", call: "_Call", future: "Future[Any]") -> None:
        if actor not in self._actors:
            return
        actor.load -= 1
        if error := future.exception():
            self.fail(self._stage_error(error))
            return
        (record,) = future.result().to_pylist()
        call.records.put(record)
        call.missing -= 1
        if not call.missing:
            with self._lock:
                self._calls = [other for other in self._calls if other is not call]

    def _check_stall(self) -> None:
        seconds = self._resources.stall_seconds
        with self._lock:
            if not self._calls:
                self._last_event = time.monotonic()
        if seconds > 0 and time.monotonic() - self._last_event > seconds:
            message = (
                f"stage {self._job.name}: no batch finished within {seconds:g} s; see the workers' logs, or "
                "raise the stage's stall_seconds if its batches or its start take longer"
            )
            self._put(self.fail, StageError(message))

    def _stage_error(self, error: BaseException) -> StageError:
        """Return the failure that ended the job as its worker told it, or the last line of Ray's error."""
        if isinstance(error, StageError) and self._error is not None:
            return error
        import ray

        try:
            failure: Failure = ray.get(self._job.in_flight.failure.remote(), timeout=10)
        except ray.exceptions.RayError:
            failure = Failure()
        reason = failure.reason or (str(error).strip() or type(error).__name__).splitlines()[-1]
        stage_error = StageError(f"stage {self._job.name}: {reason}", failure.lines)
        stage_error.__cause__ = error
        return stage_error


class _Actor:
    """One actor. load: batches that it was given and has not finished."""

    def __init__(self, job: StageJob, resources: StageResources) -> None:
        import ray

        demands = resources.demands
        options: dict[str, Any] = {
            "num_cpus": demands.get("CPU", 0),
            "num_gpus": demands.get("GPU"),
            "memory": demands.get("memory"),
            "accelerator_type": resources.accelerator_type,
        }
        self.handle: Any = (
            ray.remote(StageActor)
            .options(
                **{name: value for name, value in options.items() if value is not None},
                max_concurrency=resources.concurrency,
                max_restarts=-1,
                max_task_retries=-1,
                scheduling_strategy="SPREAD",
            )
            .remote(job)
        )
        self.is_ready = False
        self.load = 0


class _Call:
    """The rows of one call of `run`. waiting: batches that no actor has. missing: those without a record."""

    def __init__(self, table: pa.Table, batch_size: int, order: int) -> None:
        self._table, self._size, self.order = table, batch_size, order
        self.batches = self.waiting = self.missing = -(-table.num_rows // batch_size)
        self.records: queue.SimpleQueue[Any] = queue.SimpleQueue()  # records, or a StageError

    def next_batch(self) -> pa.Table:
        """Return the next rows: a copy, because pickling a slice would include the whole column."""
        start = (self.batches - self.waiting) * self._size
        self.waiting -= 1
        rows = range(start, min(start + self._size, self._table.num_rows))
        return self._table.take(pa.array(rows, pa.int64()))


def _end_actors(actors: "list[_Actor]", *, kill: bool) -> None:
    """End actors: at once, or by themselves with their child processes, as Ray ends those without a handle."""
    import ray

    for actor in actors:
        if (kill or not actor.is_ready) and ray.is_initialized():
            ray.kill(actor.handle)
        actor.handle = None
