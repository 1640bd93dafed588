"""Decide whether the workers that a job asks for fit on the nodes of a Ray cluster.

pool = Workers(option="resources.captioner", count=2, demands={"CPU": 4, "GPU": 1})
check_fit([pool], live_nodes())     # raises PreflightError with the number that does fit
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from gve_ray.config import ACCELERATOR, GIB, ActorResources
from gve_ray.job import PreflightError
from gve_ray.preflight.models import Weights


@dataclass(frozen=True, kw_only=True)
class Workers:
    """A pool of `count` equal processes, each of which runs on one node.

    option: the config section that sizes the pool. demands: what one process reserves, by Ray's
    resource names; memory is in bytes. loads: the weights that every process loads. count_option:
    the name of `count` inside the section. wait_for_nodes: the job may wait for an autoscaler; None
    if the section does not have this option.
    """

    option: str
    count: int
    demands: Mapping[str, float]
    loads: Sequence[Weights] = field(default=())
    count_option: str = "actors"
    wait_for_nodes: bool | None = False

    def __str__(self) -> str:
        """For example `2 x (4 CPU, 1 GPU)`."""
        return f"{self.count} x ({format_resources(self.demands)})"


def workers_of(option: str, resources: ActorResources, loads: Sequence[Weights] = ()) -> Workers:
    """Return the actors that a section of a config asks for. option: the section's dotted name."""
    return Workers(
        option=option,
        count=getattr(resources, resources.count_option),
        demands=resources.demands,
        loads=loads,
        count_option=resources.count_option,
        wait_for_nodes=getattr(resources, "wait_for_nodes", None),
    )


def room(demands: Mapping[str, float], nodes: Sequence[Mapping[str, float]], count: int) -> int:
    """Return how many workers fit on empty nodes; one worker is never split over two nodes.

    demands: positive amounts. nodes: the resources of each node. A worker that demands nothing fits
    `count` times on every node.
    """
    if not demands:
        return count * len(nodes)
    # The small term makes 0.3 / 0.1 = 2.9999999999999996 count as 3.
    return sum(
        min(math.floor(node.get(kind, 0.0) / amount + 1e-9) for kind, amount in demands.items())
        for node in nodes
    )


def check_fit(pools: Sequence[Workers], nodes: Sequence[Mapping[str, float]]) -> None:
    """Check that all workers of these pools fit on the nodes at the same time.

    Ray itself waits forever for resources that no node has. nodes: the resources of each live node.
    Raises PreflightError.
    """
    if message := misfit(pools, nodes):
        raise PreflightError(message)


def misfit(pools: Sequence[Workers], nodes: Sequence[Mapping[str, float]]) -> str:
    """Return why the workers of these pools do not fit at the same time, or an empty text.

    The largest workers are placed first, so that small ones do not fill the only node that can hold
    a large one.
    """
    free = [dict(node) for node in nodes]
    for pool in sorted(pools, key=lambda pool: (-pool.demands.get("GPU", 0), -pool.demands.get("CPU", 0))):
        left_by_others = [{kind: node.get(kind, 0.0) for kind in pool.demands} for node in free]
        missing = pool.count
        for node in free:
            placed = min(missing, room(pool.demands, [node], missing))
            missing -= placed
            for kind, amount in pool.demands.items():
                node[kind] = node.get(kind, 0.0) - placed * amount
        if not missing:
            continue
        fit = room(pool.demands, nodes, pool.count)
        if fit >= pool.count:
            left = "; ".join(map(format_resources, left_by_others))
            return (
                f"{pool.option}: {pool} do not fit together with the other workers, which leave {left} on the "
                f"nodes; add nodes, or lower {pool.count_option} or the resources of each worker"
            )
        total = {kind: sum(node.get(kind, 0.0) for node in nodes) for kind in pool.demands}
        fixes = [
            "add nodes",
            f"set --{pool.option}.{pool.count_option} {fit}" if fit else f"lower --{pool.option}.num_*",
        ]
        if pool.wait_for_nodes is not None:
            fixes.append(f"set --{pool.option}.wait_for_nodes true on an autoscaling cluster")
        return (
            f"{pool.option}: needs {pool}, the cluster has {format_resources(total)} on "
            f"{format_count(len(nodes), 'node')}, which is room for {fit}; "
            f"{', '.join(fixes[:-1])}, or {fixes[-1]}"
        )
    return ""


def format_resources(amounts: Mapping[str, float]) -> str:
    """Return for example `4 CPU, 1 GPU, 2.0 GiB memory, H100`. Amounts of memory are in bytes."""
    parts = []
    for kind, amount in amounts.items():
        if kind in ("memory", "object_store_memory"):
            parts.append(f"{amount / GIB:.1f} GiB {kind.removesuffix('_memory').replace('_', ' ')}")
        elif kind.startswith(ACCELERATOR):
            parts.append(("" if amount else "no ") + kind.removeprefix(ACCELERATOR))
        else:
            parts.append(f"{amount:g} {kind}")
    return ", ".join(parts) or "nothing"


def format_count(count: int, noun: str) -> str:
    """Return for example `1 node` or `2 nodes`."""
    return f"{count} {noun}" if count == 1 else f"{count} {noun}s"


def live_nodes() -> list[dict[str, float]]:
    """Return the resources of each live node of the connected Ray cluster."""
    import ray

    return [node["Resources"] for node in ray.nodes() if node["Alive"]]
