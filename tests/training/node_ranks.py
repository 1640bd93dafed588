"""What each process of tests/training/test_node.py runs: it loads a mixture once per node and saves what it got."""

import json
import logging
import os
import signal
import tempfile
from datetime import timedelta
from pathlib import Path

import torch.distributed as dist

from gve_ray.training.config import DataSetConfig
from gve_ray.training.gather import barrier
from gve_ray.training.mixture import DataSet, load_mixture
from gve_ray.training.node import once_per_node


class OpaqueError(Exception):
    """An exception that cannot be unpickled."""

    def __init__(self, folder: str, reason: str) -> None:
        super().__init__(f"{folder}: {reason}")


def rank_main(rank: int, size: int, folder: str, nodes: tuple[int, ...], fault: str) -> None:
    """Load `folder`/pairs.jsonl as the mixture and write what this rank has to `folder`/rank-<rank>.json.

    nodes: the node of each rank; each node has its own folder for temporary files. fault: what goes wrong in
    the rank that writes the mixture.
    """
    logging.disable(logging.CRITICAL)
    run = Path(folder)
    node_folder = run / f"node-{nodes[rank]}"
    tempfile.tempdir = str(node_folder)
    dist.init_process_group(
        "gloo", init_method=f"file://{run}/store", rank=rank, world_size=size, timeout=timedelta(minutes=10)
    )
    config = DataSetConfig(name="texts", uri=str(run / "pairs.jsonl"), format="text_pairs", sample=20)

    def load(target: Path) -> dict[str, DataSet]:
        with (node_folder / "builds").open("a") as builds:
            builds.write(f"{rank}\n")
        datasets = load_mixture([config], target, seed=1)
        if fault == "opaque error":
            raise OpaqueError(str(target), "the disk is full")
        if fault == "killed":
            os.kill(os.getpid(), signal.SIGKILL)
        return datasets

    result: dict[str, object] = {}
    try:
        with once_per_node(load) as datasets:
            pairs = datasets["texts"].pairs
            result = {
                "folder": str(Path(pairs.path).parent),
                "pairs": [pair.pair_id for pair in pairs.take(range(len(pairs)))],
            }
            barrier()
    except Exception as error:  # noqa: BLE001 - the test checks which one it is
        result = {"error": type(error).__name__, "message": str(error)}
    (run / f"rank-{rank}.json").write_text(json.dumps(result))
