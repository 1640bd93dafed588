"""A cluster of two nodes on this machine, and `gve doctor` on it, in a process of its own.

    python tests/doctor/cluster.py FOLDER

FOLDER/second is where the second node was started, FOLDER/first where all else: a path through /proc/self/cwd is
on each node another folder, as a disk of its own is. FOLDER/site is on the second node's PYTHONPATH. One JSON
object a line: in {"args": [...], "second": "stop" or "go"}, out {"status", "out", "err", "seconds"}.
"""

import io
import json
import os
import signal
import sys
import time
from contextlib import redirect_stderr, redirect_stdout
from pathlib import Path

TOKEN = "0123456789abcdef" * 4
SETTINGS = {
    "RAY_AUTH_MODE": "token",
    "RAY_AUTH_TOKEN": TOKEN,
    "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0",  # on the loopback alone
    "RAY_USAGE_STATS_ENABLED": "0",
    "HF_HUB_OFFLINE": "1",
}


def main(folder: Path) -> None:
    """Serve requests from stdin until it ends."""
    os.environ.update(SETTINGS)
    os.environ.pop("RAY_ADDRESS", None)
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # what Ray and its nodes print is no answer
    import ray
    from ray.cluster_utils import Cluster

    from gve_ray import cli

    os.chdir(folder / "first")
    head = {"num_cpus": 2, "num_gpus": 1, "node_name": "first", "include_dashboard": False}
    cluster = Cluster(initialize_head=True, head_node_args=head)
    os.chdir(folder / "second")
    second = cluster.add_node(num_cpus=2, node_name="second", env_vars={"PYTHONPATH": str(folder / "site")})
    os.chdir(folder / "first")
    cluster.connect()
    raylet = second.all_processes["raylet"][0].process
    print(json.dumps({"address": cluster.address}), file=answers, flush=True)
    try:
        for line in sys.stdin:
            asked = json.loads(line)
            if asked.get("second"):
                raylet.send_signal(signal.SIGSTOP if asked["second"] == "stop" else signal.SIGCONT)
            out, err, begun = io.StringIO(), io.StringIO(), time.monotonic()
            with redirect_stdout(out), redirect_stderr(err):
                try:
                    status = cli.main(asked["args"])
                except SystemExit as end:
                    status = end.code
            told = {"status": status, "out": out.getvalue(), "err": err.getvalue()}
            print(json.dumps({**told, "seconds": time.monotonic() - begun}), file=answers, flush=True)
    finally:
        raylet.send_signal(signal.SIGCONT)
        ray.shutdown()
        cluster.shutdown()


if __name__ == "__main__":
    main(Path(sys.argv[1]))
