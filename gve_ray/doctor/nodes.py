"""The nodes of the connected cluster, and what a task on each of them has found."""

import dataclasses
import logging
import socket
import time
from collections.abc import Mapping, Sequence
from typing import Any

from gve_ray.doctor.probe import Outcome, Probe, examine

HEAD = "node:__internal_head__"  # a resource that only the head has


@dataclasses.dataclass(frozen=True, kw_only=True)
class Node:
    """A live node. name: told to people; no two are alike. resources: all it has, as Ray names them."""

    id: str
    name: str
    address: str
    resources: Mapping[str, float]

    @property
    def is_head(self) -> bool:
        """Whether the cluster's own services run there."""
        return HEAD in self.resources


@dataclasses.dataclass(frozen=True, kw_only=True)
class Cluster:
    """The cluster as Ray tells of it. address: of its head; dashboard: host:port, or empty. gone: nodes that were
    there once. free: resources that nobody holds now."""

    address: str
    dashboard: str
    nodes: Sequence[Node]
    gone: int
    free: Mapping[str, float]

    @property
    def resources(self) -> list[Mapping[str, float]]:
        """Of each node."""
        return [node.resources for node in self.nodes]


Answers = Mapping[str, Outcome]  # by probe


def check_address(address: str, seconds: float) -> None:
    """Something listens at host:port, which Ray would wait for for minutes. Raises OSError. `auto`, `local` and
    whatever else is no host:port is Ray's to judge."""
    host, _, port = address.rpartition(":")
    if host and port.isdecimal() and "://" not in address:
        socket.create_connection((host.strip("[]"), int(port)), timeout=seconds).close()


def look() -> Cluster:
    """The connected cluster."""
    import ray

    # The public way to the dashboard's address, once connected.
    context = ray.init(ignore_reinit_error=True, logging_level=logging.WARNING)
    nodes = ray.nodes()
    alive = [node for node in nodes if node["Alive"]]
    return Cluster(
        address=ray.get_runtime_context().gcs_address,
        dashboard=context.dashboard_url or "",
        nodes=_named(alive),
        gone=len(nodes) - len(alive),
        free=ray.available_resources(),
    )


def _named(nodes: Sequence[Mapping[str, Any]]) -> list[Node]:
    """Head first, then by name: the one it was started with, or its host's. Nodes of one name have the beginning
    of their id behind it."""
    names = [
        node["NodeName"] if node["NodeName"] != node["NodeManagerAddress"] else node["NodeManagerHostname"]
        for node in nodes
    ]
    found = [
        Node(
            id=node["NodeID"],
            name=name if names.count(name) == 1 else f"{name}/{node['NodeID'][:6]}",
            address=node["NodeManagerAddress"],
            resources=node["Resources"],
        )
        for node, name in zip(nodes, names, strict=True)
    ]
    return sorted(found, key=lambda node: (not node.is_head, node.name))


def ask(probes: Mapping[str, Mapping[str, Probe]], seconds: float) -> dict[str, Answers | str]:
    """Run probes on nodes, by their id, all at the same time; a text where a node gave no answers, and why.

    seconds: for a node to start a process and answer; half of it for each probe.
    """
    import ray
    from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

    task = ray.remote(num_cpus=0, max_retries=0)(examine)
    refs = {
        task.options(scheduling_strategy=NodeAffinitySchedulingStrategy(node, soft=False)).remote(
            dict(asked), seconds / 2
        ): node
        for node, asked in probes.items()
    }
    begun = time.monotonic()
    ready, late = ray.wait(list(refs), num_returns=len(refs), timeout=seconds)
    answers: dict[str, Answers | str] = {}
    for ref in ready:
        try:
            answers[refs[ref]] = ray.get(ref)
        except ray.exceptions.RayError as error:
            answers[refs[ref]] = _why(error)
    for ref in late:
        ray.cancel(ref, force=True)
        answers[refs[ref]] = f"no answer in {time.monotonic() - begun:.0f} s"
    return answers


def _why(error: Exception) -> str:
    """The line of Ray's error that says what went wrong: its last one, of what the task itself raised."""
    lines = str(error).strip().splitlines() or [type(error).__name__]
    return lines[-1].strip()[:300]
