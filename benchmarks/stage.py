"""Overhead of the stage engine: rows per second with a worker that does nothing.

    python benchmarks/stage.py [--rows 5000] [--actors 2]

The overhead of a batch is a Ray task, two calls that record its state, a Lance fragment and a share
of a commit. Prints one JSON object.
"""

import argparse
import json
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa

from gve_ray.stage import REJECT_SCHEMA, StageResources, run_stage
from gve_ray.store import Store

SCHEMA = pa.schema([("video_id", pa.string()), ("n", pa.int64())])


class Nothing:
    """Returns each row unchanged."""

    def __call__(self, rows: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
        return [dict(row) for row in rows]


def measure(rows: int, actors: int, batch_size: int) -> dict[str, float]:
    """Return seconds and rows per second of one stage, including the start of its actors."""
    pending = pa.table({"video_id": [f"v{i:07d}" for i in range(rows)], "n": range(rows)})
    with tempfile.TemporaryDirectory() as folder:
        counts = run_stage(
            "nothing",
            pending=pending,
            worker=Nothing,
            worker_args={},
            out=Store(str(Path(folder) / "out.lance"), SCHEMA),
            rejects=Store(str(Path(folder) / "rejects.lance"), REJECT_SCHEMA),
            resources=StageResources(actors=actors, num_cpus=0.5, batch_size=batch_size),
        )
    return {"seconds": round(counts.seconds, 2), "rows_per_second": round(rows / counts.seconds, 1)}


def main() -> None:
    import ray

    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rows", type=int, default=5000)
    parser.add_argument("--actors", type=int, default=2)
    args = parser.parse_args()
    ray.init(include_dashboard=False, logging_level="ERROR", log_to_driver=False)
    results = {str(size): measure(args.rows, args.actors, size) for size in (16, 64, 256)}
    ray.shutdown()
    print(json.dumps({"rows": args.rows, "actors": args.actors, "by_batch_size": results}, indent=1))


if __name__ == "__main__":
    main()
