"""Track which rows are in flight, so that a row that kills its worker is identified and given up.

The tracker is one small Ray actor on the driver's node. It outlives the workers: a worker that
replaces a dead one learns from it which rows were in flight at the death. If the driver's node
dies, the job dies with it, so the tracker is not replicated. If only the tracker's process dies, it
restarts empty, a limited number of times.
"""

from collections.abc import Sequence
from typing import Any

_MAX_RESTARTS = 3


# By key: how often the row's worker died while it processed only this row, and the row's saved
# result, if any.
History = dict[str, tuple[int, dict[str, Any] | None]]


class InFlightRows:
    """Tracks rows in flight, deaths of workers with a single row, and results of such rows."""

    def __init__(self) -> None:
        self._unfinished_starts: dict[str, int] = {}
        self._failure = ""
        self._in_flight: set[str] = set()
        self._batch_starts: dict[str, int] = {}
        self._isolated_tries: dict[str, int] = {}
        self._saved: dict[str, dict[str, Any]] = {}
        self._consecutive_errors = 0

    def starting(self, actor: str) -> int:
        """Record that an actor starts; return how many of its last starts did not finish."""
        failed = self._unfinished_starts.get(actor, 0)
        self._unfinished_starts[actor] = failed + 1
        return failed

    def started(self, actor: str) -> None:
        """Record that an actor has finished starting."""
        self._unfinished_starts[actor] = 0

    def fail(self, reason: str) -> None:
        """Record why a worker ends the job; only the first reason is kept."""
        self._failure = self._failure or reason

    def failure(self) -> str:
        """Return the first reason given to `fail`, or an empty string."""
        return self._failure

    def begin(self, keys: Sequence[str]) -> tuple[int, History]:
        """Mark the rows of a batch as in flight.

        Returns how often this batch was begun before, and the history of those of its rows that
        were already in flight.
        """
        earlier = self._batch_starts.get(keys[0], 0)
        self._batch_starts[keys[0]] = earlier + 1
        history = {
            key: (self._isolated_tries.get(key, 0), self._saved.get(key))
            for key in keys
            if key in self._in_flight
        }
        self._in_flight.update(keys)
        return earlier, history

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
        for key in keys:
            self._in_flight.discard(key)
            self._isolated_tries.pop(key, None)
            self._saved.pop(key, None)
        return self._consecutive_errors


def start_in_flight_actor() -> Any:
    """Start an `InFlightRows` actor on this node, which reserves no CPU; return its handle."""
    import ray
    from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

    this_node = NodeAffinitySchedulingStrategy(ray.get_runtime_context().get_node_id(), soft=False)
    actor = ray.remote(InFlightRows).options(
        num_cpus=0,
        max_restarts=_MAX_RESTARTS,
        max_task_retries=_MAX_RESTARTS,
        scheduling_strategy=this_node,
    )
    return actor.remote()
