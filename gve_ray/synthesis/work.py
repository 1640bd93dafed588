"""Run stages whose results are stored in the work folder, where later runs find them.

A store's name contains a fingerprint of the settings that determine its rows, so changing one of them
never mixes rows, and a run with the same settings computes nothing again.
"""

import json
from collections.abc import Iterator, Sequence
from typing import Any

import pyarrow as pa

from gve_ray.stage import REJECT_SCHEMA, Reject, StageRunner
from gve_ray.store import Store
from gve_ray.synthesis.stages import Stage, SynthesisRun, work_folder


def store_name(store: Store) -> str:
    """Return the name of a store's folder, which identifies its settings."""
    return store.uri.rsplit("/", 1)[-1]


def work_store(run: SynthesisRun, name: str, schema: pa.Schema) -> Store:
    """Return a store in the work folder."""
    return Store(f"{work_folder(run.config)}/{name}.lance", schema)


def rejects_of(run: SynthesisRun, out: Store) -> Store:
    """Return the rejects of a stage that writes to the work folder."""
    return work_store(run, store_name(out).removesuffix(".lance") + "-rejects", REJECT_SCHEMA)


def open_into(run: SynthesisRun, stage: Stage, out: Store, **worker_args: Any) -> StageRunner:
    """Return the runner of a stage that writes to the work folder, which may hold results of other runs."""
    run.shared.score_stores[stage.name] = out
    return StageRunner(
        stage.name,
        worker=stage.worker,
        worker_args={**stage.worker_args, **worker_args},
        out=out,
        rejects=rejects_of(run, out),
        resources=run.pool(stage),
        commit_seconds=run.config.commit_seconds,
        is_open=run.shared.at_once,
    )


def run_into(run: SynthesisRun, stage: Stage, out: Store, pending: pa.Table) -> dict[str, Reject]:
    """Run a stage's worker on rows, with results in `out` in the work folder.

    Returns the rejects among `pending` by video id; all its other videos are in `out` afterwards.
    """
    run.run_rows(stage, pending)
    return {
        row["video_id"]: Reject(row["reason"], row["detail"], json.loads(row["scores"]), row["attempts"])
        for row in rows_of(rejects_of(run, out), pending["video_id"])
    }


def rows_of(
    store: Store, ids: pa.ChunkedArray, columns: Sequence[str] | None = None
) -> Iterator[dict[str, Any]]:
    """Yield the rows of those videos that are in a store."""
    for batch in store.select(ids, columns):
        yield from batch.to_pylist()
