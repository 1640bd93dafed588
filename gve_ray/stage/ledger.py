"""Which rows are in flight, so that a row that kills its worker is found and bounded.

The ledger is one small actor on the driver's node. It outlives the workers, so that a worker started
after a death knows which rows were in flight then. If the driver's node dies the job dies with it, so the
ledger needs no copy; if only its process dies it restarts empty, a bounded number of times.
"""

from collections.abc import Sequence
from typing import Any

_LEDGER_RESTARTS = 3


# By key: how often the row's worker died with no other row in flight, and what an isolated try gave.
History = dict[str, tuple[int, dict[str, Any] | None]]


class Ledger:
    """Which rows are in flight, how often each died alone, and what isolated rows have already given."""

    def __init__(self) -> None:
        self._starts: dict[str, int] = {}
        self._failure = ""
        self._in_flight: set[str] = set()
        self._begun: dict[str, int] = {}
        self._alone: dict[str, int] = {}
        self._saved: dict[str, dict[str, Any]] = {}
        self._errors_in_a_row = 0

    def starting(self, actor: str) -> int:
        """Note a start; returns how many earlier starts of this actor in a row never finished."""
        failed = self._starts.get(actor, 0)
        self._starts[actor] = failed + 1
        return failed

    def started(self, actor: str) -> None:
        self._starts[actor] = 0

    def fail(self, why: str) -> None:
        """Note why a worker ends the job; the first reason counts."""
        self._failure = self._failure or why

    def failure(self) -> str:
        """The first reason given to `fail`, or an empty text."""
        return self._failure

    def begin(self, keys: Sequence[str]) -> tuple[int, History]:
        """Mark rows as in flight.

        Returns how often this batch began before, and (deaths alone, saved result) of the rows that
        were in flight already.
        """
        earlier = self._begun.get(keys[0], 0)
        self._begun[keys[0]] = earlier + 1
        history = {
            key: (self._alone.get(key, 0), self._saved.get(key)) for key in keys if key in self._in_flight
        }
        self._in_flight.update(keys)
        return earlier, history

    def alone(self, key: str) -> None:
        """Count a try of one row with no other row in its process."""
        self._alone[key] = self._alone.get(key, 0) + 1

    def save(self, key: str, record: dict[str, Any]) -> None:
        """Keep what an isolated row gave, should a later row of its batch kill the worker."""
        self._saved[key] = record

    def end(self, keys: Sequence[str], errors: int) -> int:
        """The batch is written: forget its rows. Returns the errors in a row, over all workers."""
        self._errors_in_a_row = self._errors_in_a_row + errors if errors == len(keys) else 0
        self._begun.pop(keys[0], None)
        for key in keys:
            self._in_flight.discard(key)
            self._alone.pop(key, None)
            self._saved.pop(key, None)
        return self._errors_in_a_row


def make_ledger() -> Any:
    """Start a `Ledger` actor on this node, taking no CPU; returns its handle."""
    import ray
    from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

    here = NodeAffinitySchedulingStrategy(ray.get_runtime_context().get_node_id(), soft=False)
    actor = ray.remote(Ledger).options(
        num_cpus=0,
        max_restarts=_LEDGER_RESTARTS,
        max_task_retries=_LEDGER_RESTARTS,
        scheduling_strategy=here,
    )
    return actor.remote()
