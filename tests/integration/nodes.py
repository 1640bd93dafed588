"""More Ray nodes beside a `LocalHead`, on this machine's loopback, each of which can be lost at once.

    with LocalHead(num_cpus=0) as head, Nodes(head) as nodes:
        first, second = nodes.add(num_cpus=2), nodes.add(num_cpus=2)
        second.kill()                                   # all of its processes, as when a machine is lost

Run as a program it is one of the nodes, until it is killed. `ray start` would not do: it takes a head on the loopback
for one at the machine's outer address, and its node would listen there.
"""

import signal
import subprocess
import sys
import time
from pathlib import Path
from types import TracebackType

import psutil

from gve_ray.demo.ray_head import LOOPBACK, LocalHead

UP_SECONDS = 120.0  # 5 s on an idle machine
REPOSITORY = Path(__file__).resolve().parents[2]
MEMORY = 256 * 2**20  # bytes of a node's object store


class Node:
    """One node: the process that has started it, and all that it has started."""

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

    def processes(self, named: str = "") -> list[psutil.Process]:
        """What runs on it now and has `named` in its title or command line."""
        found = []
        for process in psutil.Process(self.process.pid).children(recursive=True):
            try:
                if named in f"{process.name()} {' '.join(process.cmdline())}":
                    found.append(process)
            except psutil.NoSuchProcess:
                continue
        return found

    def kill(self) -> None:
        """SIGKILL to all of it, first to those that would start others again."""
        if self.process.poll() is None:
            family = self.processes()
            for one in (psutil.Process(self.process.pid), *family):
                try:
                    one.kill()
                except psutil.NoSuchProcess:
                    continue
            psutil.wait_procs(family, timeout=10)
        self.process.wait()


class Nodes:
    """Context manager: nodes that join a head, gone when the block is left."""

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
        """A new node, when the cluster knows it. Each has a name that none had before."""
        node = Node(self._head, f"node-{len(self._nodes) + 1}", num_cpus)
        self._nodes.append(node)
        deadline = time.monotonic() + UP_SECONDS
        while node.name not in self.alive():
            assert node.process.poll() is None, f"{node.name} ended by itself"
            assert time.monotonic() < deadline, f"{node.name} did not join"
            time.sleep(0.2)
        return node

    @property
    def live(self) -> list[Node]:
        """Those that were not killed, in the order they were added."""
        return [node for node in self._nodes if node.process.poll() is None]

    def alive(self) -> set[str]:
        """Names of the live nodes, as the head knows them."""
        answer = self._head.get("/api/v0/nodes")
        return {one["node_name"] for one in answer["data"]["result"]["result"] if one["state"] == "ALIVE"}


def run(gcs_address: str, name: str, num_cpus: int, folder: str) -> None:
    """Start a node in this process' name, as `ray.cluster_utils.Cluster.add_node` does, and wait for the end."""
    from ray._private.node import Node as RayNode
    from ray._private.parameter import RayParams

    RayNode(
        RayParams(
            gcs_address=gcs_address,
            node_ip_address=LOOPBACK,
            node_name=name,
            num_cpus=num_cpus,
            object_store_memory=MEMORY,
            min_worker_port=0,
            max_worker_port=0,
            node_manager_port=0,
            dashboard_agent_listen_port=0,
            temp_dir=folder,  # of its own, or the nodes unpack jobs' code over each other's
        ),
        head=False,
        shutdown_at_exit=True,
        spawn_reaper=True,
    )
    signal.pause()


if __name__ == "__main__":
    run(sys.argv[1], sys.argv[2], int(sys.argv[3]), sys.argv[4])
