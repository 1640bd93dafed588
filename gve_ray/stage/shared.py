"""Small objects that the driver shares with the workers of its stages.

    rows = share(InFlightRows)             # in the driver
    rows.ask("begin", actor, keys)         # in any process that was given `rows`
    rows.close()                           # in the driver

All objects of a driver live in one Ray actor on its node, which reserves no CPU: each process of Ray takes
seconds of CPU to start, and a job has many stages. If the driver's node dies, the job dies with it, so the
actor is not replicated. If only the actor dies, the stages that use it fail; later ones get another.
"""

import asyncio
import inspect
import threading
from collections.abc import Sequence
from itertools import count
from typing import Any

_MAX_CALLS = 1000  # that may wait at the same time
_starting = threading.Lock()
_numbers = count()
_actor: tuple[str, Any] | None = None  # the id that Ray gives to this process, and the handle of its actor


class ClosedError(RuntimeError):
    """A call of a shared object that the driver has closed."""


class SharedObject:
    """A handle of an object in the actor; may be sent to other processes."""

    def __init__(self, actor: Any, number: int) -> None:
        self._actor, self._number = actor, number

    def send(self, method: str, *args: Any) -> Any:
        """Call a method, and return a Ray reference to its result without waiting for it.

        If the method is a coroutine, other calls go on while it waits.
        """
        return self._actor.call.remote(self._number, method, args)

    def ask(self, method: str, *args: Any, timeout: float | None = None) -> Any:
        """Call a method, and return its result.

        Raises what the method raises, ClosedError after `close`, `ray.exceptions.ActorDiedError` if the actor
        is dead, and `ray.exceptions.GetTimeoutError` after `timeout` seconds.
        """
        import ray

        return ray.get(self.send(method, *args), timeout=timeout)

    def close(self) -> None:
        """Delete the object: calls that wait, and later ones, raise ClosedError. It may be closed already."""
        import ray

        if ray.is_initialized():
            self._actor.close.remote(self._number)


def share(kind: type) -> SharedObject:
    """Make an object, `kind()`, that the workers can use, and return its handle."""
    import ray

    with _starting:
        actor = _living_actor()
    number = next(_numbers)
    ray.get(actor.create.remote(number, kind))
    return SharedObject(actor, number)


def on_this_node() -> dict[str, Any]:
    """Return the Ray option that places a task or an actor on the node of this process."""
    import ray
    from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

    node = ray.get_runtime_context().get_node_id()
    return {"scheduling_strategy": NodeAffinitySchedulingStrategy(node, soft=False)}


def _living_actor() -> Any:
    """Return the actor of this process, and start it if it is not there or dead."""
    import ray

    global _actor
    process = ray.get_runtime_context().get_worker_id()
    if _actor is not None and _actor[0] == process:
        try:
            ray.get(_actor[1].__ray_ready__.remote())
            return _actor[1]
        except ray.exceptions.ActorDiedError:
            pass
    holder = ray.remote(_Holder).options(num_cpus=0, max_concurrency=_MAX_CALLS, **on_this_node()).remote()
    _actor = process, holder
    return holder


class _Holder:
    """The actor: all objects of a driver, by number."""

    def __init__(self) -> None:
        self._objects: dict[int, Any] = {}
        self._waiting: dict[int, set[asyncio.Task[Any]]] = {}

    async def create(self, number: int, kind: type) -> None:
        self._objects[number], self._waiting[number] = kind(), set()

    async def call(self, number: int, method: str, args: Sequence[Any]) -> Any:
        if number not in self._objects:
            raise ClosedError("the object was closed")
        result = getattr(self._objects[number], method)(*args)
        if not inspect.iscoroutine(result):
            return result
        waiting = self._waiting[number]
        task = asyncio.create_task(result)
        waiting.add(task)
        try:
            return await task
        except asyncio.CancelledError:
            raise ClosedError("the object was closed while a call waited") from None
        finally:
            waiting.discard(task)

    async def close(self, number: int) -> None:
        self._objects.pop(number, None)
        for task in self._waiting.pop(number, set()):
            task.cancel()
