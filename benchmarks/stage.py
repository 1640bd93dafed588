"""What exactly-once costs: trivial rows through `run_stage`, rows a second by batch size.

    python benchmarks/stage.py [--rows 5000] [--actors 2]

The worker does nothing, so the figures are the engine's own: Ray task, two actor calls, one Lance fragment
and a share of a commit for each batch. Prints one JSON object.
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
    """Gives each row back."""

    def __call__(self, rows: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
        return [dict(row) for row in rows]


def measure(rows: int, actors: int, batch_size: int) -> dict[str, float]:
    """Seconds and rows a second of one stage, start of its actors included."""
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
    found = {str(size): measure(args.rows, args.actors, size) for size in (16, 64, 256)}
    ray.shutdown()
    print(json.dumps({"rows": args.rows, "actors": args.actors, "by_batch_size": found}, indent=1))


if __name__ == "__main__":
    main()
