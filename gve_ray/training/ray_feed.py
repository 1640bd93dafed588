"""Prepare the steps of a rank ahead of time in separate processes, with Ray Data.

It is meant for GPUs, where reading, patching and tokenising 64 pairs of videos takes longer than the step.
"""

import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from itertools import islice
from typing import Any

import numpy as np

from gve_ray.training.feed import In, Out

AHEAD = 2  # prepared steps that wait for the rank, not counting those being prepared
WINDOW = 512  # steps per Ray Data pipeline; the pipeline drains between two windows


@dataclass(frozen=True, kw_only=True)
class RayFeed:
    """Like `feed.ahead`, with `workers` processes of one core each. Ray must be connected.

    The processes run on this node, which has the files of the mixture (node.py), on cores that this process
    has reserved for them.
    """

    workers: int

    def __call__(self, make: Callable[[In], Out], inputs: Iterable[In]) -> Iterator[tuple[Out, float]]:
        """Yield `make` of each input, in order, with the seconds waited for it. Inputs and results are pickled.

        An error in `make` is raised as a Ray error that names it.
        """
        import ray

        shared = ray.put(make)
        source = iter(inputs)
        while window := list(islice(source, WINDOW)):
            begun = time.monotonic()
            for batch in self._batches(shared, window):
                yield batch["made"][0], time.monotonic() - begun
                begun = time.monotonic()

    def _batches(self, make: Any, window: list[Any]) -> Iterable[dict[str, np.ndarray]]:
        """Yield batches of one step each."""
        from ray import get_runtime_context
        from ray.data import ActorPoolStrategy, DataContext, from_items

        context = DataContext.get_current()
        context.execution_options.preserve_order = True
        context.enable_progress_bars = False
        # One block per step, because a worker returns a block only when all of its rows are done.
        steps = from_items([{"step": step} for step in window], override_num_blocks=len(window))
        pool = ActorPoolStrategy(size=min(self.workers, len(window)))
        made = steps.map_batches(
            _Preparer,
            fn_constructor_args=(make,),
            batch_size=1,
            compute=pool,
            num_cpus=0,
            label_selector={"ray.io/node-id": get_runtime_context().get_node_id()},
        )
        return made.iter_batches(batch_size=1, prefetch_batches=AHEAD)


class _Preparer:
    """An actor that prepares steps."""

    def __init__(self, make: Any) -> None:
        import ray
        import torch

        torch.set_num_threads(1)
        self.make: Callable[[Any], Any] = ray.get(make)

    def __call__(self, batch: dict[str, Any]) -> dict[str, np.ndarray]:
        made = np.empty(1, dtype=object)
        made[0] = self.make(batch["step"][0])
        return {"made": made}
