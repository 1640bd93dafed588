"""Run the actors of stages in threads of this process, for tests of what a job makes of its stages.

    with ray_started(), local_actors():
        evaluate(config)

A process of Ray takes seconds of processor time to start, and one that loads a model ten. The stages themselves, and
at least one run of each job, are tested with Ray's actors (for evaluation, in slow tests). Ray must be running all the
same.
"""

import os
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

from gve_ray.stage import pool, reporter, tokens, worker
from gve_ray.stage.pool import ActorPool
from gve_ray.stage.shared import SharedObject
from gve_ray.stage.worker import BATCH_SCHEMA, StageActor, StageJob


@contextmanager
def ray_started() -> Iterator[str]:
    """Start Ray in this process, yield its address, and stop it at the end of the block; use one that is running."""
    import ray

    if ray.is_initialized():
        yield ray.get_runtime_context().gcs_address
        return
    # Ray's processes must import the workers of the tests, and this copy of the package.
    tests = Path(__file__).resolve().parent
    path = os.pathsep.join([str(tests), str(tests.parent)])
    ray.init(
        num_cpus=3,
        include_dashboard=False,
        logging_level="ERROR",
        log_to_driver=False,
        runtime_env={"env_vars": {"PYTHONPATH": path}},
        # Ray would start processes at once, which no actor could use, because they have another environment.
        _system_config={"metrics_report_interval_ms": 2000, "prestart_worker_first_driver": False},
    )
    try:
        yield ray.get_runtime_context().gcs_address
    finally:
        ray.shutdown()


@dataclass(frozen=True)
class _Source:
    """Messages for actors of this process, by `here`, and if called, for those of Ray."""

    here: Callable[[], Iterable[pa.Table]]
    on_ray: Callable[[], Any]

    def __call__(self) -> Any:
        return self.on_ray()


class _Results:
    """Replaces the data set that maps messages on actors: the thread that reads the results has one actor itself."""

    def __init__(self, job: StageJob, messages: Iterable[pa.Table]) -> None:
        self._job, self._messages = job, messages

    def iter_batches(self, **_: Any) -> Iterator[pa.Table]:
        actor = StageActor(self._job)
        for message in self._messages:
            yield actor(message)


def _tables(rows: Sequence[Mapping[str, Any]]) -> Iterator[pa.Table]:
    return (pa.Table.from_pylist([row], schema=BATCH_SCHEMA) for row in rows)


@contextmanager
def local_actors(*, on_ray: Collection[str] = ()) -> Iterator[None]:
    """on_ray: the names of stages whose actors are Ray's."""
    blocks, reader, dataset = pool._blocks, pool._reader, ActorPool._dataset

    def blocks_of(rows: Sequence[Mapping[str, Any]]) -> _Source:
        return _Source(partial(_tables, rows), blocks(rows))

    def reader_of(batches: SharedObject) -> _Source:
        return _Source(partial(pool._read, batches), reader(batches))

    def dataset_of(self: ActorPool, source: _Source, batches: int) -> Any:
        is_here = self._job.name not in on_ray
        return _Results(self._job, source.here()) if is_here else dataset(self, source, batches)

    with pytest.MonkeyPatch.context() as patch:
        # What an actor sets for its process.
        patch.setattr(worker, "set_up_worker", lambda: None)
        patch.setattr(worker, "extend_log_context", lambda fields: None)
        patch.setattr(reporter, "_send_status", None)
        patch.setattr(tokens, "_meter", None)
        patch.setattr(pool, "_blocks", blocks_of)
        patch.setattr(pool, "_reader", reader_of)
        patch.setattr(ActorPool, "_dataset", dataset_of)
        yield
