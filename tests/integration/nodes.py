"""Adds Ray nodes to a `LocalHead`, on this machine's loopback interface. Each of them can be killed abruptly.

    with LocalHead(num_cpus=0) as head, Nodes(head) as nodes:
        first, second = nodes.add(num_cpus=2), nodes.add(num_cpus=2)
        second.kill()                                   # kills all of its processes, like a machine failure

As a program, this module runs one node until it is killed. `ray start` cannot be used: it replaces the loopback address
of the head by the machine's external address, and its node would listen there.
"""

import signal
import subprocess
import sys
import time
from pathlib import Path
from types import TracebackType

import psutil

from tests.ray_head import LOOPBACK, LocalHead

START_SECONDS = 120.0  # takes 5 s on an idle machine
REPOSITORY = Path(__file__).resolve().parents[2]
OBJECT_STORE_BYTES = 256 * 2**20  # per node


class Node:
    """One node: the process that runs it and all child processes of that process."""

    def __init__(self, head: LocalHead, name: str, num_cpus: int) -> None:
        self.name = name
        command = [
            *(sys.executable, "-m", "tests.integration.nodes", head.gcs_address, name),
            *(str(num_cpus), str(head.folder / name)),
        ]
        with (head.folder / f"{name}.log").open("wb") as log:
            self.process = subprocess.Popen(
                command,
                cwd=REPOSITORY,
                env=head.env,
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )

    def processes(self, pattern: str = "") -> list[psutil.Process]:
        """Return the running processes of the node whose title or command line contains `pattern`."""
        matches = []
        for process in psutil.Process(self.process.pid).children(recursive=True):
            try:
                if pattern in f"{process.name()} {' '.join(process.cmdline())}":
                    matches.append(process)
            except psutil.NoSuchProcess:
                continue
        return matches

    def kill(self) -> None:
        """Send SIGKILL to all processes, first to the parents, which would restart their children."""
        if self.process.poll() is None:
            descendants = self.processes()
            for process in (psutil.Process(self.process.pid), *descendants):
                try:
                    process.kill()
                except psutil.NoSuchProcess:
                    continue
            psutil.wait_procs(descendants, timeout=10)
        self.process.wait()


class Nodes:
    """Context manager for nodes that join a head. They are killed at the end of the block."""

    def __init__(self, head: LocalHead) -> None:
        self._head, self._nodes = head, list[Node]()

    def __enter__(self) -> "Nodes":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for node in self._nodes:
            node.kill()

    def add(self, *, num_cpus: int) -> Node:
        """Start a node with a new name and wait until it has joined the cluster."""
        node = Node(self._head, f"node-{len(self._nodes) + 1}", num_cpus)
        self._nodes.append(node)
        deadline = time.monotonic() + START_SECONDS
        while node.name not in self._registered():
            assert node.process.poll() is None, f"{node.name} ended before it joined the cluster"
            assert time.monotonic() < deadline, (
                f"{node.name} did not join the cluster in {START_SECONDS:.0f} s"
            )
            time.sleep(0.2)
        return node

    @property
    def live(self) -> list[Node]:
        """The nodes that are still running, in the order in which they were added."""
        return [node for node in self._nodes if node.process.poll() is None]

    def _registered(self) -> set[str]:
        """Return the names of the nodes that the head lists as alive."""
        answer = self._head.get("/api/v0/nodes")
        return {row["node_name"] for row in answer["data"]["result"]["result"] if row["state"] == "ALIVE"}


def run(gcs_address: str, name: str, num_cpus: int, folder: str) -> None:
    """Run a node, started as in `ray.cluster_utils.Cluster.add_node`, until this process is killed."""
    from ray._private.node import Node as RayNode
    from ray._private.parameter import RayParams

    RayNode(
        RayParams(
            gcs_address=gcs_address,
            node_ip_address=LOOPBACK,
            node_name=name,
            num_cpus=num_cpus,
            object_store_memory=OBJECT_STORE_BYTES,
            min_worker_port=0,
            max_worker_port=0,
            node_manager_port=0,
            dashboard_agent_listen_port=0,
            temp_dir=folder,  # not shared: the nodes would overwrite each other's copies of the jobs' code
        ),
        head=False,
        shutdown_at_exit=True,
        spawn_reaper=True,
    )
    signal.pause()


if __name__ == "__main__":
    run(sys.argv[1], sys.argv[2], int(sys.argv[3]), sys.argv[4])
