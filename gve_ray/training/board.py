"""Show the progress of the ranks in the driver of a quiet job (`gve_ray.console`).

    board = Board.start()
    with board.followed("starting 2 ranks"):
        trainer.fit()           # rank 0: `with shown_by(board): ...`

The board is a small Ray actor on the driver's node. Rank 0 puts the state of its steps there, and a
thread of the driver reads them once a second.
"""

import logging
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from gve_ray.progress import Progress, ProgressState

log = logging.getLogger(__name__)

_SECONDS = 1.0


class _Notes:
    """The actor: the states of open and of ended steps, messages, and the last lines of a failed rank's log."""

    def __init__(self) -> None:
        self._open: dict[str, ProgressState] = {}
        self._ended: list[ProgressState] = []
        self._lines: tuple[str, ...] = ()
        self._messages: list[str] = []

    def say(self, message: str) -> None:
        self._messages.append(message)

    def show(self, state: ProgressState) -> None:
        self._open[state.label] = state

    def hide(self, label: str) -> None:
        if (state := self._open.pop(label, None)) is not None:
            self._ended.append(state)

    def fail(self, lines: Sequence[str]) -> None:
        self._lines = self._lines or tuple(lines)

    def read(self) -> tuple[list[ProgressState], list[ProgressState], list[str]]:
        ended, self._ended = self._ended, []
        messages, self._messages = self._messages, []
        return ended, list(self._open.values()), messages

    def failure(self) -> tuple[str, ...]:
        return self._lines


class Board:
    """A handle of the board, for the driver and the ranks; in a rank it is a `progress.Display`."""

    def __init__(self, actor: Any) -> None:
        self._actor = actor

    @classmethod
    def start(cls) -> "Board":
        """Start the actor on this node; it reserves no CPU."""
        import ray
        from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

        node = NodeAffinitySchedulingStrategy(ray.get_runtime_context().get_node_id(), soft=False)
        return cls(ray.remote(_Notes).options(num_cpus=0, scheduling_strategy=node).remote())

    def show(self, state: ProgressState) -> None:
        """Put the state of a step on the board."""
        self._actor.show.remote(state)

    def hide(self, label: str) -> None:
        """Mark a step as ended."""
        self._actor.hide.remote(label)

    def say(self, message: str) -> None:
        """Log a message in the driver."""
        self._actor.say.remote(message)

    def fail(self, lines: Sequence[str]) -> None:
        """Record the last lines of the log of a rank that failed; only the first call counts."""
        import ray

        ray.get(self._actor.fail.remote(list(lines)))

    def failure(self) -> Sequence[str]:
        """Return what `fail` recorded; nothing if the board is lost."""
        import ray

        try:
            lines: Sequence[str] = ray.get(self._actor.failure.remote(), timeout=10)
        except ray.exceptions.RayError:
            return ()
        return lines

    @contextmanager
    def followed(self, status: str) -> Iterator[None]:
        """Report the steps on the board as steps of this process during the block.

        status: shown until the first step begins.
        """
        steps: dict[str, Progress] = {"ranks": Progress("training", 1)}
        steps["ranks"].wait_for(status)
        stop = threading.Event()

        def follow() -> None:
            while not stop.wait(_SECONDS):
                self._mirror(steps)
                if "ranks" in steps:
                    steps["ranks"].wait_for(status)
            self._mirror(steps)

        thread = threading.Thread(target=follow, name="training-progress", daemon=True)
        thread.start()
        try:
            yield
        finally:
            stop.set()
            thread.join()
            for step in steps.values():
                step.close()

    def _mirror(self, steps: dict[str, Progress]) -> None:
        import ray

        try:
            ended, current, messages = ray.get(self._actor.read.remote(), timeout=10)
        except ray.exceptions.RayError:
            return
        for message in messages:
            log.info("%s", message)
        if (ended or current) and "ranks" in steps:
            steps.pop("ranks").close()
        for state in ended:  # a label may occur more than once
            self._step_of(steps, state, state.first).reach(state.done, state.detail)
            steps.pop(state.label).close()
        for state in current:
            # The clock of the rate starts with the first look, so what is done by then does not count.
            self._step_of(steps, state, state.done).reach(state.done, state.detail)

    def _step_of(self, steps: dict[str, Progress], state: ProgressState, done: int) -> Progress:
        """Return the step of this process that follows a step on the board.

        done: items that do not count for the rate, if there is no such step yet.
        """
        if state.label not in steps:
            steps[state.label] = Progress(state.label, state.total, unit=state.unit, done=done)
        return steps[state.label]
