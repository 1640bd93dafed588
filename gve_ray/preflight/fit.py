"""Choose the numbers of a job's workers that its config leaves open, and check that all workers fit.

config = fit_to_cluster(config, needs_of(config))   # actors: auto becomes a number, or PreflightError

A worker with a model gets one GPU if the cluster has any. Without GPUs, the memory of the weights
decides how many workers fit on each node, and they share its CPUs. `size_pools` computes this from
described nodes, without Ray.
"""

import logging
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from importlib.util import find_spec
from pathlib import Path
from runpy import run_path
from typing import Any, Literal, TypeVar

from gve_ray.config import ACCELERATOR, AUTO, GIB, ActorResources
from gve_ray.job import PreflightError
from gve_ray.preflight.models import Embedder, Weights

log = logging.getLogger(__name__)

PROCESS_BYTES = GIB  # of a worker that decodes media
# Of a worker with a model on a CPU, beyond the weights: code, media, activations.
MODEL_PROCESS_BYTES = 2 * GIB
VLLM_CACHE_BYTES = 4 * GIB  # of keys and values, which the vllm engine allocates on a CPU
GPU_PROCESS_BYTES = 4 * GIB  # of a worker on a GPU, in the memory of its node
GPU_CPUS = 8  # that one worker on a GPU can use, to read media for it
_MOST_SPARE = 1000  # nodes of one kind that are considered if the autoscaler has no limit

ConfigT = TypeVar("ConfigT")
Growth = Literal["no", "cluster", "load"]


@dataclass(frozen=True, kw_only=True)
class Workers:
    """A pool of `count` equal processes, each of which runs on one node.

    option: the config section that sizes the pool. count: None is as many as fit. demands: what one
    process reserves, by Ray's resource names; memory is in bytes. undecided: the resources that are to be
    chosen. loads: the weights that every process loads. count_option: the name of `count` inside the
    section. wait_for_nodes: the job may wait for an autoscaler; None if the section does not have this
    option.

    The choice depends on the rest. in_turn: a process holds only one of `loads` at a time. gpus: that a
    process with weights holds, if there are GPUs. most_cpus: that one process can use; None: 1, with
    weights 8 with a GPU, and all without one. more_bytes: of memory on a CPU, in addition to the
    weights and the process. large: without GPUs, few processes with many CPUs rather than many with few.
    grows: the pool may grow to `most` processes when the cluster grows, or when the load does. share: of
    what it could have alone, what the pools that are sized before it leave to it if all run together; at
    least one process.
    """

    option: str
    count: int | None
    demands: Mapping[str, float]
    undecided: frozenset[str] = frozenset()
    loads: Sequence[Weights] = field(default=())
    count_option: str = "actors"
    wait_for_nodes: bool | None = False
    in_turn: bool = False
    gpus: float = 1
    most_cpus: float | None = None
    more_bytes: int = 0
    large: bool = False
    grows: Growth = "no"
    most: int = 0
    share: float = 0.0

    def __str__(self) -> str:
        """For example `2 x (4 CPU, 1 GPU)`."""
        return f"{self.count or AUTO} x ({format_resources(self.demands)})"


def workers_of(option: str, resources: ActorResources, loads: Sequence[Weights] = (), **how: Any) -> Workers:
    """Return the actors that a section of a config asks for.

    option: the section's dotted name. how: further fields of `Workers`.
    """
    return Workers(
        option=option,
        count=resources.count,
        demands=resources.demands,
        undecided=resources.undecided,
        loads=loads,
        count_option=resources.count_option,
        wait_for_nodes=getattr(resources, "wait_for_nodes", None),
        **how,
    )


def model_workers(
    option: str, resources: ActorResources, embedders: Sequence[Embedder], **how: Any
) -> Workers:
    """Return the actors of which each holds one of these models, one after the other.

    The arguments are those of `workers_of`.
    """
    loads = [weights for embedder in embedders for weights in embedder.weights]
    how = {"grows": "cluster", "in_turn": len(embedders) > 1} | how
    if any(embedder.model.engine == "vllm" for embedder in embedders):
        how["more_bytes"] = VLLM_CACHE_BYTES
    return workers_of(option, resources, loads, **how)


# ---- Choosing


def fit_to_cluster(config: ConfigT, pools: Sequence[Workers], *, together: bool = False) -> ConfigT:
    """Return the config with a number in place of each `auto`, and log each choice with its reason.

    pools: of the config. together: they run at the same time. Raises PreflightError if a pool does
    not fit. Must be called before the job writes anything, on the connected cluster.
    """
    nodes, spare = live_nodes(), spare_nodes()
    if len(nodes) == 1 and not spare and nodes[0].get("GPU") and not _torch_has_cuda():
        log.warning("the GPU of this machine is not used: torch is built without CUDA; install gve-ray[gpu]")
        nodes = [{kind: amount for kind, amount in nodes[0].items() if kind != "GPU"}]
    sized = size_pools(pools, nodes, spare, together=together)
    check_pools(sized, nodes, together=together)
    for before, pool in zip(pools, sized, strict=True):
        if before != pool:
            log.info("%s", _describe(pool, nodes, spare))
            config = _put(config, pool.option, pool)
    return config


def size_pools(
    pools: Sequence[Workers],
    nodes: Sequence[Mapping[str, float]],
    spare: Sequence[Mapping[str, float]] = (),
    *,
    together: bool = False,
) -> list[Workers]:
    """Return the pools with their counts, and with what each process reserves.

    nodes: the resources of each live node. spare: of each node that an autoscaler may add. Pools that
    run together share the nodes: each gets at least one process. A pool of which not even one process
    fits has the count 1.
    """
    everywhere = [*nodes, *spare]
    queue = [_with_device(pool, everywhere) for pool in pools]
    sized: dict[str, Workers] = {}
    free = [dict(node) for node in nodes]
    while queue:
        queue.sort(key=_size, reverse=True)
        pool, *queue = queue
        left = [dict(node) for node in (free if together else nodes)]
        if together:
            for other in queue:
                least = {"CPU": 1.0, **other.demands}
                _place(least, other.count or max(1, int(other.share * room(least, nodes, 1))), left)
        pool = _with_count(pool, left, spare)
        sized[pool.option] = pool
        if together:
            _place(pool.demands, pool.count or 1, free)
    return [
        replace(pool, most=(pool.count or 1) + room(pool.demands, [*free, *spare], 0))
        if pool.grows == "load" and before.count is None
        else pool
        for before, pool in zip(pools, (sized[pool.option] for pool in pools), strict=True)
    ]


def _with_device(pool: Workers, nodes: Sequence[Mapping[str, float]]) -> Workers:
    """Choose GPUs or CPUs, and the memory."""
    demands, chosen = dict(pool.demands), pool.undecided - {"CPU"}
    if "GPU" in chosen and pool.loads and room({**demands, "GPU": pool.gpus}, nodes, 0):
        demands["GPU"] = pool.gpus
    if "memory" in chosen:
        demands["memory"] = PROCESS_BYTES
        if pool.loads:
            on_gpu = "GPU" in demands
            demands["memory"] = GPU_PROCESS_BYTES if on_gpu else sum(_memory(pool).values())
    return replace(pool, demands=demands, undecided=pool.undecided - chosen)


def _with_count(
    pool: Workers, nodes: Sequence[Mapping[str, float]], spare: Sequence[Mapping[str, float]]
) -> Workers:
    """Choose the CPUs of each process, and the count."""
    least = {"CPU": 1.0, **pool.demands} if "CPU" in pool.undecided else pool.demands
    must_wait = not room(least, nodes, 1) and room(least, spare, 1) > 0
    where = spare if must_wait else nodes
    demands = dict(pool.demands)
    if "CPU" in pool.undecided:
        demands["CPU"] = _cpus(pool, where)
    fit = room(demands, where, 1)
    count = pool.count
    if count is None:
        starts_small = pool.grows == "load" or (must_wait and pool.grows == "cluster")
        count = 1 if starts_small else max(1, fit)
        if pool.grows == "cluster" and spare:
            pool = replace(pool, most=max(count, room(demands, [*nodes, *spare], 1)))
    waits = pool.wait_for_nodes or (must_wait if pool.wait_for_nodes is not None else None)
    demands = {kind: demands[kind] for kind in ("CPU", "GPU", "memory") if kind in demands} | demands
    return replace(pool, count=count, demands=demands, undecided=frozenset(), wait_for_nodes=waits)


def _cpus(pool: Workers, nodes: Sequence[Mapping[str, float]]) -> float:
    """Return the CPUs of each process: those with which most GPUs, or else most CPUs, are used."""
    on_gpu = "GPU" in pool.demands
    most = pool.most_cpus or (GPU_CPUS if on_gpu else math.inf if pool.loads else 1)
    if pool.loads and not on_gpu:
        most = math.inf

    def worth(cpus: int) -> tuple[float, float]:
        fit = room({**pool.demands, "CPU": cpus}, nodes, 1)
        fit = fit if pool.count is None else min(fit, pool.count)
        if on_gpu:
            return fit, cpus
        return fit * cpus, cpus if pool.large else fit

    largest = max((node.get("CPU", 0.0) for node in nodes), default=1.0)
    return float(max(range(1, max(1, int(min(most, largest))) + 1), key=worth))


def _memory(pool: Workers) -> dict[str, int]:
    """Return the bytes that a process with weights on a CPU needs, by what needs them."""
    sizes = {}
    for weights in pool.loads:
        (dtype, size), *_ = [*weights.sizes().items(), ("unknown", 0)]
        sizes[f"{weights.option} in {dtype}"] = size
    if pool.in_turn and sizes:
        largest = max(sizes, key=lambda name: sizes[name])
        sizes = {largest: sizes[largest]}
    return {
        **{name: size for name, size in sizes.items() if size},
        "process": MODEL_PROCESS_BYTES + pool.more_bytes,
    }


def _size(pool: Workers) -> tuple[float, float, float]:
    return tuple(pool.demands.get(kind, 0.0) for kind in ("GPU", "memory", "CPU"))  # type: ignore[return-value]


def _put(config: Any, option: str, pool: Workers) -> Any:
    """Return the config with the numbers of a pool in the section of this dotted name.

    The entries of a list have names, which may contain dots.
    """
    if isinstance(config, list | tuple):
        entry = max(
            (entry for entry in config if option.startswith(f"{entry.name}.")),
            key=lambda entry: len(entry.name),
        )
        changed = _put(entry, option.removeprefix(f"{entry.name}."), pool)
        return type(config)(changed if item is entry else item for item in config)
    if option:
        name, _, rest = option.partition(".")
        return replace(config, **{name: _put(getattr(config, name), rest, pool)})
    section: ActorResources = config
    values: dict[str, Any] = {pool.count_option: pool.count}
    for kind, name in (("CPU", "num_cpus"), ("GPU", "num_gpus"), ("memory", "memory")):
        if kind in section.undecided:
            values[name] = int(pool.demands[kind]) if kind == "memory" else pool.demands.get(kind, 0.0)
    if section.most_option and pool.most > (pool.count or 0) and not getattr(section, section.most_option):
        values[section.most_option] = pool.most
    if pool.wait_for_nodes:
        values["wait_for_nodes"] = True
    return replace(section, **values)


def _describe(
    pool: Workers, nodes: Sequence[Mapping[str, float]], spare: Sequence[Mapping[str, float]]
) -> str:
    """Return the choice and its reason, for example `resources.embed: 2 actors x (1 CPU, 7.0 GiB memory),
    of 2 CPU, 19.0 GiB memory: model.model in float32 5.0 GiB, process 2.0 GiB`.
    """
    noun = pool.count_option.removesuffix("s")
    text = f"{pool.option}: {format_count(pool.count or 1, noun)} x ({format_resources(pool.demands)}), of "
    total = {
        kind: sum(node.get(kind, 0.0) for node in nodes)
        for kind in ("CPU", "GPU", "memory")
        if kind != "GPU" or any(node.get(kind) for node in nodes)
    }
    text += format_resources(total) + (f" on {len(nodes)} nodes" if len(nodes) > 1 else "")
    if pool.most > (pool.count or 1):
        text += f"; up to {pool.most} when the {'cluster' if pool.grows == 'cluster' else 'load'} grows"
    if pool.loads and "GPU" not in pool.demands:
        text += "; no GPU: " + format_memory(_memory(pool))
    return text


def _torch_has_cuda() -> bool:
    """Return what the installed torch says in its version file; importing torch takes seconds."""
    torch = find_spec("torch")
    assert torch is not None
    assert torch.origin is not None
    version = run_path(str(Path(torch.origin).with_name("version.py")))
    return bool(version["cuda"] or version["hip"])


# ---- Checking


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


def _place(demands: Mapping[str, float], count: int, free: Sequence[dict[str, float]]) -> int:
    """Take what workers demand from the first nodes that have it; return how many have no place."""
    for node in free:
        placed = min(count, room(demands, [node], count))
        count -= placed
        for kind, amount in demands.items():
            node[kind] = node.get(kind, 0.0) - placed * amount
    return count


def check_pools(
    pools: Sequence[Workers], nodes: Sequence[Mapping[str, float]], *, together: bool = False
) -> None:
    """Check that the workers of each pool, or of all pools together, fit. Raises PreflightError.

    nodes: the resources of each live node. Pools that may wait for an autoscaler are not checked.
    """
    for pool in pools:
        if not pool.wait_for_nodes:
            check_fit([pool], nodes)
    if together:
        check_fit(pools, nodes)


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
        count = pool.count or 1
        if not _place(pool.demands, count, free):
            continue
        fit = room(pool.demands, nodes, count)
        if fit >= count:
            left = "; ".join(map(format_resources, left_by_others))
            return (
                f"{pool.option}: {pool} do not fit together with the other workers, which leave {left} on the "
                f"nodes; add nodes, or lower {pool.count_option} or the resources of each worker"
            )
        total = {kind: sum(node.get(kind, 0.0) for node in nodes) for kind in pool.demands}
        fixes = ["add nodes"]
        weights = ""
        largest = max((node.get("memory", 0.0) for node in nodes), default=0.0)
        if pool.loads and "GPU" not in pool.demands and pool.demands.get("memory", 0) > largest:
            weights = f" ({format_memory(_memory(pool))})"
            fixes += _smaller(pool, largest)
        else:
            fixes.append(
                f"set --{pool.option}.{pool.count_option} {fit}" if fit else f"lower --{pool.option}.num_*"
            )
            if pool.wait_for_nodes is not None:
                fixes.append(f"set --{pool.option}.wait_for_nodes true on an autoscaling cluster")
        return (
            f"{pool.option}: needs {pool}{weights}, the cluster has {format_resources(total)} on "
            f"{format_count(len(nodes), 'node')}, which is room for {fit}; "
            f"{', '.join(fixes[:-1])}, or {fixes[-1]}"
        )
    return ""


def _smaller(pool: Workers, memory: float) -> list[str]:
    """Return what fits into the memory of the largest node instead. memory: its bytes."""
    fixes = []
    in_bfloat16 = [
        replace(weights, dtype="bfloat16") if weights.dtype_option else weights for weights in pool.loads
    ]
    needed = sum(_memory(replace(pool, loads=in_bfloat16)).values())
    if needed < sum(_memory(pool).values()):
        options = " ".join(f"--{entry.dtype_option} bfloat16" for entry in pool.loads if entry.dtype_option)
        fits = "fits" if needed <= memory else "does not fit either"
        fixes.append(f"set {options} ({format_resources({'memory': needed})}, which {fits})")
    left = memory - MODEL_PROCESS_BYTES - pool.more_bytes
    size = f" with weights of at most {left / GIB:.1f} GiB" if left > 0 else ""
    return [*fixes, f"name a smaller model{size}", "use a GPU"]


def format_memory(parts: Mapping[str, float]) -> str:
    """Return for example `model.model in float32 14.0 GiB, process 2.0 GiB`."""
    return ", ".join(
        f"{name} {amount / GIB:.1f} GiB" if amount >= GIB / 10 else f"{name} {amount / 2**20:.0f} MiB"
        for name, amount in parts.items()
    )


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


# ---- The connected cluster


def live_nodes() -> list[dict[str, float]]:
    """Return the resources of each live node of the connected Ray cluster."""
    import ray

    return [node["Resources"] for node in ray.nodes() if node["Alive"]]


def spare_nodes() -> list[dict[str, float]]:
    """Return the resources of each node that the autoscaler of the connected cluster may add.

    If the autoscaler does not know the memory of a node, it counts as enough.
    """
    from ray._private.state import state  # Ray Data and Ray Train read it from there as well

    config = state.get_cluster_config()
    nodes, alive = [], live_nodes()
    for group in config.node_group_configs if config else ():
        resources = {"memory": math.inf, **{kind: float(group.resources[kind]) for kind in group.resources}}
        same = [
            node for node in alive if all(node.get(kind) == resources.get(kind) for kind in ("CPU", "GPU"))
        ]
        most = _MOST_SPARE if group.max_count < 0 else min(group.max_count, _MOST_SPARE)
        nodes += [resources] * max(0, most - len(same))
    return nodes
