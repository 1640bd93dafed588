"""A cluster of two nodes on this machine, and `gve doctor` on it, in a separate process.

    python tests/preflight/cluster.py FOLDER

The second node runs in FOLDER/second and everything else in FOLDER/first, so a path through /proc/self/cwd
is another folder on each node, as if each node had its own disk. FOLDER/site is on the second node's PYTHONPATH.
Requests and answers are JSON objects, one per line: {"args": [...], "second": "stop" or "go"} in, and
{"status", "out", "err"} out.
"""

import io
import json
import os
import signal
import sys
from contextlib import redirect_stderr, redirect_stdout
from pathlib import Path

TOKEN = "0123456789abcdef" * 4
SETTINGS = {
    "RAY_AUTH_MODE": "token",
    "RAY_AUTH_TOKEN": TOKEN,
    "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0",  # listen on the loopback interface only
    "RAY_USAGE_STATS_ENABLED": "0",
    "HF_HUB_OFFLINE": "1",
}


def main(folder: Path) -> None:
    """Serve requests from stdin until it ends."""
    os.environ.update(SETTINGS)
    os.environ.pop("RAY_ADDRESS", None)
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # the output of Ray and its nodes must not mix with the answers
    import ray
    from ray.cluster_utils import Cluster

    from gve_ray import cli

    os.chdir(folder / "first")
    head = {"num_cpus": 2, "num_gpus": 1, "node_name": "first", "include_dashboard": False}
    cluster = Cluster(initialize_head=True, head_node_args=head)
    os.chdir(folder / "second")
    path = os.pathsep.join([str(folder / "site"), *filter(None, [os.environ.get("PYTHONPATH")])])
    second = cluster.add_node(num_cpus=2, node_name="second", env_vars={"PYTHONPATH": path})
    os.chdir(folder / "first")
    cluster.connect()
    raylet = second.all_processes["raylet"][0].process
    print(json.dumps({"address": cluster.address}), file=answers, flush=True)
    try:
        for line in sys.stdin:
            request = json.loads(line)
            if request["second"]:
                raylet.send_signal(signal.SIGSTOP if request["second"] == "stop" else signal.SIGCONT)
            out, err = io.StringIO(), io.StringIO()
            with redirect_stdout(out), redirect_stderr(err):
                try:
                    status = cli.main(request["args"])
                except SystemExit as end:
                    status = end.code
            answer = {"status": status, "out": out.getvalue(), "err": err.getvalue()}
            print(json.dumps(answer), file=answers, flush=True)
    finally:
        raylet.send_signal(signal.SIGCONT)
        ray.shutdown()
        cluster.shutdown()


if __name__ == "__main__":
    main(Path(sys.argv[1]))
