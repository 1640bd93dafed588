"""A synthesis job in parts gives the same pairs on one node and on three, with stand-ins for decoder and captioner."""

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.integration.nodes import Nodes
from tests.ray_head import LocalHead

TESTS = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(TESTS))

import stream_workers as workers  # noqa: E402

VIDEOS, PART = 60, 20
ACTORS = '{"actors": 3, "num_cpus": 0.3, "num_gpus": 0, "memory": 0, "batch_size": 2}'


def output_on(nodes: int, folder: Path) -> dict[str, Any]:
    """Run the job on so many nodes with one CPU each beside a head without any; return its output."""
    path = os.pathsep.join([str(TESTS), str(TESTS.parent)])
    with pytest.MonkeyPatch.context() as environment:
        environment.setenv("PYTHONPATH", path)
        with LocalHead(num_cpus=0) as head, Nodes(head) as added:
            for _ in range(nodes):
                added.add(num_cpus=6 // nodes)
            done = subprocess.run(
                [
                    *(sys.executable, str(TESTS / "stream_workers.py"), str(folder), f"on-{nodes}", "0.1"),
                    *(
                        "--part_videos",
                        str(PART),
                        "--resources.media",
                        ACTORS,
                        "--resources.captioner",
                        ACTORS,
                    ),
                ],
                env={**head.env, "RAY_ADDRESS": head.gcs_address},
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                text=True,
                check=False,
            )
            assert done.returncode == 0, done.stdout[-3000:]
    return workers.contents(folder / f"on-{nodes}")


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_the_same_pairs_on_one_node_and_on_three(tmp_path: Path) -> None:
    workers.write_manifest(tmp_path / "manifest.parquet", VIDEOS)
    one = output_on(1, tmp_path)
    assert len(one["annotations"]) == 36
    assert output_on(3, tmp_path) == one
