"""Decide whether the workers that a job asks for fit on the nodes of a Ray cluster.

pool = Workers(option="resources.captioner", count=2, demands={"CPU": 4, "GPU": 1})
check_fit([pool], live_nodes())     # raises PreflightError with the number that does fit
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from gve_ray.config import GIB, StageResources
from gve_ray.job import PreflightError
from gve_ray.preflight.models import Weights

ACCELERATOR = "accelerator_type:"  # Ray's resource name for a type of GPU starts with this


@dataclass(frozen=True, kw_only=True)
class Workers:
    """A pool of `count` equal processes, each of which runs on one node.

    option: the config section that sizes the pool. demands: what one process reserves, by Ray's
    resource names; memory is in bytes. loads: the weights that every process loads. count_option:
    the name of `count` inside the section. wait_for_nodes: the job may wait for an autoscaler; None
    where the section has no such option.
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


def stage_workers(option: str, resources: StageResources, loads: Sequence[Weights] = ()) -> Workers:
    """Return the actors of a stage as a pool."""
    return Workers(
        option=option,
        count=resources.actors,
        demands=demands_of(
            num_cpus=resources.num_cpus,
            num_gpus=resources.num_gpus,
            memory=resources.memory,
            accelerator_type=resources.accelerator_type,
        ),
        loads=loads,
        wait_for_nodes=resources.wait_for_nodes,
    )


def demands_of(
    *, num_cpus: float, num_gpus: float, memory: float = 0, accelerator_type: str | None = None
) -> dict[str, float]:
    """Return what one worker reserves, by Ray's resource names, without zeros. memory: bytes."""
    demands = {"CPU": num_cpus, "GPU": num_gpus, "memory": memory}
    if accelerator_type:
        # A node has 1 of its accelerator type, which all of its workers share.
        demands[f"{ACCELERATOR}{accelerator_type}"] = 0.001
    return {kind: amount for kind, amount in demands.items() if amount > 0}


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

    Ray itself waits forever for resources that no node has. The largest workers are placed first, so
    that small ones do not fill the only node that can hold a large one.

    nodes: the resources of each live node. Raises PreflightError.
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
        if missing:
            raise PreflightError(_misfit(pool, nodes, left_by_others))


def _misfit(
    pool: Workers, nodes: Sequence[Mapping[str, float]], left_by_others: Sequence[Mapping[str, float]]
) -> str:
    fit = room(pool.demands, nodes, pool.count)
    if fit >= pool.count:
        left = "; ".join(map(format_resources, left_by_others))
        return (
            f"{pool.option}: {pool} do not fit beside the other workers, which leave {left} on the "
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


def format_resources(amounts: Mapping[str, float]) -> str:
    """Return for example `4 CPU, 1 GPU, 2.0 GiB memory, H100`. Amounts of memory are in bytes."""
    return ", ".join(_format_amount(kind, amount) for kind, amount in amounts.items()) or "nothing"


def _format_amount(kind: str, amount: float) -> str:
    if kind in ("memory", "object_store_memory"):
        return f"{amount / GIB:.1f} GiB {kind.removesuffix('_memory').replace('_', ' ')}"
    if kind.startswith(ACCELERATOR):
        return kind.removeprefix(ACCELERATOR) if amount else f"no {kind.removeprefix(ACCELERATOR)}"
    return f"{amount:g} {kind}"


def format_count(count: int, noun: str) -> str:
    """Return for example `1 node` or `2 nodes`."""
    return f"{count} {noun}" if count == 1 else f"{count} {noun}s"


def live_nodes() -> list[dict[str, float]]:
    """Return the resources of each live node of the connected Ray cluster."""
    import ray

    return [node["Resources"] for node in ray.nodes() if node["Alive"]]
